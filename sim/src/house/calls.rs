use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use callboard_client::{RetryBudget, RetryMetrics, RetryPolicy};
use callboard_common::Executed;
use callboard_registry::Caller;

use super::{METHOD, Report};
use crate::Sim;
use crate::sim::lock;

/// All calls of a run: what their callers were told, and what the providers did.
#[derive(Debug)]
pub(super) struct Calls {
    sim: Sim,
    made: AtomicU64,
    failed: AtomicU64,
    /// How often each was executed.
    executed: Mutex<BTreeMap<u64, usize>>,
    /// Those of which the caller was told that they were not executed.
    said_not_executed: Mutex<BTreeSet<u64>>,
}

impl Calls {
    pub(super) fn new(sim: &Sim) -> Self {
        Self {
            sim: sim.clone(),
            made: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            executed: Mutex::default(),
            said_not_executed: Mutex::default(),
        }
    }

    /// A provider executes a call.
    pub(super) fn execute(&self, call: u64) -> u64 {
        let times = {
            let mut executed = lock(&self.executed);
            let times = executed.entry(call).or_default();
            *times += 1;
            *times
        };
        if times > 1 && !is_idempotent(call) {
            self.sim.fail(format!("call {call} was executed {times} times"));
        }
        2 * call
    }

    /// Makes one call, and says why it was not answered.
    pub(super) async fn call(&self, caller: &Caller) -> Result<(), String> {
        let call = self.made.fetch_add(1, Relaxed);
        let idempotent = || caller.idempotent().with_retry(OFTEN).with_hedge(HEDGE);
        let tuned = if is_idempotent(call) { idempotent() } else { caller.clone() };
        let outcome = tuned.call::<u64>(METHOD, &call).await;
        self.check_budget(caller);
        let error = match outcome {
            Ok(twice) => {
                assert_eq!(twice, 2 * call, "call {call} got the answer to another call");
                assert!(lock(&self.executed).contains_key(&call), "call {call} was answered, but not executed");
                return Ok(());
            }
            Err(error) => error,
        };
        self.sim.note(|| format!("call {call}: {error}"));
        self.failed.fetch_add(1, Relaxed);
        match error.executed() {
            Executed::Yes => panic!("call {call} was executed, and its answer is lost: {error}"),
            Executed::No => drop(lock(&self.said_not_executed).insert(call)),
            Executed::Unknown => {}
        }
        Err(error.to_string())
    }

    /// No caller repeats more than its calls have earned.
    fn check_budget(&self, caller: &Caller) {
        let RetryMetrics { calls, retries, hedges, .. } = caller.retry_metrics();
        let earned = calls * u64::from(BUDGET.percent) / 100;
        if retries + hedges > earned {
            self.sim
                .fail(format!("{retries} retries and hedges ({hedges}) of {calls} calls, which had earned {earned}"));
        }
    }

    /// What was said not to be executed was not.
    ///
    /// # Panics
    /// If it was.
    pub(super) fn check(&self) {
        let executed = lock(&self.executed);
        let wrong: Vec<_> =
            lock(&self.said_not_executed).iter().filter(|n| executed.contains_key(n)).copied().collect();
        assert!(wrong.is_empty(), "calls {wrong:?} were executed, and their callers were told that they were not");
    }

    pub(super) fn count(&self, report: &mut Report) {
        report.calls += self.made.load(Relaxed);
        report.failed += self.failed.load(Relaxed);
    }
}

/// Every third call does no harm when it is executed twice.
const fn is_idempotent(call: u64) -> bool {
    call.is_multiple_of(3)
}

/// How idempotent calls are made: several tries fit into the deadline.
const OFTEN: RetryPolicy = RetryPolicy {
    tries: 6,
    per_try: Some(Duration::from_millis(300)),
    first: Duration::from_millis(10),
    longest: Duration::from_millis(100),
};
/// More than a call takes in peace.
const HEDGE: Duration = Duration::from_millis(50);
/// So tight that faults use it up.
pub(super) const BUDGET: RetryBudget = RetryBudget { percent: 20, reserve: 0, most: 50 };
