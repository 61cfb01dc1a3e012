use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};

use callboard_common::{ConnectionId, LengthValue, Protocol};
use dashmap::DashMap;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::metrics::{Metrics, add};
use crate::{Conn, Limits, MetricsSnapshot};

/// What all connections of one server share: bounds, totals, counters, and the way from an id to its outbox.
/// A client's connection has one of its own.
#[derive(Debug)]
pub(crate) struct SharedState<P: Protocol = LengthValue> {
    pub(crate) protocol: P,
    pub(crate) limits: Limits,
    pub(crate) metrics: Metrics,
    pub(crate) connections: DashMap<ConnectionId, Conn<P>>,
    /// Those that have ended, and have requests that go on.
    pub(crate) lingering: DashMap<ConnectionId, Conn<P>>,
    /// Told each time that a connection has ended, or the last request of one that had.
    pub(crate) left: Notify,
    /// Whether peers connect to us, and not we to them.
    pub(crate) serves: bool,
    /// By when it has stopped, once it is about to.
    pub(crate) stopping: OnceLock<Instant>,
    /// Told when it is about to stop.
    pub(crate) stop: Notify,
    /// Requests in flight that the stop has cut off.
    pub(crate) cut: AtomicUsize,
    /// Requests in flight that were given up, ever.
    pub(crate) given_up: AtomicUsize,
    pub(crate) queued: AtomicUsize,
    pub(crate) partial: AtomicUsize,
    /// That part of it which connections hold that were chosen to end.
    pub(crate) partial_going: AtomicUsize,
    /// Those whose unfinished frames were the stalest when all were last looked at, the stalest last.
    stale_parts: Mutex<Vec<(Instant, ConnectionId)>>,
}

/// So many are found at a time who may have to go: to look at all takes the longer the more connections there are.
const STALE_PARTS: usize = 64;

impl<P: Protocol> SharedState<P> {
    pub(crate) fn new(protocol: P, limits: Limits, serves: bool) -> Self {
        Self {
            protocol,
            limits,
            metrics: Metrics::default(),
            connections: DashMap::new(),
            lingering: DashMap::new(),
            left: Notify::new(),
            serves,
            stopping: OnceLock::new(),
            stop: Notify::new(),
            cut: AtomicUsize::new(0),
            given_up: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
            partial: AtomicUsize::new(0),
            partial_going: AtomicUsize::new(0),
            stale_parts: Mutex::default(),
        }
    }

    pub(crate) fn snapshot(&self) -> MetricsSnapshot {
        MetricsSnapshot {
            connections: self.connections.len() as u64,
            queued_bytes: self.queued.load(Relaxed) as u64,
            partial_bytes: self.partial.load(Relaxed) as u64,
            ..self.metrics.snapshot()
        }
    }

    /// Whether it has stopped, or is about to cut off what is left.
    pub(crate) fn is_time_up(&self) -> bool {
        self.stopping.get().is_some_and(|until| *until <= Instant::now())
    }

    /// The last request of a connection that had ended is done with.
    pub(crate) fn has_lingered(&self, conn: ConnectionId) {
        self.lingering.remove(&conn);
        self.left.notify_waiters();
    }

    /// So many more bytes are about to wait in outboxes. It is said before they are queued, since the peer's task may
    /// write them at once, on another thread. (Outboxes enter their own bytes themselves.)
    pub(crate) fn about_to_queue(&self, bytes: usize) {
        self.queued.fetch_add(bytes, Relaxed);
    }

    /// Past the total a peer goes for which no less waits than for the others on average: of those, the one that has
    /// taken nothing for longest. Where many take all they can get, one that has little was only not yet written to.
    pub(crate) fn check_queued(&self) {
        let queued = self.queued.load(Relaxed);
        if queued <= self.limits.total_queue_bytes {
            return;
        }
        let average = queued / self.connections.len().max(1);
        // One that is being closed goes before another does; once it is, it holds nothing, however long its task lives
        // on.
        // What waits for room counts in the total and not in an outbox: it may be that none has as much as the average.
        let stalest = self.stalest(|conn| conn.outbox().waits_since(average));
        if let Some(conn) = stalest.or_else(|| self.fullest()) {
            self.evict(
                &conn,
                "all outboxes together are over their bound, and this peer has taken nothing for longest",
            );
        }
    }

    pub(crate) fn unqueued(&self, bytes: usize) {
        self.queued.fetch_sub(bytes, Relaxed);
    }

    /// Whether unfinished frames may take so many bytes more.
    pub(crate) fn has_room_for_part(&self, bytes: usize) -> bool {
        self.partial_staying().saturating_add(bytes) <= self.limits.total_partial_bytes
    }

    /// What unfinished frames take, but for those that are to go: they may take their time, and nobody else goes for them.
    fn partial_staying(&self) -> usize {
        self.partial.load(Relaxed).saturating_sub(self.partial_going.load(Relaxed))
    }

    /// A connection's unfinished frame holds `now` bytes after `before`. Past the total a connection goes that holds no
    /// less than the others on average: of those, the one whose frame is the stalest.
    pub(crate) fn partial(&self, before: usize, now: usize) {
        if now <= before {
            self.partial.fetch_sub(before - now, Relaxed);
            return;
        }
        self.partial.fetch_add(now - before, Relaxed);
        if self.has_room_for_part(0) {
            return;
        }
        let chosen = {
            let mut stale = self.stale_parts.lock().unwrap_or_else(PoisonError::into_inner);
            // Seen anew under the lock: another loop may have found one meanwhile, which is enough for both.
            if self.has_room_for_part(0) {
                return;
            }
            let average = self.partial_staying() / self.connections.len().max(1);
            self.stalest_part(&mut stale, average).inspect(Conn::give_way)
        };
        if let Some(conn) = chosen {
            self.evict(&conn, "all unfinished frames together are over their bound, and this one is the stalest");
        }
    }

    /// The connection that holds so many bytes of an unfinished frame, of which the last came before those of the others.
    /// All are looked at for the next of them too: as long as nothing has come for one, it is still before those that are
    /// not among them, but for those that held less than the average then.
    fn stalest_part(&self, stale: &mut Vec<(Instant, ConnectionId)>, average: usize) -> Option<Conn<P>> {
        if let Some(conn) = self.pop_stale(stale, average) {
            return Some(conn);
        }
        let mut stalest = BinaryHeap::with_capacity(STALE_PARTS);
        for entry in &self.connections {
            let Some(since) = entry.value().part_since(average) else { continue };
            let part = (since, *entry.key());
            if stalest.len() < STALE_PARTS {
                stalest.push(part);
            } else if let Some(mut last) = stalest.peek_mut().filter(|last| **last > part) {
                *last = part;
            }
        }
        *stale = stalest.into_sorted_vec();
        stale.reverse();
        self.pop_stale(stale, average)
    }

    /// The next one for which nothing has come, which is still there, and holds enough.
    fn pop_stale(&self, stale: &mut Vec<(Instant, ConnectionId)>, average: usize) -> Option<Conn<P>> {
        while let Some((since, id)) = stale.pop() {
            let conn = self.connections.get(&id).map(|entry| entry.value().clone());
            if let Some(conn) = conn.filter(|conn| conn.part_since(average) == Some(since)) {
                return Some(conn);
            }
        }
        None
    }

    /// The connection with the least of these times; the id breaks ties, so that the choice is the same each time.
    fn stalest(&self, since: impl Fn(&Conn<P>) -> Option<Instant>) -> Option<Conn<P>> {
        let candidates = self.connections.iter().filter_map(|entry| Some((since(entry.value())?, *entry.key())));
        let (_, id) = candidates.min()?;
        // No guard of the map is held later: closing wakes other code.
        self.connections.get(&id).map(|entry| entry.value().clone())
    }

    /// The connection with most in its outbox, if it is open.
    fn fullest(&self) -> Option<Conn<P>> {
        let open = self.connections.iter().filter(|entry| !entry.value().is_closed());
        let (_, id) = open.map(|entry| (entry.value().outbox().bytes(), *entry.key())).max()?;
        self.connections.get(&id).map(|entry| entry.value().clone())
    }

    fn evict(&self, conn: &Conn<P>, reason: &'static str) {
        if !conn.is_closed() {
            add(&self.metrics.evicted);
            callboard_common::Connection::close(conn, reason.into());
        }
    }
}
