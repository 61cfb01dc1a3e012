use std::cell::Cell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use callboard_common::{Connection, Event, Message};
use callboard_net::Conn;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Duration, Instant, timeout_at};

use crate::guard::guarded;
use crate::request::Stage;
use crate::{RequestId, Requestor};

/// The calls of one connection that wait for their answers: the shell around [`Requestor`], with its lock and with the
/// places that bound it.
pub(crate) struct Calls {
    state: Mutex<State>,
    places: Arc<Semaphore>,
    limit: usize,
}

struct State {
    requestor: Requestor<Entry>,
    /// No call enters after the last ones have failed.
    closed: bool,
    /// When to look for answers that nobody needs and that do not come; `None` while none is due.
    look_at: Option<Instant>,
}

/// A call that waits, and the place that it takes.
struct Entry {
    waiter: Waiter,
    /// The opening of a session takes none: it comes before their number is known.
    place: Option<Place>,
}

/// One of the calls that may wait at once.
pub(crate) type Place = OwnedSemaphorePermit;

/// Who waits for an answer.
pub(crate) enum Waiter {
    /// A task; it learns of the connection's end by the sender's drop.
    Task {
        answer: oneshot::Sender<Message>,
        /// The answer may be kept for long, so it must not hold the buffer that it arrived in.
        kept: bool,
    },
    /// Code that runs on the connection's task.
    InOrder(Box<dyn FnOnce(Outcome) + Send>),
    /// Nobody: the answer only frees the place, and so does time.
    Nobody { until: Instant },
}

/// How the wait of a [`Waiter::InOrder`] ended.
pub(crate) enum Outcome {
    Answered(Message),
    Disconnected(Stage),
    Late,
}

/// Why a call was not entered.
pub(crate) enum Rejected {
    /// The connection has ended.
    Closed,
    /// As many calls wait as may.
    Full,
}

impl Calls {
    /// For up to `limit` calls that wait at once, 1 at least.
    pub(crate) fn new(limit: usize) -> Self {
        let limit = limit.clamp(1, Requestor::<Entry>::MAX_LIMIT);
        let state = State { requestor: Requestor::new(limit + 1), closed: false, look_at: None };
        Self { state: Mutex::new(state), places: Arc::new(Semaphore::new(limit)), limit }
    }

    /// The peer permits so many. To be said before the first place is taken.
    pub(crate) fn restrict(&self, limit: usize) {
        self.places.forget_permits(self.limit.saturating_sub(limit.max(1)));
    }

    /// A place, if one is free.
    pub(crate) fn try_place(&self) -> Option<Place> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// Waits for a place; `None` if the connection ends.
    pub(crate) async fn place(&self, conn: &Conn) -> Option<Place> {
        loop {
            let place = Arc::clone(&self.places).acquire_owned();
            match self.free_overdue(conn) {
                None => return place.await.ok(),
                Some(look_at) => {
                    if let Ok(place) = timeout_at(look_at, place).await {
                        return place.ok();
                    }
                }
            }
        }
    }

    /// Enters a call. Its request is queued after this.
    pub(crate) fn enter(&self, conn: &Conn, waiter: Waiter, place: Option<Place>) -> Result<RequestId, Rejected> {
        let mut state = self.state();
        let overdue = state.overdue(conn);
        let entered = state.enter(conn, Entry { waiter, place });
        // Without the lock: giving a place back may wake somebody, and a callback may own what uses this client.
        drop(state);
        drop(overdue);
        entered.map_err(|(why, _entry)| why)
    }

    /// An answer has come.
    pub(crate) fn complete(&self, conn: &Conn, message: Message) {
        match self.take(conn, |requestor| requestor.complete(message.id())) {
            Some(waiter) => waiter.wake(conn, Outcome::Answered(message)),
            None => conn.count(Event::Ignored),
        }
    }

    /// Nobody waits any longer; the waiter comes back if nothing else was quicker.
    pub(crate) fn forget(&self, conn: &Conn, id: RequestId) -> Option<Waiter> {
        self.take(conn, |requestor| requestor.forget(id))
    }

    /// The connection has ended: all that wait fail, and so does all that comes later.
    pub(crate) fn closed(&self, conn: &Conn) {
        let waiting = {
            let mut state = self.state();
            state.closed = true;
            state.requestor.fail_all()
        };
        self.places.close();
        for entry in waiting {
            entry.waiter.wake(conn, Outcome::Disconnected(Stage::Sent));
        }
    }

    /// How many wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.state().requestor.len()
    }

    /// For how many there is memory.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.state().requestor.capacity()
    }

    /// Frees the places of answers that nobody needs and that are overdue; says when to look again.
    fn free_overdue(&self, conn: &Conn) -> Option<Instant> {
        let mut state = self.state();
        let overdue = state.overdue(conn);
        let look_at = state.look_at;
        drop(state);
        drop(overdue);
        look_at
    }

    fn take(&self, conn: &Conn, out: impl FnOnce(&mut Requestor<Entry>) -> Option<Entry>) -> Option<Waiter> {
        let mut state = self.state();
        let Entry { waiter, place } = out(&mut state.requestor)?;
        state.expect_no_more(conn);
        drop(state);
        drop(place);
        Some(waiter)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn enter(&mut self, conn: &Conn, entry: Entry) -> Result<RequestId, (Rejected, Entry)> {
        if self.closed {
            return Err((Rejected::Closed, entry));
        }
        if let Waiter::Nobody { until } = entry.waiter {
            // Not only when this one is overdue: a later one may have less time.
            self.look_at.get_or_insert_with(|| until.min(Instant::now() + LOOK_EVERY));
        }
        let id = self.requestor.begin(entry).map_err(|entry| (Rejected::Full, entry))?;
        if self.requestor.len() == 1 {
            conn.set_expecting(true);
        }
        Ok(id)
    }

    /// Takes out what waits for nobody and for too long, if it is time to look.
    fn overdue(&mut self, conn: &Conn) -> Vec<Entry> {
        let Some(look_at) = self.look_at else { return Vec::new() };
        let now = Instant::now();
        if now < look_at {
            return Vec::new();
        }
        let others = Cell::new(false);
        let overdue = self.requestor.forget_where(|entry| match entry.waiter {
            Waiter::Nobody { until } => {
                others.set(others.get() || until > now);
                until <= now
            }
            _ => false,
        });
        self.look_at = others.get().then(|| now + LOOK_EVERY);
        self.expect_no_more(conn);
        overdue
    }

    /// Said under the lock, so that it can't cross with the beginning of the next call.
    fn expect_no_more(&self, conn: &Conn) {
        if self.requestor.is_empty() {
            conn.set_expecting(false);
        }
    }
}

impl Waiter {
    /// A task that waits, and the end at which it does.
    pub(crate) fn task(kept: bool) -> (oneshot::Receiver<Message>, Self) {
        let (answer, waits) = oneshot::channel();
        (waits, Self::Task { answer, kept })
    }

    /// Tells the waiter; to be called without the lock.
    pub(crate) fn wake(self, conn: &Conn, outcome: Outcome) {
        match (self, outcome) {
            (Self::Task { answer, kept }, Outcome::Answered(message)) => {
                // It may have given up meanwhile; then there is nobody to tell.
                let _ = answer.send(if kept { message.detach() } else { message });
            }
            (Self::InOrder(done), outcome) => guarded(conn, "a call's continuation", || done(outcome)),
            _ => {}
        }
    }
}

/// How often to look for answers that do not come: each look goes over all that wait.
const LOOK_EVERY: Duration = Duration::from_secs(1);
