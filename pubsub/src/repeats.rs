use std::collections::{HashMap, VecDeque};
use std::mem;

use callboard_common::PublishId;

/// Which messages one subscription has had, by the ids that their publishers gave them, so that one which comes again
/// from another center is known. Pure state.
///
/// Of each run of a publisher it keeps which numbers came: all of the newest 32,768, further back than which no
/// publisher repeats, and older ones as long as they take little room. It keeps the 512 runs, at least, that were heard
/// last, and twice as many at most.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    recent: HashMap<[u8; 16], Seen>,
    /// Those that were not heard since there were so many recent ones.
    older: HashMap<[u8; 16], Seen>,
    dropped: u64,
}

/// Which numbers of one run came.
///
/// In words of 64 numbers. Only words with numbers that came take room, and full ones in a row as much as one.
#[derive(Debug, Default)]
struct Seen {
    /// In the order of the numbers.
    spans: VecDeque<Span>,
    /// The highest number that came.
    highest: u64,
    /// Which numbers of words before this one came is forgotten.
    first_known: u64,
}

/// A word, or several that are full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    first: u64,
    /// The word after the last one.
    end: u64,
    /// One bit a number.
    bits: u64,
}

/// What a message is by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    New,
    /// It is new, but a later one of the same run has come.
    Late,
    Repeat,
    /// It lies so far back that nobody knows.
    Forgotten,
}

impl Repeats {
    /// One more message.
    pub(crate) fn hear(&mut self, id: PublishId) -> Known {
        let known = self.seen(id.run).hear(id.number);
        self.dropped += u64::from(known == Known::Repeat);
        known
    }

    /// How many were repeats.
    pub(crate) const fn dropped(&self) -> u64 {
        self.dropped
    }

    fn seen(&mut self, run: [u8; 16]) -> &mut Seen {
        if !self.recent.contains_key(&run) {
            if self.recent.len() >= RECENT_RUNS {
                self.older = mem::take(&mut self.recent);
            }
            let seen = self.older.remove(&run).unwrap_or_default();
            self.recent.insert(run, seen);
        }
        self.recent.entry(run).or_default()
    }
}

impl Seen {
    fn hear(&mut self, number: u64) -> Known {
        let (word, bit) = (number / 64, 1 << (number % 64));
        if word < self.first_known {
            return Known::Forgotten;
        }
        let is_late = !self.spans.is_empty() && number < self.highest;
        let at = self.place(word);
        let Some(span) = self.spans.get_mut(at) else { return Known::Forgotten };
        if span.bits & bit != 0 {
            return Known::Repeat;
        }
        span.bits |= bit;
        self.highest = self.highest.max(number);
        self.join(at + 1);
        self.join(at);
        self.bound();
        if is_late { Known::Late } else { Known::New }
    }

    /// Where the span with this word is; it is made if there is none.
    fn place(&mut self, word: u64) -> usize {
        // Most messages are the next ones of their publishers.
        let at = match self.spans.back() {
            Some(last) if last.first <= word => self.spans.len(),
            _ => self.spans.partition_point(|span| span.first <= word),
        };
        let before = at.checked_sub(1);
        if let Some(before) = before.filter(|before| self.spans.get(*before).is_some_and(|span| word < span.end)) {
            return before;
        }
        self.spans.insert(at, Span { first: word, end: word + 1, bits: 0 });
        at
    }

    /// Makes this span and the one before it one if both are full and nothing lies between.
    fn join(&mut self, at: usize) {
        let before = at.checked_sub(1);
        let (Some(span), Some(before)) = (self.spans.get(at).copied(), before.and_then(|at| self.spans.get_mut(at)))
        else {
            return;
        };
        if before.bits == u64::MAX && span.bits == u64::MAX && before.end == span.first {
            before.end = span.end;
            self.spans.remove(at);
        }
    }

    /// Forgets the lowest numbers at the bound.
    fn bound(&mut self) {
        while self.spans.len() >= MAX_SPANS {
            self.first_known = self.spans.pop_front().map_or(self.first_known, |span| span.end);
        }
    }
}

/// With fewer a run takes 24 KiB at most.
const MAX_SPANS: usize = 1 << 10;
/// No publisher repeats a message that so many others of it have followed.
#[cfg(test)]
pub(crate) const REPEATED_NUMBERS: u64 = 1 << 15;
const RECENT_RUNS: usize = 512;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn id(run: u64, number: u64) -> PublishId {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&run.to_be_bytes());
        PublishId { run: bytes, number }
    }

    #[test]
    fn each_message_is_new_once_in_whatever_order_the_centers_bring_them() {
        let mut repeats = Repeats::default();
        let rows = [
            (1, 1, Known::New),
            (1, 3, Known::New),
            (1, 1, Known::Repeat),
            (1, 2, Known::Late),
            (1, 2, Known::Repeat),
            (2, 2, Known::New),
            (1, 64, Known::New),
            (1, 63, Known::Late),
            (1, 63, Known::Repeat),
            (1, 4, Known::Late),
        ];
        for (run, number, known) in rows {
            assert_eq!(repeats.hear(id(run, number)), known, "{run} {number}");
        }
        assert_eq!(repeats.dropped(), 3);
    }

    #[test]
    fn one_that_waits_at_another_center_is_new_however_many_have_followed() {
        let mut repeats = Repeats::default();
        for number in (2..20 * REPEATED_NUMBERS).filter(|number| number % 50_000 != 0) {
            assert_eq!(repeats.hear(id(1, number)), Known::New);
        }
        assert_eq!(repeats.hear(id(1, 77_777)), Known::Repeat);
        for number in [1, 50_000, 600_000, 550_000] {
            assert_eq!([(); 2].map(|()| repeats.hear(id(1, number))), [Known::Late, Known::Repeat], "{number}");
        }
        let seen = &repeats.recent[&id(1, 0).run];
        assert!(seen.spans.len() <= 30, "those that followed each other take no room: {}", seen.spans.len());
    }

    #[test]
    fn the_oldest_of_many_that_did_not_follow_each_other_are_forgotten_and_not_taken_for_repeats() {
        let mut repeats = Repeats::default();
        let last = 10 * REPEATED_NUMBERS;
        for number in (0..=last).step_by(2) {
            assert_eq!(repeats.hear(id(1, number)), Known::New);
        }
        for number in [0, 1, last / 2, last / 2 + 1] {
            assert_eq!(repeats.hear(id(1, number)), Known::Forgotten, "{number}");
        }
        for number in (last - REPEATED_NUMBERS..last).step_by(2) {
            assert_eq!(repeats.hear(id(1, number)), Known::Repeat);
            assert_eq!(repeats.hear(id(1, number + 1)), Known::Late);
        }
        assert_eq!(repeats.hear(id(1, u64::MAX)), Known::New);
        assert_eq!(repeats.hear(id(1, u64::MAX)), Known::Repeat);
        let seen = &repeats.recent[&id(1, 0).run];
        assert!(seen.spans.capacity() <= MAX_SPANS);
    }

    #[test]
    fn the_runs_that_were_heard_last_are_remembered() {
        let mut repeats = Repeats::default();
        for run in 0..10_000 {
            assert_eq!(repeats.hear(id(run, 1)), Known::New);
            assert_eq!(repeats.hear(id(0, run + 2)), Known::New, "one that goes on is not forgotten");
            assert_eq!(repeats.hear(id(run.saturating_sub(200), 1)), Known::Repeat);
            assert!(repeats.recent.len() + repeats.older.len() <= 2 * RECENT_RUNS);
        }
    }

    proptest! {
        #[test]
        fn what_is_not_forgotten_is_a_set(steps in prop::collection::vec((0..4_u64, 0..2_000_u64, 0..300_u64), 1..400)) {
            let (mut repeats, mut model) = (Repeats::default(), BTreeSet::new());
            let mut highest = [0; 4];
            for (run, ahead, back) in steps {
                let highest = &mut highest[usize::try_from(run).unwrap()];
                let number = if ahead % 3 == 0 { *highest + ahead } else { highest.saturating_sub(back) };
                let known = repeats.hear(id(run, number));
                prop_assert_eq!(known != Known::Repeat, model.insert((run, number)));
                prop_assert_ne!(known, Known::Forgotten);
                let later = model.range((run, number + 1)..(run, u64::MAX)).next().is_some();
                prop_assert_eq!(known == Known::Late, known != Known::Repeat && later);
                *highest = number.max(*highest);
            }
        }
    }
}
