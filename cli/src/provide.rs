use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use callboard::{Signals, serve_until};
use callboard_client::{Client, ClientState};
use callboard_net::Address;
use callboard_registry::Provider;
use callboard_server::{AnswerFile, KeptAnswers, Server, ServerBuilder};
use clap::Args;

use crate::reach::{Reach, duration};
use crate::{environment, output};

mod demo;

/// Serve methods to try things out with, and register them at the center
///
/// The methods are add {num1, num2}, echo {text} and sleep {ms}. A line `listening on ...` an address says that they
/// are served and registered.
#[derive(Debug, Args)]
pub(crate) struct Provide {
    /// Serve the demonstration's methods
    #[arg(long, required = true)]
    demo: bool,
    /// Where to listen: tcp://host:port, host:port or unix:///path; port 0 takes a free one. May be given more than
    /// once
    #[arg(long, value_name = "ADDR", default_value = "tcp://127.0.0.1:0")]
    listen: Vec<Address>,
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
        for address in server.addresses() {
            output::announce(&format!("listening on {address}"))?;
        }
        for center in provider.centers().iter() {
            tokio::spawn(miss_center(center.clone()));
        }
        Ok(serve_until(&mut signals, provider, server).await.exit_code())
    }

    /// Serves, then registers.
    async fn start(&self) -> anyhow::Result<(Server, Provider)> {
        let mut router = demo::router(teller(self.show_calls));
        let store = self.keys_store.clone().or_else(|| environment::value(environment::KEYS_STORE).map(PathBuf::from));
        if let Some(path) = store {
            router = router.kept_answers(KeptAnswers::default().stored_in(AnswerFile::open(path)?)?);
        }
        let builder = Server::builder().router(router.clone()).grace(self.grace);
        let server = self.listen.iter().fold(builder, ServerBuilder::listen).start().await?;
        let (centers, deadline) = self.reach.centers().await?;
        let provider = Provider::new(centers.with_timeout(deadline.left()));
        let provider = provider.announce(router.names(), server.addresses()).await?;
        Ok((server, provider))
    }
}

/// Says so when the center is gone and when it is back.
async fn miss_center(center: Client) {
    let mut states = center.states();
    while let Some(state) = states.next().await {
        let center = center.address();
        match state {
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
