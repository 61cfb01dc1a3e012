use std::collections::{BTreeMap, VecDeque};
use std::task::Waker;
use std::time::Duration;

use super::account::{Account, Class, Place};

/// Who waits for a turn, and what is left of the round. It has no clock.
///
/// A round is the time between two looks at the sockets. As long as it has time left, whoever comes runs at once, unless
/// somebody waits who comes first. Once its time is used up all wait for the next one.
///
/// Connections are of a [class](Class) each: by what their last turn was like. The classes share the loop by their weights,
/// and those of one class share what it gets. How far a class or one of its connections is grows by what its turns are
/// charged with, and is never much less than how far those are whose turn it is. So nobody gains by having been idle, and nobody
/// pays for what it has used while nobody else wanted it: who asks for less than its share comes first, and who always has
/// more waits for one turn of each that does so too. ("Start-time fair queueing", Goyal, Vin and Cheng, SIGCOMM 1996, which
/// has classes within classes as well.)
#[derive(Debug, Default)]
pub(super) struct Waiting {
    queues: [Queue; Class::ALL.len()],
    /// How far the class is whose turn it is.
    at: Duration,
    /// What was used of the round.
    used: Duration,
    /// Somebody was woken for a turn and has not begun it.
    called: bool,
    /// Numbers those who wait.
    next: u64,
    /// What all turns have taken: the time by which [ages](OLD) are told.
    spent: Duration,
    /// The same when a light one last said something, and when another one last had a turn, of those that are
    /// busy a [long one](LONG_TURN).
    light_at: Option<Duration>,
    other_at: Option<Duration>,
}

/// Those of one class who wait.
#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeMap<Place, Waker>,
    /// The same as they came, and since when each waits; who has had its turn may be there until those before it have had
    /// theirs.
    by_age: VecDeque<(Place, Duration)>,
    /// The last one came since it was old.
    was_old: bool,
    /// How far those are whose turn it is.
    at: Duration,
    /// How far the class is among the classes.
    class_at: Duration,
}

/// Whether a connection may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// For so long.
    Now(Duration),
    /// It will be woken.
    Later,
}

/// For whom there are rounds, and so how long they last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Round {
    /// No light ones have said anything of late.
    #[default]
    Full,
    /// They have, and nobody else had a long turn: it is as long.
    OfLight,
    /// They have among others, or a crowd waits.
    Short,
    /// They have, and a crowd waits.
    OfCrowd,
}

/// What a full round lasts, or up to half as much again where its last turn is a busy one: so long somebody waits who comes
/// first in the next one.
const ROUND: Duration = Duration::from_micros(500);
/// The same where light ones have said something of late, and others had turns, long ones if they are busy; and where a crowd
/// waits. Where all do the same, some of them a bit more than who is light, or light ones only take what others send, a longer
/// one lets each of them do more at once.
const SHORT_ROUND: Duration = Duration::from_micros(200);
/// The same where light ones have said something of late, and a crowd waits: who comes waits for the rest of one, and whoever
/// asks through the loop for what another one answers through it does so twice.
const CROWD_ROUND: Duration = Duration::from_micros(40);
/// This is a long turn of one that is busy. What floods get is no shorter, also of a short round of which light ones use half,
/// or where they are nearly a [crowd](CROWD).
const LONG_TURN: Duration = Duration::from_micros(100);
/// This is of late, in the time of turns.
const LATE: Duration = Duration::from_millis(10);
/// So many are some.
const SOME: usize = 8;
/// So many are many.
const MANY: usize = 64;
/// So many are a crowd. What one publisher sends to 64 subscribers is to leave in few pieces.
const CROWD: usize = 192;
/// The shortest turn.
pub(super) const LEAST: Duration = Duration::from_micros(30);
/// The shortest one of a light connection: who sends a few requests at a time is not to be taken for busy.
const LEAST_LIGHT: Duration = Duration::from_micros(100);
/// Who has waited for so long has one turn, every other one of its class: whatever it has used before, its peer is not to
/// take it for dead.
const OLD: Duration = Duration::from_millis(500);
/// For so many, and as many again as wait, there is room among those who have waited.
const QUEUED: usize = 256;
/// So much less far than those who had turns beside others is whoever was idle: some requests, which need not wait for one turn
/// of each of them.
const CREDIT: Duration = Duration::from_micros(200);
/// The same for the light class, times its weight. The others come after it where it has asked for nothing for a while.
const LIGHT_CREDIT: Duration = Duration::from_millis(1);

impl Waiting {
    /// Nobody waits. It has room for some, so that none is made beneath them.
    pub(super) fn new() -> Self {
        let mut waiting = Self::default();
        waiting.queues.iter_mut().for_each(|queue| queue.by_age.reserve(QUEUED));
        waiting
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queues.iter().all(|queue| queue.waiting.is_empty())
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
            Some((class, place)) if self.queue(class).waiting.contains_key(&place) => {
                if class == account.class {
                    return Entry::Later;
                }
                // It began to end meanwhile.
                self.forget(account);
            }
            Some(_) => {
                account.place = None;
                self.called = false;
                return Entry::Now(self.turn(account.class));
            }
            None => {}
        }
        let at = self.place(account);
        let comes_first = self.first().is_some_and(|first| {
            let (mine, theirs) = (self.order(account.class), self.order(first));
            theirs < mine || (first == account.class && self.queue(first).first().is_some_and(|least| least < at))
        });
        if self.used >= self.round_lasts() || comes_first {
            self.wait(account, waker);
            return Entry::Later;
        }
        Entry::Now(self.turn(account.class))
    }

    /// It waits for its next turn.
    pub(super) fn wait(&mut self, account: &mut Account, waker: &Waker) {
        let place = (self.place(account), self.next);
        self.next += 1;
        account.place = Some((account.class, place));
        let spent = self.spent;
        let queue = self.queue_mut(account.class);
        queue.enter(place, spent, waker.clone());
    }

    /// Its turn has ended, after so long. It is charged with part of it, and is of that class from now on.
    pub(super) fn leave(&mut self, account: &mut Account, used: Duration, charged: Duration, class: Class) {
        self.used += used;
        self.spent += used;
        let is_other = match account.class {
            Class::Light => false,
            // Very many short ones follow each other where a crowd connects.
            Class::New | Class::Ending => true,
            Class::Busy => used >= LONG_TURN,
        };
        if is_other {
            self.other_at = Some(self.spent);
        }
        let at = self.place(account).saturating_add(charged);
        let class_at = self.class_at(account.class) + used / account.class.weight();
        let is_idle = self.is_empty();
        let queue = self.queue_mut(account.class);
        let passed = queue.at.saturating_add(charged);
        queue.class_at = class_at;
        if account.class == Class::New {
            // Others come without end, each as far as those are whose turn it is: that goes on without those who wait.
            let share = u32::try_from(queue.waiting.len() + 1).unwrap_or(u32::MAX);
            queue.at += charged / share;
        }
        if queue.waiting.is_empty() {
            // Nobody waited for that time: it passes, and is charged to nobody. But whoever was idle comes first.
            queue.at = queue.at.max(at).max(passed);
            let behind_idle = queue.at.saturating_sub(CREDIT) + Duration::from_nanos(1);
            account.set_at(behind_idle.max(account.at()));
        } else {
            account.set_at(at);
        }
        if is_idle {
            self.at = self.at.max(class_at);
        }
        if class != account.class {
            // It waits for one turn of each there, and for more if it still owes them some: who changes its class again and
            // again is to gain nothing by it.
            account.class = class;
            account.set_at(self.queue(class).at.max(account.at()));
        }
    }

    /// In the turn that has ended something came from a connection of this class.
    pub(super) fn heard(&mut self, class: Class) {
        if class == Class::Light {
            self.light_at = Some(self.spent);
        }
    }

    /// Whom to wake after somebody's turn.
    pub(super) fn go_on(&mut self) -> Option<Waker> {
        if self.called || self.used >= self.round_lasts() { None } else { self.next() }
    }

    /// It will not come again; whether it waited.
    pub(super) fn forget(&mut self, account: &mut Account) -> bool {
        let place = account.place.take();
        place.is_some_and(|(class, place)| self.queue_mut(class).waiting.remove(&place).is_some())
    }

    fn next(&mut self) -> Option<Waker> {
        let class = self.first()?;
        self.at = self.at.max(self.class_at(class));
        let spent = self.spent;
        let waker = self.queue_mut(class).next(spent)?;
        self.called = true;
        Some(waker)
    }

    /// The class whose turn is next.
    fn first(&self) -> Option<Class> {
        let waits = Class::ALL.into_iter().filter(|class| !self.queue(*class).waiting.is_empty());
        waits.min_by_key(|class| self.order(*class))
    }

    fn order(&self, class: Class) -> (Duration, Class) {
        (self.class_at(class), class)
    }

    fn class_at(&self, class: Class) -> Duration {
        let credit = if class == Class::Light { LIGHT_CREDIT } else { Duration::ZERO };
        self.queue(class).class_at.max(self.at.saturating_sub(credit))
    }

    /// How far it is.
    fn place(&self, account: &mut Account) -> Duration {
        let class_at = self.queue(account.class).at;
        // Who lets others in comes after those whom it has let in.
        let credit = if matches!(account.class, Class::Light | Class::Busy) { CREDIT } else { Duration::ZERO };
        let at = class_at.saturating_sub(credit).max(account.at());
        account.set_at(at);
        at
    }

    /// Whether it is light as far as is known, and others wait. What serves others is not put off.
    pub(super) fn probes(&self, account: &Account) -> bool {
        account.class <= Class::New && !account.serves && self.waits() >= SOME
    }

    fn waits(&self) -> usize {
        self.queues.iter().map(|queue| queue.waiting.len()).sum()
    }

    fn round_lasts(&self) -> Duration {
        match self.round() {
            Round::Full | Round::OfLight => ROUND,
            Round::Short => SHORT_ROUND,
            Round::OfCrowd => CROWD_ROUND,
        }
    }

    pub(super) fn round(&self) -> Round {
        let (is_crowd, says) = (self.waits() >= CROWD, self.is_of_late(self.light_at));
        match says {
            true if is_crowd => Round::OfCrowd,
            true if self.is_of_late(self.other_at) => Round::Short,
            true => Round::OfLight,
            false if is_crowd => Round::Short,
            false => Round::Full,
        }
    }

    fn is_of_late(&self, at: Option<Duration>) -> bool {
        at.is_some_and(|at| self.spent.saturating_sub(at) < LATE)
    }

    /// How long a turn lasts now. All who wait have one within some 30 ms, as long as that leaves each its least.
    fn turn(&self, class: Class) -> Duration {
        let left = self.round_lasts().saturating_sub(self.used);
        if class != Class::Busy {
            return if self.waits() < SOME { left.max(LEAST_LIGHT) } else { LEAST_LIGHT };
        }
        let waiting = u32::try_from(self.waits().div_ceil(MANY)).unwrap_or(u32::MAX).max(1);
        let turn = ROUND / waiting;
        // Whose few requests are cut at the end of a round is charged for that, and waits for longer than its like: where no
        // light ones are about, the round lasts for as long.
        let least = match self.round() {
            Round::Full => turn.min(ROUND / 2),
            Round::OfLight => LEAST_LIGHT,
            Round::Short | Round::OfCrowd => LEAST,
        };
        turn.min(left).max(least)
    }

    #[expect(clippy::indexing_slicing, reason = "there is one for each class")]
    fn queue(&self, class: Class) -> &Queue {
        &self.queues[class as usize]
    }

    #[expect(clippy::indexing_slicing, reason = "there is one for each class")]
    fn queue_mut(&mut self, class: Class) -> &mut Queue {
        &mut self.queues[class as usize]
    }
}

impl Queue {
    fn enter(&mut self, place: Place, spent: Duration, waker: Waker) {
        self.waiting.insert(place, waker);
        self.by_age.push_back((place, spent));
        // Those who have had their turn, or are gone, are to be no more than those who wait.
        if self.by_age.len() > 2 * self.waiting.len() + QUEUED {
            self.by_age.retain(|(place, _)| self.waiting.contains_key(place));
        }
    }

    fn next(&mut self, spent: Duration) -> Option<Waker> {
        while self.by_age.front().is_some_and(|(place, _)| !self.waiting.contains_key(place)) {
            self.by_age.pop_front();
        }
        let oldest = self.by_age.front().filter(|(_, since)| spent.saturating_sub(*since) > OLD && !self.was_old);
        self.was_old = oldest.is_some();
        if let Some((place, _)) = oldest {
            return self.waiting.remove(place);
        }
        let ((at, _), waker) = self.waiting.pop_first()?;
        self.at = self.at.max(at);
        Some(waker)
    }

    /// How far who comes next is.
    fn first(&self) -> Option<Duration> {
        self.waiting.first_key_value().map(|((least, _), _)| *least)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::Wake;

    use super::super::charged;
    use super::*;

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    /// A light one that is so far.
    fn at(at: Duration) -> Account {
        let mut account = of(Class::Light);
        account.set_at(at);
        account
    }

    fn of(class: Class) -> Account {
        let mut account = Account::default();
        account.class = class;
        account
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
        waiting.leave(&mut much, micros(499), micros(499), Class::Light);
        assert!(waiting.go_on().is_none());
        // Whoever it is gets a turn of some length.
        assert_eq!(waiting.enter(&mut much, waker), Entry::Now(LEAST_LIGHT));
        waiting.leave(&mut much, micros(1), micros(1), Class::Light);
        assert_eq!(waiting.enter(&mut much, waker), Entry::Later);
        assert_eq!(waiting.enter(&mut much, waker), Entry::Later, "it waits already");
        assert_eq!(waiting.enter(&mut little, waker), Entry::Later);
        waiting.rest();
        assert!(matches!(waiting.enter(&mut at(Duration::ZERO), waker), Entry::Now(_)), "nobody is less far");
        assert_eq!(waiting.enter(&mut at(Duration::from_secs(2)), waker), Entry::Later, "somebody is less far");
        assert_eq!(waiting.enter(&mut of(Class::Busy), waker), Entry::Later, "somebody is light");
    }

    #[test]
    fn a_busy_turn_at_the_end_of_a_round_has_time_for_few_requests_where_no_light_ones_are_about() {
        let mut waiting = Waiting::default();
        waiting.leave(&mut of(Class::Busy), micros(490), micros(1), Class::Busy);
        assert_eq!(waiting.turn(Class::Busy), ROUND / 2);
        // Of many who wait each has as much as at a round's beginning.
        let mut many: Vec<_> = (0..3 * MANY - 1).map(|_| of(Class::Busy)).collect();
        for one in &mut many {
            waiting.wait(one, Waker::noop());
        }
        assert_eq!(waiting.turn(Class::Busy), ROUND / 3);
        assert!(many.iter_mut().all(|one| waiting.forget(one)));
        waiting.leave(&mut of(Class::Light), micros(1), micros(1), Class::Light);
        waiting.heard(Class::Light);
        assert_eq!(waiting.turn(Class::Busy), LEAST);
    }

    #[test]
    fn time_that_nobody_waited_for_passes_for_all_and_who_had_it_comes_after_who_was_idle() {
        let (mut waiting, waker) = (Waiting::default(), Waker::noop());
        let (mut alone, mut idle, mut owes) = (of(Class::Busy), of(Class::Busy), of(Class::Busy));
        owes.set_at(micros(20_000));
        for _ in 0..100 {
            waiting.leave(&mut alone, ROUND, micros(150), Class::Busy);
        }
        let behind = waiting.place(&mut alone).saturating_sub(waiting.place(&mut idle));
        assert_eq!(behind, Duration::from_nanos(1));
        assert!(waiting.place(&mut owes) < waiting.queue(Class::Busy).at + micros(5_001), "15 ms have passed");
        // It has come first, and so it waits.
        waiting.wait(&mut alone, waker);
        waiting.rest();
        assert!(matches!(waiting.enter(&mut idle, waker), Entry::Now(_)));
        // Somebody waited for this time.
        let before = idle.at();
        waiting.leave(&mut idle, ROUND, ROUND, Class::Busy);
        assert_eq!(idle.at(), before + ROUND);
    }

    #[test]
    fn rounds_are_shortest_where_a_crowd_waits() {
        let (mut waiting, mut rounds) = (Waiting::default(), Vec::new());
        for _ in 0..=CROWD {
            rounds.push(waiting.round());
            waiting.wait(&mut of(Class::Busy), Waker::noop());
        }
        assert!(rounds.iter().take(CROWD).all(|round| *round == Round::Full));
        assert_eq!(rounds.last(), Some(&Round::Short));
        for (class, round, lasts) in
            [(Class::Busy, Round::Short, SHORT_ROUND), (Class::Light, Round::OfCrowd, CROWD_ROUND)]
        {
            waiting.leave(&mut of(class), LONG_TURN, LONG_TURN, class);
            waiting.heard(class);
            assert_eq!(waiting.round(), round, "{class:?} ones have said something");
            assert_eq!(waiting.round_lasts(), lasts);
        }
        waiting.leave(&mut of(Class::Busy), LATE, LATE, Class::Busy);
        assert_eq!(waiting.round(), Round::Short);
    }

    #[test]
    fn rounds_are_short_where_light_ones_say_something_among_others() {
        let mut waiting = Waiting::default();
        let mut turn_of = |class, says, took| {
            waiting.rest();
            waiting.leave(&mut of(class), took, took, class);
            if says {
                waiting.heard(class);
            }
            waiting.round_lasts()
        };
        assert_eq!(turn_of(Class::Light, true, micros(100)), ROUND);
        assert_eq!(turn_of(Class::Busy, true, LONG_TURN / 2), ROUND, "it has little more to do");
        assert_eq!(turn_of(Class::Busy, true, LONG_TURN), SHORT_ROUND);
        assert_eq!(turn_of(Class::Light, false, LATE), ROUND, "for some time nobody has said anything");
        assert_eq!(turn_of(Class::New, true, micros(1)), ROUND, "it takes what others send");
        assert_eq!(turn_of(Class::Light, true, micros(100)), SHORT_ROUND);
        assert_eq!(turn_of(Class::Busy, true, micros(1)), SHORT_ROUND, "of late");
        assert_eq!(turn_of(Class::Light, true, LATE), ROUND, "for some time there are no others");
        assert_eq!(turn_of(Class::New, true, micros(1)), SHORT_ROUND);
        assert_eq!(turn_of(Class::Light, true, LATE), ROUND);
        assert_eq!(turn_of(Class::Ending, true, micros(1)), SHORT_ROUND);
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
            waiting.leave(account, micros(1), micros(1), Class::Light);
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

    #[test]
    fn who_ends_while_it_waits_waits_among_those_who_end() {
        let (mut waiting, waker) = (Waiting::default(), Waker::noop());
        let mut account = of(Class::Busy);
        waiting.rest();
        waiting.used = ROUND;
        assert_eq!(waiting.enter(&mut account, waker), Entry::Later);
        account.ends();
        assert_eq!(waiting.enter(&mut account, waker), Entry::Later);
        assert_eq!(waiting.queues.each_ref().map(|queue| queue.waiting.len()), [0, 0, 1, 0]);
        assert!(waiting.begin_round().is_some());
        assert!(matches!(waiting.enter(&mut account, waker), Entry::Now(_)));
    }

    #[test]
    fn who_turns_out_busy_where_others_wait_waits_with_the_busy_ones() {
        let (mut waiting, waker) = (Waiting::default(), Waker::noop());
        let mut others: Vec<_> = (0..SOME).map(|_| of(Class::Busy)).collect();
        for (number, other) in others.iter_mut().enumerate() {
            assert!(!waiting.probes(&of(Class::Light)), "beside {number}");
            waiting.wait(other, waker);
        }
        let rows = [(Class::Light, true), (Class::New, true), (Class::Ending, false), (Class::Busy, false)];
        for (class, expected) in rows {
            assert_eq!(waiting.probes(&of(class)), expected, "{class:?}");
            let mut serving = of(class);
            serving.serves = true;
            assert!(!waiting.probes(&serving), "{class:?} that serves others");
        }
    }

    /// Connections of one class, so many, each of which wants a turn of this length, all the time or once every so often.
    struct Crowd {
        class: Class,
        many: usize,
        wants: Duration,
        every: Duration,
    }

    /// What became of a crowd within two seconds: the longest that one waited in the first and in the second of them, and
    /// what all of them had of the loop.
    #[derive(Debug, Default)]
    struct Fate {
        first: Duration,
        second: Duration,
        had: Duration,
    }

    fn meet(crowds: &[Crowd]) -> Vec<Fate> {
        meet_with(crowds, Duration::min)
    }

    /// All come at the same moment, and keep to their class whatever they do. How long a turn takes of one who wants so
    /// much and may have so much.
    fn meet_with(crowds: &[Crowd], takes: impl Fn(Duration, Duration) -> Duration) -> Vec<Fate> {
        let (mut waiting, called) = (Waiting::default(), Arc::new(AtomicUsize::new(0)));
        let mut members = Vec::new();
        for (number, crowd) in crowds.iter().enumerate() {
            members.extend((0..crowd.many).map(|_| (number, of(crowd.class), Some(Duration::ZERO), crowd.wants)));
        }
        let wakers: Vec<Waker> = (0..members.len()).map(|n| Arc::new(Named(n, Arc::clone(&called))).into()).collect();
        let mut fates: Vec<Fate> = crowds.iter().map(|_| Fate::default()).collect();
        // Those who wait for nothing, by when they want something.
        let mut idle: BTreeMap<Place, usize> = BTreeMap::new();
        for (member, waker) in members.iter_mut().zip(&wakers) {
            waiting.wait(&mut member.1, waker);
        }
        let mut now = Duration::ZERO;
        while now < Duration::from_secs(2) {
            while let Some(entry) = idle.first_entry().filter(|entry| entry.key().0 <= now) {
                let number = entry.remove();
                waiting.wait(&mut members[number].1, &wakers[number]);
            }
            let mut next = waiting.begin_round();
            // A look at the sockets.
            now += micros(10);
            while let Some(waker) = next {
                waker.wake();
                let number = called.load(Relaxed);
                let (of, account, since, left) = &mut members[number];
                let Entry::Now(turn) = waiting.enter(account, &wakers[number]) else { panic!() };
                let (crowd, fate) = (&crowds[*of], &mut fates[*of]);
                let took = takes(*left, turn);
                now += took;
                *left -= took;
                fate.had += took;
                let has_more = !left.is_zero() || crowd.every.is_zero();
                let charged = charged(took, crowd.class, waiting.round(), has_more);
                waiting.leave(account, took, charged, crowd.class);
                waiting.heard(crowd.class);
                if left.is_zero() {
                    let asked = since.unwrap_or(now);
                    let longest = if asked < Duration::from_secs(1) { &mut fate.first } else { &mut fate.second };
                    *longest = (*longest).max(now.saturating_sub(asked));
                    *left = crowd.wants;
                    // Who has an answer may want the next one a moment later.
                    let again = if crowd.every.is_zero() { now } else { (asked + crowd.every).max(now + micros(1)) };
                    *since = Some(again);
                    if again > now {
                        idle.insert((again, number as u64), number);
                        next = waiting.go_on();
                        continue;
                    }
                }
                waiting.wait(account, &wakers[number]);
                next = waiting.go_on();
            }
        }
        // Those who still wait have waited as well.
        for (of, _, since, _) in members {
            let waited = since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
            fates[of].second = fates[of].second.max(waited);
        }
        fates
    }

    const ALWAYS: Duration = Duration::ZERO;

    #[test]
    fn who_is_light_waits_for_a_round_or_two_whatever_the_others_are() {
        let every = Duration::from_millis(2);
        for class in [Class::Busy, Class::New, Class::Ending] {
            for many in [1, 10, 1_000] {
                // They ask for half of the loop, which is far more than as many shares of it as they are.
                let light = Crowd { class: Class::Light, many: 20, wants: micros(50), every };
                let [fate, _] = meet(&[light, Crowd { class, many, wants: ROUND, every: ALWAYS }]).try_into().unwrap();
                let longest = fate.first.max(fate.second);
                assert!(longest <= 20 * micros(50) + 3 * ROUND, "beside {many} that are {class:?}: {fate:?}");
            }
        }
    }

    #[test]
    fn who_is_light_waits_for_the_rest_of_a_short_round_however_many_floods_there_are() {
        for many in [1, 10, 64, 190, 200, 254, 300] {
            // The latter want as much of a round as floods get.
            for (wants, every) in [(5, 2), (15, 1)] {
                let (wants, every) = (micros(wants), Duration::from_millis(every));
                let light = Crowd { class: Class::Light, many: 20, wants, every };
                let flood = Crowd { class: Class::Busy, many, wants: ROUND, every: ALWAYS };
                let [fate, _] = meet(&[light, flood]).try_into().unwrap();
                // All of them come at once.
                assert!(fate.second <= 20 * wants + 2 * SHORT_ROUND, "{many} floods, {wants:?}: {fate:?}");
            }
        }
    }

    #[test]
    fn no_class_starves_whatever_the_others_ask_for() {
        for lonely in Class::ALL {
            let mut crowds = vec![Crowd { class: lonely, many: 1, wants: micros(50), every: ALWAYS }];
            for class in Class::ALL.into_iter().filter(|class| *class != lonely) {
                crowds.push(Crowd { class, many: 300, wants: ROUND, every: ALWAYS });
            }
            let fates = meet(&crowds);
            let all: Duration = fates.iter().map(|fate| fate.had).sum();
            let had = fates[0].had.as_secs_f64() / all.as_secs_f64() * 12.0 / f64::from(lonely.weight());
            // A turn is never shorter than its least, so that one may have somewhat more than its share.
            assert!((0.9..1.5).contains(&had), "{lonely:?} had {had} times its share: {fates:?}");
        }
    }

    #[test]
    fn of_one_class_who_asks_for_less_than_its_share_comes_first() {
        for class in [Class::Light, Class::Busy] {
            for (others, wants) in [(1, micros(200)), (10, micros(40)), (300, micros(1))] {
                let modest = Crowd { class, many: 1, wants, every: Duration::from_millis(1) };
                let [fate, _] =
                    meet(&[modest, Crowd { class, many: others, wants: ROUND, every: ALWAYS }]).try_into().unwrap();
                // Each of them may have had one turn before it at first.
                assert!(fate.first <= Duration::from_millis(110), "{class:?} beside {others}: {fate:?}");
                assert!(fate.second <= 3 * ROUND, "{class:?} beside {others}: {fate:?}");
            }
        }
    }

    #[test]
    fn who_asks_for_more_waits_for_a_turn_of_each_of_its_class() {
        for others in [1, 10, 100, 1_000] {
            let much = Crowd { class: Class::Busy, many: 1, wants: LEAST, every: ALWAYS };
            let flood = Crowd { class: Class::Busy, many: others, wants: ROUND, every: ALWAYS };
            let fate = meet(&[much, flood]).remove(0);
            let turns = u32::try_from(others).unwrap() * ROUND;
            let bound = turns.min(Duration::from_millis(45)) + 2 * ROUND;
            assert!(fate.first.max(fate.second) <= bound, "beside {others}: {fate:?}");
        }
    }

    #[test]
    fn who_asks_for_little_at_a_time_has_about_its_share_beside_those_who_always_ask_for_more() {
        for (floods, wants) in [(10, 60), (10, 240), (10, 490), (40, 20), (100, 10), (180, 40)] {
            // Once it has what it wanted it wants as much again.
            let modest = Crowd { class: Class::Busy, many: 1, wants: micros(wants), every: micros(wants) };
            let flood = Crowd { class: Class::Busy, many: floods, wants: 2 * ROUND, every: ALWAYS };
            let fates = meet(&[modest, flood]);
            let all: Duration = fates.iter().map(|fate| fate.had).sum();
            let share = all / u32::try_from(floods + 1).unwrap();
            let had = fates[0].had.div_duration_f64(share);
            // It waits for a turn of each, and then has one a round until it has caught up. Of a long turn some is cheaper.
            assert!(
                (0.5..2.0).contains(&had),
                "beside {floods}, {wants} us at a time: {had} times its share: {fates:?}"
            );
        }
    }

    #[test]
    fn pieces_that_no_turn_can_cut_are_no_cheaper_beside_a_crowd_that_asks_for_little_at_a_time() {
        let large = Crowd { class: Class::Busy, many: 1, wants: Duration::from_millis(20), every: ALWAYS };
        let small = Crowd { class: Class::Busy, many: 60, wants: micros(10), every: micros(10) };
        let fates = meet_with(&[large, small], |wants, _| wants);
        let all: Duration = fates.iter().map(|fate| fate.had).sum();
        let had = fates[0].had.as_secs_f64() / all.as_secs_f64();
        // It is one of 61, and whoever is [old](OLD) has a piece whatever it has used.
        assert!(had <= 0.05, "{had} of the time: {fates:?}");
    }

    #[test]
    fn pieces_that_no_turn_can_cut_are_paid_in_full() {
        // Each of ten asks for pieces of 20 ms, and one for as much as it may have in turns.
        let large = Crowd { class: Class::Busy, many: 10, wants: Duration::from_millis(20), every: ALWAYS };
        let small = Crowd { class: Class::Busy, many: 1, wants: ROUND, every: ALWAYS };
        let fates = meet_with(&[large, small], |wants, _| wants);
        let all: Duration = fates.iter().map(|fate| fate.had).sum();
        let had = 11.0 * fates[1].had.as_secs_f64() / all.as_secs_f64();
        assert!((0.6..1.5).contains(&had), "{had} times its share: {fates:?}");
    }

    #[test]
    fn who_has_used_much_before_does_not_wait_without_end() {
        let slow = [(Class::Light, 300, 100), (Class::Busy, 300, 100), (Class::Busy, 1_000, 500)];
        for (class, many, wants) in slow {
            // Each piece is worth that many turns of the others; the next one is asked for once it is done.
            let dear = Crowd { class, many: 1, wants: Duration::from_millis(20), every: ALWAYS };
            let others = Crowd { class, many, wants: micros(wants), every: ALWAYS };
            let fate = meet_with(&[dear, others], |wants, _| wants).remove(0);
            let longest = fate.first.max(fate.second);
            let turns = 2 * u32::try_from(many).unwrap() * micros(wants);
            assert!(longest <= OLD + turns.min(OLD) + Duration::from_millis(30), "{class:?} {many} {wants}: {fate:?}");
        }
    }

    #[test]
    fn who_is_gone_is_not_remembered_for_long() {
        let (mut waiting, waker) = (Waiting::new(), Waker::noop());
        let mut stays = of(Class::Busy);
        waiting.wait(&mut stays, waker);
        for _ in 0..10 * QUEUED {
            let mut goes = of(Class::Busy);
            waiting.wait(&mut goes, waker);
            assert!(waiting.forget(&mut goes));
            assert!(waiting.queue(Class::Busy).by_age.len() <= QUEUED + 4);
        }
        assert_eq!(
            waiting.queue(Class::Busy).by_age.front().map(|(place, _)| *place),
            stays.place.map(|(_, place)| place)
        );
    }

    #[test]
    fn who_is_new_gets_on_beside_those_who_connect_without_end() {
        for (wants, bound) in [(20, 5), (200, 30), (1_000, 120)] {
            let longest = beside_a_storm(micros(wants));
            assert!(longest <= Duration::from_millis(bound), "turns of {wants} us: {longest:?}");
        }
    }

    /// The longest that one waits for a turn while it is new, whose turns are so long, beside a flood and a storm of those
    /// who connect, have one turn and are gone.
    fn beside_a_storm(wants: Duration) -> Duration {
        let (mut waiting, called) = (Waiting::default(), Arc::new(AtomicUsize::new(0)));
        let waker = |number: usize| -> Waker { Arc::new(Named(number, Arc::clone(&called))).into() };
        let (short, charged) = (micros(20), |took: Duration| took / 4);
        let [mut acceptor, mut newcomer] = [Class::New; 2].map(of);
        let (mut flood, mut storm) = (of(Class::Busy), Vec::new());
        for (number, account) in [&mut acceptor, &mut newcomer, &mut flood].into_iter().enumerate() {
            waiting.wait(account, &waker(number));
        }
        let (mut now, mut asked, mut longest) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        while newcomer.class == Class::New {
            let mut next = waiting.begin_round();
            // A look at the sockets.
            now += micros(10);
            while let Some(waker_of) = next {
                waker_of.wake();
                let number = called.load(Relaxed);
                let account = match number {
                    0 => &mut acceptor,
                    1 => &mut newcomer,
                    2 => &mut flood,
                    storms => &mut storm[storms - 3],
                };
                let Entry::Now(turn) = waiting.enter(account, Waker::noop()) else { panic!() };
                let took = [short, wants, turn].get(number).copied().unwrap_or(short);
                now += took;
                let class = if number == 1 { account.had(false, false) } else { account.class };
                let charged =
                    [charged(took) / 64, charged(took), took].get(number).copied().unwrap_or_else(|| charged(took));
                waiting.leave(account, took, charged, class);
                if number < 3 {
                    waiting.wait(account, &waker(number));
                }
                match number {
                    0 => {
                        let mut one = of(Class::New);
                        waiting.wait(&mut one, &waker(storm.len() + 3));
                        storm.push(one);
                    }
                    1 => {
                        longest = longest.max(now.saturating_sub(asked));
                        asked = now;
                    }
                    _ => {}
                }
                next = waiting.go_on();
            }
            assert!(now < Duration::from_mins(1), "it waits for ever: {newcomer:?}");
        }
        longest
    }

    #[test]
    fn who_comes_to_another_class_begins_where_that_is() {
        let (mut waiting, mut account) = (Waiting::default(), at(Duration::ZERO));
        waiting.wait(&mut of(Class::Light), Waker::noop());
        waiting.queue_mut(Class::Busy).at = micros(7);
        waiting.leave(&mut account, micros(1), micros(1), Class::Busy);
        assert_eq!(account.at(), micros(7));
    }

    #[test]
    fn who_changes_its_class_again_and_again_comes_not_before_who_does_not() {
        const MANY: usize = 80;
        let (mut waiting, called) = (Waiting::default(), Arc::new(AtomicUsize::new(0)));
        // The last one is normal: 30 us of work every 5 ms.
        let mut accounts: Vec<Account> = (0..=MANY).map(|_| of(Class::Light)).collect();
        let wakers: Vec<Waker> = (0..=MANY).map(|n| Arc::new(Named(n, Arc::clone(&called))).into()).collect();
        let mut idle: BTreeSet<(Duration, usize)> = (0..=MANY).map(|n| (Duration::ZERO, n)).collect();
        let (mut asked, mut waits, mut now) = (vec![Duration::ZERO; MANY + 1], Vec::new(), Duration::ZERO);
        while now < Duration::from_secs(5) {
            while let Some((at, n)) = idle.first().copied().filter(|(at, _)| *at <= now) {
                idle.pop_first();
                asked[n] = at;
                waiting.wait(&mut accounts[n], &wakers[n]);
            }
            let mut next = waiting.begin_round();
            now += micros(10);
            while let Some(waker) = next {
                waker.wake();
                let n = called.load(Relaxed);
                assert!(matches!(waiting.enter(&mut accounts[n], &wakers[n]), Entry::Now(_)));
                if n == MANY {
                    // All began at once: the first of each had to wait for all others.
                    if asked[n] >= Duration::from_millis(100) {
                        waits.push(now.saturating_sub(asked[n]));
                    }
                    now += micros(30);
                    waiting.leave(&mut accounts[n], micros(30), micros(30) / 4, Class::Light);
                    idle.insert(((asked[n] + Duration::from_millis(5)).max(now), n));
                } else if accounts[n].class == Class::Light {
                    // It asks for one dear thing, which makes it busy, and goes on,
                    now += micros(500);
                    waiting.leave(&mut accounts[n], micros(500), micros(500), Class::Busy);
                    waiting.wait(&mut accounts[n], &wakers[n]);
                } else {
                    // but there is no more: it is light again when it asks for the next.
                    now += micros(5);
                    waiting.leave(&mut accounts[n], micros(5), micros(1), Class::Light);
                    idle.insert((now + Duration::from_millis(1), n));
                }
                next = waiting.go_on();
            }
        }
        let longest = waits.iter().max().copied();
        assert!(waits.len() > 900 && longest < Some(Duration::from_millis(5)), "{}, {longest:?}", waits.len());
    }
}
