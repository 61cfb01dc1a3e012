use std::collections::BTreeMap;
use std::task::Waker;
use std::time::Duration;

use super::account::{Account, Place};

/// Who waits for a turn, and what is left of the round. It has no clock.
///
/// A round is the time between two looks at the sockets. As long as it has time left, whoever comes runs at once, unless
/// somebody waits who has used less of the loop lately. Once its time is used up all wait for the next one, in which
/// who has used least comes first.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    queue: BTreeMap<Place, Waker>,
    /// What was used of the round.
    used: Duration,
    /// Somebody was woken for a turn and has not begun it.
    called: bool,
    /// Numbers those who wait.
    next: u64,
}

/// Whether a connection may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// For so long.
    Now(Duration),
    /// It will be woken.
    Later,
}

/// What a round lasts: so long somebody waits who has used little, beside the work of others who have used as little.
pub(super) const ROUND: Duration = Duration::from_micros(500);
/// The shortest turn.
pub(super) const LEAST: Duration = Duration::from_micros(100);

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// All of the round's time is there again.
    pub(super) fn begin_round(&mut self) {
        self.used = Duration::ZERO;
        self.called = false;
    }

    /// Whether it may run now, on a loop of that age.
    pub(super) fn enter(&mut self, account: &mut Account, waker: &Waker, age: Duration) -> Entry {
        account.begin(age);
        let is_called = match account.place {
            Some(place) if self.queue.contains_key(&place) => return Entry::Later,
            place => place.is_some(),
        };
        account.place = None;
        if is_called {
            self.called = false;
        } else if self.used >= ROUND || self.queue.keys().next().is_some_and(|(least, _)| *least < account.usage()) {
            self.wait(account, waker);
            return Entry::Later;
        }
        Entry::Now(ROUND.saturating_sub(self.used).max(LEAST))
    }

    /// It waits for its next turn.
    pub(super) fn wait(&mut self, account: &mut Account, waker: &Waker) {
        let place = (account.usage(), self.next);
        self.next += 1;
        account.place = Some(place);
        self.queue.insert(place, waker.clone());
    }

    /// Its turn has ended, after so long, on a loop of that age.
    pub(super) fn leave(&mut self, account: &mut Account, used: Duration, age: Duration) {
        self.used += used;
        account.charge(used, age);
    }

    /// Whom to wake after somebody's turn.
    pub(super) fn go_on(&mut self) -> Option<Waker> {
        if self.called || self.used >= ROUND { None } else { self.next() }
    }

    /// Whom to wake next.
    pub(super) fn next(&mut self) -> Option<Waker> {
        let (_, waker) = self.queue.pop_first()?;
        self.called = true;
        Some(waker)
    }

    /// It will not come again; whether it waited.
    pub(super) fn forget(&mut self, account: &mut Account) -> bool {
        account.place.take().is_some_and(|place| self.queue.remove(&place).is_some())
    }
}
