use anyhow::Context;
use callboard_client::{Client, SessionMode};
use callboard_net::Address;
use clap::Args;
use serde_json::value::RawValue;

use crate::output;
use crate::reach::Reach;

/// Call a method and print its result as JSON
#[derive(Debug, Args)]
pub(crate) struct Call {
    /// The method's name
    method: String,
    /// The parameters
    #[arg(value_name = "JSON", default_value = "{}", allow_negative_numbers = true)]
    params: String,
    /// Go straight to this provider, without asking the center
    #[arg(long, value_name = "ADDR")]
    at: Option<Address>,
    #[command(flatten)]
    reach: Reach,
}

impl Call {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let params: &RawValue = serde_json::from_str(&self.params).context("the parameters are not JSON")?;
        let result = match &self.at {
            Some(provider) => self.call_at(provider, params).await?,
            None => self.call_through_center(params).await?,
        };
        output::line(&output::compact(&result))
    }

    async fn call_at(&self, provider: &Address, params: &RawValue) -> anyhow::Result<Box<RawValue>> {
        let deadline = self.reach.deadline();
        let builder = Client::builder().timeout(self.reach.timeout).session(SessionMode::Off);
        let client = builder.connect(provider.to_string()).await?;
        Ok(client.with_timeout(deadline.left()).call(&self.method, params).await?)
    }

    async fn call_through_center(&self, params: &RawValue) -> anyhow::Result<Box<RawValue>> {
        let (caller, deadline) = self.reach.caller().await?;
        Ok(caller.with_timeout(deadline.left()).call(&self.method, params).await?)
    }
}
