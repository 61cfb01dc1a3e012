use std::future::poll_fn;
use std::io;
use std::mem;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use callboard_net::refuse_blocking;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

/// The runtime of the blocking clients, and who drives it: polls the sockets, and runs the connections' tasks.
///
/// A thread in the background does, until calls follow each other closely. Then it lets go, and the threads that call
/// drive while they wait, one of them at a time: an answer to that one wakes no other thread, and tokio's `block_on`
/// sees to it that one which leaves wakes one which waits. Between two calls nobody drives. So the thread in the
/// background looks after each [`LINGER`], and drives again if nobody does or has since its last look; and at once if
/// somebody needs the runtime who does not drive it.
#[derive(Debug)]
pub(crate) struct Background {
    runtime: Runtime,
    turn: Mutex<Turn>,
    /// Wakes the thread in the background while it drives.
    wake: Notify,
    given_back: Condvar,
    linger: Duration,
}

#[derive(Debug, Default)]
struct Turn {
    /// Threads that drive or wait for their turn.
    callers: usize,
    /// The thread in the background is to let go.
    asked: bool,
    /// It has.
    lent: bool,
    /// A caller has driven since that thread last looked.
    used: bool,
    /// Waits that followed each other closely while it had not let go.
    streak: u32,
    /// When the last caller left.
    left: Option<Instant>,
    spin: Spin,
}

/// Whether a caller that is alone looks for its answer for a moment before it sleeps. It is not worth it where answers
/// take longer, so each miss in a row doubles the number of calls that do without.
#[derive(Debug, Default)]
struct Spin {
    misses: u32,
    skip: u32,
}

/// A thread that drives or waits for its turn.
struct Caller<'a> {
    background: &'a Background,
    /// It looks before it sleeps, for a while that begins with its first look.
    spins: bool,
    since: Option<Instant>,
    missed: bool,
    /// It had to wait: whoever drove has looked at the sockets meanwhile.
    waited: bool,
}

/// So often the thread in the background looks whether it is needed; calls less far apart follow each other closely.
/// Each look costs a program that calls without a pause a wake-up; other connections than the one called may wait for
/// twice that once the calls have ended.
const LINGER: Duration = Duration::from_millis(1);
/// After so many the next is likely to follow. Letting go costs as much as a few of them.
const STREAK: u32 = 8;
/// About twice what it takes to wake a thread on a processor that sleeps.
const SPIN: Duration = Duration::from_micros(75);
/// At most 2^6 - 1 calls in a row do without.
const MAX_MISSES: u32 = 7;

/// That of this process, which is started with the first call and lives as long as the process.
pub(crate) fn background() -> io::Result<&'static Background> {
    static BACKGROUND: OnceLock<Arc<Background>> = OnceLock::new();
    static STARTING: Mutex<()> = Mutex::new(());
    if let Some(background) = BACKGROUND.get() {
        return Ok(background);
    }
    let _only_one = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(background) = BACKGROUND.get() {
        return Ok(background);
    }
    let background = Background::start(LINGER)?;
    Ok(BACKGROUND.get_or_init(|| background))
}

impl Background {
    fn start(linger: Duration) -> io::Result<Arc<Self>> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let turn = Mutex::default();
        let this = Arc::new(Self { runtime, turn, wake: Notify::new(), given_back: Condvar::new(), linger });
        let background = Arc::clone(&this);
        thread::Builder::new().name("callboard-blocking".to_owned()).spawn(move || background.run())?;
        Ok(this)
    }

    /// Runs a future to its end, and drives meanwhile. So its polls must not block: code that is not ours might, on
    /// something that only another caller sets free.
    pub(crate) fn drive_for<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let mut caller = self.enter();
        let waiting = poll_fn(|cx| {
            let polled = future.as_mut().poll(cx);
            if polled.is_pending() {
                caller.waits(cx.waker());
            }
            polled
        });
        // The callbacks of others run on this thread as well.
        refuse_blocking(|| self.runtime.block_on(waiting))
    }

    /// Runs any future to its end; others drive.
    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.need_driver();
        refuse_blocking(|| self.runtime.handle().block_on(future))
    }

    /// The same where the future is likely to be ready; if it is, nobody has to drive.
    pub(crate) fn poll_first<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let polled = refuse_blocking(|| {
            let _within = self.runtime.enter();
            future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        });
        match polled {
            Poll::Ready(output) => output,
            Poll::Pending => self.block_on(future),
        }
    }

    /// Somebody drives from now on.
    fn need_driver(&self) {
        let mut turn = self.lock();
        (turn.streak, turn.asked) = (0, false);
        if turn.lent && turn.callers == 0 {
            turn.lent = false;
            self.given_back.notify_one();
        }
    }

    fn enter(&self) -> Caller<'_> {
        let mut turn = self.lock();
        turn.callers += 1;
        let close = turn.left.is_some_and(|left| left.elapsed() < LINGER);
        let asks = !turn.lent && close && turn.streak >= STREAK;
        if asks || !close {
            turn.streak = 0;
        }
        turn.asked |= asks;
        let spins = turn.lent && turn.callers == 1 && turn.spin.is_due();
        drop(turn);
        if asks {
            self.wake.notify_one();
        }
        Caller { background: self, spins, since: None, missed: false, waited: false }
    }

    /// The thread in the background.
    fn run(&self) {
        loop {
            self.runtime.block_on(self.let_go());
            self.sleep_until_needed();
        }
    }

    async fn let_go(&self) {
        loop {
            self.wake.notified().await;
            let mut turn = self.lock();
            // Not if somebody came in between who does not drive.
            if mem::take(&mut turn.asked) {
                (turn.lent, turn.used) = (true, true);
                return;
            }
        }
    }

    fn sleep_until_needed(&self) {
        let mut turn = self.lock();
        while turn.lent {
            let (next, wait) = self.given_back.wait_timeout(turn, self.linger).unwrap_or_else(PoisonError::into_inner);
            turn = next;
            let unused = wait.timed_out() && turn.callers == 0 && !mem::take(&mut turn.used);
            turn.lent &= !unused;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Caller<'_> {
    /// What it waits for is not there yet.
    fn waits(&mut self, waker: &Waker) {
        let again = self.waited;
        self.waited = true;
        if !self.spins || self.missed {
            return;
        }
        self.missed = self.since.get_or_insert_with(Instant::now).elapsed() >= SPIN;
        if self.missed {
            return;
        }
        if again {
            // The peer may share this core.
            thread::yield_now();
        }
        // The runtime looks at the sockets before it polls again, and does not sleep.
        waker.wake_by_ref();
    }
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        let mut turn = self.background.lock();
        turn.callers -= 1;
        turn.left = Some(Instant::now());
        if self.spins {
            turn.spin.ended(self.missed);
        }
        // Calls that fail before they wait drive nothing, however many there are.
        if self.waited && turn.lent {
            turn.used = true;
        } else if self.waited {
            turn.streak = turn.streak.saturating_add(1);
        }
    }
}

impl Spin {
    fn is_due(&mut self) -> bool {
        let is_due = self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        is_due
    }

    fn ended(&mut self, missed: bool) {
        self.misses = if missed { (self.misses + 1).min(MAX_MISSES) } else { 0 };
        self.skip = (1 << self.misses.saturating_sub(1)) - 1;
    }
}

#[cfg(test)]
mod tests;
