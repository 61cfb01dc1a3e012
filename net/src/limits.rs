use std::time::Duration;

use callboard_common::{Heartbeat, Heartbeats};

use crate::KeepAlive;

/// The bounds of a server or of a client's connection. Each has a policy for when it is reached, which stands with it.
///
/// ```
/// use callboard_net::Limits;
/// let limits = Limits { max_frame_bytes: 1 << 20, ..Limits::default() };
/// assert!(limits.check().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest frame in bytes, as its length field counts them. Default 16 MiB. A larger one closes its connection,
    /// before anything is allocated for it.
    pub max_frame_bytes: usize,
    /// What may wait in one connection's outbox, in bytes. Default 64 MiB; at least twice `max_frame_bytes`, so that
    /// what finds it at most half full always fits. Above half of it the connection itself is not read, and publishers
    /// to it are held back while it makes progress (above 1 MiB for 5 ms at a time); past it a message or notice for it
    /// closes it. Answers that tasks give wait for room, up to this bound too; past it as long as the peer takes something
    /// within `stall` and others leave room for them, else their callers are told OVERLOADED in their place.
    pub queue_bytes: usize,
    /// Requests of one connection that wait for their answers. Default 1,024. Past it a v1 peer is not read, and a
    /// session peer is answered OVERLOADED.
    pub in_flight: usize,
    /// Connections of a server. Default 100,000. Past it a new one is closed at once.
    pub max_connections: usize,
    /// Connections that may end in a second, 50 at least. Default 5,000. Where more come and go, each listener lets in no
    /// more than that in a second, and who connects waits in the system's queue, so that those who are there are served.
    /// A fifth of so many may end at once without that. Who comes and stays does not count: after a restart all may
    /// come back at once.
    pub churn_per_second: usize,
    /// How long a started frame may go without a byte. Default 10 s. Then its connection is closed.
    pub frame_silence: Duration,
    /// How fast a started frame must come: it has `frame_silence` and a second for each so many bytes. Default 64 KiB.
    pub frame_bytes_per_second: usize,
    /// How long a connection whose peer sends no more is kept for the answers that are due. Default 60 s. Then it is
    /// closed: such a peer can't be told from one that has gone.
    pub half_closed: Duration,
    /// When a session peer that says nothing is asked for a sign of life, and when it is taken for dead and its
    /// connection closed. Default: callers after 15 s and 45 s, providers after 1 s and 3 s. Shorter times notice a
    /// silent death sooner, and take a peer for dead that was only stopped for as long.
    pub heartbeats: Heartbeats,
    /// How the kernel finds out about a peer that is gone without a word. Default: an idle one after 45 s.
    pub keep_alive: KeepAlive,
    /// How long a reader that takes no byte is still waited for. Default 500 ms. A socket takes more only once a good part
    /// of its buffer is free again: who reads less than some 300 KB a second while much waits seems to take none for as
    /// long. Set more for such readers.
    pub stall: Duration,
    /// What may wait in all outboxes of a server and for room in them, in bytes, at least `max_frame_bytes`; a frame that
    /// goes to many counts once. Default 512 MiB. Past it the peer that has taken nothing for longest is closed.
    pub total_queue_bytes: usize,
    /// What all unfinished frames of a server may hold, in bytes, at least `max_frame_bytes`. Default 256 MiB. Past it
    /// the connection whose frame has had no byte for longest is closed.
    pub total_partial_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_frame_bytes: callboard_common::DEFAULT_MAX_FRAME_BYTES,
            queue_bytes: 64 << 20,
            in_flight: 1024,
            max_connections: 100_000,
            churn_per_second: 5000,
            frame_silence: Duration::from_secs(10),
            frame_bytes_per_second: 64 << 10,
            half_closed: Duration::from_mins(1),
            heartbeats: Heartbeats::default(),
            keep_alive: KeepAlive::default(),
            stall: Duration::from_millis(500),
            total_queue_bytes: 512 << 20,
            total_partial_bytes: 256 << 20,
        }
    }
}

/// One is let in after each of the longest pauses.
const LEAST_CHURN: usize = 50;

/// Bounds that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitsError {
    /// A frame that is permitted might not fit into an outbox that has room.
    #[error("queue_bytes ({queue_bytes}) must be at least twice max_frame_bytes ({max_frame_bytes})")]
    QueueBelowFrame {
        /// The outbox's bound.
        queue_bytes: usize,
        /// The frame's bound.
        max_frame_bytes: usize,
    },
    /// A peer would be taken for dead before it was asked.
    #[error("heartbeats: a peer that is asked after {interval:?} can't be taken for dead after {dead:?} already")]
    DeadBeforeAsked {
        /// After so long it is asked.
        interval: Duration,
        /// After so long it is dead.
        dead: Duration,
    },
    /// A bound at which nothing would work.
    #[error("{name} must be at least {least}")]
    TooSmall {
        /// Which bound.
        name: &'static str,
        /// What it must be at least.
        least: usize,
    },
}

impl Limits {
    /// Whether the bounds fit together.
    ///
    /// # Errors
    /// Names the bound that doesn't.
    pub fn check(&self) -> Result<(), LimitsError> {
        let least = [
            ("max_frame_bytes", self.max_frame_bytes, 1024),
            ("in_flight", self.in_flight, 1),
            ("max_connections", self.max_connections, 1),
            ("churn_per_second", self.churn_per_second, LEAST_CHURN),
            ("frame_bytes_per_second", self.frame_bytes_per_second, 1),
            ("total_queue_bytes", self.total_queue_bytes, self.max_frame_bytes),
            ("total_partial_bytes", self.total_partial_bytes, self.max_frame_bytes),
        ];
        if let Some((name, _, least)) = least.into_iter().find(|(_, value, least)| value < least) {
            return Err(LimitsError::TooSmall { name, least });
        }
        for Heartbeat { interval, dead } in [self.heartbeats.caller, self.heartbeats.provider] {
            if interval.is_zero() || dead <= interval {
                return Err(LimitsError::DeadBeforeAsked { interval, dead });
            }
        }
        if self.queue_bytes / 2 < self.max_frame_bytes {
            let (queue_bytes, max_frame_bytes) = (self.queue_bytes, self.max_frame_bytes);
            return Err(LimitsError::QueueBelowFrame { queue_bytes, max_frame_bytes });
        }
        Ok(())
    }

    /// Above so many bytes an outbox counts as behind.
    pub(crate) fn high_water(&self) -> usize {
        self.queue_bytes / 2
    }

    /// How long a frame of so many bytes may take from its first byte to its last.
    pub(crate) fn frame_time(&self, frame_bytes: usize) -> Duration {
        let seconds = frame_bytes / self.frame_bytes_per_second.max(1);
        self.frame_silence.saturating_add(Duration::from_secs(seconds as u64))
    }
}
