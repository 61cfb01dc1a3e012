use std::time::Duration;

use anyhow::Context;
use callboard_client::{Client, RetryBudget, RetryPolicy, SessionMode};
use callboard_net::Address;
use clap::Args;
use serde_json::value::RawValue;

use crate::output;
use crate::reach::{Reach, duration};

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
    /// How often to make the call again, after a short pause, if it was not executed
    #[arg(long, value_name = "NUMBER", default_value_t = RetryPolicy::default().tries - 1)]
    retries: u32,
    /// How long each try may wait for its answer: 500ms, 2s [default: until the timeout]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    try_timeout: Option<Duration>,
    /// The method does no harm when it is executed twice: make the call again, too, if nobody knows whether it was
    #[arg(long)]
    idempotent: bool,
    /// After so long without an answer ask a second provider, too, and take the first answer
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "idempotent", conflicts_with = "at")]
    hedge: Option<Duration>,
    /// Execute the call once, however often it is made under this key with these parameters
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
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
        // Keys are known within sessions only.
        let mode = if self.key.is_some() { SessionMode::Try } else { SessionMode::Off };
        let builder = Client::builder().timeout(self.reach.timeout).session(mode);
        let builder = builder.retry(self.policy()).retry_budget(budget(self.retries));
        let client = builder.connect(provider.to_string()).await?.with_timeout(deadline.left());
        let client = if self.idempotent { client.idempotent() } else { client };
        let client = self.key.as_ref().map_or_else(|| client.clone(), |key| client.with_idempotency_key(key));
        Ok(client.call(&self.method, params).await?)
    }

    async fn call_through_center(&self, params: &RawValue) -> anyhow::Result<Box<RawValue>> {
        let (caller, deadline) = self.reach.caller_with(budget(self.retries)).await?;
        let caller = caller.with_timeout(deadline.left()).with_retry(self.policy());
        let caller = if self.idempotent { caller.idempotent() } else { caller };
        let caller = self.hedge.map_or_else(|| caller.clone(), |delay| caller.with_hedge(delay));
        let caller = self.key.as_ref().map_or_else(|| caller.clone(), |key| caller.with_idempotency_key(key));
        Ok(caller.call(&self.method, params).await?)
    }

    fn policy(&self) -> RetryPolicy {
        RetryPolicy { tries: self.retries.saturating_add(1), per_try: self.try_timeout, ..RetryPolicy::default() }
    }
}

/// All that were asked for, and a hedge of each.
fn budget(retries: u32) -> RetryBudget {
    let budget = RetryBudget::default();
    RetryBudget { reserve: retries.saturating_mul(2).saturating_add(1).max(budget.reserve), ..budget }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_has_all_repeats_that_were_asked_for() {
        for (retries, reserve) in [(0, 10), (2, 10), (50, 101), (u32::MAX, u32::MAX)] {
            assert_eq!(budget(retries).reserve, reserve, "{retries}");
        }
    }
}
