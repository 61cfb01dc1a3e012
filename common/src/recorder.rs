use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    Connection, ConnectionId, Encode, EncodeError, Event, Head, Json, LengthValue, Message, Protocol, SendError,
    Session, Shared,
};

/// A connection without a socket, which remembers what was sent: for tests of handlers, here and in users' programs.
///
/// ```
/// use callboard_common::{Connection, Recorder, TopicAnswer};
/// let conn = Recorder::new(7);
/// conn.answer(b"id", &TopicAnswer::ok())?;
/// assert_eq!(conn.take()[0].text(), r#"{"rcode":0}"#);
/// # Ok::<(), callboard_common::SendError>(())
/// ```
#[derive(Clone)]
pub struct Recorder(Arc<State>);

#[derive(Default)]
struct State {
    id: u64,
    session: OnceLock<Session>,
    settled: AtomicBool,
    full: AtomicBool,
    held_back: AtomicBool,
    in_flight: AtomicUsize,
    log: Mutex<Log>,
    outbox: Mutex<Outbox>,
}

/// What it says of bytes that wait.
#[derive(Default)]
struct Outbox {
    bounds: Option<Bounds>,
    queued: usize,
    /// What is done once so many bytes more have left.
    waiting: Vec<(usize, Box<dyn FnOnce() + Send>)>,
}

#[derive(Clone, Copy)]
struct Bounds {
    max_frame_bytes: usize,
    queue_bytes: usize,
}

#[derive(Debug, Default)]
struct Log {
    sent: Vec<Sent>,
    events: Vec<Event>,
    closed: Option<Cow<'static, str>>,
    patience_left: Option<Duration>,
}

/// Of several frames that are shared as one.
const MAX_SHARED_BYTES: usize = 32 << 10;

impl Outbox {
    fn has_no_room_for(&self, bytes: usize) -> bool {
        self.bounds.is_some_and(|Bounds { queue_bytes, .. }| {
            self.queued > queue_bytes / 2 && self.queued.saturating_add(bytes) > queue_bytes
        })
    }
}

/// A frame that a [`Recorder`] was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent(pub Message);

impl Sent {
    /// The body as text.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.0.body())
    }
}

impl Recorder {
    /// A v1 peer.
    pub fn new(id: u64) -> Self {
        Self(Arc::new(State { id, ..State::default() }))
    }

    /// A peer with a session.
    pub fn with_session(id: u64, session: Session) -> Self {
        let this = Self::new(id);
        this.open_session(session);
        this
    }

    /// A message as this peer would send it.
    pub fn message(&self, mtype: u32, id: &[u8], body: &[u8]) -> Message {
        let mut frame = BytesMut::new();
        let words = [8 + id.len() + body.len(), mtype as usize, id.len()];
        for word in words {
            frame.put_u32(u32::try_from(word).unwrap_or(u32::MAX));
        }
        frame.extend_from_slice(id);
        frame.extend_from_slice(body);
        Message::from_checked(frame.freeze(), mtype, u8::try_from(id.len()).unwrap_or(u8::MAX))
    }

    /// What was sent so far.
    pub fn sent(&self) -> Vec<Sent> {
        self.log().sent.clone()
    }

    /// What was sent since the last look.
    pub fn take(&self) -> Vec<Sent> {
        std::mem::take(&mut self.log().sent)
    }

    /// What was counted so far.
    pub fn events(&self) -> Vec<Event> {
        self.log().events.clone()
    }

    /// Why it was closed, if it was.
    pub fn close_reason(&self) -> Option<Cow<'static, str>> {
        self.log().closed.clone()
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        self.0.in_flight.load(SeqCst)
    }

    /// From now on every push and every `try_send` fails with `Full`.
    pub fn fill(&self) {
        self.0.full.store(true, SeqCst);
    }

    /// Nothing of what it is given has left.
    pub fn hold_back(&self) {
        self.0.held_back.store(true, SeqCst);
    }

    /// All that was held back leaves.
    pub fn let_go(&self) {
        self.0.held_back.store(false, SeqCst);
    }

    /// It counts as one that was asked for a sign of life, and has so long to give it.
    pub fn fall_silent(&self, patience_left: Duration) {
        self.log().patience_left = Some(patience_left);
    }

    /// From now on so many bytes wait to be written. Where none do, who waits for that is run.
    pub fn set_queued_bytes(&self, bytes: usize) {
        let mut outbox = self.outbox();
        outbox.queued = bytes;
        let due = if bytes == 0 { std::mem::take(&mut outbox.waiting) } else { Vec::new() };
        drop(outbox);
        for (_, then) in due {
            then();
        }
    }

    /// From now on frames are bounded, and what it is given waits until it is [`written`](Self::written): past
    /// `queue_bytes` a push or a `try_send` is refused, unless no more than half of them wait.
    pub fn set_bounds(&self, max_frame_bytes: usize, queue_bytes: usize) {
        self.outbox().bounds = Some(Bounds { max_frame_bytes, queue_bytes });
    }

    /// Of what waits, so many bytes have left, or all if it is less. Who waits for that is run.
    pub fn written(&self, bytes: usize) {
        let mut outbox = self.outbox();
        let bytes = bytes.min(outbox.queued);
        outbox.queued -= bytes;
        outbox.waiting.iter_mut().for_each(|(left, _)| *left = left.saturating_sub(bytes));
        let due: Vec<_> = outbox.waiting.extract_if(.., |(left, _)| *left == 0).collect();
        drop(outbox);
        for (_, then) in due {
            then();
        }
    }

    fn bounds(&self) -> Option<Bounds> {
        self.outbox().bounds
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.0.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, frame: &Bytes) -> Result<(), SendError> {
        let mut log = self.log();
        if log.closed.is_some() {
            return Err(SendError::Closed);
        }
        let mut outbox = self.outbox();
        outbox.queued += outbox.bounds.map_or(0, |_| frame.len());
        drop(outbox);
        let (protocol, mut frames) = (LengthValue::new(usize::MAX), BytesMut::from(&frame[..]));
        log.sent.extend(std::iter::from_fn(|| protocol.decode(&mut frames).ok().flatten().map(Sent)));
        Ok(())
    }
}

impl Connection for Recorder {
    fn id(&self) -> ConnectionId {
        ConnectionId(self.0.id)
    }

    fn peer(&self) -> String {
        format!("recorder://{}", self.0.id)
    }

    fn session(&self) -> Option<&Session> {
        self.0.session.get()
    }

    fn open_session(&self, session: Session) -> bool {
        !self.0.settled.swap(true, SeqCst) && self.0.session.set(session).is_ok()
    }

    fn settle(&self) {
        self.0.settled.store(true, SeqCst);
    }

    fn patience_left(&self) -> Option<Duration> {
        self.log().patience_left
    }

    fn encode<B: Encode>(&self, head: Head<'_>, body: &B) -> Result<Bytes, EncodeError> {
        let mut out = BytesMut::new();
        let protocol =
            self.bounds().map_or_else(LengthValue::default, |bounds| LengthValue::new(bounds.max_frame_bytes));
        protocol.encode::<Json, _>(head, body, &mut out)?;
        Ok(out.freeze())
    }

    fn answer<B: Encode>(&self, id: &[u8], body: &B) -> Result<(), SendError> {
        self.record(&self.encode(Head::new(body.kind(), id), body)?)
    }

    fn try_send(&self, frame: Bytes) -> Result<(), SendError> {
        if self.0.full.load(SeqCst) || self.outbox().has_no_room_for(frame.len()) {
            return Err(SendError::Full);
        }
        self.record(&frame)
    }

    fn sent_bytes(&self) -> u64 {
        if self.0.held_back.load(SeqCst) { 0 } else { u64::MAX }
    }

    async fn send(&self, frame: Bytes) -> Result<(), SendError> {
        self.record(&frame)
    }

    fn share(&self, frame: Bytes) -> Shared {
        Shared::new(frame)
    }

    fn push(&self, frame: &Shared, _from: Option<&Self>) -> Result<(), SendError> {
        self.try_send(frame.frame().clone())
    }

    fn max_shared_bytes(&self) -> usize {
        self.bounds().map_or(MAX_SHARED_BYTES, |bounds| MAX_SHARED_BYTES.min(bounds.max_frame_bytes / 2))
    }

    fn max_queued_bytes(&self) -> usize {
        self.bounds().map_or(usize::MAX, |bounds| bounds.queue_bytes)
    }

    fn queued_bytes(&self) -> usize {
        self.outbox().queued
    }

    fn once_written_down_to(&self, bytes: usize, then: Box<dyn FnOnce() + Send>) -> bool {
        let is_open = self.close_reason().is_none();
        let mut outbox = self.outbox();
        let left = outbox.queued.saturating_sub(bytes);
        let waits = left > 0 && is_open;
        if waits {
            outbox.waiting.push((left, then));
        }
        waits
    }

    fn max_in_flight(&self) -> usize {
        self.session().map_or(usize::MAX, |session| usize::try_from(session.limits.in_flight).unwrap_or(usize::MAX))
    }

    fn enter_request(&self) -> bool {
        self.0.in_flight.fetch_add(1, SeqCst);
        true
    }

    fn end_request(&self) {
        self.0.in_flight.fetch_sub(1, SeqCst);
    }

    fn close(&self, reason: Cow<'static, str>) {
        self.log().closed.get_or_insert(reason);
    }

    fn count(&self, event: Event) {
        self.log().events.push(event);
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("id", &self.0.id).field("log", &self.log()).finish_non_exhaustive()
    }
}

impl PartialEq for Recorder {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for Recorder {}

impl PartialOrd for Recorder {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Recorder {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.id.cmp(&other.0.id)
    }
}

impl Hash for Recorder {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id.hash(state);
    }
}
