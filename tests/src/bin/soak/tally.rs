//! What clients have tried so far, and what came of it.

use std::array::from_fn;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, ensure};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// What a client tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// To announce methods, with a server of its own.
    Provide,
    /// To announce methods without one.
    ProvideRelayed,
    /// To call a method whose providers come and go.
    Call,
    /// The same of providers that listen nowhere.
    CallRelayed,
    /// To call a method whose provider stays.
    CallSteady,
    CallSteadyRelayed,
    /// To call such a method under a key, and again.
    Keyed,
    KeyedRelayed,
    /// To take a key for a call with other parameters, and be refused.
    Conflict,
    /// To give up a call that would never end.
    GiveUp,
    GiveUpRelayed,
    Subscribe,
    /// To hear at least one message.
    Hear,
    /// To publish some and, perhaps, to hear that all were taken.
    Publish,
    /// To register and subscribe in v1, begin another frame and reset the connection.
    Reset,
    /// To provide and subscribe in a process that is then killed.
    Kill,
}

/// What comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Good,
    /// There was nobody: no provider of the method, or one that is gone and may come back, or nobody who published.
    Nobody,
    Failed,
    /// An answer that can't be.
    Wrong,
}

/// What came of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Count {
    pub(crate) good: u64,
    pub(crate) nobody: u64,
    pub(crate) failed: u64,
    pub(crate) wrong: u64,
}

/// All of it, while it goes on.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) lives: AtomicU64,
    pub(crate) published: AtomicU64,
    pub(crate) received: AtomicU64,
    kinds: [[AtomicU64; 4]; Kind::ALL.len()],
    /// What failed, by what was tried and what was told, and how often.
    failures: Mutex<BTreeMap<String, u64>>,
}

/// The same at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Done {
    pub(crate) lives: u64,
    pub(crate) published: u64,
    pub(crate) received: u64,
    pub(crate) kinds: Kinds,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kinds([Count; Kind::ALL.len()]);

impl Kind {
    /// With their names, and how many of a hundred that found somebody have to succeed: the rest is what the others do to
    /// them, who crash, leave in the middle of things and remove topics that others use.
    pub(crate) const ALL: [(Self, &str, f64); 16] = [
        (Self::Provide, "provide", 99.0),
        (Self::ProvideRelayed, "provide, relayed", 99.0),
        (Self::Call, "call", 90.0),
        (Self::CallRelayed, "call, relayed", 90.0),
        (Self::CallSteady, "call one that stays", 99.0),
        (Self::CallSteadyRelayed, "call one that stays, relayed", 99.0),
        (Self::Keyed, "call twice under a key", 99.0),
        (Self::KeyedRelayed, "call twice under a key, relayed", 99.0),
        (Self::Conflict, "take a key for another call, and be refused", 99.0),
        (Self::GiveUp, "give a call up", 99.0),
        (Self::GiveUpRelayed, "give a call up, relayed", 99.0),
        (Self::Subscribe, "subscribe", 90.0),
        (Self::Hear, "hear a message", 85.0),
        (Self::Publish, "publish", 90.0),
        (Self::Reset, "reset a connection", 99.0),
        (Self::Kill, "be killed while providing", 99.0),
    ];
}

impl Tally {
    pub(crate) fn note(&self, kind: Kind, outcome: Outcome) {
        if let Some(count) = self.kinds.get(kind as usize).and_then(|counts| counts.get(outcome as usize)) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Notes whether it is good, and gives it back.
    pub(crate) fn noted<T>(&self, kind: Kind, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            self.failed(kind, &format!("{error:#}"));
        }
        self.note(kind, if result.is_ok() { Outcome::Good } else { Outcome::Failed });
        result
    }

    /// Notes why.
    pub(crate) fn failed(&self, kind: Kind, why: &str) {
        // Without what is different each time.
        let told: String = format!("{kind:?}: {why}").chars().filter(|c| !c.is_ascii_digit()).take(200).collect();
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() < MOST || failures.contains_key(&told) {
            *failures.entry(told).or_default() += 1;
        }
    }

    /// The most frequent failures first.
    pub(crate) fn failures(&self) -> Vec<(u64, String)> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let mut failures: Vec<_> = failures.iter().map(|(told, times)| (*times, told.clone())).collect();
        failures.sort_by(|a, b| b.cmp(a));
        failures
    }

    pub(crate) fn done(&self) -> Done {
        let load = |count: &AtomicU64| count.load(Relaxed);
        let kinds = from_fn(|kind| {
            let [good, nobody, failed, wrong] =
                self.kinds.get(kind).map_or([0; 4], |counts| counts.each_ref().map(load));
            Count { good, nobody, failed, wrong }
        });
        let (lives, published, received) = (load(&self.lives), load(&self.published), load(&self.received));
        Done { lives, published, received, kinds: Kinds(kinds) }
    }
}

impl Kinds {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Kind, &'static str, f64, Count)> {
        Kind::ALL.into_iter().zip(self.0).map(|((kind, name, bound), count)| (kind, name, bound, count))
    }

    /// Whether each kind works: it was tried, succeeded as often as it has to, and never gave what can't be.
    pub(crate) fn check(&self) -> Result<()> {
        for (kind, name, bound, count) in self.iter() {
            let share = count.share(kind);
            ensure!(count.wrong == 0, "to {name} gave what can't be: {count:?}");
            ensure!(count.good >= LEAST, "to {name} was hardly ever done: {count:?}");
            ensure!(
                share >= bound,
                "to {name} succeeded in {share:.2} % only, where {bound} % is the bound: {count:?}"
            );
        }
        Ok(())
    }
}

impl Count {
    /// Of a hundred that found somebody, so many have succeeded.
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    pub(crate) fn share(&self, kind: Kind) -> f64 {
        // Where there is always somebody, it is a failure to find nobody.
        let nobody = if matches!(kind, Kind::Call | Kind::CallRelayed | Kind::Hear) { 0 } else { self.nobody };
        100.0 * self.good as f64 / (self.good + nobody + self.failed + self.wrong) as f64
    }
}

impl Serialize for Kinds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (_, name, _, count) in self.iter() {
            map.serialize_entry(name, &count)?;
        }
        map.end()
    }
}

/// So many different failures are noted.
const MOST: usize = 1_000;
/// So often each has to be done at least.
const LEAST: u64 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(but: Kind, outcomes: &[(Outcome, u64)]) -> Kinds {
        let tally = Tally::default();
        for (kind, ..) in Kind::ALL {
            let all = [(Outcome::Good, 1000)];
            for (outcome, times) in if kind == but { outcomes } else { &all } {
                (0..*times).for_each(|_| tally.note(kind, *outcome));
            }
        }
        tally.done().kinds
    }

    #[test]
    fn kinds_stand_in_the_order_of_their_numbers() {
        for (at, (kind, ..)) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at);
        }
    }

    #[test]
    fn what_does_not_work_is_told() {
        use Outcome::{Failed, Good, Nobody, Wrong};
        let rows = [
            (Kind::Provide, &[(Good, 995), (Failed, 5)][..], None),
            (Kind::Provide, &[(Good, 980), (Failed, 20)], Some("to provide succeeded in 98.00 % only")),
            (Kind::Call, &[(Good, 900), (Nobody, 9000), (Failed, 100)], None),
            (Kind::Call, &[(Good, 700), (Failed, 300)], Some("to call succeeded in 70.00 % only")),
            (Kind::CallSteady, &[(Good, 900), (Nobody, 100)], Some("to call one that stays succeeded in 90.00 % only")),
            (Kind::Keyed, &[(Good, 999), (Wrong, 1)], Some("to call twice under a key gave what can't be")),
            (Kind::Kill, &[], Some("to be killed while providing was hardly ever done")),
        ];
        for (kind, outcomes, expected) in rows {
            let told = tally(kind, outcomes).check().err().map(|error| error.to_string());
            let is_told = match (&told, expected) {
                (Some(told), Some(expected)) => told.contains(expected),
                (told, expected) => told.is_none() && expected.is_none(),
            };
            assert!(is_told, "{kind:?}: {told:?}");
        }
    }
}
