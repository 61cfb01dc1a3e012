//! What is queued for the peer: requests, answers, and frames that go to many.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use bytes::{Bytes, BytesMut};
use callboard_common::{
    Connection, ConnectionId, Encode, EncodeError, Event, Head, Json, Protocol, SendError, Session, Shared,
};
use tokio::time::{Duration, Instant};

use super::waiting::Waiting;
use super::{Conn, End, wait, wake};
use crate::guards::Counted;
use crate::lane;
use crate::metrics::add;
use crate::outbox::{Frame, Marks, Pushed, Refused, Then, UNBOUNDED};

/// Of several frames that are shared as one. More would let few subscribers share less work; it is a fraction of what a
/// core's cache holds.
const MAX_SHARED_BYTES: usize = 32 << 10;

/// More than most envelopes.
const LEAST_SCRATCH_BYTES: usize = 256;
/// What small frames, which are copied out of it, make it grow to.
const KEEP_SCRATCH_BYTES: usize = 8 << 10;

thread_local! {
    /// Where answers are encoded before they are queued: encoding runs the user's code, so it can't be under a lock.
    static SCRATCH: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

impl<P: Protocol> Conn<P> {
    /// Queues a request. Returns where in the stream of all bytes it begins; see [`sent_bytes`](Self::sent_bytes).
    ///
    /// # Errors
    /// `Full` at the outbox's bound: wait for [`room`](Self::room); `Closed`; `Encode`.
    pub fn request<B: Encode>(&self, head: Head<'_>, body: &B) -> Result<u64, SendError> {
        self.queue_encoded(head, body, self.0.shared.limits.queue_bytes, 0)
    }

    /// The same for one that may wait for company: it leaves with what is queued next, once more than `gather` bytes
    /// wait, or when it is [told to](Self::leave). While a [`ReadHold`](crate::ReadHold) lives it leaves at once: what
    /// was to tell it may not be read.
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
    /// left, once the handler was told of the connection's end: until then a last write may be under way.
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
        wait(&self.0.room, || self.takes_no_more() || self.0.outbox.bytes() <= high).await;
        if self.takes_no_more() { Err(SendError::Closed) } else { Ok(()) }
    }

    /// Waits until the socket has taken all that was queued before the first poll, whatever others queue meanwhile.
    ///
    /// # Cancel safety
    /// It only watches.
    ///
    /// # Errors
    /// `Closed`, unless all had left before the end.
    pub async fn flushed(&self) -> Result<(), SendError> {
        let end = self.0.outbox.end();
        self.leave();
        // What an end has dropped is not part of the stream: then all of it seems to have left.
        let was_closed = self.is_closed();
        wait(&self.0.room, || self.is_closed() || self.0.outbox.has_left(end)).await;
        if !was_closed && self.0.outbox.has_left(end) { Ok(()) } else { Err(SendError::Closed) }
    }

    async fn send_in_turn(&self, frame: &Bytes) -> Result<(), SendError> {
        let waiting = Waiting::new(self, frame.len())?;
        loop {
            waiting.room().await?;
            match waiting.queue(|| self.try_send(frame.clone())) {
                Err(SendError::Full) => {} // others were quicker: it is more than half full again
                done => return done,
            }
        }
    }

    fn queue(&self, frame: Frame<'_>, bound: usize, gather: usize) -> Result<Pushed, SendError> {
        let marks = Marks { gather, ..self.marks() };
        let shared = &*self.0.shared;
        let now = if matches!(frame, Frame::Shared(_)) { lane::now } else { Instant::now };
        let pushed = self.0.outbox.push(frame, bound, marks, &shared.queued, now);
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
        // A thread that ends has none any more, and may still send as it drops what it has.
        let mut scratch = SCRATCH.try_with(RefCell::take).unwrap_or_default();
        scratch.clear();
        scratch.reserve(LEAST_SCRATCH_BYTES);
        let encoded = self.0.shared.protocol.encode::<Json, _>(head, body, &mut scratch);
        let queued = match encoded {
            Ok(()) => self.queue(Frame::Slice(&mut scratch), bound, gather).map(|pushed| pushed.at),
            Err(e) => Err(e.into()),
        };
        // Linked, its memory is the frame's: what would be left of it grows by a copy of all. And a large one that was
        // refused would go along with the next frame that is linked, which counts as its own few bytes.
        if scratch.is_empty() || scratch.capacity() > KEEP_SCRATCH_BYTES {
            scratch = BytesMut::new();
        }
        let _ = SCRATCH.try_with(|kept| kept.replace(scratch));
        queued
    }
}

impl<P: Protocol> Connection for Conn<P> {
    fn id(&self) -> ConnectionId {
        self.0.id
    }

    fn peer(&self) -> String {
        self.0.endpoints.peer.clone()
    }

    fn session(&self) -> Option<&Session> {
        self.0.session.get().map(Box::as_ref)
    }

    fn open_session(&self, session: Session) -> bool {
        !self.0.settled.swap(true, SeqCst) && self.0.session.set(Box::new(session)).is_ok()
    }

    fn settle(&self) {
        if !self.0.settled.load(Relaxed) {
            self.0.settled.store(true, SeqCst);
        }
    }

    fn set_provider(&self) {
        // Its task sleeps by the other heartbeat's times.
        if !self.0.provider.swap(true, Relaxed) {
            self.wake();
        }
    }

    fn patience_left(&self) -> Option<Duration> {
        let until = self.known_end()?.silent_until?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    fn encode<B: Encode>(&self, head: Head<'_>, body: &B) -> Result<Bytes, EncodeError> {
        let mut out = BytesMut::new();
        self.0.shared.protocol.encode::<Json, _>(head, body, &mut out)?;
        Ok(out.freeze())
    }

    fn answer<B: Encode>(&self, id: &[u8], body: &B) -> Result<(), SendError> {
        self.queue_encoded(Head::new(body.kind(), id), body, UNBOUNDED, 0).map(drop)
    }

    fn try_answer<B: Encode>(&self, id: &[u8], body: &B) -> Result<(), SendError> {
        let limits = &self.0.shared.limits;
        if self.0.outbox.glance() > limits.high_water() {
            return Err(SendError::Full);
        }
        // There is room; and a connection of ours that is about to end still takes answers, which have no bound.
        self.queue_encoded(Head::new(body.kind(), id), body, UNBOUNDED, 0).map(drop)
    }

    fn try_send(&self, frame: Bytes) -> Result<(), SendError> {
        self.queue(Frame::Own(frame), self.0.shared.limits.queue_bytes, 0).map(drop)
    }

    fn request<B: Encode>(&self, head: Head<'_>, body: &B) -> Result<u64, SendError> {
        self.queue_encoded(head, body, self.0.shared.limits.queue_bytes, 0)
    }

    fn sent_bytes(&self) -> u64 {
        self.0.outbox.taken()
    }

    async fn send(&self, frame: Bytes) -> Result<(), SendError> {
        let sent = self.send_in_turn(&frame).await;
        if matches!(sent, Err(SendError::Full)) {
            add(&self.0.shared.metrics.slow_readers);
        }
        sent
    }

    fn queue_bound(&self) -> usize {
        self.0.shared.limits.queue_bytes
    }

    fn share(&self, frame: Bytes) -> Shared {
        Shared::new(Bytes::from_owner(Counted::new(frame, Arc::clone(&self.0.shared))))
    }

    fn max_shared_bytes(&self) -> usize {
        // Escaped once more, a message that is written as text at most doubles.
        MAX_SHARED_BYTES.min(self.0.shared.limits.max_frame_bytes / 2)
    }

    fn push(&self, frame: &Shared, from: Option<&Self>) -> Result<(), SendError> {
        lane::pushed();
        let pushed = self.queue(Frame::Shared(frame.frame()), self.0.shared.limits.queue_bytes, 0);
        if matches!(pushed, Err(SendError::Full)) {
            add(&self.0.shared.metrics.slow_readers);
        }
        let pushed = pushed?;
        if let Some(publisher) = from.filter(|publisher| pushed.behind && *publisher != self) {
            add(&self.0.shared.metrics.holds);
            let held = self.0.outbox.hold(publisher.hold_reading(), self.marks(), lane::now());
            // Its task must look at the clock; one that came too late is dropped here, and no lock is held.
            wake(held.ok().flatten());
        }
        Ok(())
    }

    fn max_queued_bytes(&self) -> usize {
        self.0.shared.limits.queue_bytes
    }

    fn queued_bytes(&self) -> usize {
        self.0.outbox.glance()
    }

    fn once_written_down_to(&self, bytes: usize, then: Box<dyn FnOnce() + Send>) -> bool {
        self.0.outbox.once_down_to(bytes, Then(then))
    }

    fn enter_request(&self) -> bool {
        let before = self.0.in_flight.fetch_add(1, SeqCst);
        let bound = self.0.shared.limits.in_flight.saturating_add_signed(self.0.aside.load(SeqCst));
        let has_room = self.0.session.get().is_none() || before < bound;
        if !has_room {
            self.end_request();
        }
        has_room
    }

    fn max_in_flight(&self) -> usize {
        self.0.shared.limits.in_flight
    }

    fn enter_aside(&self) -> bool {
        if self.0.shared.serves {
            return self.enter_request();
        }
        self.set_aside();
        self.0.in_flight.fetch_add(1, SeqCst);
        true
    }

    fn set_aside(&self) {
        if !self.0.shared.serves {
            self.0.aside.fetch_add(1, SeqCst);
        }
    }

    fn end_aside(&self) {
        self.end_request();
        if !self.0.shared.serves {
            self.0.aside.fetch_sub(1, SeqCst);
        }
    }

    fn end_request(&self) {
        let before = self.0.in_flight.fetch_sub(1, SeqCst);
        if before == 1 && self.0.is_over.load(SeqCst) {
            self.0.shared.has_lingered(self.0.id);
        }
        // The task waits for this where it stopped reading at the limit, or at the last one where the peer has ended.
        if before == 1 || before == self.0.shared.limits.in_flight {
            self.wake();
        }
    }

    fn close(&self, reason: Cow<'static, str>) {
        self.finish(End::fault(reason));
    }

    fn count(&self, event: Event) {
        if event == Event::Cancelled && !self.is_cut() {
            self.0.shared.given_up.fetch_add(1, SeqCst);
        }
        if event == Event::Ignored {
            lane::unasked();
        }
        self.0.shared.metrics.count(event);
    }
}

#[cfg(test)]
mod tests;
