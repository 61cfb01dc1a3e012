mod identity;

use std::borrow::Cow;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Waker;

use bytes::{Bytes, BytesMut};
use callboard_common::{
    Connection, ConnectionId, Encode, EncodeError, Event, Head, Json, LengthValue, Protocol, SendError, Session, Shared,
};
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

use crate::guards::Counted;
use crate::later::later;
use crate::metrics::add;
use crate::outbox::{Frame, Freed, Marks, Outbox, Pushed, Refused};
use crate::shared_state::SharedState;
use crate::{Ends, InFlight, ReadHold};

/// A peer over a socket: a handle to its outbox and its state. Its own task reads and writes the socket.
///
/// Clones are the same connection. It is closed by [`Connection::close`], by its peer, or when its server stops.
pub struct Conn<P: Protocol = LengthValue>(Arc<State<P>>);

struct State<P: Protocol> {
    id: ConnectionId,
    endpoints: Ends,
    shared: Arc<SharedState<P>>,
    outbox: Outbox<ReadHold<P>>,
    session: OnceLock<Session>,
    settled: AtomicBool,
    /// Reasons not to read: see [`Conn::hold_reading`].
    holds: AtomicUsize,
    /// How many calls wait for their answers.
    expecting: AtomicUsize,
    in_flight: AtomicUsize,
    /// Tasks that its answers woke, ever; it may wrap.
    woken: AtomicUsize,
    /// Set once it is about to end. Boxed like what follows, since most connections are idle and many.
    draining: OnceLock<Box<Drain>>,
    /// Set once it has ended.
    end: OnceLock<Box<End>>,
    /// When the unfinished frame last had a byte.
    partial_since: Mutex<Option<Instant>>,
    room: Notify,
    gone: Notify,
}

/// Why a connection ended.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) reason: Cow<'static, str>,
    /// The peer broke the rules: that is worth a line in the log.
    pub(crate) fault: bool,
}

impl End {
    pub(crate) fn ordinary(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { reason: reason.into(), fault: false }
    }

    pub(crate) fn fault(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { reason: reason.into(), fault: true }
    }
}

/// Since when a connection is about to end, and by when it has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drain {
    pub(crate) since: Instant,
    pub(crate) until: Instant,
}

/// Of several frames that are shared as one. More would let few subscribers share less work; it is a fraction of what a
/// core's cache holds.
const MAX_SHARED_BYTES: usize = 32 << 10;

/// More than most envelopes.
const LEAST_SCRATCH_BYTES: usize = 256;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// Where answers are encoded before they are queued: encoding runs the user's code, so it can't be under a lock.
    static SCRATCH: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

impl<P: Protocol> Conn<P> {
    pub(crate) fn new(shared: Arc<SharedState<P>>, endpoints: Ends) -> Self {
        Self(Arc::new(State {
            id: ConnectionId(NEXT_ID.fetch_add(1, Relaxed)),
            endpoints,
            shared,
            outbox: Outbox::new(Instant::now()),
            session: OnceLock::new(),
            settled: AtomicBool::new(false),
            holds: AtomicUsize::new(0),
            expecting: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            woken: AtomicUsize::new(0),
            draining: OnceLock::new(),
            end: OnceLock::new(),
            partial_since: Mutex::new(None),
            room: Notify::new(),
            gone: Notify::new(),
        }))
    }

    /// Our own end, where it is a TCP one.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.0.endpoints.local
    }

    /// Whether it has ended or is about to.
    pub fn is_closed(&self) -> bool {
        self.0.end.get().is_some()
    }

    /// Waits for its end.
    ///
    /// # Cancel safety
    /// It only watches.
    pub async fn closed(&self) {
        wait(&self.0.gone, || self.is_closed()).await;
    }

    /// Why it ended; `None` while it lives.
    pub fn close_reason(&self) -> Option<String> {
        self.0.end.get().map(|end| end.reason.to_string())
    }

    /// Ends the connection in the ordinary course of things; what is queued is dropped. [`Connection::close`] is for a
    /// peer at fault, and logs a warning.
    pub fn end(&self, reason: impl Into<Cow<'static, str>>) {
        self.finish(End::ordinary(reason));
    }

    /// Ends in good order, after `grace` at the latest: what is queued leaves, and what requests in flight still answer.
    /// A connection that was accepted goes on reading until its peer is quiet, and refuses what comes (UNAVAILABLE, not
    /// executed): a request may be on its way. One that we made is read no more. A second call changes nothing.
    pub fn drain(&self, grace: Duration) {
        self.0.draining.get_or_init(|| {
            let since = Instant::now();
            Box::new(Drain { since, until: later(since, grace) })
        });
        self.wake();
    }

    /// Waits until the socket has taken all that was queued.
    ///
    /// # Cancel safety
    /// It only watches.
    ///
    /// # Errors
    /// `Closed`.
    pub async fn flushed(&self) -> Result<(), SendError> {
        self.leave();
        wait(&self.0.room, || self.is_closed() || self.0.outbox.bytes() == 0).await;
        if self.is_closed() { Err(SendError::Closed) } else { Ok(()) }
    }

    /// Stops reading from the peer while the returned value lives, so that TCP pushes back. Frames that were read
    /// already may still be handled up to the end of the read in progress.
    pub fn hold_reading(&self) -> ReadHold<P> {
        self.0.holds.fetch_add(1, SeqCst);
        ReadHold(self.clone())
    }

    /// So many calls wait for answers on this connection. While there are any it is read in spite of any [`ReadHold`]:
    /// else a subscriber that is behind, and calls from within its loop, would wait for itself.
    pub fn set_expecting(&self, calls: usize) {
        if calls > 1 {
            return self.0.expecting.store(calls, Relaxed);
        }
        self.0.expecting.store(calls, SeqCst);
        if calls == 1 && self.0.holds.load(SeqCst) > 0 {
            self.wake();
        }
    }

    /// An answer has woken a task. After some of them the connection lets tasks run before it hands on the rest of what one
    /// read brought.
    pub fn woke(&self) {
        self.0.woken.fetch_add(1, Relaxed);
    }

    pub(crate) fn woken(&self) -> usize {
        self.0.woken.load(Relaxed)
    }

    /// Whether it pays to wait for others to push before what is queued is written: not on a client's connection on which
    /// at most a single call waits.
    pub(crate) fn gathers(&self) -> bool {
        self.0.shared.serves || self.0.expecting.load(Relaxed) > 1
    }

    /// Queues a request. Returns where in the stream of all bytes it begins; see [`sent_bytes`](Self::sent_bytes).
    ///
    /// # Errors
    /// `Full` at the outbox's bound: wait for [`room`](Self::room); `Closed`; `Encode`.
    pub fn request<B: Encode>(&self, head: Head<'_>, body: &B) -> Result<u64, SendError> {
        self.queue_encoded(head, body, self.0.shared.limits.queue_bytes, 0)
    }

    /// The same for one that may wait for company: it leaves with what is queued next, once more than `gather` bytes
    /// wait, or when it is [told to](Self::leave). While a [`ReadHold`] lives it leaves at once: what was to tell it may
    /// not be read.
    ///
    /// # Errors
    /// Those of [`request`](Self::request).
    pub fn request_gathered<B: Encode>(&self, head: Head<'_>, body: &B, gather: usize) -> Result<u64, SendError> {
        let at = self.queue_encoded(head, body, self.0.shared.limits.queue_bytes, gather)?;
        // After it is queued: a hold that begins later finds it there before the task sleeps.
        if self.0.holds.load(SeqCst) > 0 {
            self.wake();
        }
        Ok(at)
    }

    /// What is queued leaves now.
    pub fn leave(&self) {
        self.wake();
    }

    /// How many bytes the socket has taken since the connection was made. A request that begins there or later never
    /// left, once the connection has ended.
    pub fn sent_bytes(&self) -> u64 {
        self.0.outbox.taken()
    }

    /// How long nothing has been written by then; zero while something waits to be.
    pub fn idle_for(&self, now: Instant) -> Duration {
        if self.0.outbox.glance() > 0 {
            return Duration::ZERO;
        }
        let (_, progress) = self.0.outbox.load();
        now.saturating_duration_since(progress)
    }

    /// Waits until no more than half of the outbox's bound is taken.
    ///
    /// # Cancel safety
    /// It only watches.
    ///
    /// # Errors
    /// `Closed`.
    pub async fn room(&self) -> Result<(), SendError> {
        let high = self.0.shared.limits.high_water();
        wait(&self.0.room, || self.is_closed() || self.0.outbox.bytes() <= high).await;
        if self.is_closed() { Err(SendError::Closed) } else { Ok(()) }
    }

    pub(crate) fn shared(&self) -> &Arc<SharedState<P>> {
        &self.0.shared
    }

    pub(crate) fn outbox(&self) -> &Outbox<ReadHold<P>> {
        &self.0.outbox
    }

    /// Whether the next frame may be handled.
    pub(crate) fn may_read(&self) -> bool {
        let state = &*self.0;
        let held = state.holds.load(SeqCst) > 0 && state.expecting.load(SeqCst) == 0;
        let busy = state.session.get().is_none() && state.in_flight.load(SeqCst) >= state.shared.limits.in_flight;
        let draining = !state.shared.serves && state.draining.get().is_some() || self.is_closed();
        !(held || busy || draining) && state.outbox.glance() <= state.shared.limits.high_water()
    }

    pub(crate) fn draining(&self) -> Option<Drain> {
        self.0.draining.get().map(|drain| **drain)
    }

    /// No request waits for its answer and nothing waits to be written.
    pub(crate) fn is_idle(&self) -> bool {
        self.0.in_flight.load(SeqCst) == 0 && self.0.outbox.bytes() == 0
    }

    pub(crate) fn partial_since(&self) -> Option<Instant> {
        *self.0.partial_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_partial_since(&self, since: Option<Instant>) {
        *self.0.partial_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// Why it ended; `None` while it lives.
    pub(crate) fn known_end(&self) -> Option<&End> {
        self.0.end.get().map(|end| &**end)
    }

    /// The first end counts.
    pub(crate) fn finish(&self, end: End) {
        if self.0.end.set(Box::new(end)).is_err() {
            return;
        }
        let (freed, waker) = self.0.outbox.close();
        self.release(freed);
        wake(waker);
        self.0.gone.notify_waiters();
    }

    /// A [`ReadHold`] is gone.
    pub(crate) fn end_hold(&self) {
        if self.0.holds.fetch_sub(1, SeqCst) == 1 {
            self.wake();
        }
    }

    /// An [`InFlight`] is gone.
    pub(crate) fn end_request(&self) {
        let before = self.0.in_flight.fetch_sub(1, SeqCst);
        // The task waits for this where it stopped reading at the limit, or at the last one where the peer has ended.
        if before == 1 || before == self.0.shared.limits.in_flight {
            self.wake();
        }
    }

    /// Wakes the connection's task, if it sleeps.
    pub(crate) fn wake(&self) {
        wake(self.0.outbox.take_waker());
    }

    /// Lets go of what writing or closing set free.
    pub(crate) fn release(&self, freed: Freed<ReadHold<P>>) {
        self.0.shared.unqueued(freed.booked);
        if freed.room {
            self.0.room.notify_waiters();
        }
        // Publishers that waited for this peer are read again.
        drop(freed.held);
    }

    pub(crate) fn marks(&self) -> Marks {
        let limits = &self.0.shared.limits;
        Marks { high: limits.high_water(), stall: limits.stall, gather: 0 }
    }

    fn queue(&self, frame: Frame<'_>, bound: usize, gather: usize) -> Result<Pushed, SendError> {
        let marks = Marks { gather, ..self.marks() };
        let shared = &*self.0.shared;
        let pushed = self.0.outbox.push(frame, bound, marks, &shared.queued, Instant::now);
        let mut pushed = pushed.map_err(|refused| match refused {
            Refused::Full => SendError::Full,
            Refused::Closed => SendError::Closed,
        })?;
        wake(pushed.waker.take());
        if pushed.booked {
            shared.check_queued();
        }
        Ok(pushed)
    }

    fn queue_encoded<B: Encode>(
        &self,
        head: Head<'_>,
        body: &B,
        bound: usize,
        gather: usize,
    ) -> Result<u64, SendError> {
        // Taken out, since a body's own code may come back here.
        let mut scratch = SCRATCH.take();
        scratch.clear();
        scratch.reserve(LEAST_SCRATCH_BYTES);
        let encoded = self.0.shared.protocol.encode::<Json, _>(head, body, &mut scratch);
        let queued = match encoded {
            Ok(()) => self.queue(Frame::Slice(&mut scratch), bound, gather).map(|pushed| pushed.at),
            Err(e) => Err(e.into()),
        };
        // Linked, its memory is the frame's: what would be left of it grows by a copy of all.
        if scratch.is_empty() {
            scratch = BytesMut::new();
        }
        SCRATCH.set(scratch);
        queued
    }
}

impl<P: Protocol> Connection for Conn<P> {
    type InFlight = InFlight<P>;

    fn id(&self) -> ConnectionId {
        self.0.id
    }

    fn peer(&self) -> String {
        self.0.endpoints.peer.clone()
    }

    fn session(&self) -> Option<&Session> {
        self.0.session.get()
    }

    fn open_session(&self, session: Session) -> bool {
        !self.0.settled.swap(true, SeqCst) && self.0.session.set(session).is_ok()
    }

    fn settle(&self) {
        if !self.0.settled.load(Relaxed) {
            self.0.settled.store(true, SeqCst);
        }
    }

    fn encode<B: Encode>(&self, head: Head<'_>, body: &B) -> Result<Bytes, EncodeError> {
        let mut out = BytesMut::new();
        self.0.shared.protocol.encode::<Json, _>(head, body, &mut out)?;
        Ok(out.freeze())
    }

    fn answer<B: Encode>(&self, id: &[u8], body: &B) -> Result<(), SendError> {
        self.queue_encoded(Head::new(body.kind(), id), body, usize::MAX, 0).map(drop)
    }

    fn try_send(&self, frame: Bytes) -> Result<(), SendError> {
        self.queue(Frame::Own(frame), self.0.shared.limits.queue_bytes, 0).map(drop)
    }

    async fn send(&self, frame: Bytes) -> Result<(), SendError> {
        loop {
            self.room().await?;
            match self.try_send(frame.clone()) {
                Err(SendError::Full) => {} // others were quicker: it is more than half full again
                done => return done,
            }
        }
    }

    fn share(&self, frame: Bytes) -> Shared {
        Shared::new(Bytes::from_owner(Counted::new(frame, Arc::clone(&self.0.shared))))
    }

    fn max_shared_bytes(&self) -> usize {
        // A message grows by half where it is written as text.
        MAX_SHARED_BYTES.min(self.0.shared.limits.max_frame_bytes / 2)
    }

    fn push(&self, frame: &Shared, from: Option<&Self>) -> Result<(), SendError> {
        let pushed = self.queue(Frame::Shared(frame.frame()), self.0.shared.limits.queue_bytes, 0);
        if matches!(pushed, Err(SendError::Full)) {
            add(&self.0.shared.metrics.slow_readers);
        }
        let pushed = pushed?;
        if let Some(publisher) = from.filter(|publisher| pushed.behind && *publisher != self) {
            add(&self.0.shared.metrics.holds);
            let held = self.0.outbox.hold(publisher.hold_reading(), self.marks(), Instant::now());
            // Its task must look at the clock; one that came too late is dropped here, and no lock is held.
            wake(held.ok().flatten());
        }
        Ok(())
    }

    fn begin_request(&self) -> Option<InFlight<P>> {
        let before = self.0.in_flight.fetch_add(1, SeqCst);
        let entered = InFlight(self.clone());
        (self.0.session.get().is_none() || before < self.0.shared.limits.in_flight).then_some(entered)
    }

    fn close(&self, reason: Cow<'static, str>) {
        self.finish(End::fault(reason));
    }

    fn count(&self, event: Event) {
        self.0.shared.metrics.count(event);
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Waits for a condition that is told by `notify`; none of its changes is missed.
pub(crate) async fn wait(notify: &Notify, done: impl Fn() -> bool) {
    loop {
        let told = notify.notified();
        tokio::pin!(told);
        told.as_mut().enable();
        if done() {
            return;
        }
        told.await;
    }
}
