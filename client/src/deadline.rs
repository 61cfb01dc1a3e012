use std::time::Duration;

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

    /// What is left, in ms.
    pub(crate) fn left_ms(&self) -> u64 {
        u64::try_from(self.left().as_millis()).unwrap_or(u64::MAX)
    }
}
