use std::collections::{HashMap, VecDeque};
use std::mem;

use callboard_common::PublishId;

/// Which messages one subscription has had, by the ids that their publishers gave them, so that one which comes again from
/// another center is known. Pure state.
///
/// Of each run of a publisher it keeps which of the newest 32,768 numbers came; a publisher repeats no older ones. It
/// keeps the 512 runs, at least, that were heard last, and twice as many at most.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    recent: HashMap<[u8; 16], Seen>,
    /// Those that were not heard since there were so many recent ones.
    older: HashMap<[u8; 16], Seen>,
    dropped: u64,
}

/// Which numbers of one run came.
#[derive(Debug, Default)]
struct Seen {
    /// One bit a number, 64 numbers a word; the last word has the highest number.
    words: VecDeque<u64>,
    /// Which word the last one is.
    last: u64,
}

/// What a message is by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    New,
    /// It is new, but a later one of the same run has come.
    Late,
    Repeat,
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
        if self.words.is_empty() || word > self.last {
            self.go_on_to(word);
        }
        let back = self.last - word;
        if back >= MAX_WORDS {
            return Known::Repeat;
        }
        let back = usize::try_from(back).unwrap_or(usize::MAX);
        while self.words.len() <= back {
            self.words.push_front(0);
        }
        let is_last = back == 0;
        let at = self.words.len() - 1 - back;
        let Some(bits) = self.words.get_mut(at) else { return Known::New };
        let later = bits.checked_shr(u32::try_from(number % 64 + 1).unwrap_or(0)).unwrap_or(0);
        if mem::replace(bits, *bits | bit) & bit != 0 {
            Known::Repeat
        } else if is_last && later == 0 {
            Known::New
        } else {
            Known::Late
        }
    }

    /// This word is the last from now on.
    fn go_on_to(&mut self, word: u64) {
        let ahead = if self.words.is_empty() { MAX_WORDS } else { word - self.last };
        if ahead >= MAX_WORDS {
            self.words.clear();
            self.words.push_back(0);
        } else {
            let ahead = usize::try_from(ahead).unwrap_or(usize::MAX);
            self.words.extend(std::iter::repeat_n(0, ahead));
            let over = self.words.len().saturating_sub(usize::try_from(MAX_WORDS).unwrap_or(usize::MAX));
            self.words.drain(..over);
        }
        self.last = word;
    }
}

const MAX_WORDS: u64 = REPEATED_NUMBERS / 64;
/// No publisher repeats a message that so many others of it have followed.
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
    fn what_lies_too_far_back_counts_as_a_repeat_and_takes_no_room() {
        let mut repeats = Repeats::default();
        for number in (0..10 * REPEATED_NUMBERS).step_by(50) {
            assert_eq!(repeats.hear(id(1, number)), Known::New);
        }
        assert_eq!(repeats.hear(id(1, 8 * REPEATED_NUMBERS + 1)), Known::Repeat);
        assert_eq!(repeats.hear(id(1, u64::MAX)), Known::New);
        assert_eq!(repeats.hear(id(1, 9 * REPEATED_NUMBERS + 1)), Known::Repeat);
        let seen = &repeats.recent[&id(1, 0).run];
        assert!(seen.words.len() <= 512, "{}", seen.words.len());
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
        fn within_the_window_it_is_a_set(steps in prop::collection::vec((0..4_u64, 0..2_000_u64, 0..300_u64), 1..400)) {
            let (mut repeats, mut model) = (Repeats::default(), BTreeSet::new());
            let mut highest = [0; 4];
            for (run, ahead, back) in steps {
                let highest = &mut highest[usize::try_from(run).unwrap()];
                let number = if ahead % 3 == 0 { *highest + ahead } else { highest.saturating_sub(back) };
                let known = repeats.hear(id(run, number));
                prop_assert_eq!(known != Known::Repeat, model.insert((run, number)));
                let later = model.range((run, number + 1)..(run, u64::MAX)).next().is_some();
                prop_assert_eq!(known == Known::Late, known != Known::Repeat && later);
                *highest = number.max(*highest);
            }
        }
    }
}
