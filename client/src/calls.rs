mod places;
mod waiter;

use std::cell::Cell;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use callboard_common::{Cancel, Connection, Event, Feature, Head, Message, MessageType};
use callboard_net::{Conn, deadline_after, spawn_on};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;

pub(crate) use self::places::Place;
pub(crate) use self::waiter::{Outcome, Told, Waiter};
use crate::clock::Alarmist;
use crate::guard::guarded;
use crate::link::{LAST_WORDS, call_in};
use crate::request::Stage;
use crate::{RequestId, Requestor};

/// The calls of one connection that wait for their answers: the shell around [`Requestor`], with its lock, the places that
/// bound it, and the deadlines.
pub(crate) struct Calls {
    /// How many wait is told to the connection under the lock, so that it can't cross with the beginning of the next call.
    state: Mutex<State>,
    /// Who waits for a place, in the order of their coming; a permit calls the next one up.
    line: Semaphore,
    clock: Alarmist,
    /// Where callbacks run whose time is up.
    runtime: Handle,
    /// Hears of calls whose time was up.
    on_overdue: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// An answer has come.
    answered: Arc<AtomicBool>,
    /// So many have ended since their time was up.
    overdue: AtomicU64,
}

struct State {
    requestor: Requestor<Entry>,
    /// So many answers have come.
    answers: u64,
    /// No call enters after the last ones have failed.
    closed: bool,
    /// The peer is about to leave: no call enters. Once the last answer has come the connection drains until this time, but
    /// for [`LAST_WORDS`] at least.
    leaving: Option<Instant>,
    /// So many places there are.
    limit: usize,
    /// Places of calls, and places that were handed to who stands in line.
    taken: usize,
    handed: usize,
    in_line: usize,
    /// When the clock looks for calls whose time is up.
    looks_at: Option<Instant>,
}

/// A call that waits.
struct Entry {
    waiter: Waiter,
    until: Instant,
    /// Once its time is up, its peer is told that nobody waits for it any longer.
    is_call: bool,
    /// The opening of a session takes no place: it comes before their number is known.
    placed: bool,
}

/// Why a call was not entered.
pub(crate) enum Rejected {
    /// The connection has ended.
    Closed,
    /// As many calls wait as may, or others stand in line already.
    Full(Waiter),
}

impl Calls {
    /// For up to `limit` calls that wait at once, 1 at least.
    pub(crate) fn new(limit: usize, clock: Alarmist, runtime: Handle) -> Self {
        let limit = limit.clamp(1, Requestor::<Entry>::MAX_LIMIT - 1);
        let state = State {
            requestor: Requestor::new(limit + 1),
            answers: 0,
            closed: false,
            leaving: None,
            limit,
            taken: 0,
            handed: 0,
            in_line: 0,
            looks_at: None,
        };
        Self {
            state: Mutex::new(state),
            line: Semaphore::new(0),
            clock,
            runtime,
            on_overdue: OnceLock::new(),
            answered: Arc::default(),
            overdue: AtomicU64::new(0),
        }
    }

    /// Has `hook` called, by the clock, each time after it has ended calls; the first one counts.
    pub(crate) fn on_overdue(&self, hook: impl Fn() + Send + Sync + 'static) {
        let _ = self.on_overdue.set(Box::new(hook));
    }

    /// How many answers have come, awaited or not.
    pub(crate) fn answers(&self) -> u64 {
        self.state().answers
    }

    /// Whether any has come; may be kept beyond the connection.
    pub(crate) fn answered(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.answered)
    }

    /// The peer permits so many. To be said before the first place is taken.
    pub(crate) fn restrict(&self, limit: usize) {
        let mut state = self.state();
        state.limit = state.limit.min(limit.max(1));
    }

    /// Enters a request. It is queued after this.
    pub(crate) fn enter(
        self: &Arc<Self>,
        conn: &Conn,
        waiter: Waiter,
        kind: MessageType,
        until: Instant,
        place: Place<'_>,
    ) -> Result<RequestId, Rejected> {
        let mut state = self.state();
        if state.closed || state.leaving.is_some() {
            drop(state); // before the place, which gives itself back
            return Err(Rejected::Closed);
        }
        if matches!(place, Place::Free) && (state.in_line > 0 || state.taken >= state.limit) {
            return Err(Rejected::Full(waiter));
        }
        let placed = !matches!(place, Place::None);
        let is_call = kind == MessageType::RpcRequest && !matches!(waiter, Waiter::Nobody);
        let entry = Entry { waiter, until, is_call, placed };
        let id = state.requestor.begin(entry).map_err(|entry| Rejected::Full(entry.waiter))?;
        match place {
            Place::Free => state.taken += 1,
            Place::Handed(handed) => handed.keep(),
            Place::None => {}
        }
        conn.set_expecting(state.requestor.len());
        if state.looks_at.is_none_or(|at| until < at) {
            let before = state.looks_at.replace(until);
            self.set_clock(conn, before, until);
        }
        drop(state);
        Ok(id)
    }

    /// An answer has come.
    pub(crate) fn complete(&self, conn: &Conn, message: Message) {
        let complete = |state: &mut State| {
            if state.answers == 0 {
                self.answered.store(true, Relaxed);
            }
            state.answers += 1;
            state.requestor.complete(call_in(message.id()))
        };
        match self.take(conn, complete) {
            Some(waiter) => waiter.wake(conn, Outcome::Answered(message)),
            None => conn.count(Event::Ignored),
        }
    }

    /// How many have ended since their time was up. Who queues a call meanwhile that has a deadline may look for it.
    pub(crate) fn overdue(&self) -> u64 {
        self.overdue.load(Relaxed)
    }

    /// Whether its answer has not come.
    pub(crate) fn waits(&self, id: RequestId) -> bool {
        self.state().requestor.waits(id)
    }

    /// Nobody waits any longer; the waiter comes back if nothing else was quicker.
    pub(crate) fn forget(&self, conn: &Conn, id: RequestId) -> Option<Waiter> {
        self.take(conn, |state| state.requestor.forget(id))
    }

    /// Ends the calls whose time is up.
    pub(crate) fn end_overdue(self: &Arc<Self>, conn: &Conn, now: Instant) {
        let overdue = self.take_overdue(conn, now);
        let places = overdue.iter().filter(|(_, entry)| entry.placed).count();
        for (id, Entry { waiter, is_call, .. }) in overdue {
            match waiter {
                Waiter::InOrder(_) => {
                    let conn = conn.clone();
                    spawn_on(&self.runtime, async move { waiter.wake(&conn, Outcome::Late) });
                }
                waiter => waiter.wake(conn, Outcome::Late),
            }
            // Only after it was counted: whoever queues its request after this sees the count, and says this once more.
            if is_call {
                cancel(conn, id);
            }
        }
        // Only now: whoever gets such a place must not be one too many for the peer.
        self.free(conn, places);
        if places > 0
            && let Some(hook) = self.on_overdue.get()
        {
            guarded(conn, "a hook", hook);
        }
    }

    fn take_overdue(self: &Arc<Self>, conn: &Conn, now: Instant) -> Vec<(RequestId, Entry)> {
        let mut state = self.state();
        if state.closed {
            return Vec::new();
        }
        let next = Cell::new(None::<Instant>);
        let overdue = state.requestor.forget_where(|Entry { until, .. }| {
            if *until > now {
                next.set(Some(next.get().map_or(*until, |next| next.min(*until))));
            }
            *until <= now
        });
        self.overdue.fetch_add(overdue.len() as u64, Relaxed);
        let before = std::mem::replace(&mut state.looks_at, next.get());
        conn.set_expecting(state.requestor.len());
        if let Some(at) = next.get() {
            self.set_clock(conn, before.filter(|before| *before > now), at);
        }
        overdue
    }

    /// So many places are free again.
    fn free(&self, conn: &Conn, places: usize) {
        let mut state = self.state();
        let calls_up = state.give_back(places);
        let is_last = state.is_last();
        drop(state);
        if calls_up > 0 {
            self.line.add_permits(calls_up);
        }
        if let Some(time) = is_last {
            conn.drain(time);
        }
    }

    /// The peer is about to leave: those that wait get their answers, and no others enter. A connection that both sides have
    /// done with is ended by this one, which knows that it sends no more.
    pub(crate) fn leave(&self, conn: &Conn, grace: Duration) {
        let mut state = self.state();
        state.leave(grace);
        let is_last = state.is_last();
        drop(state);
        self.line.close();
        if let Some(time) = is_last {
            conn.drain(time);
        }
    }

    /// The connection has ended: all that wait fail, and so does all that comes later.
    pub(crate) fn closed(&self, conn: &Conn) {
        let mut state = self.state();
        state.closed = true;
        let waiting = state.requestor.fail_all();
        if let Some(at) = state.looks_at.take() {
            self.clock.clear(at, conn);
        }
        drop(state);
        self.line.close();
        for entry in waiting {
            entry.waiter.wake(conn, Outcome::Disconnected(Stage::Sent));
        }
    }

    /// How many wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.state().requestor.len()
    }

    /// The same, unless somebody changes it at this moment.
    #[cfg(test)]
    pub(crate) fn try_waiting(&self) -> Option<usize> {
        self.state.try_lock().ok().map(|state| state.requestor.len())
    }

    /// For how many there is memory.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.state().requestor.capacity()
    }

    fn take(&self, conn: &Conn, out: impl FnOnce(&mut State) -> Option<Entry>) -> Option<Waiter> {
        let mut state = self.state();
        let Entry { waiter, placed, .. } = out(&mut state)?;
        let calls_up = state.give_back(usize::from(placed));
        conn.set_expecting(state.requestor.len());
        let is_last = state.is_last();
        drop(state);
        if calls_up > 0 {
            self.line.add_permits(calls_up);
        }
        if let Some(time) = is_last {
            conn.drain(time);
        }
        Some(waiter)
    }

    /// To be called under the lock: else the end, or an earlier deadline, may take an alarm back before it is set, and
    /// then it keeps the connection until its time comes.
    fn set_clock(self: &Arc<Self>, conn: &Conn, before: Option<Instant>, at: Instant) {
        if let Some(before) = before {
            self.clock.clear(before, conn);
        }
        self.clock.set(at, Arc::downgrade(self), conn.clone(), &self.runtime);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the peer that nobody waits for a call any longer, if it knows that. Where there is no room it is not told, and
/// executes the call in vain.
pub(crate) fn cancel(conn: &Conn, id: RequestId) {
    if conn.session().is_some_and(|session| session.features.has(Feature::Cancel)) {
        let _ = conn.request(Head::new(MessageType::Cancel, &id.to_wire()), &Cancel);
    }
}

impl State {
    /// What its peer has been granted is not granted again by another word of it.
    fn leave(&mut self, grace: Duration) {
        self.leaving.get_or_insert_with(|| deadline_after(grace.saturating_add(LAST_WORDS)));
    }

    /// Whether nothing more is to come on a connection whose peer leaves: how long its end may take.
    fn is_last(&self) -> Option<Duration> {
        let until = self.leaving.filter(|_| self.requestor.is_empty())?;
        Some(until.saturating_duration_since(Instant::now()).max(LAST_WORDS))
    }

    /// So many places are free again; how many of those in line are to be called up, without the lock.
    fn give_back(&mut self, places: usize) -> usize {
        self.taken -= places;
        if self.in_line == 0 { 0 } else { self.hand_out() }
    }

    /// Hands free places to those in line that have none. There are never fewer permits than places handed.
    fn hand_out(&mut self) -> usize {
        let free = self.limit.saturating_sub(self.taken);
        let count = free.min(self.in_line - self.handed);
        self.taken += count;
        self.handed += count;
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_a_leaving_peer_was_granted_is_not_granted_again() {
        let secs = Duration::from_secs;
        let mut told = State {
            requestor: Requestor::new(1),
            answers: 0,
            closed: false,
            leaving: None,
            limit: 1,
            taken: 0,
            handed: 0,
            in_line: 0,
            looks_at: None,
        };
        assert_eq!(told.is_last(), None);
        for (later, left) in [(0, 60), (20, 40), (36, LAST_WORDS.as_secs()), (100, LAST_WORDS.as_secs())] {
            tokio::time::advance(secs(later)).await;
            // It says so again.
            told.leave(secs(60).saturating_sub(LAST_WORDS));
            assert_eq!(told.is_last(), Some(secs(left)), "{later} s later");
        }
    }
}
