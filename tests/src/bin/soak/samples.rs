//! What a soak has seen, and what follows from it.

use anyhow::{Result, ensure};
use callboard_tests::{Look, Tables};
use serde::Serialize;

use crate::steady::AtProviders;
use crate::tally::Done;

/// One look.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sample {
    /// Since the beginning.
    pub(crate) seconds: f64,
    #[serde(flatten)]
    pub(crate) look: Look,
    #[serde(flatten)]
    pub(crate) done: Done,
}

/// What a soak has shown.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Verdict {
    /// When the memory was looked at first, in s: after a minute, or a third of a shorter run.
    pub(crate) settled_at: f64,
    /// The center's memory then, in bytes.
    pub(crate) settled_memory: f64,
    /// And at the end, while clients still came and went.
    pub(crate) last_memory: f64,
    /// The second by the first.
    pub(crate) growth: f64,
    /// Descriptors before the first client, and after the last.
    pub(crate) descriptors: [u64; 2],
    /// Tables after the last client.
    pub(crate) left: Tables,
    /// What providers that stayed held then.
    pub(crate) at_providers: AtProviders,
    /// What the clients have done.
    pub(crate) done: Done,
}

impl Verdict {
    /// From what was seen while clients came and went, before the first of them, and after the last at the center and at
    /// the providers that stayed.
    pub(crate) fn new(before: Look, samples: &[Sample], (after, at_providers): (Look, AtProviders)) -> Result<Self> {
        let seconds = samples.last().map_or(0.0, |last| last.seconds);
        ensure!(seconds >= LEAST, "a soak of {seconds:.0} s shows nothing; give it {LEAST} s at least");
        let settled_at = (seconds / 3.0).min(60.0);
        let over = (seconds / 6.0).clamp(LEAST_OVER, MOST_OVER);
        let settled_memory = memory(samples, settled_at, settled_at + over);
        let last_memory = memory(samples, seconds - over, seconds);
        let descriptors = [before.descriptors, after.descriptors];
        let growth = last_memory / settled_memory;
        let done = samples.last().map_or_else(Done::default, |last| last.done);
        let left = after.tables;
        Ok(Self { settled_at, settled_memory, last_memory, growth, descriptors, left, at_providers, done })
    }

    /// Whether the center holds what it promises; its memory may grow by this factor.
    pub(crate) fn check(&self, bound: f64) -> Result<()> {
        let Self { growth, descriptors: [before, after], left, at_providers, .. } = self;
        ensure!(*growth <= bound, "memory grew by a factor of {growth:.2}, where {bound} is the bound");
        ensure!(after <= before, "{after} descriptors are open, where {before} were at the beginning");
        ensure!(*left == Tables::default(), "tables are not empty: {left:?}");
        ensure!(!at_providers.is_something(), "providers that stayed are not idle: {at_providers:?}");
        self.done.kinds.check()
    }
}

/// The median over a span of time.
fn memory(samples: &[Sample], from: f64, to: f64) -> f64 {
    let within = samples.iter().filter(|sample| (from..=to).contains(&sample.seconds));
    let mut values: Vec<_> = within.map(|sample| sample.look.memory).collect();
    values.sort_unstable();
    values.get(values.len() / 2).map_or(f64::NAN, |median| *median as f64)
}

/// In s.
const LEAST: f64 = 30.0;
/// What clients have left to be remembered goes up and down within some 20 s.
const LEAST_OVER: f64 = 10.0;
const MOST_OVER: f64 = 60.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn look(memory: u64, descriptors: u64) -> Look {
        Look { memory, descriptors, tables: Tables::default() }
    }

    fn samples(memory: impl Fn(u32) -> u64) -> Vec<Sample> {
        let sample =
            |second| Sample { seconds: f64::from(second), look: look(memory(second), 99), done: Done::default() };
        (0..=120).map(sample).collect()
    }

    fn verdict(samples: &[Sample], after: Look) -> Result<Verdict> {
        Verdict::new(look(1, 7), samples, (after, AtProviders::default()))
    }

    #[test]
    fn what_grows_before_it_has_settled_and_what_is_high_for_a_moment_does_not_count() {
        let steady = samples(|second| if second == 115 { 900 } else { u64::from(second.min(40)) * 10 });
        let verdict = verdict(&steady, look(400, 7)).unwrap();
        assert_eq!((verdict.settled_at, verdict.settled_memory, verdict.last_memory), (40.0, 400.0, 400.0));
        // All else is well.
        assert!(verdict.check(1.0).unwrap_err().to_string().contains("to provide was hardly ever done"));
    }

    #[test]
    fn growth_open_descriptors_full_tables_and_providers_that_are_not_idle_are_told() {
        let steady = samples(|_| 100);
        let leaks = samples(|second| 100 + 2 * u64::from(second));
        let held = Tables { topics: 1, ..Tables::default() };
        let rows = [
            (&leaks, look(100, 7), 0, "memory grew"),
            (&steady, look(100, 8), 0, "8 descriptors are open"),
            (&steady, Look { tables: held, ..look(100, 7) }, 0, "tables are not empty"),
            (&steady, look(100, 7), 1, "are not idle"),
        ];
        for (samples, after, in_flight, told) in rows {
            let at_providers = AtProviders { in_flight, ..AtProviders::default() };
            let failed = Verdict { at_providers, ..verdict(samples, after).unwrap() }.check(1.5).unwrap_err();
            assert!(failed.to_string().contains(told), "{failed}");
        }
        assert!(verdict(steady.get(..5).unwrap(), look(1, 7)).is_err());
    }
}
