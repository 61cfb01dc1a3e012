//! Whose calls give way to another one.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;

use callboard_common::Room;

use super::{Lobby, NoRoom, Turn};

impl<K: Clone + Eq + Hash + Ord, T> Lobby<K, T> {
    /// Which calls have to go so that there is room for one of so many bytes: of whoever has most at that moment the newest,
    /// as long as it has more than this caller would.
    pub(super) fn in_the_way(&self, caller: &K, bytes: usize) -> Result<Vec<Turn>, NoRoom> {
        if self.is_closed {
            return Err(NoRoom::Closed);
        }
        let for_place = match self.places.room(caller, 1) {
            Room::Free => None,
            Room::After(other) => self.by_caller.get(&other).and_then(BTreeSet::last).copied(),
            Room::None => return Err(NoRoom::Calls { bound: self.places.bound() }),
        };
        let freed = for_place.map_or(0, |turn| self.bytes_of(turn));
        let needed = (self.bytes.total() - freed).saturating_add(bytes).saturating_sub(self.bytes.bound());
        if needed == 0 {
            return Ok(for_place.into_iter().collect());
        }
        let others = self.in_the_way_of_bytes(caller, bytes, needed, for_place);
        others.ok_or_else(|| NoRoom::Bytes { bound: self.bytes.bound() })
    }

    /// The same where so many bytes more are needed than are free, and one call goes in any case. `None` where all that may
    /// go would not suffice.
    fn in_the_way_of_bytes(&self, caller: &K, bytes: usize, needed: usize, first: Option<Turn>) -> Option<Vec<Turn>> {
        let would_have = self.bytes.of(caller).saturating_add(bytes);
        let first_of = first.and_then(|turn| self.calls.get(&turn)).map(|first| (&first.caller, first.bytes));
        let freed_by = |who: &K| first_of.filter(|(caller, _)| *caller == who).map_or(0, |(_, bytes)| bytes);
        // Only who has more than this caller would is looked at, and of it only what goes.
        let mut rest = self.bytes.largest_first().filter(|(who, _)| *who != caller).peekable();
        let (mut largest, mut newest) = (BTreeSet::new(), BTreeMap::new());
        let (mut out, mut freed) = (Vec::from_iter(first), 0);
        while freed < needed {
            while let Some((who, share)) = rest.next_if(|(_, share)| largest.last().is_none_or(|(top, _)| share >= top))
            {
                largest.insert((share - freed_by(who), who));
            }
            let (share, who) = largest.pop_last().filter(|(share, _)| *share > would_have)?;
            let turns = newest.entry(who).or_insert_with(|| {
                let own = self.by_caller.get(who).into_iter().flatten().rev().copied();
                own.filter(|turn| Some(*turn) != first)
            });
            let turn = turns.next()?;
            let bytes = self.bytes_of(turn);
            out.push(turn);
            freed += bytes;
            largest.insert((share - bytes, who));
        }
        Some(out)
    }

    fn bytes_of(&self, turn: Turn) -> usize {
        self.calls.get(&turn).map_or(0, |waiting| waiting.bytes)
    }
}
