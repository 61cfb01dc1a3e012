//! Whether the machine is ours alone while we measure.
use std::fs::{self, File, OpenOptions};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::results::Sample;

/// Locks that others who share the machine hold too while they work; released when dropped.
pub struct Locks(#[expect(dead_code, reason = "held, not read")] Vec<File>);

impl Locks {
    /// Takes them in the order given.
    pub fn take(paths: &[PathBuf]) -> Result<Self> {
        let locked = paths.iter().map(|path| {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
            file.lock()?;
            Ok(file)
        });
        locked.collect::<Result<_>>().map(Self)
    }
}

/// Waits until the machine has been idle for a moment, or for too long.
pub fn wait_until_idle() {
    let began = Instant::now();
    while began.elapsed() < LONGEST_WAIT {
        let (before, since) = (busy_ticks(), Instant::now());
        sleep(LOOK);
        let cpus = (busy_ticks() - before) / TICKS_PER_SECOND / since.elapsed().as_secs_f64();
        if cpus < IDLE {
            return;
        }
    }
}

/// How a run is repeated.
#[derive(Clone, Copy)]
pub struct Patience {
    pub attempts: u32,
    /// CPUs that strangers may take in an attempt that is not repeated.
    pub most_strangers: f64,
    /// Whether it is ours that is measured: what fails or is lost in any attempt then counts.
    pub ours: bool,
}

/// Measures until strangers took no more than they may, with `rest` between attempts, and keeps the quietest.
pub fn quietest(patience: Patience, rest: impl Fn(), mut measure: impl FnMut() -> Result<Sample>) -> Sample {
    let mut tried = Tried::default();
    let began = Instant::now();
    for attempt in 1..=patience.attempts {
        if attempt > 1 {
            rest();
        }
        match measure() {
            Ok(sample) => tried.came(sample, patience),
            // What failed twice will not get better, and neither will what hung.
            Err(failed) => {
                let again = tried.error.is_none() && began.elapsed() < LONG;
                tried.error.get_or_insert_with(|| format!("{failed:#}"));
                if !again {
                    break;
                }
            }
        }
        if let Some(best) = tried.best.as_mut() {
            best.attempts = attempt;
            if best.quiet {
                break;
            }
        }
    }
    tried.outcome(patience)
}

/// What came of the attempts so far.
#[derive(Default)]
struct Tried {
    best: Option<Sample>,
    /// Why an attempt came to nothing.
    error: Option<String>,
}

impl Tried {
    fn came(&mut self, sample: Sample, patience: Patience) {
        let sample = Sample { quiet: sample.strangers <= patience.most_strangers, ..sample };
        self.best = Some(match self.best.take() {
            None => sample,
            Some(best) => {
                let (mut kept, other) = if sample.strangers < best.strangers { (sample, best) } else { (best, sample) };
                if patience.ours {
                    kept.tell_of(&other);
                }
                kept
            }
        });
    }

    fn outcome(self, patience: Patience) -> Sample {
        let Self { best, error } = self;
        let nothing = Sample { attempts: patience.attempts, error, ..Sample::default() };
        let Some(mut best) = best else { return nothing };
        if patience.ours {
            best.tell_of(&nothing);
        }
        best
    }
}

/// Ticks that all CPUs together were not idle.
fn busy_ticks() -> f64 {
    let stat = fs::read_to_string("/proc/stat").context("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line.split_whitespace().skip(1).take(8).map(|field| field.parse().unwrap_or(0.0)).collect();
    let waiting = ticks.iter().skip(3).take(2);
    ticks.iter().sum::<f64>() - waiting.sum::<f64>()
}

/// CPUs that strangers may take before a run is repeated, by default.
pub const MOST_STRANGERS: f64 = 0.15;
const LOOK: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// A failure that took longer is not tried again.
const LONG: Duration = Duration::from_secs(20);
/// CPUs in use below which the machine counts as idle.
const IDLE: f64 = 0.2;
const TICKS_PER_SECOND: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(strangers: f64) -> Sample {
        Sample { strangers, ..Sample::default() }
    }

    const THRICE: Patience = Patience { attempts: 3, most_strangers: 0.1, ours: true };

    #[test]
    fn a_quiet_run_is_not_repeated() {
        let sample = quietest(THRICE, || (), || Ok(sample(0.05)));
        assert_eq!((sample.quiet, sample.attempts), (true, 1));
    }

    #[test]
    fn a_disturbed_run_is_repeated_and_the_quietest_kept() {
        let mut strangers = [0.9, 0.3, 0.5].into_iter();
        let sample = quietest(THRICE, || (), || Ok(sample(strangers.next().unwrap())));
        assert_eq!((sample.quiet, sample.attempts, sample.strangers), (false, 3, 0.3));
    }

    #[test]
    fn a_failure_is_told() {
        let mut tried = 0;
        let failing = || {
            tried += 1;
            anyhow::bail!("no server")
        };
        let sample = quietest(Patience { attempts: 5, ..THRICE }, || (), failing);
        assert_eq!((sample.error.as_deref(), tried), (Some("no server"), 2));
    }

    #[test]
    fn what_failed_or_was_lost_in_an_attempt_of_ours_is_told_though_a_later_one_was_well() {
        let loud = |error: Option<&str>, lost: f64| {
            Ok(Sample { error: error.map(Into::into), figures: [("lost".to_owned(), lost)].into(), ..sample(0.3) })
        };
        let rows = [
            (Err("the center has crashed"), Some("the center has crashed"), None),
            (loud(Some("2 calls failed"), 0.0), Some("2 calls failed"), None),
            (loud(None, 7.0), None, Some(7.0)),
        ];
        for (first, error, lost) in rows {
            for ours in [true, false] {
                let mut attempts = [first.clone(), Ok(sample(0.05))].into_iter();
                let measure = || attempts.next().unwrap().map_err(anyhow::Error::msg);
                let kept = quietest(Patience { ours, ..THRICE }, || (), measure);
                let told = (kept.error.as_deref(), kept.figures.get("lost").copied());
                assert_eq!(told, if ours { (error, lost) } else { (None, None) });
                assert_eq!((kept.quiet, kept.strangers), (true, 0.05));
            }
        }
    }
}
