use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{Adaptive, Took};

/// How many calls may run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Concurrency {
    /// As many as come.
    Unlimited,
    /// So many.
    Fixed(usize),
    /// As many as end within this time, between these bounds.
    Adaptive { least: usize, most: usize, target: Duration },
}

/// Whose calls pass a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passes {
    /// One method's.
    Method,
    /// Those of all that block.
    Blocking,
    /// Those of all.
    All,
}

/// Counts those who have passed it and have not come back. It lies on a line of the cache of its own: the event loops write
/// to it all the time.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Gate {
    running: AtomicUsize,
    limit: AtomicUsize,
    passes: Passes,
    adaptive: Option<Mutex<Adaptive>>,
}

impl Gate {
    pub(crate) fn new(passes: Passes, concurrency: Concurrency) -> Self {
        let (limit, adaptive) = match concurrency {
            Concurrency::Unlimited => (usize::MAX, None),
            Concurrency::Fixed(limit) => (limit, None),
            Concurrency::Adaptive { least, most, target } => {
                let adaptive = Adaptive::new(least, most, target);
                (adaptive.limit(), Some(Mutex::new(adaptive)))
            }
        };
        Self { running: AtomicUsize::new(0), limit: AtomicUsize::new(limit), passes, adaptive }
    }

    pub(crate) const fn passes(&self) -> Passes {
        self.passes
    }

    /// Whether the time counts for which calls are behind it.
    pub(crate) const fn is_timed(&self) -> bool {
        self.adaptive.is_some()
    }

    pub(crate) fn running(&self) -> usize {
        self.running.load(SeqCst)
    }

    /// Passes it, if there is room.
    ///
    /// # Errors
    /// How many have passed it already.
    pub(crate) fn enter(&self) -> Result<(), usize> {
        let limit = self.limit.load(SeqCst);
        let passed = self.running.fetch_update(SeqCst, SeqCst, |running| (running < limit).then_some(running + 1));
        passed.map(drop)
    }

    #[cfg(test)]
    pub(crate) fn has_room(&self) -> bool {
        self.running() < self.limit.load(SeqCst)
    }

    pub(crate) fn leave(&self) {
        self.running.fetch_sub(1, SeqCst);
    }

    /// One who is about to leave was behind it for so long.
    pub(crate) fn took(&self, took: Took) {
        if let Some(adaptive) = &self.adaptive {
            let mut adaptive = adaptive.lock().unwrap_or_else(PoisonError::into_inner);
            adaptive.took(took, self.running());
            self.limit.store(adaptive.limit(), SeqCst);
        }
    }
}
