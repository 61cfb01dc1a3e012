mod identity;
mod part;
mod queueing;
mod waiting;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::Waker;

use callboard_common::{ConnectionId, Feature, GoAway, Head, Heartbeat, LengthValue, MessageType, Protocol, Session};
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

use self::part::Part;
use crate::later::later;
use crate::outbox::{Freed, Marks, Outbox};
use crate::shared_state::SharedState;
use crate::{Ends, ReadHold};

/// A peer over a socket: a handle to its outbox and its state. Its own task reads and writes the socket.
///
/// Clones are the same connection. It is closed by [`Connection::close`], by its peer, or when its server stops.
///
/// [`Connection::close`]: callboard_common::Connection::close
pub struct Conn<P: Protocol = LengthValue>(Arc<State<P>>);

struct State<P: Protocol> {
    id: ConnectionId,
    endpoints: Ends,
    shared: Arc<SharedState<P>>,
    outbox: Outbox<ReadHold<P>>,
    /// Boxed: v1 peers have none, and connections are many.
    session: OnceLock<Box<Session>>,
    settled: AtomicBool,
    /// The peer, or this side, has registered methods.
    provider: AtomicBool,
    /// Reasons not to read: see [`Conn::hold_reading`].
    holds: AtomicUsize,
    /// How many calls wait for their answers.
    expecting: AtomicUsize,
    in_flight: AtomicUsize,
    /// So many of them nobody waits for. Of a server's connections none is counted. One that ends as it is given up may be taken
    /// off before it is added.
    aside: AtomicIsize,
    /// The bytes of frames that wait for room in the outbox, each in the hands of a task.
    waiting: AtomicUsize,
    /// It has ended, and its requests may go on.
    is_over: AtomicBool,
    /// It was ended with its server, and its requests with it.
    is_cut: AtomicBool,
    /// Tasks that its answers woke, ever; it may wrap.
    woken: AtomicUsize,
    /// Reads that brought something, ever; it may wrap.
    reads: AtomicUsize,
    /// Set once it is about to end. Boxed like what follows.
    draining: OnceLock<Box<Drain>>,
    /// Set once it has ended.
    end: OnceLock<Box<End>>,
    /// Of the unfinished frame.
    part: Mutex<Part>,
    room: Notify,
    gone: Notify,
}

/// Why a connection ended.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) reason: Cow<'static, str>,
    /// The peer broke the rules: that is worth a line in the log.
    pub(crate) fault: bool,
    /// By when the peer, which owed a sign of life, is taken for dead.
    pub(crate) silent_until: Option<Instant>,
}

impl End {
    pub(crate) fn ordinary(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { reason: reason.into(), fault: false, silent_until: None }
    }

    pub(crate) fn fault(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { reason: reason.into(), fault: true, silent_until: None }
    }

    /// The peer said nothing for too long.
    pub(crate) fn silence(reason: impl Into<Cow<'static, str>>, now: Instant) -> Self {
        Self { silent_until: Some(now), ..Self::fault(reason) }
    }
}

/// Since when a connection is about to end, and by when it has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drain {
    pub(crate) since: Instant,
    pub(crate) until: Instant,
}

/// Why GOAWAY is sent.
const LEAVES: &str = "it stops";

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl<P: Protocol> Conn<P> {
    pub(crate) fn new(shared: Arc<SharedState<P>>, endpoints: Ends) -> Self {
        Self(Arc::new(State {
            id: ConnectionId(NEXT_ID.fetch_add(1, Relaxed)),
            endpoints,
            shared,
            outbox: Outbox::new(Instant::now()),
            session: OnceLock::new(),
            settled: AtomicBool::new(false),
            provider: AtomicBool::new(false),
            holds: AtomicUsize::new(0),
            expecting: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            aside: AtomicIsize::new(0),
            waiting: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
            is_cut: AtomicBool::new(false),
            woken: AtomicUsize::new(0),
            reads: AtomicUsize::new(0),
            draining: OnceLock::new(),
            end: OnceLock::new(),
            part: Mutex::default(),
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
    ///
    /// [`Connection::close`]: callboard_common::Connection::close
    pub fn end(&self, reason: impl Into<Cow<'static, str>>) {
        self.finish(End::ordinary(reason));
    }

    /// Closes this side's half: what is queued leaves, then the peer is told that no more will come. What the peer sends
    /// is still read, until it closes its half too; how long that may take is for the caller to bound, by
    /// [`end`](Self::end) or [`drain`](Self::drain): its silence is not looked at any more. Nothing is to be sent
    /// afterwards, it would end the connection.
    pub fn finish_sending(&self) {
        wake(self.0.outbox.complete());
    }

    /// Ends in good order, after `grace` at the latest: what is queued leaves, and what requests in flight still
    /// answer. A second call changes nothing.
    ///
    /// A connection that was accepted goes on reading until its peer is quiet, and refuses what comes (UNAVAILABLE, not
    /// executed): a request may be on its way. A session peer of it that knows GOAWAY is told first, and has more time to
    /// end it itself: then no request of its can be on its way.
    ///
    /// One that we made takes no requests any more (`Closed`). As long as it owes answers it is read as before: its peer asks
    /// for signs of life, and may give calls up. Once all is written it says so to the peer, and what comes is thrown away
    /// until the peer has closed its half too: then it has read all.
    pub fn drain(&self, grace: Duration) {
        let since = Instant::now();
        if !self.0.shared.serves {
            // Before its task hears of it: what comes in later would not be written.
            self.0.outbox.only_answers();
        }
        let _ = self.0.draining.set(Box::new(Drain { since, until: later(since, grace) })); // the first counts
        self.0.room.notify_waiters();
        self.wake();
    }

    /// Queues the word that this side leaves; whether its peer knows it.
    pub(crate) fn tell_leaving(&self) -> bool {
        let Some(Drain { since, until }) = self.draining() else { return false };
        let knows = self.0.session.get().is_some_and(|session| session.features.has(Feature::GoAway));
        if knows {
            // One that has no room has not read for long; it hears of the end by the end.
            let go_away = GoAway { reason: LEAVES.into(), grace: until.saturating_duration_since(since) };
            let _ = self.request(Head::new(MessageType::GoAway, b""), &go_away);
        }
        knows
    }

    /// Whether requests are refused: it has ended, or it is one that we made and is about to.
    pub(crate) fn takes_no_more(&self) -> bool {
        self.is_closed() || (!self.0.shared.serves && self.0.draining.get().is_some())
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

    /// An answer has woken a task. After some of them the connection lets tasks run before it hands on the rest of what
    /// one read brought.
    pub fn woke(&self) {
        self.0.woken.fetch_add(1, Relaxed);
    }

    pub(crate) fn woken(&self) -> usize {
        self.0.woken.load(Relaxed)
    }

    /// How many reads have brought something since the connection was made; it may wrap. Where it has changed, the peer has
    /// given a sign of life.
    pub fn reads(&self) -> usize {
        self.0.reads.load(Relaxed)
    }

    /// A read has brought something. Only the connection's own task reads.
    pub(crate) fn has_read(&self) {
        self.0.reads.store(self.0.reads.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// Whether it pays to wait for others to push before what is queued is written: not on a client's connection on
    /// which at most a single call waits.
    pub(crate) fn gathers(&self) -> bool {
        self.0.shared.serves || self.0.expecting.load(Relaxed) > 1
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
        let ends = self.is_closed() || (self.takes_no_more() && self.in_flight() == 0);
        !(held || busy || ends) && state.outbox.glance() <= state.shared.limits.high_water()
    }

    /// What holds on this connection, if its session knows heartbeats.
    pub(crate) fn heartbeat(&self) -> Option<Heartbeat> {
        let heartbeats = self.0.session.get()?.heartbeats.as_ref()?;
        Some(if self.0.provider.load(Relaxed) { heartbeats.provider } else { heartbeats.caller })
    }

    pub(crate) fn draining(&self) -> Option<Drain> {
        self.0.draining.get().map(|drain| **drain)
    }

    /// How many requests of the peer wait for their answers.
    pub fn in_flight(&self) -> usize {
        self.0.in_flight.load(SeqCst)
    }

    /// How many requests were given up by whoever had made them, or dropped since these had gone: of all connections of its
    /// server, or of its client, ever.
    pub fn given_up(&self) -> usize {
        self.0.shared.given_up.load(SeqCst)
    }

    /// It ends with its server: its requests count as cut, whatever becomes of them.
    pub(crate) fn cut(&self) {
        if !self.0.is_cut.swap(true, SeqCst) {
            self.0.shared.cut.fetch_add(self.in_flight(), SeqCst);
        }
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.0.is_cut.load(SeqCst)
    }

    /// It has ended; what goes on without it is awaited by a server that stops.
    pub(crate) fn linger(&self) {
        let state = &*self.0;
        state.is_over.store(true, SeqCst);
        if self.in_flight() > 0 {
            state.shared.lingering.insert(state.id, self.clone());
            // The last one may have ended meanwhile, and found nothing to take out.
            if self.in_flight() == 0 {
                state.shared.has_lingered(state.id);
            }
        }
    }

    /// No request waits for its answer and nothing waits to be written.
    pub(crate) fn is_idle(&self) -> bool {
        self.0.in_flight.load(SeqCst) == 0 && self.0.outbox.bytes() == 0
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
        for (_, then) in freed.due {
            // After the end it is only dropped: whoever closes a connection may hold a lock that it takes.
            if !self.is_closed() {
                (then.0)();
            }
        }
    }

    pub(crate) fn marks(&self) -> Marks {
        let limits = &self.0.shared.limits;
        Marks { high: limits.high_water(), stall: limits.stall, gather: 0 }
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
