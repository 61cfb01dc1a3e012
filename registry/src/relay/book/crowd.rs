use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use rustc_hash::FxBuildHasher;

use super::Number;

/// Calls by their callers, and who has most of them.
#[derive(Debug)]
pub(super) struct Crowd<K> {
    len: usize,
    by_caller: HashMap<K, BTreeSet<Number>, FxBuildHasher>,
    /// Only after somebody has asked who has most, which nobody does while there is room: each change would take its part of a
    /// call's time.
    by_size: Option<BySize<K>>,
}

#[derive(Debug)]
struct BySize<K> {
    sizes: BTreeSet<(usize, K)>,
    /// It is dropped where there are fewer calls than that: half as many as when it was made, which pay for the next one.
    least: usize,
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

    /// All, in any order.
    pub(super) fn numbers(&self) -> impl Iterator<Item = Number> {
        self.by_caller.values().flatten().copied()
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
    pub(super) fn gives_way_to(&mut self, caller: &K) -> Option<Number> {
        let least = self.own(caller) + 1;
        let Self { len, by_caller, by_size } = self;
        let by_size = by_size.get_or_insert_with(|| BySize {
            sizes: by_caller.iter().map(|(other, own)| (own.len(), other.clone())).collect(),
            least: len.div_ceil(2),
        });
        let (size, largest) = by_size.sizes.iter().rev().find(|(_, other)| other != caller)?;
        if *size > least { by_caller.get(largest)?.last().copied() } else { None }
    }

    fn change(&mut self, caller: &K, change: impl FnOnce(&mut BTreeSet<Number>) -> bool) {
        let own = self.by_caller.entry(caller.clone()).or_default();
        let before = own.len();
        change(own);
        let after = own.len();
        if after == 0 {
            self.by_caller.remove(caller);
        }
        self.len = self.len + after - before;
        match &mut self.by_size {
            Some(BySize { least, .. }) if self.len < *least => self.by_size = None,
            Some(BySize { sizes, .. }) if before != after => {
                sizes.remove(&(before, caller.clone()));
                if after > 0 {
                    sizes.insert((after, caller.clone()));
                }
            }
            _ => {}
        }
    }
}

impl<K> Default for Crowd<K> {
    fn default() -> Self {
        Self { len: 0, by_caller: HashMap::default(), by_size: None }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Asked at any moment, now and then or hardly ever.
        #[test]
        fn the_newest_call_of_whoever_has_most_gives_way(
            steps in prop::collection::vec((0..8_u8, 0..5_u8, any::<prop::sample::Index>()), 1..200),
        ) {
            let (mut crowd, mut model) = (Crowd::default(), BTreeMap::<u8, Vec<Number>>::new());
            for (serial, (step, caller, which)) in (0..).zip(steps) {
                match step {
                    0..=3 => {
                        crowd.enter(&caller, Number(serial));
                        model.entry(caller).or_default().push(Number(serial));
                    }
                    4..=6 => {
                        let all: Vec<_> =
                            model.iter().flat_map(|(who, own)| own.iter().map(|number| (*who, *number))).collect();
                        if let Some((who, number)) = all.get(which.index(all.len().max(1))) {
                            crowd.leave(who, *number);
                            model.get_mut(who).unwrap().retain(|other| other != number);
                        }
                    }
                    _ => {
                        let own = model.get(&caller).map_or(0, Vec::len);
                        let others = model.iter().filter(|(who, _)| **who != caller);
                        let most = others.max_by_key(|(who, own)| (own.len(), **who)).filter(|(_, most)| most.len() > own + 1);
                        prop_assert_eq!(crowd.gives_way_to(&caller), most.and_then(|(_, most)| most.last().copied()));
                    }
                }
                prop_assert_eq!(crowd.len(), model.values().map(Vec::len).sum::<usize>());
                prop_assert_eq!(crowd.numbers().collect::<BTreeSet<_>>(), model.values().flatten().copied().collect());
            }
        }
    }
}
