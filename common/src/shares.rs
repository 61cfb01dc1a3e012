use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use rustc_hash::FxBuildHasher;

/// What each connection takes of something that all share, in bytes, and who takes most. Pure state, generic over what
/// names a connection.
///
/// While there is room, everybody gets what it asks for. Where there is none, whoever would have the largest share is
/// refused; for anybody else the one with the largest share is to give way. So many connections that take all they can
/// get end up with equal shares, and never keep out one that wants less (for buffers of packets this is known as pushing
/// out of the longest queue).
///
/// ```
/// use callboard_common::{Room, Shares};
///
/// let mut shares = Shares::new(100);
/// assert!(shares.take(&"hoarder", 80));
/// assert_eq!(shares.room(&"newcomer", 30), Room::After("hoarder"));
/// assert_eq!(shares.room(&"hoarder", 30), Room::None);
/// shares.forget(&"hoarder");
/// assert!(shares.take(&"newcomer", 30));
/// ```
#[derive(Clone, Debug)]
pub struct Shares<K> {
    bound: usize,
    total: usize,
    /// The part of the total that is nobody's share.
    nobodys: usize,
    /// By a quick hash: connections are named on this side.
    of: HashMap<K, usize, FxBuildHasher>,
    /// Only while much is taken, since nobody asks who has most while there is room, and each change would take its part of
    /// a call's time. Where it is missing all are looked through.
    by_size: Option<BTreeSet<(usize, K)>>,
    /// It is made once so much is taken, and dropped below half of that.
    sorted_from: usize,
}

/// Whether there is room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room<K> {
    /// There is.
    Free,
    /// Once this one has given way, which has a larger share; or after another one then.
    After(K),
    /// Nobody has a larger share.
    None,
}

impl<K: Clone + Eq + Hash + Ord> Shares<K> {
    /// Nobody has anything of so many bytes.
    pub fn new(bound: usize) -> Self {
        // Without a bound it is asked for other reasons.
        let sorted_from = if bound == usize::MAX { 0 } else { bound / 2 };
        Self { bound, total: 0, nobodys: 0, of: HashMap::default(), by_size: None, sorted_from }
    }

    /// What all may take together, in bytes.
    pub const fn bound(&self) -> usize {
        self.bound
    }

    /// What all have taken, in bytes.
    pub const fn total(&self) -> usize {
        self.total
    }

    /// What one has taken, in bytes.
    pub fn of(&self, who: &K) -> usize {
        self.of.get(who).copied().unwrap_or(0)
    }

    /// Who has most; of several, the last in their order.
    pub fn largest(&self) -> Option<&K> {
        match &self.by_size {
            Some(by_size) => by_size.last().map(|(_, who)| who),
            None => self.of.iter().map(|(who, size)| (size, who)).max().map(|(_, who)| who),
        }
    }

    /// What each has taken, who has most first; of several, the last in their order.
    pub fn largest_first(&self) -> impl Iterator<Item = (&K, usize)> {
        let sorted = self.by_size.iter().flatten().rev().map(|(size, who)| (who, *size));
        let mut unsorted: Vec<_> = match self.by_size {
            Some(_) => Vec::new(),
            None => self.of.iter().map(|(who, size)| (who, *size)).collect(),
        };
        unsorted.sort_unstable_by(|(one, own), (other, its)| (its, other).cmp(&(own, one)));
        sorted.chain(unsorted)
    }

    /// Whether one may take so many bytes more.
    pub fn room(&self, who: &K, bytes: usize) -> Room<K> {
        if self.total.saturating_add(bytes) <= self.bound {
            return Room::Free;
        }
        self.above(who, bytes).map_or(Room::None, |other| Room::After(other.clone()))
    }

    /// Who has most, if that is more than this one would have with so many bytes more.
    pub fn above(&self, who: &K, bytes: usize) -> Option<&K> {
        let would_have = self.of(who).saturating_add(bytes);
        let (size, largest) = match &self.by_size {
            Some(by_size) => by_size.iter().rev().find(|(_, other)| other != who).map(|(size, other)| (size, other)),
            None => self.of.iter().filter(|(other, _)| *other != who).map(|(other, size)| (size, other)).max(),
        }?;
        (*size > would_have).then_some(largest)
    }

    /// Takes so many bytes, if they are free; whether they were.
    pub fn take(&mut self, who: &K, bytes: usize) -> bool {
        let is_free = self.total.saturating_add(bytes) <= self.bound;
        if is_free {
            self.change(who, |before| before + bytes);
        }
        is_free
    }

    /// Gives back so many bytes of what one has taken.
    pub fn give_back(&mut self, who: &K, bytes: usize) {
        self.change(who, |before| before.saturating_sub(bytes));
    }

    /// Gives back all that one has taken.
    pub fn forget(&mut self, who: &K) {
        self.change(who, |_| 0);
    }

    /// So many bytes are taken by nobody, whether or not they are free.
    pub const fn set_aside(&mut self, bytes: usize) {
        self.nobodys += bytes;
        self.total += bytes;
    }

    /// So many of those are free again.
    pub fn clear(&mut self, bytes: usize) {
        let bytes = bytes.min(self.nobodys);
        self.nobodys -= bytes;
        self.total -= bytes;
    }

    fn change(&mut self, who: &K, change: impl FnOnce(usize) -> usize) {
        let (before, after) = if let Some(share) = self.of.get_mut(who) {
            let before = *share;
            *share = change(before);
            (before, *share)
        } else {
            (0, change(0))
        };
        if after == 0 {
            self.of.remove(who);
        } else if before == 0 {
            self.of.insert(who.clone(), after);
        }
        self.total = self.total - before + after;
        match &mut self.by_size {
            Some(_) if self.total < self.sorted_from / 2 => self.by_size = None,
            Some(by_size) => {
                if before > 0 {
                    by_size.remove(&(before, who.clone()));
                }
                if after > 0 {
                    by_size.insert((after, who.clone()));
                }
            }
            None if self.total >= self.sorted_from => {
                self.by_size = Some(self.of.iter().map(|(who, size)| (*size, who.clone())).collect());
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_has_most_gives_way_and_who_would_have_most_is_refused() {
        let rows = [
            ("there is room", 1, 10, Room::Free),
            ("a newcomer that wants less than another one has", 9, 20, Room::After(2)),
            ("one that would have as much as the largest", 9, 50, Room::None),
            ("the largest itself", 2, 11, Room::None),
            ("one that would overtake the largest", 1, 11, Room::None),
            ("more than there is in all", 9, usize::MAX, Room::None),
        ];
        let mut shares = Shares::new(100);
        assert!(shares.take(&1, 40) && shares.take(&2, 50));
        for (what, who, bytes, expected) in rows {
            assert_eq!(shares.room(&who, bytes), expected, "{what}");
            let mut taken = shares.clone();
            assert_eq!(taken.take(&who, bytes), expected == Room::Free, "{what}");
        }
    }

    #[test]
    fn what_is_nobodys_counts_and_nobody_gives_way_for_it() {
        let mut shares = Shares::new(100);
        shares.set_aside(90);
        assert!(shares.take(&1, 10));
        assert_eq!((shares.total(), shares.room(&2, 10), shares.room(&2, 9)), (100, Room::None, Room::After(1)));
        shares.clear(50);
        assert_eq!((shares.total(), shares.room(&2, 10)), (50, Room::Free));
        shares.clear(50);
        assert_eq!(shares.total(), 10);
    }

    #[test]
    fn a_crowd_of_hoarders_ends_up_with_equal_shares_and_keeps_nobody_out() {
        let (mut shares, mut gave_way) = (Shares::new(10_000), 0);
        // Each time that one has to give way it begins anew.
        for round in 0..20_000_u32 {
            let who = round % 100;
            while let Room::After(other) = shares.room(&who, 10) {
                shares.forget(&other);
                gave_way += 1;
            }
            shares.take(&who, 10);
        }
        assert!((0..100).all(|who| shares.of(&who) <= 200), "{shares:?}");
        assert!(gave_way < 200, "{gave_way}");
        let honest = 1000;
        for _ in 0..5 {
            while let Room::After(other) = shares.room(&honest, 10) {
                shares.forget(&other);
            }
            assert!(shares.take(&honest, 10));
        }
    }

    proptest! {
        #[test]
        fn the_total_is_what_all_have_and_never_over_the_bound(
            steps in prop::collection::vec((0_u8..5, 0_usize..60, 0_u8..4), 0..100),
        ) {
            let (mut shares, mut model) = (Shares::new(100), BTreeMap::<u8, usize>::new());
            for (who, bytes, step) in steps {
                let total: usize = model.values().sum();
                match step {
                    0 | 1 => {
                        let room = shares.room(&who, bytes);
                        prop_assert_eq!(room == Room::Free, total + bytes <= 100);
                        let largest = model.iter().filter(|(_, b)| **b > 0).max_by_key(|(k, b)| (**b, **k)).map(|(k, _)| k);
                        prop_assert_eq!(shares.largest(), largest);
                        let mut sorted: Vec<_> = model.iter().filter(|(_, b)| **b > 0).map(|(k, b)| (*b, *k)).collect();
                        sorted.sort_unstable();
                        let listed: Vec<_> = shares.largest_first().map(|(k, b)| (b, *k)).collect();
                        prop_assert_eq!(listed, sorted.into_iter().rev().collect::<Vec<_>>());
                        if let Room::After(other) = room {
                            let would_have = model.get(&who).copied().unwrap_or(0) + bytes;
                            prop_assert!(other != who && model[&other] > would_have);
                            prop_assert_eq!(Some(&model[&other]), model.iter().filter(|(k, _)| **k != who).map(|(_, b)| b).max());
                        }
                        if shares.take(&who, bytes) {
                            *model.entry(who).or_default() += bytes;
                        }
                    }
                    2 => {
                        shares.give_back(&who, bytes);
                        let left = model.entry(who).or_default();
                        *left = left.saturating_sub(bytes);
                    }
                    _ => {
                        shares.forget(&who);
                        model.remove(&who);
                    }
                }
                prop_assert_eq!(shares.total(), model.values().sum::<usize>());
                prop_assert!(shares.total() <= shares.bound());
                prop_assert!((0..5).all(|who| shares.of(&who) == model.get(&who).copied().unwrap_or(0)));
            }
        }
    }
}
