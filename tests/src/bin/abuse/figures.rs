//! What the normal clients measure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// To the PONG.
    Ping,
    /// To the answer.
    Discover,
    /// From the publisher to the subscriber.
    Publish,
    /// Through the center to a provider that listens nowhere, and back.
    Call,
}

/// One operation that went well.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) phase: u8,
    pub(crate) kind: Kind,
    /// Since it was due.
    pub(crate) took: Duration,
}

/// Of one phase.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Operations that were due.
    pub(crate) due: u64,
    /// Those that failed, or of which nothing was heard.
    pub(crate) errors: u64,
    /// Connections that ended.
    pub(crate) disconnects: u64,
    pub(crate) all: Latency,
    pub(crate) kinds: BTreeMap<Kind, Latency>,
}

/// In ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Kind {
    pub(crate) const ALL: [Self; KINDS] = [Self::Ping, Self::Discover, Self::Publish, Self::Call];
}

impl Figures {
    /// The times are sorted.
    pub(crate) fn of(
        due: u64,
        errors: u64,
        disconnects: u64,
        all: &[Duration],
        kinds: &[(Kind, Vec<Duration>)],
    ) -> Self {
        let kinds = kinds.iter().map(|(kind, took)| (*kind, Latency::of(took))).collect();
        Self { due, errors, disconnects, all: Latency::of(all), kinds }
    }
}

impl Latency {
    /// Of times that are sorted.
    fn of(took: &[Duration]) -> Self {
        let at = |part: usize| {
            let place = (took.len() * part).div_ceil(1000).saturating_sub(1);
            took.get(place).map_or(0.0, |took| took.as_secs_f64() * 1e3)
        };
        Self { p50: at(500), p99: at(990), max: at(1000) }
    }
}

pub(crate) const KINDS: usize = 4;
/// Warming up, quiet, attacked, quiet again.
pub(crate) const PHASES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_time_that_so_many_keep() {
        let took: Vec<_> = (1..=1000).map(Duration::from_millis).collect();
        assert_eq!(Latency::of(&took), Latency { p50: 500.0, p99: 990.0, max: 1000.0 });
        assert_eq!(Latency::of(&took[..1]), Latency { p50: 1.0, p99: 1.0, max: 1.0 });
        assert_eq!(Latency::of(&[]), Latency::default());
    }
}
