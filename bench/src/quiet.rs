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

/// Measures until strangers took no more than `most` CPUs, `attempts` times at most with `rest` between, and
/// keeps the quietest.
pub fn quietest(attempts: u32, most: f64, rest: impl Fn(), mut measure: impl FnMut() -> Result<Sample>) -> Sample {
    let mut best: Option<Sample> = None;
    let mut error = None;
    let began = Instant::now();
    for attempt in 1..=attempts {
        if attempt > 1 {
            rest();
        }
        match measure() {
            Ok(sample) => {
                let quieter = best.as_ref().is_none_or(|best| sample.strangers < best.strangers);
                if quieter {
                    best = Some(Sample { quiet: sample.strangers <= most, ..sample });
                }
            }
            // What failed twice will not get better, and neither will what hung.
            Err(failed) => {
                let again = error.is_none() && began.elapsed() < LONG;
                error.get_or_insert_with(|| format!("{failed:#}"));
                if !again {
                    break;
                }
            }
        }
        if let Some(best) = best.as_mut() {
            best.attempts = attempt;
            if best.quiet {
                break;
            }
        }
    }
    best.unwrap_or_else(|| Sample { attempts, error, ..Sample::default() })
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

    #[test]
    fn a_quiet_run_is_not_repeated() {
        let sample = quietest(3, 0.1, || (), || Ok(sample(0.05)));
        assert_eq!((sample.quiet, sample.attempts), (true, 1));
    }

    #[test]
    fn a_disturbed_run_is_repeated_and_the_quietest_kept() {
        let mut strangers = [0.9, 0.3, 0.5].into_iter();
        let sample = quietest(3, 0.1, || (), || Ok(sample(strangers.next().unwrap())));
        assert_eq!((sample.quiet, sample.attempts, sample.strangers), (false, 3, 0.3));
    }

    #[test]
    fn a_failure_is_told() {
        let mut tried = 0;
        let failing = || {
            tried += 1;
            anyhow::bail!("no server")
        };
        let sample = quietest(5, 0.1, || (), failing);
        assert_eq!((sample.error.as_deref(), tried), (Some("no server"), 2));
    }
}
