//! What the normal clients measure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::still::{Still, is_spoiled};

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
    /// To connect and open a session: by itself, since who comes has to wait behind attackers that connect.
    Connect,
}

/// One operation that went well.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) phase: u8,
    pub(crate) kind: Kind,
    /// Since the start.
    pub(crate) due: Duration,
    /// Since it was due.
    pub(crate) took: Duration,
}

/// Of one phase.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Operations that were due, but for those of newcomers.
    pub(crate) due: u64,
    /// Those that failed, or of which nothing was heard, and newcomers who got no session.
    pub(crate) errors: u64,
    /// Connections that ended.
    pub(crate) disconnects: u64,
    /// Operations that went well and of which the times do not count, since the machine [stood still](crate::still).
    pub(crate) left_out: u64,
    /// For how long it did, of all cores.
    pub(crate) still_ms: f64,
    /// Of those who are there.
    pub(crate) all: Latency,
    /// The same with nothing left out.
    pub(crate) whole: Latency,
    pub(crate) kinds: BTreeMap<Kind, Latency>,
}

/// In ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Sample {
    /// Whether it is of this kind, or of any of those who are there.
    fn is_of(&self, kind: Option<Kind>) -> bool {
        kind.map_or(self.kind != Kind::Connect, |kind| self.kind == kind)
    }
}

impl Kind {
    pub(crate) const ALL: [Self; KINDS] = [Self::Ping, Self::Discover, Self::Publish, Self::Call, Self::Connect];
}

impl Figures {
    /// Of operations that went well: when which kind was due, and how long it took.
    pub(crate) fn of(samples: &[Sample], stills: &[Still]) -> Self {
        let (kept, left_out): (Vec<&Sample>, Vec<&Sample>) =
            samples.iter().partition(|sample| !is_spoiled(stills, sample.due));
        let left_out = left_out.iter().filter(|sample| sample.is_of(None)).count();
        let took = |kind: Option<Kind>| {
            let of_kind = kept.iter().filter(|sample| sample.is_of(kind));
            let mut took: Vec<_> = of_kind.map(|sample| sample.took).collect();
            took.sort_unstable();
            Latency::of(&took)
        };
        let mut whole: Vec<_> = samples.iter().filter(|sample| sample.is_of(None)).map(|sample| sample.took).collect();
        whole.sort_unstable();
        let (first, last) = (samples.iter().map(|s| s.due).min(), samples.iter().map(|s| s.due).max());
        let (first, last) = (first.unwrap_or_default(), last.unwrap_or_default());
        let still: Duration = stills.iter().filter(|still| still.is_in(first, last)).map(|still| still.time()).sum();
        Self {
            left_out: left_out as u64,
            still_ms: still.as_secs_f64() * 1e3,
            all: took(None),
            whole: Latency::of(&whole),
            kinds: Kind::ALL.into_iter().map(|kind| (kind, took(Some(kind)))).collect(),
            ..Self::default()
        }
    }

    /// Operations whose times count.
    pub(crate) fn kept(&self) -> u64 {
        self.due.saturating_sub(self.errors + self.left_out)
    }

    /// How many of its operations were left out: 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "they are few")]
    pub(crate) fn part_left_out(&self) -> f64 {
        self.left_out as f64 / self.due.max(1) as f64
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

pub(crate) const KINDS: usize = 5;
/// Warming up, quiet, giving [memory](crate::memory) back, attacked, quiet again.
pub(crate) const PHASES: usize = 5;

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
