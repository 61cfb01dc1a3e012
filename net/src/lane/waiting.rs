use std::collections::BTreeMap;
use std::task::Waker;
use std::time::Duration;

use super::account::{Account, Place, Usage};

/// Who waits for a turn, and what is left of the round. It has no clock.
///
/// A round is the time between two looks at the sockets. As long as it has time left, whoever comes runs at once, unless
/// somebody waits who has used less of the loop lately. Once its time is used up all wait for the next one. That begins
/// with a short turn of who has waited for longest, if that is long: who has used much may wait for ever else. Then who
/// has used least comes first.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    queue: BTreeMap<Place, Waker>,
    /// The same by how long they have waited, with what they have used and the loop's age when they came.
    arrivals: BTreeMap<u64, (Usage, Duration)>,
    /// What was used of the round.
    used: Duration,
    /// Somebody was woken for a turn of at most so long, and has not begun it.
    called: Option<Duration>,
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
/// Who has waited for so long has a short turn, whatever it has used: longer than who asks for little waits.
const LONG: Duration = Duration::from_millis(2);

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// All of the round's time is there again.
    pub(super) fn rest(&mut self) {
        self.used = Duration::ZERO;
        self.called = None;
    }

    /// The same where somebody waits: whom to wake first, on a loop of that age.
    pub(super) fn begin_round(&mut self, age: Duration) -> Option<Waker> {
        self.rest();
        let (number, (usage, since)) = self.arrivals.first_key_value()?;
        if *since + LONG > age {
            return self.next();
        }
        let place = (*usage, *number);
        self.called = Some(LEAST);
        self.remove(place)
    }

    /// Whether it may run now, on a loop of that age.
    pub(super) fn enter(&mut self, account: &mut Account, waker: &Waker, age: Duration) -> Entry {
        account.begin(age);
        let rest = ROUND.saturating_sub(self.used).max(LEAST);
        match account.place {
            Some(place) if self.queue.contains_key(&place) => return Entry::Later,
            Some(_) => {
                account.place = None;
                return Entry::Now(self.called.take().unwrap_or(rest));
            }
            None => {}
        }
        if self.used >= ROUND || self.queue.keys().next().is_some_and(|(least, _)| *least < account.usage(age)) {
            self.wait(account, waker, age);
            return Entry::Later;
        }
        Entry::Now(rest)
    }

    /// It waits for its next turn.
    pub(super) fn wait(&mut self, account: &mut Account, waker: &Waker, age: Duration) {
        let place = (account.usage(age), self.next);
        self.next += 1;
        account.place = Some(place);
        self.queue.insert(place, waker.clone());
        self.arrivals.insert(place.1, (place.0, age));
    }

    /// Its turn has ended, after so long, on a loop of that age. It is charged with part of it.
    pub(super) fn leave(&mut self, account: &mut Account, used: Duration, charged: Duration, age: Duration) {
        self.used += used;
        account.charge(charged, age);
    }

    /// Whom to wake after somebody's turn.
    pub(super) fn go_on(&mut self) -> Option<Waker> {
        if self.called.is_some() || self.used >= ROUND { None } else { self.next() }
    }

    /// Whom to wake next.
    fn next(&mut self) -> Option<Waker> {
        let (place, _) = self.queue.first_key_value()?;
        self.called = Some(ROUND.saturating_sub(self.used));
        self.remove(*place)
    }

    fn remove(&mut self, place: Place) -> Option<Waker> {
        self.arrivals.remove(&place.1);
        self.queue.remove(&place)
    }

    /// It will not come again; whether it waited.
    pub(super) fn forget(&mut self, account: &mut Account) -> bool {
        account.place.take().is_some_and(|place| self.remove(place).is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::Wake;

    use super::*;

    const AGE: Duration = Duration::from_secs(100);

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    /// One that has used so much.
    fn used(used: Duration) -> Account {
        let mut account = Account::default();
        account.begin(AGE);
        account.charge(used, AGE);
        account
    }

    /// Writes down who was woken.
    struct Named(usize, Arc<AtomicUsize>);

    impl Wake for Named {
        fn wake(self: Arc<Self>) {
            self.1.store(self.0, Relaxed);
        }
    }

    /// Calls the next one; its number.
    fn call(waiting: &mut Waiting, called: &AtomicUsize) -> Option<usize> {
        waiting.next().map(|waker| {
            waker.wake();
            called.load(Relaxed)
        })
    }

    #[test]
    fn as_long_as_a_round_has_time_who_comes_runs_at_once() {
        let (mut waiting, waker) = (Waiting::default(), Waker::noop());
        let (mut much, mut little) = (used(Duration::from_secs(1)), used(Duration::ZERO));
        assert_eq!(waiting.enter(&mut much, waker, AGE), Entry::Now(ROUND));
        waiting.leave(&mut much, micros(499), micros(499), AGE);
        assert_eq!(waiting.go_on().map(drop), None);
        // Whoever it is gets a turn of some length.
        assert_eq!(waiting.enter(&mut much, waker, AGE), Entry::Now(LEAST));
        waiting.leave(&mut much, micros(1), micros(1), AGE);
        for account in [&mut much, &mut little] {
            assert_eq!(waiting.enter(account, waker, AGE), Entry::Later);
            assert_eq!(waiting.enter(account, waker, AGE), Entry::Later, "it waits already");
        }
        waiting.rest();
        assert_eq!(waiting.enter(&mut used(Duration::ZERO), waker, AGE), Entry::Now(ROUND), "nobody has used less");
        assert_eq!(waiting.enter(&mut used(micros(1)), waker, AGE), Entry::Later, "somebody has used less");
    }

    #[test]
    fn who_has_used_least_comes_first_and_among_equals_who_has_waited_for_longest() {
        let (mut waiting, called) = (Waiting::default(), Arc::new(AtomicUsize::new(0)));
        let mut accounts = [30, 10, 20, 10].map(|each| used(micros(each)));
        for (number, account) in accounts.iter_mut().enumerate() {
            waiting.wait(account, &Arc::new(Named(number, Arc::clone(&called))).into(), AGE);
        }
        for expected in [1, 3, 2, 0] {
            assert_eq!(call(&mut waiting, &called), Some(expected));
            assert!(waiting.go_on().is_none(), "one at a time");
            let account = &mut accounts[expected];
            assert!(matches!(waiting.enter(account, Waker::noop(), AGE), Entry::Now(_)), "it was called");
            waiting.leave(account, micros(1), micros(1), AGE);
        }
        assert!(waiting.is_empty());
    }

    #[test]
    fn what_was_used_counts_half_after_a_while() {
        let later = AGE + Duration::from_secs(1);
        let (mut before, mut now, mut more) = (used(micros(1_000)), used(Duration::ZERO), used(Duration::ZERO));
        now.charge(micros(450), later);
        more.charge(micros(550), later);
        assert!(now.usage(later) < before.usage(AGE) && before.usage(AGE) < more.usage(later));
        // A newcomer counts as one that has used something.
        let mut newcomer = Account::default();
        newcomer.begin(later);
        assert!(used(Duration::ZERO).usage(AGE) < newcomer.usage(later) && newcomer.usage(later) < more.usage(later));
        // For years.
        let (mut much, mut little) = (used(Duration::from_hours(1)), used(micros(1)));
        let age = Duration::from_hours(24 * 3_650);
        assert!(little.usage(AGE) < much.usage(AGE));
        much.charge(micros(2), age);
        little.charge(micros(1), age);
        assert!(little.usage(age) < much.usage(age));
    }

    #[test]
    fn who_is_called_and_gone_holds_nobody_up_for_more_than_a_round() {
        let (mut waiting, called) = (Waiting::default(), Arc::new(AtomicUsize::new(9)));
        let (mut gone, mut next) = (used(Duration::ZERO), used(micros(1)));
        for (number, account) in [&mut gone, &mut next].into_iter().enumerate() {
            waiting.wait(account, &Arc::new(Named(number, Arc::clone(&called))).into(), AGE);
        }
        assert_eq!(call(&mut waiting, &called), Some(0));
        assert!(!waiting.forget(&mut gone));
        assert!(waiting.go_on().is_none());
        waiting.begin_round(AGE).unwrap().wake();
        assert_eq!(called.load(Relaxed), 1);
        // Nor does one that goes before it is called.
        let mut other = used(micros(2));
        waiting.wait(&mut other, Waker::noop(), AGE);
        assert!(waiting.forget(&mut other));
        assert!(waiting.is_empty());
    }

    /// Beside so many who always have more, one that has used so much asks for that now and then, after a while. How often
    /// it was answered, and how long it has waited at most.
    fn crowd(others: usize, before: Duration, asks: Duration, pause: Duration) -> (usize, Duration) {
        let (mut waiting, called) = (Waiting::default(), Arc::new(AtomicUsize::new(0)));
        let mut accounts: Vec<Account> = (0..=others).map(|_| Account::default()).collect();
        let wakers: Vec<Waker> = (0..=others).map(|n| Arc::new(Named(n, Arc::clone(&called))).into()).collect();
        // Before that all are newcomers.
        let (mut age, mut asked) = (Duration::ZERO, Duration::from_secs(2));
        let (mut answered, mut longest) = (0, Duration::ZERO);
        accounts[0].begin(asked);
        accounts[0].charge(before, asked);
        for (account, waker) in accounts.iter_mut().zip(&wakers).skip(1) {
            account.begin(age);
            waiting.wait(account, waker, age);
        }
        while age < Duration::from_secs(12) {
            if asked <= age && accounts[0].place.is_none() {
                waiting.wait(&mut accounts[0], &wakers[0], age);
            }
            let mut next = waiting.begin_round(age);
            while let Some(waker) = next {
                waker.wake();
                let number = called.load(Relaxed);
                let Entry::Now(slice) = waiting.enter(&mut accounts[number], &wakers[number], age) else { panic!() };
                let used = if number == 0 { asks } else { slice };
                age += used;
                waiting.leave(&mut accounts[number], used, used, age);
                if number == 0 {
                    longest = longest.max(age.saturating_sub(asked));
                    asked = age.max(asked + pause);
                    answered += 1;
                } else {
                    waiting.wait(&mut accounts[number], &wakers[number], age);
                }
                next = waiting.go_on();
            }
        }
        (answered, longest)
    }

    #[test]
    fn among_a_thousand_who_always_have_more_who_asks_for_little_waits_for_a_round_or_two() {
        // Half of its share, which is 1 ms a second.
        let (answered, longest) = crowd(999, Duration::ZERO, micros(20), Duration::from_millis(40));
        assert!(answered >= 249, "{answered}");
        assert!(longest <= 2 * ROUND + LEAST, "{longest:?}");
    }

    #[test]
    fn who_has_used_much_before_a_thousand_others_came_still_has_turns() {
        let second = Duration::from_secs(1);
        let (answered, longest) = crowd(999, second, LEAST, Duration::ZERO);
        assert!(answered >= 9, "{answered}");
        assert!(longest <= second, "{longest:?}");
        // And soon, where there are only a few.
        let (_, longest) = crowd(1, second, micros(50), Duration::from_millis(1));
        assert!(longest <= LONG + 2 * ROUND + LEAST, "{longest:?}");
    }
}
