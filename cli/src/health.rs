use anyhow::Context;
use callboard_client::{Client, Reconnect, SessionMode};
use clap::Args;

use crate::output;
use crate::reach::Reach;

/// Say whether a center, or a provider, answers: for health checks
///
/// It opens a session and prints the address that answered. If none does, the exit code is 1.
#[derive(Debug, Args)]
pub(crate) struct Health {
    #[command(flatten)]
    reach: Reach,
}

impl Health {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let settings = Client::builder().session(SessionMode::Require).session_timeout(self.reach.timeout);
        let settings = settings.reconnect(Reconnect::never()).timeout(self.reach.timeout);
        let client = settings.connect(self.reach.addresses()?).await.context("it is not well")?;
        output::line(&format!("{} is well", client.address()))
    }
}
