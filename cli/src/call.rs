use std::time::{Duration, Instant};

use anyhow::Context;
use callboard_client::{Client, SessionMode};
use callboard_net::Address;
use callboard_registry::Caller;
use clap::Args;
use serde_json::value::RawValue;

use crate::args::Reach;
use crate::output;

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
        let deadline = Instant::now() + self.reach.timeout;
        let result = match &self.at {
            Some(provider) => self.call_at(provider, params, deadline).await?,
            None => self.call_through_center(params, deadline).await?,
        };
        output::line(&output::compact(&result))
    }

    async fn call_at(&self, provider: &Address, params: &RawValue, deadline: Instant) -> anyhow::Result<Box<RawValue>> {
        let builder = Client::builder().timeout(self.reach.timeout).session(SessionMode::Off);
        let client = builder.connect(provider.to_string()).await?;
        Ok(client.with_timeout(remaining(deadline)).call(&self.method, params).await?)
    }

    async fn call_through_center(&self, params: &RawValue, deadline: Instant) -> anyhow::Result<Box<RawValue>> {
        let caller = Caller::builder().timeout(self.reach.timeout).connect(self.reach.center.to_string()).await?;
        Ok(caller.with_timeout(remaining(deadline)).call(&self.method, params).await?)
    }
}

/// What is left of the timeout, in whole milliseconds for the sake of those who read it in an error.
fn remaining(deadline: Instant) -> Duration {
    let left = deadline.saturating_duration_since(Instant::now());
    Duration::from_millis(u64::try_from(left.as_millis()).unwrap_or(u64::MAX).saturating_add(1))
}
