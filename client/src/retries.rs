use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::budget::Budget;
use crate::count::Count;
use crate::tries::{Next, Tries};
use crate::{CallError, ClientBuilder, RetryBudget, RetryMetrics};

/// What all calls of a client share for their retries: the budget, the counters and the dice. The shell around [`Tries`].
///
/// For the layers above, whose calls go over several clients.
pub struct Retries {
    /// Each call counts here, whichever thread makes it.
    calls: Count,
    passed_on: AtomicU64,
    repeated: AtomicU64,
    hedges: AtomicU64,
    refused: AtomicU64,
    purse: Mutex<Purse>,
}

/// What only a try that failed looks into.
struct Purse {
    budget: Budget,
    chance: fastrand::Rng,
}

impl Retries {
    /// For a client of these settings, of which the seed counts.
    pub fn new(budget: RetryBudget, settings: &ClientBuilder) -> Self {
        let chance = settings.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        Self {
            calls: Count::default(),
            passed_on: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            hedges: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            purse: Mutex::new(Purse { budget: Budget::new(budget, Instant::now()), chance }),
        }
    }

    /// A call begins, which earns its part of a repeat.
    pub fn begin(&self) {
        self.calls.add();
    }

    /// A try has failed, and was [noted](Tries::note) if it was made: the pause after which the next one is to be made, none
    /// where it is to go on at once. What is asked stands at [`Tries::next`].
    ///
    /// # Errors
    /// What the caller is told, where there is to be no other try.
    pub fn after(
        &self,
        tries: &mut Tries,
        error: CallError,
        has_others: bool,
        left: Duration,
    ) -> Result<Option<Duration>, CallError> {
        match tries.next(&error, has_others, left, || self.purse().chance.f64()) {
            Next::PassOn { costs } if !costs || self.spend() => {
                tries.pass_on(error.code().is_some());
                self.passed_on.fetch_add(1, Relaxed);
                Ok(None)
            }
            Next::Again(pause) if self.spend() => {
                tries.count();
                self.repeated.fetch_add(1, Relaxed);
                Ok(Some(pause))
            }
            _ => Err(tries.told(error)),
        }
    }

    /// Whether there may be a second try beside one that takes long; it counts from now on.
    pub fn hedge(&self, tries: &mut Tries) -> bool {
        if !tries.has_more() || !self.spend() {
            return false;
        }
        tries.count();
        self.hedges.fetch_add(1, Relaxed);
        true
    }

    /// What has been counted so far.
    pub fn metrics(&self) -> RetryMetrics {
        RetryMetrics {
            calls: self.calls.sum(),
            passed_on: self.passed_on.load(Relaxed),
            retries: self.repeated.load(Relaxed),
            hedges: self.hedges.load(Relaxed),
            budget_refused: self.refused.load(Relaxed),
        }
    }

    fn spend(&self) -> bool {
        #[cfg(feature = "planted")]
        if callboard_common::Planted::BudgetIgnored.is_planted() {
            return true;
        }
        let calls = self.calls.sum();
        let is_allowed = self.purse().budget.spend(calls, Instant::now());
        if !is_allowed {
            self.refused.fetch_add(1, Relaxed);
        }
        is_allowed
    }

    fn purse(&self) -> MutexGuard<'_, Purse> {
        self.purse.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Retries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Retries").field(&self.metrics()).finish()
    }
}
