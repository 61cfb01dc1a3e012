use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;

/// Runs one simulation a seed, on all cores, and hands each outcome to `each` as it comes: what `run` gave, or what it
/// panicked with.
///
/// ```
/// use callboard_sim::{Sim, run_seeds};
///
/// let mut broken = Vec::new();
/// let run = |seed| Sim::run(seed, |sim| async move { assert!(sim.draw(100) < 90, "a promise") });
/// run_seeds(0..50, run, |seed, outcome| broken.extend(outcome.err().map(|why| format!("seed {seed}: {why}"))));
/// assert!(broken.iter().all(|broken| broken.ends_with("a promise")) && !broken.is_empty());
/// ```
///
/// # Panics
/// As `each` does.
pub fn run_seeds<T: Send>(
    seeds: Range<u64>,
    run: impl Fn(u64) -> T + Sync,
    mut each: impl FnMut(u64, Result<T, String>),
) {
    let (next, cores) = (AtomicU64::new(seeds.start), thread::available_parallelism().map_or(1, usize::from));
    let (sender, outcomes) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..cores {
            let sender = sender.clone();
            scope.spawn(|| {
                let sender = sender;
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    let outcome = (seed < seeds.end).then(|| catch_unwind(AssertUnwindSafe(|| run(seed))));
                    let Some(outcome) = outcome else { break };
                    if sender.send((seed, outcome.map_err(|why| text(&*why)))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        for (seed, outcome) in outcomes {
            each(seed, outcome);
        }
    });
}

/// What a panic said.
fn text(why: &(dyn Any + Send)) -> String {
    let text = why.downcast_ref::<String>().map(String::as_str).or_else(|| why.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a text").to_owned()
}
