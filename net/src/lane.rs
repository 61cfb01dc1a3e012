//! Whose turn it is on an event loop: a connection that asks for much never keeps those waiting that ask for little.

mod account;
mod waiting;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

pub(crate) use self::account::Account;
use self::account::Class;
use self::waiting::{Entry, Round, Waiting};

thread_local! {
    /// The lane of this thread, if it is an event loop.
    static LANE: RefCell<Option<Lane>> = const { RefCell::new(None) };
    /// Answers that nobody had asked for, in the turn under way.
    static UNASKED: Cell<u64> = const { Cell::new(0) };
    /// Frames for others that were queued since somebody looked at the clock.
    static PUSHED: Cell<u32> = const { Cell::new(0) };
    /// What frames for others take for the time, in the turn under way.
    static CLOCK: Cell<Clock> = const { Cell::new(Clock::Each) };
}

/// When to look at it: that is a good part of what it takes to queue a frame that goes to many.
#[derive(Clone, Copy, Debug)]
enum Clock {
    /// For each frame: no turn is under way, and the last look may be hours old.
    Each,
    /// For the next one.
    Due,
    /// Not for some: it was this.
    At(tokio::time::Instant),
}

/// An answer came that nobody had asked for.
pub(crate) fn unasked() {
    UNASKED.set(UNASKED.get() + 1);
}

/// A frame that goes to many was queued for one of them.
pub(crate) fn pushed() {
    let pushed = PUSHED.get().wrapping_add(1);
    PUSHED.set(pushed);
    if pushed.is_multiple_of(PUSHED_BETWEEN_LOOKS) {
        look_next_time();
    }
}

/// The time, for a frame that goes to many: within a turn as it was for the last one, if that was not long before. Behind
/// frames that go to nobody but take long it may be late by as much as they took.
pub(crate) fn now() -> tokio::time::Instant {
    match CLOCK.get() {
        Clock::At(now) => now,
        Clock::Due => {
            let now = tokio::time::Instant::now();
            CLOCK.set(Clock::At(now));
            now
        }
        Clock::Each => tokio::time::Instant::now(),
    }
}

fn look_next_time() {
    if matches!(CLOCK.get(), Clock::At(_)) {
        CLOCK.set(Clock::Due);
    }
}

/// Whether they are so many that the next frame waits for a look at the clock.
pub(crate) fn has_pushed_many() -> bool {
    PUSHED.get() >= MANY_PUSHED
}

/// The turns of one event loop.
#[derive(Debug)]
struct Lane {
    waiting: Waiting,
    /// Wakes the [conductor](conduct), while nobody waits.
    conductor: Option<Waker>,
}

/// One turn: until it is over, its connection has the loop for itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Turn {
    /// When it began and is over. Outside of event loops it has no end of its own.
    times: Option<(Instant, Instant)>,
    /// When somebody last looked at the clock, and how many frames there are between two looks.
    looked: Option<Instant>,
    stride: u64,
    /// Frames that it has brought, and how many of them ask for something.
    frames: u64,
    asked: u64,
    /// Something was read, if only part of a frame.
    has_read: bool,
    /// Bytes that were read or written, or wait to be handled.
    moved: usize,
    /// Who turns out to be busy in it has its turn later, when it is that of the busy ones.
    probes: bool,
    /// It lets others in.
    admits: bool,
    /// That in which it is.
    round: Round,
    /// What the thread had worked when it began. Only where somebody waits: it takes longer to ask for than the time.
    worked: Option<Duration>,
}

/// Two looks at the clock are to be so far apart: a frame may take far less, or as long as a turn.
const LOOK: Duration = Duration::from_micros(20);
const LONGEST_STRIDE: u64 = 32;
/// One frame may be queued for thousands: that takes longer than many small ones.
const MANY_PUSHED: u32 = 128;
/// Small ones to peers that are awake are queued within some 20 µs.
const PUSHED_BETWEEN_LOOKS: u32 = 64;

/// Time that a connection has used for others counts as that part of it.
const OTHERS: u32 = 8;
/// Of one that lets new connections in, as that part: nobody is to wait long for it beside those who are new.
const ADMITTING: u32 = 64;
/// The time of a turn that ends before it is over counts as that part. Who sends more than fits into one is counted in full.
const MODEST: u32 = 4;
/// Where no light ones are about, a busy turn pays so much in full and a [`MODEST`] part of the rest: if all of it were cheap,
/// who is cut short once would pay for several of its like.
const IN_FULL: Duration = Duration::from_micros(125);

/// What counts at most of a turn that began while nobody waited, or of who is light, or towards being busy: the machine may
/// have stood still meanwhile.
const MOST: Duration = Duration::from_millis(1);

/// For so long the system lets another thread run in between, mostly. After that the turn is over all the same: a handler
/// may have slept.
const AWAY: Duration = Duration::from_millis(4);

/// How long others are let in at a time.
const ADMITS: Duration = Duration::from_micros(100);

/// Who moves more than so many bytes in a turn is busy: a few requests are less, even where they had to wait for a while.
const LITTLE: usize = 4 << 10;
/// So is whoever has more to do after so long.
const LONG: Duration = Duration::from_micros(400);

impl Turn {
    pub(crate) fn new(now: Instant, slice: Duration) -> Self {
        Self { times: Some((now, now + slice)), looked: None, stride: 1, ..Self::default() }
    }

    /// Whether others are to have theirs.
    pub(crate) fn is_over(&mut self) -> bool {
        PUSHED.set(0);
        look_next_time();
        let Some((began, until)) = self.times else {
            self.stride = LONGEST_STRIDE;
            return false;
        };
        if self.is_put_off() {
            return true;
        }
        let now = Instant::now();
        let since = now.saturating_duration_since(self.looked.replace(now).unwrap_or(began));
        self.stride = if since < LOOK { (2 * self.stride).min(LONGEST_STRIDE) } else { (self.stride / 2).max(1) };
        self.has_passed(until - began, now - began, || self.used(began, now))
    }

    /// Whether a slice of time is over after so long, of which the thread has worked for part: where no light ones have said
    /// anything of late, what it has worked counts, until it has been [away](AWAY) for long.
    fn has_passed(&self, slice: Duration, after: Duration, worked: impl FnOnce() -> Duration) -> bool {
        let by_work = self.worked.is_some() && self.round == Round::Full;
        after >= slice && (!by_work || after >= slice + AWAY || worked() >= slice)
    }

    /// Light ones wait for the end of its round, among a crowd: what can't be cut is done in smaller pieces.
    pub(crate) fn is_in_crowd(&self) -> bool {
        self.round == Round::OfCrowd
    }

    /// No light ones wait for it, or it is no turn at all: larger pieces cost less.
    pub(crate) fn is_in_full_round(&self) -> bool {
        self.round == Round::Full
    }

    #[cfg(test)]
    pub(crate) fn in_crowd(self) -> Self {
        Self { round: Round::OfCrowd, ..self }
    }

    #[cfg(test)]
    pub(crate) fn in_short_round(self) -> Self {
        Self { round: Round::Short, ..self }
    }

    /// Whether its time is up. Unlike [`is_over`](Self::is_over) it changes nothing about when to look again.
    pub(crate) fn is_late(&self) -> bool {
        self.times.is_some_and(|(_, until)| Instant::now() >= until)
    }

    /// It has brought so many frames, of which so many ask for something.
    pub(crate) fn brought(&mut self, frames: u64, asked: u64) {
        self.frames += frames;
        self.asked += asked;
    }

    /// Whether any of its frames asks for something.
    pub(crate) fn asks(&self) -> bool {
        self.asked > 0
    }

    /// The frames that it has brought, and those of them that ask for something.
    #[cfg(test)]
    pub(crate) fn counted(&self) -> (u64, u64) {
        (self.frames, self.asked)
    }

    /// It lets others in, for a short time: each of them has its first turn next.
    pub(crate) fn admitting(self) -> Self {
        let times = self.times.map(|(began, until)| (began, until.min(began + ADMITS)));
        Self { admits: true, times, ..self }
    }

    /// Bytes came, which may not be a whole frame.
    pub(crate) fn read(&mut self, bytes: usize) {
        self.has_read = true;
        self.moved += bytes;
    }

    /// So many bytes were written, or were there before the turn and have not been handled.
    pub(crate) fn moved(&mut self, bytes: usize) {
        self.moved += bytes;
    }

    /// Bytes so far.
    pub(crate) fn has_moved(&self) -> usize {
        self.moved
    }

    /// What the thread has worked in it until now. Where the system has let another one run meanwhile, this was nobody's
    /// fault; where that is not known, it counts as [so much](MOST) at most.
    fn used(&self, began: Instant, now: Instant) -> Duration {
        let time = now.saturating_duration_since(began);
        self.worked.map_or(MOST, |before| worked().saturating_sub(before)).min(time)
    }

    /// How much of the time that it took was its connection's own affair. What it does for others counts for little: it
    /// answers what they have asked, or takes what they have sent, and they were charged with that. So the calls of many
    /// may go through one connection. Answers that nobody has asked for are its own affair.
    fn own(&self, used: Duration) -> Duration {
        let own = self.asked.saturating_add(UNASKED.get()).min(self.frames);
        let others = used / if self.admits { ADMITTING } else { OTHERS };
        if self.frames == 0 {
            return if self.has_read { used } else { others };
        }
        #[expect(clippy::cast_precision_loss, reason = "a turn brings far fewer frames")]
        let share = own as f64 / self.frames as f64;
        others + used.saturating_sub(others).mul_f64(share)
    }

    /// Whether it brought answers that others wait for, mostly.
    fn serves(&self) -> bool {
        self.frames > 0 && self.asked.saturating_add(UNASKED.get()) <= self.frames / 2
    }

    /// Whether it shows its connection to be busy. Who serves others may go on for longer: these were made to wait where
    /// they asked.
    fn is_busy(&self, used: Duration, has_more: bool) -> bool {
        self.moved > LITTLE || (has_more && used >= LONG && !self.serves())
    }

    /// How much it may read where there is so much already: where others wait, only enough to know that its
    /// connection is not.
    pub(crate) fn may_read(&self) -> usize {
        if self.probes && self.frames == 0 { (LITTLE + 1).saturating_sub(self.moved).max(1) } else { usize::MAX }
    }

    /// Its connection is not light, and others wait: it has not begun to handle what it has read.
    pub(crate) fn is_put_off(&self) -> bool {
        self.probes && self.frames == 0 && self.moved > LITTLE
    }

    /// How many frames to handle before the next look at the clock.
    pub(crate) fn stride(&self) -> u64 {
        self.stride.max(1)
    }
}

/// Makes this thread an event loop whose connections take turns. Its runtime has to run [`conduct`] as well.
pub(crate) fn open() {
    LANE.set(Some(Lane { waiting: Waiting::new(), conductor: None }));
}

/// The loop is about to sleep: nobody has waited for anybody.
pub(crate) fn rest() {
    LANE.with_borrow_mut(|lane| {
        if let Some(lane) = lane {
            lane.waiting.rest();
        }
    });
}

/// Begins a round each time that the loop has looked at its sockets, as long as somebody waits.
pub(crate) async fn conduct() {
    loop {
        poll_fn(is_waited).await;
        // The runtime goes on with this task only after it has looked at its sockets.
        tokio::task::yield_now().await;
        let next = LANE.with_borrow_mut(|lane| {
            let lane = lane.as_mut()?;
            lane.waiting.begin_round()
        });
        wake(next);
    }
}

fn is_waited(cx: &mut Context<'_>) -> Poll<()> {
    LANE.with_borrow_mut(|lane| match lane {
        Some(lane) if lane.waiting.is_empty() => {
            lane.conductor = Some(cx.waker().clone());
            Poll::Pending
        }
        Some(_) => Poll::Ready(()),
        None => Poll::Pending,
    })
}

/// Its turn, once it has come; the waker is woken by then.
pub(crate) fn enter(account: &mut Account, waker: &Waker) -> Option<Turn> {
    let (turn, conductor) = LANE.with_borrow_mut(|lane| {
        let Some(lane) = lane else { return (Some(Turn::default()), None) };
        let now = Instant::now();
        match lane.waiting.enter(account, waker) {
            Entry::Now(slice) => {
                UNASKED.set(0);
                PUSHED.set(0);
                CLOCK.set(Clock::Due);
                let worked = (!lane.waiting.is_empty()).then(worked);
                let (probes, round) = (lane.waiting.probes(account), lane.waiting.round());
                (Some(Turn { probes, round, worked, ..Turn::new(now, slice) }), None)
            }
            Entry::Later => (None, lane.conductor.take()),
        }
    });
    wake(conductor);
    turn
}

/// The turn has ended. With `again`, the connection has more to do, and is woken for its next turn.
pub(crate) fn leave(account: &mut Account, turn: Turn, again: Option<&Waker>) {
    let Some((began, _)) = turn.times else { return again.into_iter().for_each(Waker::wake_by_ref) };
    CLOCK.set(Clock::Each);
    let now = Instant::now();
    let wakers = LANE.with_borrow_mut(|lane| {
        let Some(lane) = lane else { return [None, None] };
        let used = turn.used(began, now);
        let own = turn.own(used);
        let charged = charged(own, account.class, turn.round, again.is_some());
        // Whoever lets others in stays among those who are new.
        let class = if turn.admits {
            Class::New
        } else {
            let is_greedy = account.uses(own, now);
            account.had(is_greedy || turn.is_busy(used, again.is_some()), turn.serves())
        };
        let class_before = account.class;
        lane.waiting.leave(account, used, charged, class);
        if turn.has_read {
            lane.waiting.heard(class_before);
        }
        let conductor = again.and_then(|waker| {
            lane.waiting.wait(account, waker);
            lane.conductor.take()
        });
        [conductor, lane.waiting.go_on()]
    });
    wakers.into_iter().for_each(wake);
}

/// What a turn counts as in which a connection of this class used so much for itself, and has more to do or not.
fn charged(own: Duration, class: Class, round: Round, has_more: bool) -> Duration {
    let own = if class == Class::Light { own.min(MOST) } else { own };
    let in_full = match round {
        _ if has_more => own,
        Round::Full if class == Class::Busy => own.min(IN_FULL),
        _ => Duration::ZERO,
    };
    in_full + own.saturating_sub(in_full) / MODEST
}

impl Account {
    /// Its connection is about to end.
    pub(crate) fn ends(&mut self) {
        if self.class != Class::Ending {
            self.class = Class::Ending;
        }
    }

    /// This turn is over when the account is dropped.
    pub(crate) fn ends_with(&mut self, turn: Turn) {
        self.last = Some(Box::new(turn));
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        CLOCK.set(Clock::Each);
        // While a thread ends, its lane may have gone before its tasks.
        let next = LANE.try_with(|lane| {
            let mut lane = lane.try_borrow_mut().ok()?;
            let waiting = &mut lane.as_mut()?.waiting;
            waiting.forget(self);
            let turn = self.last.take()?;
            let used = turn.used(turn.times?.0, Instant::now());
            waiting.leave(self, used, used, self.class);
            waiting.go_on()
        });
        wake(next.ok().flatten());
    }
}

/// Waits for a turn.
pub(crate) async fn turn(account: &mut Account) -> Turn {
    poll_fn(|cx| enter(account, cx.waker()).map_or(Poll::Pending, Poll::Ready)).await
}

/// How long this thread has worked.
fn worked() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Outside of the borrow: whoever is woken may come back here.
fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn frames_for_many_share_looks_at_the_clock_within_a_turn_and_for_a_moment() {
        let passes = || tokio::time::advance(Duration::from_millis(1));
        let first = now();
        passes().await;
        assert!(now() > first, "no turn is under way");
        open();
        let (mut account, waker) = (Account::default(), Waker::noop());
        let mut turn = enter(&mut account, waker).unwrap();
        let first = now();
        passes().await;
        (1..PUSHED_BETWEEN_LOOKS).for_each(|_| pushed());
        assert_eq!(now(), first);
        pushed();
        let second = now();
        assert!(second > first);
        passes().await;
        assert_eq!(now(), second);
        turn.is_over();
        let third = now();
        assert!(third > second, "somebody has looked at the clock");
        passes().await;
        leave(&mut account, turn, None);
        let fourth = now();
        assert!(fourth > third, "the turn is over");
        // The last one is over when the account is gone.
        let turn = enter(&mut account, waker).unwrap();
        assert_eq!(now(), fourth);
        account.ends_with(turn);
        drop(account);
        passes().await;
        assert!(now() > fourth);
        LANE.take();
    }

    #[test]
    fn who_is_light_makes_rounds_short_where_it_says_something() {
        // (it says something, and much)
        for (reads, much) in [(false, false), (true, false), (true, true)] {
            open();
            let (mut other, mut light, waker) = (Account::default(), Account::default(), Waker::noop());
            light.class = Class::Light;
            let turn = enter(&mut other, waker).unwrap();
            leave(&mut other, turn, None);
            let mut turn = enter(&mut light, waker).unwrap();
            if reads {
                turn.read(if much { LITTLE + 1 } else { 1 });
            }
            leave(&mut light, turn, None);
            assert_eq!(light.class == Class::Busy, much);
            let round = LANE.take().unwrap().waiting.round();
            assert_eq!(round, if reads { Round::Short } else { Round::Full }, "{much}");
        }
    }

    #[test]
    fn what_is_done_for_others_counts_for_little() {
        let used = Duration::from_micros(800);
        // (frames, of which ask, answers that nobody asked for, bytes came, charged in µs)
        let rows = [
            (0, 0, 0, false, 100),
            (0, 0, 0, true, 800),
            (10, 10, 0, true, 800),
            (10, 0, 0, true, 100),
            (10, 5, 0, true, 450),
            (10, 0, 10, true, 800),
            (10, 5, 10, true, 800),
        ];
        for (frames, asked, unasked_for, has_read, expected) in rows {
            let mut turn = Turn::new(Instant::now(), used);
            turn.brought(frames, asked);
            if has_read {
                turn.read(1);
            }
            UNASKED.set(0);
            (0..unasked_for).for_each(|_| unasked());
            let own = turn.own(used);
            assert_eq!(own.as_micros(), expected, "{frames} {asked} {unasked_for} {has_read}");
        }
    }

    #[test]
    fn a_turn_that_leaves_nothing_to_do_counts_for_less_but_small_ones_of_busy_connections_among_themselves() {
        // (used for itself in µs, class, round, has more, counts as)
        let rows = [
            (80, Class::Light, Round::Full, false, 20),
            (80, Class::Busy, Round::Short, false, 20),
            (80, Class::Busy, Round::OfLight, false, 20),
            (80, Class::Busy, Round::Full, false, 80),
            (485, Class::Busy, Round::Full, false, 125 + 90),
            (800, Class::Busy, Round::Full, true, 800),
            (800, Class::Busy, Round::Short, true, 800),
            (800, Class::Light, Round::Full, true, 800),
            // The machine may have stood still.
            (5_000, Class::Light, Round::Full, true, 1_000),
            (5_000, Class::Light, Round::Short, false, 250),
        ];
        for (own, class, round, has_more, expected) in rows {
            let charged = charged(Duration::from_micros(own), class, round, has_more);
            assert_eq!(charged.as_micros(), expected, "{own} {class:?} {round:?} {has_more}");
        }
    }

    #[test]
    fn who_moves_much_is_busy_and_who_works_for_long_but_not_for_others() {
        // (bytes read, frames, of which ask, it took so many µs, has more, it is busy)
        let rows = [
            (100, 1, 1, 10, false, false),
            (LITTLE, 1, 1, 10, true, false),
            (LITTLE + 1, 1, 1, 10, false, true),
            (LITTLE + 1, 0, 0, 10, true, true),
            (100, 1, 1, 400, false, false),
            (100, 1, 1, 400, true, true),
            // What others have asked for.
            (LITTLE, 10, 5, 400, true, false),
            (LITTLE + 1, 10, 5, 10, false, true),
            (LITTLE, 10, 6, 400, true, true),
        ];
        for (bytes, frames, asked, took, has_more, expected) in rows {
            let mut turn = Turn::new(Instant::now(), Duration::from_secs(1));
            turn.read(bytes);
            turn.brought(frames, asked);
            UNASKED.set(0);
            let is_busy = turn.is_busy(Duration::from_micros(took), has_more);
            assert_eq!(is_busy, expected, "{bytes} {frames} {asked} {took} {has_more}");
        }
    }

    #[test]
    fn while_no_light_ones_are_about_a_turn_lasts_for_what_the_thread_works_but_not_for_ever() {
        let slice = Duration::from_micros(250);
        // (in a full round, after so long, of which the thread has worked for so long, it is over)
        let rows = [
            (false, slice / 2, slice / 2, false),
            (false, slice, Duration::ZERO, true),
            (true, slice / 2, slice / 2, false),
            (true, slice, Duration::ZERO, false),
            (true, slice, slice, true),
            (true, slice + AWAY / 2, slice / 2, false),
            (true, slice + AWAY / 2, slice, true),
            (true, slice + AWAY, Duration::ZERO, true),
        ];
        for (is_full, after, worked, expected) in rows {
            let round = if is_full { Round::Full } else { Round::Short };
            let turn = Turn { round, worked: Some(Duration::ZERO), ..Turn::default() };
            assert_eq!(turn.has_passed(slice, after, || worked), expected, "{is_full} {after:?} {worked:?}");
        }
        assert!(Turn::default().has_passed(slice, slice, || panic!("it is not known")));
    }

    #[test]
    fn what_a_turn_has_worked_is_asked_for_only_where_somebody_waits() {
        let (mut one, mut waits) = (Account::default(), Account::default());
        (one.class, waits.class) = (Class::Light, Class::Busy);
        open();
        let mut asks = || {
            rest();
            let turn = enter(&mut one, Waker::noop()).unwrap();
            leave(&mut one, turn, None);
            turn.worked.is_some()
        };
        assert!(!asks());
        LANE.with_borrow_mut(|lane| lane.as_mut().unwrap().waiting.wait(&mut waits, Waker::noop()));
        assert!(asks());
        LANE.take();
    }

    #[test]
    fn where_others_wait_a_turn_reads_little_before_it_is_known_to_be_light() {
        let long = Duration::from_mins(1);
        let mut turn = Turn { probes: true, ..Turn::new(Instant::now(), long) };
        assert_eq!(turn.may_read(), LITTLE + 1);
        turn.read(LITTLE);
        assert_eq!(turn.may_read(), 1);
        assert!(!turn.is_over());
        turn.read(1);
        assert!(turn.is_over(), "it is put off");
        // It has begun to handle what it has read: as long as it lasts.
        turn.brought(1, 1);
        assert!(!turn.is_over());
        assert_eq!(turn.may_read(), usize::MAX);
        assert_eq!(Turn::new(Instant::now(), long).may_read(), usize::MAX);
    }
}
