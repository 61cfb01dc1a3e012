//! What follows from the ledgers.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use serde::Serialize;

use crate::ledger::{Entry, Told};
use crate::plan::Rules;

/// Sums, and what must be 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    pub(crate) calls: u64,
    pub(crate) kills: u64,
    /// Tries of calls of those who live, beside the first ones.
    pub(crate) repeats: u64,
    pub(crate) ok: u64,
    pub(crate) yes: u64,
    pub(crate) no: u64,
    pub(crate) unknown: u64,
    /// Calls whose callers were killed before they were told anything.
    pub(crate) untold: u64,
    /// Calls that their callers gave up before they were told anything.
    pub(crate) given_up: u64,
    /// Begun more often than made, where that must not be.
    pub(crate) duplicates: u64,
    /// The caller lives, and was told nothing, or twice.
    pub(crate) lost: u64,
    /// The caller was told what is not so, or what nobody has called was begun.
    pub(crate) mislabelled: u64,
    /// Begun at a provider that lives, where it has to end and has not.
    pub(crate) cut: u64,
}

/// What the ledgers say of one call.
#[derive(Default)]
struct Course {
    made: u64,
    began: u64,
    ended: u64,
    told: Vec<Told>,
    given_up: bool,
    caller_was_killed: bool,
    /// Of those that ran it.
    provider_was_killed: bool,
}

impl Verdict {
    /// Of the ledgers of the providers and of the callers; `true` stands for one that was killed.
    pub(crate) fn of(providers: &[(bool, Vec<Entry>)], callers: &[(bool, Vec<Entry>)], rules: Rules) -> Self {
        let mut courses = BTreeMap::<&str, Course>::new();
        for (was_killed, entries) in providers {
            for entry in entries {
                let course = courses.entry(entry.call()).or_default();
                course.add(entry);
                course.provider_was_killed |= *was_killed;
            }
        }
        for (was_killed, entries) in callers {
            for entry in entries {
                let course = courses.entry(entry.call()).or_default();
                course.add(entry);
                course.caller_was_killed = *was_killed;
            }
        }
        let mut sum = Self::default();
        for course in courses.values() {
            sum += course.verdict(rules);
        }
        sum
    }

    pub(crate) fn holds(&self) -> bool {
        (self.duplicates, self.lost, self.mislabelled, self.cut) == (0, 0, 0, 0)
    }
}

impl Course {
    fn add(&mut self, entry: &Entry) {
        match entry {
            Entry::Began(_) => self.began += 1,
            Entry::Ended(_) => self.ended += 1,
            Entry::Made(_) => self.made += 1,
            Entry::GivenUp(_) => self.given_up = true,
            Entry::Told(_, told) => self.told.push(*told),
        }
    }

    fn verdict(&self, rules: Rules) -> Verdict {
        let told = |what| u64::from(self.told.contains(&what));
        Verdict {
            calls: self.made,
            kills: 0,
            repeats: 0,
            ok: told(Told::Ok),
            yes: told(Told::Yes),
            no: told(Told::No),
            unknown: told(Told::Unknown),
            untold: u64::from(self.caller_was_killed && !self.given_up && self.told.is_empty()),
            given_up: u64::from(self.given_up && self.told.is_empty()),
            duplicates: if rules.may_run_again { 0 } else { self.began.saturating_sub(1) },
            lost: u64::from(self.told.len() > 1 || (self.told.is_empty() && !self.caller_was_killed && !self.given_up)),
            mislabelled: u64::from(self.made == 0 || !self.told.iter().all(|told| self.bears_out(*told))),
            cut: u64::from(rules.must_end && !self.provider_was_killed && self.began > self.ended),
        }
    }

    fn bears_out(&self, told: Told) -> bool {
        match told {
            Told::Ok | Told::Yes => self.began > 0 && self.ended > 0,
            Told::Another => false,
            Told::No => self.began == 0,
            Told::Unknown => true,
        }
    }
}

impl AddAssign for Verdict {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.kills += other.kills;
        self.repeats += other.repeats;
        self.ok += other.ok;
        self.yes += other.yes;
        self.no += other.no;
        self.unknown += other.unknown;
        self.untold += other.untold;
        self.given_up += other.given_up;
        self.duplicates += other.duplicates;
        self.lost += other.lost;
        self.mislabelled += other.mislabelled;
        self.cut += other.cut;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn began() -> Entry {
        Entry::Began("a".into())
    }

    fn ended() -> Entry {
        Entry::Ended("a".into())
    }

    /// Of a call that was made once, as `[duplicates, lost, mislabelled, cut]`.
    fn faults_by(rules: Rules, providers: &[Vec<Entry>], told: &[Told], was_killed: bool) -> [u64; 4] {
        let mut caller = vec![Entry::Made("a".into())];
        caller.extend(told.iter().map(|told| Entry::Told("a".into(), *told)));
        let providers: Vec<_> = providers.iter().map(|entries| (false, entries.clone())).collect();
        let verdict = Verdict::of(&providers, &[(was_killed, caller)], rules);
        assert_eq!(verdict.calls, 1);
        [verdict.duplicates, verdict.lost, verdict.mislabelled, verdict.cut]
    }

    fn faults(providers: &[Vec<Entry>], told: &[Told], was_killed: bool) -> [u64; 4] {
        faults_by(Rules::default(), providers, told, was_killed)
    }

    #[test]
    fn what_is_true_is_no_fault() {
        let whole = [vec![began(), ended()]];
        for told in [Told::Ok, Told::Yes, Told::Unknown] {
            assert_eq!(faults(&whole, &[told], false), [0; 4], "{told:?}");
        }
        assert_eq!(faults(&[], &[Told::No], false), [0; 4]);
        assert_eq!(faults(&[vec![began()]], &[Told::Unknown], false), [0; 4]);
        assert_eq!(faults(&[vec![began()]], &[], true), [0; 4]);
        let again = Rules { may_run_again: true, ..Rules::default() };
        assert_eq!(faults_by(again, &[vec![began()], vec![began(), ended()]], &[Told::Ok], false), [0; 4]);
    }

    #[test]
    fn each_fault_is_found() {
        assert_eq!(faults(&[vec![began()], vec![began(), ended()]], &[Told::Ok], false), [1, 0, 0, 0]);
        assert_eq!(faults(&[vec![began(), ended()]], &[], false), [0, 1, 0, 0]);
        assert_eq!(faults(&[vec![began(), ended()]], &[Told::Ok, Told::Unknown], false), [0, 1, 0, 0]);
        assert_eq!(faults(&[vec![began()]], &[Told::Ok], false), [0, 0, 1, 0]);
        assert_eq!(faults(&[], &[Told::Yes], false), [0, 0, 1, 0]);
        assert_eq!(faults(&[vec![began()]], &[Told::No], false), [0, 0, 1, 0]);
        assert_eq!(faults(&[vec![began(), ended()]], &[Told::Another], false), [0, 0, 1, 0]);
        let nobody = Verdict::of(&[(false, vec![began(), ended()])], &[], Rules::default());
        assert_eq!(nobody.mislabelled, 1, "nobody has made it");
    }

    #[test]
    fn what_has_to_end_and_does_not_at_a_provider_that_lives_is_found() {
        let rules = Rules { must_end: true, ..Rules::default() };
        assert_eq!(faults_by(rules, &[vec![began()]], &[Told::Unknown], false), [0, 0, 0, 1]);
        let of_a_killed = Verdict::of(&[(true, vec![began()])], &[(true, vec![Entry::Made("a".into())])], rules);
        assert!(of_a_killed.holds(), "{of_a_killed:?}");
    }

    #[test]
    fn what_the_callers_were_told_is_counted() {
        let entries = |call: &str, told| vec![Entry::Made(call.into()), Entry::Told(call.into(), told)];
        let callers = [
            (false, entries("a", Told::Ok)),
            (true, entries("b", Told::No)),
            (true, vec![Entry::Made("c".into())]),
            (false, vec![Entry::Made("d".into()), Entry::GivenUp("d".into())]),
        ];
        let verdict = Verdict::of(&[(false, vec![began(), ended()])], &callers, Rules::default());
        assert_eq!(verdict, Verdict { calls: 4, ok: 1, no: 1, untold: 1, given_up: 1, ..Verdict::default() });
        assert!(verdict.holds());
    }
}
