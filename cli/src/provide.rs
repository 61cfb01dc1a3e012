use std::sync::Arc;
use std::time::Duration;

use callboard_client::ClientState;
use callboard_net::Address;
use callboard_registry::Provider;
use callboard_server::{Server, ServerBuilder};
use clap::Args;
use tokio::time::timeout;

use crate::output;
use crate::reach::Reach;
use crate::signals::Stop;

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
    #[command(flatten)]
    reach: Reach,
}

impl Provide {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut stop = Stop::new()?;
        let (server, provider) = tokio::select! {
            started = self.start() => started?,
            _ = stop.requested() => return Ok(()),
        };
        for address in server.addresses() {
            output::announce(&format!("listening on {address}"))?;
        }
        tokio::select! {
            signal = stop.requested() => tracing::info!("{signal}: stopping"),
            () = miss_center(&provider) => {}
        }
        // A center that is gone has forgotten this provider already, and one that is stuck must not hold up the end.
        let _ = timeout(WITHDRAW_TIMEOUT, provider.withdraw()).await;
        server.shutdown().await;
        Ok(())
    }

    /// Serves, then registers.
    async fn start(&self) -> anyhow::Result<(Server, Provider)> {
        let router = demo::router(teller(self.show_calls));
        let builder = Server::builder().router(router.clone()).grace(GRACE);
        let server = self.listen.iter().fold(builder, ServerBuilder::listen).start().await?;
        let (center, deadline) = self.reach.client().await?;
        let provider = Provider::new(center.with_timeout(deadline.left()));
        let provider = provider.announce(router.names(), server.addresses()).await?;
        Ok((server, provider))
    }
}

/// Says so when the center is gone and when it is back, and goes on for ever.
async fn miss_center(provider: &Provider) {
    let mut states = provider.center().states();
    while let Some(state) = states.next().await {
        let center = provider.center().address();
        match state {
            ClientState::Lost { reason } => tracing::warn!(
                "the center at {center} is gone ({reason}); callers that know this provider are still served, and it will \
                 register again"
            ),
            ClientState::Resumed => tracing::info!("the center at {center} is back"),
            _ => {}
        }
    }
    std::future::pending::<()>().await;
}

fn teller(show_calls: bool) -> demo::Tell {
    Arc::new(move |method| {
        if show_calls {
            // A provider serves on, whatever becomes of what it prints.
            let _ = output::announce(&format!("served {method}"));
        }
    })
}

// Together less than the two seconds within which a stop is promised.
const WITHDRAW_TIMEOUT: Duration = Duration::from_millis(400);
const GRACE: Duration = Duration::from_millis(800);
