use std::borrow::Cow;
use std::fmt::{self, Debug};
use std::hash::Hash;
use std::time::Duration;

use bytes::Bytes;

use crate::{Encode, EncodeError, Head, Message, Session};

/// Names a connection within this process; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// A frame that goes to many, or several in a row: its bytes are counted once against the total, however many outboxes
/// hold it.
#[derive(Clone, Debug)]
pub struct Shared(Bytes);

impl Shared {
    /// Wraps a frame as it is. [`Connection::share`] makes one that is counted.
    pub const fn new(frame: Bytes) -> Self {
        Self(frame)
    }

    /// The frame, or frames.
    pub const fn frame(&self) -> &Bytes {
        &self.0
    }
}

/// Why a frame was not queued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The outbox is at its bound: the peer does not read as fast as it is written to.
    #[error("the outbox is full: the peer reads more slowly than it is written to")]
    Full,
    /// The connection has ended.
    #[error("the connection is closed")]
    Closed,
    /// The body could not be written.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// What is counted of what passes over a connection, beside bytes and frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event {
    /// A message that is neither answered nor acted on: a response that nobody awaits, an unknown odd kind.
    Ignored,
    /// A request that was answered with an error before it reached a handler.
    Refused,
    /// A request that was answered OVERLOADED, since a limit was reached.
    Overloaded,
    /// A handler that panicked.
    Panicked,
    /// A call that was not run, since its caller's deadline had passed while it waited.
    Expired,
    /// A call that was ended, or not run, since its caller had gone.
    Cancelled,
}

/// One peer as the layers above the socket see it. Clones are the same connection; equality, order and hash are those
/// of its [`ConnectionId`].
///
/// Nothing here blocks but [`send`](Connection::send), and nothing here touches a socket: frames are queued in a bounded
/// outbox, which the connection's own task writes.
pub trait Connection: Clone + Debug + Eq + Ord + Hash + Send + Sync + 'static {
    /// Its name in this process.
    fn id(&self) -> ConnectionId;

    /// The peer, for logs and errors, for example `tcp://127.0.0.1:41522`.
    fn peer(&self) -> String;

    /// The session, if the peer opened one.
    fn session(&self) -> Option<&Session>;

    /// Opens the session; `false` if it is too late: the first message has been something else, or there is one.
    fn open_session(&self, session: Session) -> bool;

    /// A message other than REQ_SESSION has come: from now on no session can be opened.
    fn settle(&self);

    /// The peer has registered methods: from now on the session's heartbeats of providers count. By default nothing.
    fn set_provider(&self) {}

    /// How long it is, once the connection has ended, until a peer would be taken for dead that was asked for a sign of
    /// life and gave none: zero if it was. `None` for a peer that owed no sign of life, which is the default.
    fn patience_left(&self) -> Option<Duration> {
        None
    }

    /// Encodes a frame as this connection's protocol has it.
    ///
    /// # Errors
    /// See [`EncodeError`].
    fn encode<B: Encode>(&self, head: Head<'_>, body: &B) -> Result<Bytes, EncodeError>;

    /// Answers from within the connection's own handler. It is queued whatever the outbox holds: above half of the
    /// outbox's bound the connection is not read, so what inline answers can add to it is bounded by one of them.
    ///
    /// # Errors
    /// `Closed`, or `Encode`: then nothing was queued and another answer may be given.
    fn answer<B: Encode>(&self, id: &[u8], body: &B) -> Result<(), SendError>;

    /// Answers from anywhere, if no more than half of the outbox's bound is taken.
    ///
    /// # Errors
    /// `Full`: [`send`](Self::send) waits for room; `Closed`; `Encode`. Nothing was queued then.
    fn try_answer<B: Encode>(&self, id: &[u8], body: &B) -> Result<(), SendError> {
        self.try_send(self.encode(Head::new(body.kind(), id), body)?)
    }

    /// Queues or fails at once. The head decides kind, flags and id.
    ///
    /// # Errors
    /// `Full` at the outbox's bound, `Closed`.
    fn try_send(&self, frame: Bytes) -> Result<(), SendError>;

    /// Queues a request or fails at once. Returns where in the stream of all bytes it begins, as
    /// [`sent_bytes`](Self::sent_bytes) counts them.
    ///
    /// # Errors
    /// `Full` at the outbox's bound, `Closed`, `Encode`. Nothing was queued then.
    fn request<B: Encode>(&self, head: Head<'_>, body: &B) -> Result<u64, SendError> {
        self.try_send(self.encode(head, body)?).map(|()| 0)
    }

    /// How many bytes have left: a request that begins there or later never did, once the handler was told of the
    /// connection's end. By default all have.
    fn sent_bytes(&self) -> u64 {
        u64::MAX
    }

    /// Waits for room, then queues.
    ///
    /// # Cancel safety
    /// The frame is queued whole or not at all.
    ///
    /// # Errors
    /// `Closed`; `Full`: so much waits for the peer already that this may not, or may no longer.
    fn send(&self, frame: Bytes) -> impl Future<Output = Result<(), SendError>> + Send;

    /// Makes a frame to push to many, or several that lie one behind the other; counted once.
    fn share(&self, frame: Bytes) -> Shared;

    /// How many bytes several frames that are shared as one may have: they are queued or refused as one, so they must
    /// not take more than the largest frame may.
    fn max_shared_bytes(&self) -> usize {
        32 << 10
    }

    /// Queues a frame that goes to many. If this peer then is over half of its bound and has taken bytes of late,
    /// `from` is not read until it has caught up (a connection may let it rest for moments long before); a peer that
    /// takes nothing is never waited for.
    ///
    /// # Errors
    /// `Full` at the outbox's bound, `Closed`.
    fn push(&self, frame: &Shared, from: Option<&Self>) -> Result<(), SendError>;

    /// How many bytes may wait to be written to the peer: past it a push is refused, unless no more than half of it waits.
    /// By default as many as there are.
    fn max_queued_bytes(&self) -> usize {
        usize::MAX
    }

    /// How many bytes wait to be written to the peer.
    fn queued_bytes(&self) -> usize;

    /// How many may. By default any number.
    fn queue_bound(&self) -> usize {
        usize::MAX
    }

    /// Runs `then`, once, as soon as no more than `bytes` of what waits now is left: on the connection's own task, with no
    /// lock held. It is dropped where the connection ends first. `false`: it is so already, or the connection has ended, or
    /// as many as may wait on it; then `then` is not run.
    fn once_written_down_to(&self, bytes: usize, then: Box<dyn FnOnce() + Send>) -> bool;

    /// Enters a request whose answer comes later, until [`end_request`](Self::end_request). `false` means that a session
    /// peer is over its limit and is to be told so; nothing was entered then. A v1 peer is not read instead, so it never
    /// sees `false`.
    fn enter_request(&self) -> bool;

    /// One request that was entered is in flight no longer.
    fn end_request(&self);

    /// Enters a request that nobody waits for, until [`end_aside`](Self::end_aside). Where this side has made the
    /// connection, and the peer may pass on over it what many send, it takes no place of those that are waited for. By default
    /// it is like any other.
    fn enter_aside(&self) -> bool {
        self.enter_request()
    }

    /// Nobody waits any longer for a request that was entered and goes on: from now on it is one of those.
    fn set_aside(&self) {}

    /// One of those is in flight no longer.
    fn end_aside(&self) {
        self.end_request();
    }

    /// How many requests may be in flight at once, as this side has it: by default any number.
    fn max_in_flight(&self) -> usize {
        usize::MAX
    }

    /// Enters a request as [`enter_request`](Self::enter_request) does, with a guard that ends it.
    fn begin_request(&self) -> Option<InFlight<Self>> {
        self.enter_request().then(|| InFlight(self.clone()))
    }

    /// Ends the connection; what is queued is dropped. The reason is logged.
    fn close(&self, reason: Cow<'static, str>);

    /// Counts something.
    fn count(&self, event: Event);
}

/// One request in flight, until it is dropped; see [`Connection::begin_request`].
#[derive(Debug)]
pub struct InFlight<C: Connection>(C);

impl<C: Connection> Drop for InFlight<C> {
    fn drop(&mut self) {
        self.0.end_request();
    }
}

/// What one layer does with one message. It runs on the connection's own loop and must not block: what has to wait
/// goes on in a task of its own and answers through a clone of the connection.
pub trait Handler<C>: Send + Sync + 'static {
    /// Takes one message.
    fn handle(&self, conn: &C, message: Message);

    /// Takes what one read brought, all of it and in order: who handles several at once takes a lock, looks at a clock
    /// or wakes a task once for all of them. By default one after the other. What `messages` gives may depend on what
    /// became of those before it.
    fn handle_all(&self, conn: &C, messages: &mut dyn Iterator<Item = Message>) {
        messages.for_each(|message| self.handle(conn, message));
    }

    /// Runs once at most, before [`closed`](Self::closed): the peer will send no more, but may still read its answers. By
    /// default nothing.
    fn ended(&self, conn: &C) {
        let _ = conn;
    }

    /// Runs once, after the connection's last message.
    fn closed(&self, conn: &C) {
        let _ = conn;
    }

    /// The name of the store in which it keeps its answers to calls under keys beyond its own end. By default none.
    fn store(&self) -> Option<&str> {
        None
    }
}

impl<C, H: Handler<C> + ?Sized> Handler<C> for std::sync::Arc<H> {
    fn handle(&self, conn: &C, message: Message) {
        (**self).handle(conn, message);
    }

    fn handle_all(&self, conn: &C, messages: &mut dyn Iterator<Item = Message>) {
        (**self).handle_all(conn, messages);
    }

    fn ended(&self, conn: &C) {
        (**self).ended(conn);
    }

    fn closed(&self, conn: &C) {
        (**self).closed(conn);
    }

    fn store(&self) -> Option<&str> {
        (**self).store()
    }
}
