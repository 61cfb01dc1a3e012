use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use callboard_center::Config;
use callboard_client::{Centers, Client, ClientBuilder, RetryBudget};
use callboard_net::{Address, AddressError};
use callboard_registry::Caller;
use clap::Args;

use crate::environment;

/// Where the center is, or several are, and how long to wait for them.
#[derive(Debug, Args)]
pub(crate) struct Reach {
    /// The center's address: tcp://host:port, host:port or unix:///path; of several centers all, with commas between
    /// them [env: CALLBOARD_CENTER=] [default: tcp://127.0.0.1:7070]
    #[arg(long, value_name = "ADDR,...")]
    center: Option<List>,
    /// How long to wait in all, connecting included: 500ms, 2s
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5s")]
    pub(crate) timeout: Duration,
}

/// Addresses, one at least.
#[derive(Clone, Debug)]
struct List(Vec<Address>);

/// The end of the timeout. There is one for all steps of a command; each step gets what the others left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Instant);

impl Reach {
    /// Connects to the center, or to each of several. The timeout runs from now on; the clients' own is to be replaced
    /// step by step.
    pub(crate) async fn centers(&self) -> anyhow::Result<(Centers, Deadline)> {
        self.centers_with(Client::builder()).await
    }

    /// The same with such clients.
    pub(crate) async fn centers_with(&self, settings: ClientBuilder) -> anyhow::Result<(Centers, Deadline)> {
        let (center, deadline) = (self.center()?, self.deadline());
        let centers = settings.timeout(self.timeout).connect_centers(center.to_string()).await?;
        Ok((centers, deadline))
    }

    /// A caller, which asks the first center that answers.
    pub(crate) async fn caller(&self) -> anyhow::Result<(Caller, Deadline)> {
        self.caller_with(RetryBudget::default()).await
    }

    /// The same with such a budget.
    pub(crate) async fn caller_with(&self, budget: RetryBudget) -> anyhow::Result<(Caller, Deadline)> {
        let (center, deadline) = (self.center()?, self.deadline());
        let caller = Caller::builder().timeout(self.timeout).retry_budget(budget).connect(center.to_string()).await?;
        Ok((caller, deadline))
    }

    /// The center's address, as a client takes it.
    pub(crate) fn addresses(&self) -> anyhow::Result<String> {
        Ok(self.center()?.to_string())
    }

    /// So long from now.
    pub(crate) fn deadline(&self) -> Deadline {
        Deadline(Instant::now() + self.timeout)
    }

    /// Flag over environment over default.
    fn center(&self) -> anyhow::Result<List> {
        if let Some(center) = &self.center {
            return Ok(center.clone());
        }
        match environment::text(environment::CENTER)? {
            Some(text) => text.parse().context(environment::CENTER),
            None => Ok(List(vec![Address::Tcp { host: "127.0.0.1".to_owned(), port: Config::DEFAULT_PORT }])),
        }
    }
}

impl FromStr for List {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        text.split(',').map(|address| address.trim().parse()).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<_> = self.0.iter().map(Address::to_string).collect();
        f.write_str(&addresses.join(","))
    }
}

impl Deadline {
    /// What is left, in whole milliseconds for the sake of those who read it in an error.
    pub(crate) fn left(self) -> Duration {
        let left = self.0.saturating_duration_since(Instant::now());
        Duration::from_millis(u64::try_from(left.as_millis()).unwrap_or(u64::MAX).saturating_add(1))
    }
}

/// `500ms`, `2s`, `1m 30s`; more than 0, and short enough for any clock.
pub(crate) fn duration(text: &str) -> anyhow::Result<Duration> {
    let duration = match text {
        "0" => Duration::ZERO,
        _ => humantime::parse_duration(text)?,
    };
    if duration.is_zero() {
        bail!("must be more than 0");
    }
    if duration >= CENTURY {
        bail!("must be less than a century");
    }
    Ok(duration)
}

const CENTURY: Duration = Duration::from_hours(100 * 365 * 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_more_than_nothing_and_less_than_a_century() {
        let rows = [
            ("0", Err("must be more than 0")),
            ("0s", Err("must be more than 0")),
            ("1ns", Ok(Duration::from_nanos(1))),
            ("1m 30s", Ok(Duration::from_secs(90))),
            ("36499days", Ok(Duration::from_hours(36_499 * 24))),
            ("36500days", Err("must be less than a century")),
            ("400000000000years", Err("must be less than a century")),
        ];
        for (text, expected) in rows {
            assert_eq!(duration(text).map_err(|error| error.to_string()), expected.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn a_deadline_that_has_passed_leaves_a_moment() {
        assert_eq!(Deadline(Instant::now()).left(), Duration::from_millis(1));
    }
}
