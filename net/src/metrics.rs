use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use callboard_common::Event;

/// What a server counts; each bound has its row. Read as a [`MetricsSnapshot`].
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) accepted: AtomicU64,
    pub(crate) closed: AtomicU64,
    pub(crate) turned_away: AtomicU64,
    pub(crate) accept_failures: AtomicU64,
    pub(crate) accept_pauses: AtomicU64,
    pub(crate) frames_in: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) protocol_errors: AtomicU64,
    pub(crate) frame_timeouts: AtomicU64,
    pub(crate) slow_readers: AtomicU64,
    pub(crate) evicted: AtomicU64,
    pub(crate) peers_dead: AtomicU64,
    pub(crate) holds: AtomicU64,
    pub(crate) turns_cut: AtomicU64,
    pub(crate) ignored: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) overloaded: AtomicU64,
    pub(crate) panicked: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) cancelled: AtomicU64,
}

/// What a server has counted since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MetricsSnapshot {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections ended, for whatever reason.
    pub closed: u64,
    /// Connections closed at once, since there were `max_connections`.
    pub turned_away: u64,
    /// Times that accepting failed, for example for lack of file descriptors.
    pub accept_failures: u64,
    /// Times that a listener let nobody in for up to 20 ms, since more than `churn_per_second` had ended.
    pub accept_pauses: u64,
    /// Frames read.
    pub frames_in: u64,
    /// Bytes read.
    pub bytes_in: u64,
    /// Bytes written.
    pub bytes_out: u64,
    /// Connections closed for bytes that are no frame, or one over the bound.
    pub protocol_errors: u64,
    /// Connections closed for a frame that stayed unfinished.
    pub frame_timeouts: u64,
    /// Messages and answers that did not fit into their peer's outbox.
    pub slow_readers: u64,
    /// Connections closed since a total was reached and they were the most stalled.
    pub evicted: u64,
    /// Connections closed since nothing was heard from the peer for the time that its session allows.
    pub peers_dead: u64,
    /// Times that a publisher was held back for a subscriber that was behind.
    pub holds: u64,
    /// Turns of connections that ended before all was done that was at hand, so that others had theirs.
    pub turns_cut: u64,
    /// Messages ignored: responses that nobody awaits, unknown odd kinds.
    pub ignored: u64,
    /// Requests refused before they reached a handler.
    pub refused: u64,
    /// Requests answered OVERLOADED.
    pub overloaded: u64,
    /// Handlers that panicked.
    pub panicked: u64,
    /// Calls that were not run, since their callers' deadlines had passed while they waited.
    pub expired: u64,
    /// Calls that were ended, or not run, since their callers had gone.
    pub cancelled: u64,
    /// Connections open now.
    pub connections: u64,
    /// Bytes that wait in all outboxes now.
    pub queued_bytes: u64,
    /// Bytes that all unfinished frames hold now.
    pub partial_bytes: u64,
}

impl Metrics {
    pub(crate) fn count(&self, event: Event) {
        match event {
            Event::Ignored => add(&self.ignored),
            Event::Overloaded => add(&self.overloaded),
            Event::Panicked => add(&self.panicked),
            Event::Expired => add(&self.expired),
            Event::Cancelled => add(&self.cancelled),
            _ => add(&self.refused),
        }
    }

    /// The counters; what is true now is filled in by the one who knows.
    pub(crate) fn snapshot(&self) -> MetricsSnapshot {
        MetricsSnapshot {
            accepted: self.accepted.load(Relaxed),
            closed: self.closed.load(Relaxed),
            turned_away: self.turned_away.load(Relaxed),
            accept_failures: self.accept_failures.load(Relaxed),
            accept_pauses: self.accept_pauses.load(Relaxed),
            frames_in: self.frames_in.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            protocol_errors: self.protocol_errors.load(Relaxed),
            frame_timeouts: self.frame_timeouts.load(Relaxed),
            slow_readers: self.slow_readers.load(Relaxed),
            evicted: self.evicted.load(Relaxed),
            peers_dead: self.peers_dead.load(Relaxed),
            holds: self.holds.load(Relaxed),
            turns_cut: self.turns_cut.load(Relaxed),
            ignored: self.ignored.load(Relaxed),
            refused: self.refused.load(Relaxed),
            overloaded: self.overloaded.load(Relaxed),
            panicked: self.panicked.load(Relaxed),
            expired: self.expired.load(Relaxed),
            cancelled: self.cancelled.load(Relaxed),
            ..MetricsSnapshot::default()
        }
    }
}

pub(crate) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
