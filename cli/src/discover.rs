use anyhow::bail;
use callboard_registry::Caller;
use clap::Args;

use crate::args::Reach;
use crate::output;

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
        let caller = Caller::builder().timeout(self.reach.timeout).connect(self.reach.center.to_string()).await?;
        let hosts = caller.hosts(&self.method).await?;
        if hosts.is_empty() {
            bail!("nobody provides {:?}: the center at {} knows of no provider", self.method, self.reach.center);
        }
        hosts.iter().try_for_each(|host| output::line(&host.to_string()))
    }
}
