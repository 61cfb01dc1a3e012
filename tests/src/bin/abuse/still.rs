//! When the center's cores stood still: the machine shares them with others, and while one of those has a core nothing runs
//! on it here.
//!
//! Of an operation in a hundred, which is what delays are told of, such times would say more than the center does: a core
//! that others have for a hundredth of the time, 10 ms at once, makes all of these.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::thread::sched_setaffinity;

use crate::cores::set;

/// A thread on each core that wants it for a moment, again and again, and before all others.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Vec<Still>>>>,
}

/// A time in which a core did not run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Still {
    from: Duration,
    until: Duration,
}

impl Watch {
    /// Times are those since the start.
    pub(crate) fn start(start: Instant, cores: &[usize]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = cores.iter().map(|core| {
            let (core, stop) = (*core, Arc::clone(&stop));
            thread::spawn(move || {
                sched_setaffinity(None, &set(&[core]))?;
                Ok(watch(
                    || start.elapsed(),
                    || {
                        thread::sleep(PAUSE);
                        !stop.load(SeqCst)
                    },
                ))
            })
        });
        Self { threads: threads.collect(), stop }
    }

    pub(crate) fn end(self) -> Result<Vec<Still>> {
        self.stop.store(true, SeqCst);
        let mut all = Vec::new();
        for thread in self.threads {
            all.extend(thread.join().ok().context("who looks at the clock panicked")??);
        }
        Ok(all)
    }
}

/// It looks at the clock before and after each pause; the last one says that there are no more.
fn watch(now: impl Fn() -> Duration, mut pause: impl FnMut() -> bool) -> Vec<Still> {
    let mut found = Vec::new();
    let mut goes_on = true;
    while goes_on {
        let from = now();
        goes_on = pause();
        let until = now();
        if until.saturating_sub(from) >= PAUSE + SHORTEST {
            found.push(Still { from, until });
        }
    }
    found
}

impl Still {
    pub(crate) fn time(self) -> Duration {
        self.until.saturating_sub(self.from + PAUSE)
    }

    /// Whether part of it lies between these times.
    pub(crate) fn is_in(self, from: Duration, until: Duration) -> bool {
        self.until >= from && self.from <= until
    }

    /// Whether an operation that was due then is left out. That must not depend on how long it took, or those that take long
    /// were left out the more often.
    fn spoils(self, due: Duration) -> bool {
        due + BEFORE >= self.from && due <= self.until + AFTER
    }
}

pub(crate) fn is_spoiled(stills: &[Still], due: Duration) -> bool {
    stills.iter().any(|still| still.spoils(due))
}

const PAUSE: Duration = Duration::from_micros(500);
/// The kernel's own work keeps a core from whoever comes first for a third of a millisecond.
const SHORTEST: Duration = Duration::from_millis(1);
/// Nearly all operations are answered by then, attacked or not.
const BEFORE: Duration = Duration::from_millis(5);
/// By then what has come meanwhile is worked off.
const AFTER: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn what_is_due_about_a_still_time_is_left_out() {
        let ms = Duration::from_millis;
        let still = Still { from: ms(100), until: ms(110) };
        for (due, spoiled) in [(94, false), (95, true), (105, true), (130, true), (131, false)] {
            assert_eq!(is_spoiled(&[Still { from: ms(0), until: ms(2) }, still], ms(due)), spoiled, "{due}");
        }
        assert_eq!(still.time() + PAUSE, ms(10));
        assert!(still.is_in(ms(0), ms(100)) && still.is_in(ms(110), ms(200)));
        assert!(!still.is_in(ms(0), ms(99)) && !still.is_in(ms(111), ms(200)));
    }

    #[test]
    fn a_pause_that_lasts_for_too_long_is_a_still_time() {
        let clock = Cell::new(Duration::ZERO);
        let longer = [Duration::ZERO, SHORTEST / 2, SHORTEST, Duration::ZERO, 9 * SHORTEST];
        let mut pauses = longer.iter();
        let found = watch(
            || clock.get(),
            || {
                clock.set(clock.get() + PAUSE + *pauses.next().unwrap());
                pauses.len() > 0
            },
        );
        assert_eq!(found.iter().map(|still| still.time()).collect::<Vec<_>>(), [SHORTEST, 9 * SHORTEST]);
        assert_eq!(found[0].from, 2 * PAUSE + SHORTEST / 2);
        assert_eq!(found[1].until, clock.get());
    }
}
