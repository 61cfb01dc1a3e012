//! Frames that wait for room, each in the hands of a task: how many there may be.

use std::sync::atomic::Ordering::Relaxed;

use callboard_common::{Protocol, SendError};
use tokio::time::{Instant, timeout_at};

use super::Conn;
use crate::later::later;

/// A frame that waits until there is room in its connection's outbox. It counts against the total like what is queued.
///
/// What is queued and what waits may be `queue_bytes` together, however long that takes. Beyond that a frame waits only as
/// long as the peer takes something now and then, and only if no more waits for this peer than others leave free of the
/// total: so whoever asks for much at once and reads it gets all, who does not read holds no more than its bound, and for
/// others there is always some room.
pub(super) struct Waiting<'a, P: Protocol> {
    conn: &'a Conn<P>,
    bytes: usize,
    is_beyond: bool,
}

impl<'a, P: Protocol> Waiting<'a, P> {
    /// # Errors
    /// `Full`: it may not wait.
    pub(super) fn new(conn: &'a Conn<P>, bytes: usize) -> Result<Self, SendError> {
        let (shared, limits) = (conn.shared(), &conn.shared().limits);
        let own = conn.0.waiting.fetch_add(bytes, Relaxed).saturating_add(bytes);
        shared.about_to_queue(bytes);
        // From here on it gives them back itself.
        let is_beyond = conn.outbox().glance().saturating_add(own) > limits.queue_bytes;
        let this = Self { conn, bytes, is_beyond };
        if is_beyond && own > limits.total_queue_bytes.saturating_sub(shared.queued.load(Relaxed)) {
            return Err(SendError::Full);
        }
        shared.check_queued();
        Ok(this)
    }

    /// Waits for room.
    pub(super) async fn room(&self) -> Result<(), SendError> {
        if !self.is_beyond {
            return self.conn.room().await;
        }
        loop {
            let until = self.stalls_at();
            if let Ok(room) = timeout_at(until, self.conn.room()).await {
                return room;
            }
            if self.stalls_at() <= Instant::now() {
                return Err(SendError::Full);
            }
        }
    }

    /// Queues what has waited: meanwhile it does not count twice.
    pub(super) fn queue(&self, queue: impl FnOnce() -> Result<(), SendError>) -> Result<(), SendError> {
        self.conn.shared().unqueued(self.bytes);
        let queued = queue();
        self.conn.shared().about_to_queue(self.bytes);
        queued
    }

    fn stalls_at(&self) -> Instant {
        let (_, progress) = self.conn.outbox().load();
        later(progress, self.conn.shared().limits.stall)
    }
}

impl<P: Protocol> Drop for Waiting<'_, P> {
    fn drop(&mut self) {
        self.conn.0.waiting.fetch_sub(self.bytes, Relaxed);
        self.conn.shared().unqueued(self.bytes);
    }
}
