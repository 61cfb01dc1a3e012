use std::collections::BTreeMap;
use std::task::Waker;
use std::time::Duration;

use super::account::{Account, Place};

/// Who waits for a turn, and what is left of the round. It has no clock.
///
/// A round is the time between two looks at the sockets. As long as it has time left, whoever comes runs at once, unless
/// somebody waits who is less far. Once its time is used up all wait for the next one.
///
/// How far somebody is grows by what its turns have taken, and is never much less than how far those are whose turn it
/// is. So nobody gains by having been idle, and nobody pays for what it has used while nobody else wanted it: who asks for
/// less than its share comes first, and who always has more waits for one turn of each of the others. ("Start-time fair
/// queueing", Goyal, Vin and Cheng, SIGCOMM 1996.)
#[derive(Debug, Default)]
pub(super) struct Waiting {
    queue: BTreeMap<Place, Waker>,
    /// How far those are whose turn it is.
    at: Duration,
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

/// What a round lasts: so long somebody waits who comes first in the next one.
pub(super) const ROUND: Duration = Duration::from_micros(500);
/// The same where many wait.
const SHORT_ROUND: Duration = Duration::from_micros(200);
/// So many are many.
const MANY: usize = 64;
/// The shortest turn.
pub(super) const LEAST: Duration = Duration::from_micros(30);
/// So much less far than the others is whoever was idle: a request or two, which need not wait for one of each of them.
const CREDIT: Duration = Duration::from_micros(50);
/// So much further is who is new, lest whoever connects anew for each request comes first.
const NEWCOMER: Duration = Duration::from_micros(50);

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// All of the round's time is there again.
    pub(super) fn rest(&mut self) {
        self.used = Duration::ZERO;
        self.called = false;
    }

    /// The same where somebody waits: whom to wake first.
    pub(super) fn begin_round(&mut self) -> Option<Waker> {
        self.rest();
        self.next()
    }

    /// Whether it may run now.
    pub(super) fn enter(&mut self, account: &mut Account, waker: &Waker) -> Entry {
        match account.place {
            Some(place) if self.queue.contains_key(&place) => return Entry::Later,
            Some(_) => {
                account.place = None;
                self.called = false;
                return Entry::Now(self.turn());
            }
            None => {}
        }
        let at = self.place(account);
        let first = self.queue.first_key_value().map(|((least, _), _)| *least);
        if self.used >= self.round() || first.is_some_and(|least| least < at) {
            self.wait(account, waker);
            return Entry::Later;
        }
        Entry::Now(self.turn())
    }

    /// It waits for its next turn.
    pub(super) fn wait(&mut self, account: &mut Account, waker: &Waker) {
        let place = (self.place(account), self.next);
        self.next += 1;
        account.place = Some(place);
        self.queue.insert(place, waker.clone());
    }

    /// Its turn has ended, after so long. It is charged with part of it.
    pub(super) fn leave(&mut self, account: &mut Account, used: Duration, charged: Duration) {
        self.used += used;
        let at = self.place(account).saturating_add(charged);
        account.at = Some(at);
        if self.queue.is_empty() {
            // Nobody wanted that time.
            self.at = self.at.max(at);
        }
    }

    /// Whom to wake after somebody's turn.
    pub(super) fn go_on(&mut self) -> Option<Waker> {
        if self.called || self.used >= self.round() { None } else { self.next() }
    }

    /// It will not come again; whether it waited.
    pub(super) fn forget(&mut self, account: &mut Account) -> bool {
        account.place.take().is_some_and(|place| self.queue.remove(&place).is_some())
    }

    fn next(&mut self) -> Option<Waker> {
        let ((at, _), waker) = self.queue.pop_first()?;
        self.at = self.at.max(at);
        self.called = true;
        Some(waker)
    }

    /// How far it is.
    fn place(&self, account: &mut Account) -> Duration {
        let at = account.at.unwrap_or(self.at + NEWCOMER).max(self.at.saturating_sub(CREDIT));
        *account.at.insert(at)
    }

    fn round(&self) -> Duration {
        if self.queue.len() < MANY { ROUND } else { SHORT_ROUND }
    }

    /// How long a turn lasts now. All who wait have one within some 30 ms, as long as that leaves each its least.
    fn turn(&self) -> Duration {
        let waiting = u32::try_from(self.queue.len().div_ceil(MANY)).unwrap_or(u32::MAX).max(1);
        (ROUND / waiting).min(self.round().saturating_sub(self.used)).max(LEAST)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::Wake;

    use super::*;

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    /// One that is so far.
    fn at(at: Duration) -> Account {
        Account { at: Some(at), place: None }
    }

    /// Writes down who was woken.
    struct Named(usize, Arc<AtomicUsize>);

    impl Wake for Named {
        fn wake(self: Arc<Self>) {
            self.1.store(self.0, Relaxed);
        }
    }

    #[test]
    fn as_long_as_a_round_has_time_who_comes_runs_at_once() {
        let (mut waiting, waker) = (Waiting::default(), Waker::noop());
        let (mut much, mut little) = (at(Duration::from_secs(1)), at(Duration::ZERO));
        assert_eq!(waiting.enter(&mut much, waker), Entry::Now(ROUND));
        waiting.leave(&mut much, micros(499), micros(499));
        assert!(waiting.go_on().is_none());
        // Whoever it is gets a turn of some length.
        assert_eq!(waiting.enter(&mut much, waker), Entry::Now(LEAST));
        waiting.leave(&mut much, micros(1), micros(1));
        for account in [&mut much, &mut little] {
            assert_eq!(waiting.enter(account, waker), Entry::Later);
            assert_eq!(waiting.enter(account, waker), Entry::Later, "it waits already");
        }
        waiting.rest();
        assert!(matches!(waiting.enter(&mut at(Duration::ZERO), waker), Entry::Now(_)), "nobody is less far");
        assert_eq!(waiting.enter(&mut Account::default(), waker), Entry::Later, "somebody is less far");
    }

    #[test]
    fn who_is_least_far_comes_first_and_among_equals_who_has_waited_for_longest() {
        let (mut waiting, called) = (Waiting::default(), Arc::new(AtomicUsize::new(0)));
        let mut accounts = [30, 10, 20, 10].map(|each| at(micros(each)));
        for (number, account) in accounts.iter_mut().enumerate() {
            waiting.wait(account, &Arc::new(Named(number, Arc::clone(&called))).into());
        }
        for expected in [1, 3, 2, 0] {
            waiting.next().unwrap().wake();
            assert_eq!(called.load(Relaxed), expected);
            assert!(waiting.go_on().is_none(), "one at a time");
            let account = &mut accounts[expected];
            assert!(matches!(waiting.enter(account, Waker::noop()), Entry::Now(_)), "it was called");
            waiting.leave(account, micros(1), micros(1));
        }
        assert!(waiting.is_empty());
    }

    #[test]
    fn who_is_called_and_gone_holds_nobody_up_for_more_than_a_round() {
        let (mut waiting, called) = (Waiting::default(), Arc::new(AtomicUsize::new(9)));
        let (mut gone, mut next) = (at(Duration::ZERO), at(micros(1)));
        for (number, account) in [&mut gone, &mut next].into_iter().enumerate() {
            waiting.wait(account, &Arc::new(Named(number, Arc::clone(&called))).into());
        }
        waiting.next().unwrap().wake();
        assert_eq!(called.load(Relaxed), 0);
        assert!(!waiting.forget(&mut gone));
        assert!(waiting.go_on().is_none());
        waiting.begin_round().unwrap().wake();
        assert_eq!(called.load(Relaxed), 1);
        // Nor does one that goes before it is called.
        let mut other = at(micros(2));
        waiting.wait(&mut other, Waker::noop());
        assert!(waiting.forget(&mut other));
        assert!(waiting.is_empty());
    }

    /// One that has the loop for itself for a while, and uses so much of each ms. Then others come, so many, who always
    /// have more; the first one goes on. How long it has waited at most from then on, and in the second after the first.
    fn crowd(others: usize, uses: Duration) -> (Duration, Duration) {
        let (mut waiting, called) = (Waiting::default(), Arc::new(AtomicUsize::new(0)));
        let mut accounts: Vec<Account> = (0..=others).map(|_| Account::default()).collect();
        let wakers: Vec<Waker> = (0..=others).map(|n| Arc::new(Named(n, Arc::clone(&called))).into()).collect();
        let pause = Duration::from_millis(1);
        for _ in 0..3_000 {
            assert!(matches!(waiting.enter(&mut accounts[0], &wakers[0]), Entry::Now(_)));
            waiting.leave(&mut accounts[0], uses, uses);
            waiting.rest();
        }
        for (account, waker) in accounts.iter_mut().zip(&wakers).skip(1) {
            waiting.wait(account, waker);
        }
        let (mut age, mut asked, mut longest, mut later) = (pause, pause, Duration::ZERO, Duration::ZERO);
        while age < Duration::from_secs(2) {
            if asked <= age && accounts[0].place.is_none() {
                waiting.wait(&mut accounts[0], &wakers[0]);
            }
            let mut next = waiting.begin_round();
            while let Some(waker) = next {
                waker.wake();
                let number = called.load(Relaxed);
                let Entry::Now(turn) = waiting.enter(&mut accounts[number], &wakers[number]) else { panic!() };
                let took = if number == 0 { uses.min(turn) } else { turn };
                age += took;
                waiting.leave(&mut accounts[number], took, took);
                if number == 0 {
                    longest = longest.max(age.saturating_sub(asked));
                    if asked > Duration::from_secs(1) {
                        later = later.max(age.saturating_sub(asked));
                    }
                    asked = age.max(asked + pause);
                } else {
                    waiting.wait(&mut accounts[number], &wakers[number]);
                }
                next = waiting.go_on();
            }
        }
        (longest, later)
    }

    #[test]
    fn among_many_who_always_have_more_who_asks_for_little_waits_for_a_round_or_two() {
        // Half of its share, or all of it.
        for (others, uses) in
            [(1, micros(200)), (1, micros(500)), (10, micros(45)), (500, micros(1)), (1_000, micros(1))]
        {
            let (longest, later) = crowd(others, uses);
            // Each of them has had one turn before it at most.
            assert!(longest <= Duration::from_millis(40), "{others} {uses:?}: {longest:?}");
            assert!(later <= 2 * ROUND + uses, "{others} {uses:?}: {later:?}");
        }
    }

    #[test]
    fn who_asks_for_more_waits_for_a_turn_of_each_of_the_others() {
        for others in [1, 2, 10, 100, 1_000] {
            // Whatever it has used while it was alone.
            let (longest, _) = crowd(others, micros(990));
            let turns = u32::try_from(others).unwrap() * 2 * ROUND;
            assert!(longest <= turns.min(Duration::from_millis(40)) + 2 * ROUND, "{others}: {longest:?}");
        }
    }
}
