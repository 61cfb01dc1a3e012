use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};

use callboard::{Caller, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Callers that call without a rest, until they are stopped. The methods are those of `callboard provide --demo`: `add`
/// and `sleep`, in turn, so that there always are calls in flight. [`methods`] are the same and `note`, which is called
/// one-way.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    callers: JoinSet<Report>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    made: AtomicU64,
}

/// What became of the calls.
#[derive(Debug, Default)]
pub struct Report {
    /// Calls that were made, failed ones included.
    pub calls: u64,
    /// How those failed that did: the first few of each caller.
    pub errors: Vec<String>,
    /// How many failed.
    pub failed: u64,
    /// One-way calls that were taken.
    pub notes: u64,
    /// How long the longest one took.
    pub longest: Duration,
}

impl Load {
    /// So many callers, each with connections of its own and one call at a time.
    pub async fn start(center: &str, callers: usize) -> Self {
        Self::start_with(center, callers, 0).await
    }

    /// The same, with several one-way calls behind each call.
    pub async fn start_with_notes(center: &str, callers: usize) -> Self {
        Self::start_with(center, callers, NOTES).await
    }

    async fn start_with(center: &str, callers: usize, notes: u64) -> Self {
        let shared = Arc::<Shared>::default();
        let mut load = Self { shared, callers: JoinSet::new() };
        for _ in 0..callers {
            let caller = Caller::connect(center).await.expect("the center answers");
            load.callers.spawn(call(caller, Arc::clone(&load.shared), notes));
        }
        load
    }

    /// How many calls were made so far.
    pub fn made(&self) -> u64 {
        self.shared.made.load(Relaxed)
    }

    /// Waits until so many more were made.
    pub async fn go_on(&self, calls: u64) {
        let until = self.made() + calls;
        while self.made() < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Lets the calls under way end, and counts.
    pub async fn stop(mut self) -> Report {
        self.shared.stop.store(true, SeqCst);
        let mut all = Report::default();
        while let Some(report) = self.callers.join_next().await {
            all.add(report.expect("a caller does not panic"));
        }
        all
    }
}

impl Report {
    /// Counts what others have made too.
    pub fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.failed += other.failed;
        self.notes += other.notes;
        self.errors.extend(other.errors);
        self.longest = self.longest.max(other.longest);
    }

    fn count(&mut self, took: Duration, outcome: Result<(), String>) {
        self.calls += 1;
        self.longest = self.longest.max(took);
        self.note_failure(outcome);
    }

    fn count_note(&mut self, outcome: Result<(), String>) {
        self.notes += u64::from(outcome.is_ok());
        self.note_failure(outcome);
    }

    fn note_failure(&mut self, outcome: Result<(), String>) {
        if let Err(why) = outcome {
            self.failed += 1;
            if self.errors.len() < SHOWN {
                self.errors.push(why);
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, failed, longest, .. } = self;
        write!(f, "| {calls} | {failed} | {} ms", longest.as_millis())
    }
}

async fn call(caller: Caller, shared: Arc<Shared>, notes: u64) -> Report {
    let mut report = Report::default();
    while !shared.stop.load(SeqCst) {
        let began = Instant::now();
        let outcome = if report.calls % 2 == 0 {
            let sum = caller.call::<i64>("add", &json!({"num1": report.calls, "num2": 1})).await;
            let expected = i64::try_from(report.calls + 1).unwrap_or_default();
            sum.map_err(|error| error.to_string())
                .and_then(|sum| if sum == expected { Ok(()) } else { Err(format!("{sum} in place of {expected}")) })
        } else {
            caller.call::<Value>("sleep", &json!({"ms": 3})).await.map(drop).map_err(|error| error.to_string())
        };
        report.count(began.elapsed(), outcome);
        for _ in 0..notes {
            report.count_note(caller.notify("note", &()).await.map_err(|error| error.to_string()));
        }
        shared.made.fetch_add(1, Relaxed);
        // A call that fails at once waits for nothing: others are to run all the same.
        tokio::task::yield_now().await;
    }
    report
}

/// What a provider has that a load calls; `noted` counts the one-way calls that were executed.
pub fn methods(noted: &Arc<AtomicU64>) -> Router {
    #[derive(Deserialize)]
    struct Pair {
        num1: i64,
        num2: i64,
    }
    #[derive(Deserialize)]
    struct Nap {
        ms: u64,
    }
    let noted = Arc::clone(noted);
    Router::new()
        .method("add", |p: Pair| Ok(p.num1 + p.num2))
        .method_async("sleep", |nap: Nap| async move {
            tokio::time::sleep(Duration::from_millis(nap.ms)).await;
            Ok(())
        })
        .method("note", move |(): ()| {
            noted.fetch_add(1, Relaxed);
            Ok(())
        })
}

/// So many one-way calls follow each call.
const NOTES: u64 = 4;
/// So many errors of a caller are kept.
const SHOWN: usize = 3;
