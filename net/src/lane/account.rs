use std::time::{Duration, Instant};

/// Where a connection stands among those of its event loop, and its place while it waits for a turn.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// Its turns so far in each class, in the time that all of the class share; zero before the first. What it owes in one
    /// it still owes when it comes back. In ns, since there is one for each of very many connections.
    at: [u64; Class::ALL.len()],
    pub(super) class: Class,
    /// How many turns it has had, as far as that matters.
    pub(super) turns: u8,
    /// What it has used of late beyond its [part](PART) of the time, and until when that was counted.
    pub(super) beyond: Duration,
    pub(super) counted: Option<Instant>,
    /// Its last turn brought answers that others waited for.
    pub(super) serves: bool,
    pub(super) place: Option<(Class, Place)>,
    /// Its last turn, while it ends: what is dropped before this is part of it.
    pub(super) last: Option<Box<super::Turn>>,
}

/// Who is least far comes first; among equals, who has waited for longest.
pub(super) type Place = (Duration, u64);

/// How a connection uses its turns. Classes share a loop by their weights, whatever the number of those who wait in each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// It moves little in a turn, and uses little of the loop.
    Light,
    /// It has had few turns, or lets others in. Whoever connects again and again stays here.
    #[default]
    New,
    /// It ends: that sets memory free.
    Ending,
    /// It moves much, goes on for long, or uses much of the loop.
    Busy,
}

/// So many turns is a connection new for.
const NEW: u8 = 4;

impl Class {
    pub(super) const ALL: [Self; 4] = [Self::Light, Self::New, Self::Ending, Self::Busy];

    /// Of twelve parts, where all want the loop.
    pub(super) const fn weight(self) -> u32 {
        match self {
            Self::Light => 5,
            Self::Ending => 3,
            Self::New | Self::Busy => 2,
        }
    }
}

/// Who uses more than such a part of a loop's time, beside a reserve, is busy however short its turns are: few who ask
/// for one dear thing after the other are not to come before many who ask for much at a time.
const PART: u32 = 64;
const RESERVE: Duration = Duration::from_millis(8);

impl Account {
    /// How far it is in its class.
    #[expect(clippy::indexing_slicing, reason = "there is one for each class")]
    pub(super) fn at(&self) -> Duration {
        Duration::from_nanos(self.at[self.class as usize])
    }

    #[expect(clippy::indexing_slicing, reason = "there is one for each class")]
    pub(super) fn set_at(&mut self, at: Duration) {
        self.at[self.class as usize] = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
    }

    /// It has used so much of the loop until now. Whether that is more than who is light may use. One turn that took long
    /// is not enough: whatever made the machine stand still may have happened in it.
    pub(super) fn uses(&mut self, used: Duration, now: Instant) -> bool {
        let since = self.counted.replace(now).map_or(Duration::ZERO, |before| now.saturating_duration_since(before));
        self.beyond = self.beyond.saturating_sub(since / PART).saturating_add(used.min(RESERVE / 2));
        self.beyond > RESERVE
    }

    /// It had a turn, which was that of a busy connection or not, and served others or not.
    pub(super) fn had(&mut self, is_busy: bool, serves: bool) -> Class {
        self.serves = serves;
        self.turns = self.turns.saturating_add(1);
        match self.class {
            Class::Ending => Class::Ending,
            _ if is_busy => Class::Busy,
            _ if self.turns < NEW => Class::New,
            _ => Class::Light,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::MOST;
    use super::*;

    #[test]
    fn who_uses_more_than_its_part_is_busy_however_short_its_turns_are() {
        // (a turn of so many µs, once in so many, the one after which it is busy)
        for (turn, every, expected) in [
            (15, 1_000, None),
            (64, 4_096, None),
            (300, 1_200, Some(29)),
            (5_000, 1, Some(3)),
            (20_000, 100_000, Some(3)),
            (20_000, 1_000_000, None),
        ] {
            let (mut account, begin) = (Account::default(), Instant::now());
            let first = (1..2_000).find(|number| {
                account.uses(Duration::from_micros(turn), begin + Duration::from_micros(every) * (number - 1))
            });
            assert_eq!(first, expected, "{turn} us every {every}");
        }
        // After a while without any it is light again.
        let (mut account, begin) = (Account::default(), Instant::now());
        assert!((0..108).map(|_| account.uses(MOST, begin)).last().unwrap());
        assert!(account.uses(Duration::ZERO, begin + Duration::from_secs(6)));
        assert!(!account.uses(Duration::ZERO, begin + Duration::from_secs(7)));
    }

    #[test]
    fn who_has_had_some_turns_is_new_no_longer() {
        let mut account = Account::default();
        for _ in 1..NEW {
            assert_eq!(account.had(false, false), Class::New);
            assert_eq!(account.had(true, false), Class::Busy);
            account.turns -= 1;
        }
        assert_eq!(account.had(false, false), Class::Light);
        assert_eq!(account.had(true, false), Class::Busy);
        assert_eq!(account.had(false, false), Class::Light);
        account.ends();
        assert_eq!(account.had(false, false), Class::Ending);
    }
}
