use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use rustc_hash::FxBuildHasher;

use super::Number;

/// Calls by their callers, and who has most of them.
#[derive(Debug)]
pub(super) struct Crowd<K> {
    len: usize,
    by_caller: HashMap<K, BTreeSet<Number>, FxBuildHasher>,
    by_size: BTreeSet<(usize, K)>,
}

impl<K: Clone + Eq + Hash + Ord> Crowd<K> {
    pub(super) fn enter(&mut self, caller: &K, number: Number) {
        self.change(caller, |own| own.insert(number));
    }

    /// Whether nothing is left.
    pub(super) fn leave(&mut self, caller: &K, number: Number) -> bool {
        self.change(caller, |own| own.remove(&number));
        self.is_empty()
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many one caller has.
    pub(super) fn own(&self, caller: &K) -> usize {
        self.by_caller.get(caller).map_or(0, BTreeSet::len)
    }

    /// Those of one caller, the oldest first.
    pub(super) fn of(&self, caller: &K) -> impl Iterator<Item = Number> {
        self.by_caller.get(caller).into_iter().flatten().copied()
    }

    /// The newest call of the one that has most, if it then still has as many as `caller` with one more.
    pub(super) fn gives_way_to(&self, caller: &K) -> Option<Number> {
        let (size, largest) = self.by_size.iter().rev().find(|(_, other)| other != caller)?;
        let newest = || self.by_caller.get(largest)?.last().copied();
        if *size > self.own(caller) + 1 { newest() } else { None }
    }

    fn change(&mut self, caller: &K, change: impl FnOnce(&mut BTreeSet<Number>) -> bool) {
        let own = self.by_caller.entry(caller.clone()).or_default();
        let before = own.len();
        change(own);
        let after = own.len();
        if after == 0 {
            self.by_caller.remove(caller);
        } else {
            self.by_size.insert((after, caller.clone()));
        }
        if before != after {
            self.by_size.remove(&(before, caller.clone()));
        }
        self.len = self.len + after - before;
    }
}

impl<K> Default for Crowd<K> {
    fn default() -> Self {
        Self { len: 0, by_caller: HashMap::default(), by_size: BTreeSet::new() }
    }
}
