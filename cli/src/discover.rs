use anyhow::bail;
use clap::Args;

use crate::output;
use crate::reach::Reach;

/// Print who provides a method, one host a line
#[derive(Debug, Args)]
pub(crate) struct Discover {
    /// The method's name
    method: String,
    #[command(flatten)]
    reach: Reach,
}

impl Discover {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let (caller, deadline) = self.reach.caller().await?;
        let hosts = caller.with_timeout(deadline.left()).hosts(&self.method).await?;
        if hosts.is_empty() {
            bail!(
                "nobody provides {:?}: the center at {} knows of no provider",
                self.method,
                caller.center().address()
            );
        }
        hosts.iter().try_for_each(|host| output::line(&host.to_string()))
    }
}
