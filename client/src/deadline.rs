use std::time::Duration;

use callboard_common::CallMeta;
use callboard_net::later;
use tokio::time::Instant;

/// When a call is over, and how long it was given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    began: Instant,
    at: Instant,
    after: Duration,
}

impl Deadline {
    /// So long from now; centuries count as a century.
    pub(crate) fn after(after: Duration) -> Self {
        let began = Instant::now();
        Self { began, at: later(began, after), after }
    }

    /// That of one try, which may take so long at most, from now on.
    pub(crate) fn of_try(self, limit: Option<Duration>) -> Self {
        let Some(limit) = limit else { return self };
        let of_try = Self::after(limit);
        if of_try.at < self.at { of_try } else { self }
    }

    /// What is left.
    pub(crate) fn left(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    pub(crate) fn at(&self) -> Instant {
        self.at
    }

    /// What it was given, for errors.
    pub(crate) fn given(&self) -> Duration {
        self.after
    }

    /// What is left, as a peer is told.
    pub(crate) fn left_ms(&self) -> u64 {
        CallMeta::time_left(self.left())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn less_than_a_millisecond_is_not_told_as_none() {
        for (micros, ms) in [(0, 0), (1, 1), (999, 1), (1_000, 1), (1_999, 1), (2_000, 2)] {
            assert_eq!(Deadline::after(Duration::from_micros(micros)).left_ms(), ms, "{micros}");
        }
    }
}
