use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use callboard::{Signals, serve_relayed_until, serve_until};
use callboard_client::{Client, ClientState};
use callboard_net::Address;
use callboard_registry::{Place, Provider};
use callboard_server::{AnswerFile, KeptAnswers, Router, Server, ServerBuilder};
use clap::Args;

use crate::reach::{Reach, duration};
use crate::{environment, output};

mod demo;

/// Serve methods to try things out with, and register them at the center
///
/// The methods are add {num1, num2}, echo {text} and sleep {ms}. A line `listening on ...` an address, or `relayed by ...` a
/// center, says that they are served and registered.
#[derive(Debug, Args)]
pub(crate) struct Provide {
    /// Serve the demonstration's methods
    #[arg(long, required = true)]
    demo: bool,
    /// Where to listen: tcp://host:port, host:port or unix:///path; port 0 takes a free one. May be given more than
    /// once
    #[arg(long, value_name = "ADDR", default_value = "tcp://127.0.0.1:0")]
    listen: Vec<Address>,
    /// Listen nowhere: take calls over the connection to the center, which passes them on. For where nobody can connect to
    #[arg(long, conflicts_with = "listen")]
    relay: bool,
    /// Print a line `served METHOD` a call
    #[arg(long)]
    show_calls: bool,
    /// How long calls under way may take to end after the first SIGINT or SIGTERM: 500ms, 10s. A second one stops at
    /// once
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10s")]
    grace: Duration,
    /// Keep the answers to calls under idempotency keys in this file, so that they outlast this program; it is made where
    /// there is none, and each provider needs one of its own [env: CALLBOARD_KEYS_STORE=]
    #[arg(long, value_name = "PATH")]
    keys_store: Option<PathBuf>,
    #[command(flatten)]
    reach: Reach,
}

impl Provide {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let mut signals = Signals::new()?;
        let (server, provider) = tokio::select! {
            started = self.start() => started?,
            _ = signals.next() => return Ok(ExitCode::SUCCESS),
        };
        let is_relayed = server.is_none();
        for address in server.iter().flat_map(Server::addresses) {
            output::announce(&format!("listening on {address}"))?;
        }
        for center in provider.centers().iter() {
            if is_relayed {
                output::announce(&format!("relayed by {}", center.address()))?;
            }
            tokio::spawn(miss_center(center.clone(), is_relayed));
        }
        let left = match server {
            Some(server) => serve_until(&mut signals, provider, server).await,
            None => serve_relayed_until(&mut signals, provider, self.grace).await,
        };
        Ok(left.exit_code())
    }

    /// Serves, then registers.
    async fn start(&self) -> anyhow::Result<(Option<Server>, Provider)> {
        let router = self.router()?;
        if self.relay {
            let settings = Client::builder().serves(router.clone());
            let (centers, deadline) = self.reach.centers_with(settings).await?;
            let provider = Provider::new(centers.with_timeout(deadline.left()));
            return Ok((None, provider.announce(router.names(), Place::Relay).await?));
        }
        let builder = Server::builder().router(router.clone()).grace(self.grace);
        let server = self.listen.iter().fold(builder, ServerBuilder::listen).start().await?;
        let (centers, deadline) = self.reach.centers().await?;
        let provider = Provider::new(centers.with_timeout(deadline.left()));
        let provider = provider.announce(router.names(), server.addresses()).await?;
        Ok((Some(server), provider))
    }

    fn router(&self) -> anyhow::Result<Router> {
        let mut router = demo::router(teller(self.show_calls));
        let store = self.keys_store.clone().or_else(|| environment::value(environment::KEYS_STORE).map(PathBuf::from));
        if let Some(path) = store {
            router = router.kept_answers(KeptAnswers::default().stored_in(AnswerFile::open(path)?)?);
        }
        Ok(router)
    }
}

/// Says so when the center is gone and when it is back.
async fn miss_center(center: Client, is_relayed: bool) {
    let mut states = center.states();
    while let Some(state) = states.next().await {
        let center = center.address();
        match state {
            ClientState::Lost { reason } if is_relayed => tracing::warn!(
                "the center at {center} is gone ({reason}), over which this provider is called; it will register again"
            ),
            ClientState::Lost { reason } => tracing::warn!(
                "the center at {center} is gone ({reason}); callers that know this provider are still served, and it will \
                 register again"
            ),
            ClientState::Resumed => tracing::info!("the center at {center} is back"),
            _ => {}
        }
    }
}

fn teller(show_calls: bool) -> demo::Tell {
    Arc::new(move |method| {
        if show_calls {
            // A provider serves on, whatever becomes of what it prints.
            let _ = output::announce(&format!("served {method}"));
        }
    })
}
