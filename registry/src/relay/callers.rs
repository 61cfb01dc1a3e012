use std::collections::HashMap;
use std::hash::Hash;

use callboard_common::CallerTag;
use rustc_hash::FxBuildHasher;
use uuid::Uuid;

/// Under which tags providers know those who call them through this center. `K` names a connection.
///
/// A tag is a right: who knows it may call that caller. So nobody can guess one.
#[derive(Debug)]
pub(super) struct Callers<K> {
    tags: HashMap<K, CallerTag, FxBuildHasher>,
    /// By a quick hash: peers choose the numbers that are looked for, but not those that are in it.
    by_number: HashMap<u64, K, FxBuildHasher>,
}

impl<K: Clone + Eq + Hash> Callers<K> {
    /// The tag of a caller, who offers methods or does not: the same until it is [forgotten](Self::forget).
    pub(super) fn tag(&mut self, caller: &K, serves: bool) -> CallerTag {
        if let Some(tag) = self.tags.get(caller) {
            return *tag;
        }
        let number = loop {
            let (high, low) = Uuid::new_v4().as_u64_pair();
            // Neither half is all random, but what is fixed in one of them is not in the other.
            let number = high ^ low;
            if !self.by_number.contains_key(&number) {
                break number;
            }
        };
        let tag = CallerTag::new(number, serves);
        self.tags.insert(caller.clone(), tag);
        self.by_number.insert(number, caller.clone());
        tag
    }

    /// Whose tag has this number.
    pub(super) fn find(&self, number: u64) -> Option<&K> {
        self.by_number.get(&number)
    }

    /// The connection has ended.
    pub(super) fn forget(&mut self, caller: &K) {
        if let Some(tag) = self.tags.remove(caller) {
            self.by_number.remove(&tag.number());
        }
    }
}

impl<K> Default for Callers<K> {
    fn default() -> Self {
        Self { tags: HashMap::default(), by_number: HashMap::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_has_one_tag_until_it_goes_and_is_found_by_it() {
        let mut callers = Callers::default();
        let tags = [(1, true), (2, false), (1, true)].map(|(caller, serves)| callers.tag(&caller, serves));
        assert!(tags[0] == tags[2] && tags[0].number() != tags[1].number(), "{tags:?}");
        assert_eq!(tags.map(CallerTag::serves), [true, false, true]);
        assert_eq!(tags.map(|tag| callers.find(tag.number()).copied()), [Some(1), Some(2), Some(1)]);
        callers.forget(&1);
        assert_eq!(tags.map(|tag| callers.find(tag.number()).copied()), [None, Some(2), None]);
        callers.forget(&2);
        assert!(callers.tags.is_empty() && callers.by_number.is_empty());
    }
}
