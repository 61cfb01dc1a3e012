//! What processes use, read from `/proc`.
use std::fs;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};

use crate::Opt;
use crate::strangers::{Others, Stranger};

/// Nanoseconds of the machine's monotonic clock, the same in every process.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// User and system time of a process, in seconds.
pub fn cpu(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    Stat::of(&stat).map_or(0.0, |stat| stat.own)
}

/// A field of `/proc/PID/status` in KiB (`VmRSS`, `VmHWM`); 0 for a process that is gone.
pub fn status_kb(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

/// The sum of a field over several processes.
pub(crate) fn sum_kb(pids: &[u32], field: &str) -> u64 {
    pids.iter().map(|&pid| status_kb(pid, field)).sum()
}

/// CPU seconds within the measured window.
#[derive(Debug)]
pub(crate) struct Used {
    pub(crate) server: f64,
    pub(crate) helpers: f64,
    pub(crate) own: f64,
    /// The most demanding first.
    pub(crate) strangers: Vec<Stranger>,
    /// Network work of ours that the kernel left to threads of its own.
    pub(crate) softirqd: f64,
    pub(crate) interrupts: f64,
    pub(crate) stolen: f64,
}

impl Used {
    /// What all strangers took together.
    pub(crate) fn foreign(&self) -> f64 {
        self.strangers.iter().map(|stranger| stranger.used).sum()
    }

    /// Who they were, and how many CPUs each took.
    pub(crate) fn who(&self, secs: f64) -> Vec<(&str, f64)> {
        self.strangers.iter().map(|stranger| (stranger.name.as_str(), stranger.used / secs)).collect()
    }
}

/// Samples at both ends of the window from a plain thread, so that a busy runtime does not delay it.
pub(crate) fn sampler(opt: &Opt, start: Instant, end: Instant) -> JoinHandle<Used> {
    let (server, helpers) = (opt.pids.clone(), opt.sub_pids.clone());
    thread::spawn(move || {
        sleep_until(start);
        let before = Sample::take(&server, &helpers);
        sleep_until(end);
        Sample::take(&server, &helpers).since(&before, (end - start).as_secs_f64())
    })
}

fn sleep_until(at: Instant) {
    thread::sleep(at.saturating_duration_since(Instant::now()));
}

struct Sample {
    server: f64,
    helpers: f64,
    own: f64,
    others: Others,
    interrupts: f64,
    stolen: f64,
}

impl Sample {
    fn take(server: &[u32], helpers: &[u32]) -> Self {
        let (interrupts, stolen) = interrupts_and_stolen();
        let ours = |pid: u32| pid == std::process::id() || server.contains(&pid) || helpers.contains(&pid);
        Self {
            server: server.iter().copied().map(cpu).sum(),
            helpers: helpers.iter().copied().map(cpu).sum(),
            own: cpu(std::process::id()),
            others: Others::but(ours),
            interrupts,
            stolen,
        }
    }

    fn since(&self, before: &Self, secs: f64) -> Used {
        Used {
            server: self.server - before.server,
            helpers: self.helpers - before.helpers,
            own: self.own - before.own,
            strangers: self.others.since(&before.others, secs),
            softirqd: self.others.softirqd_since(&before.others, secs),
            interrupts: self.interrupts - before.interrupts,
            stolen: self.stolen - before.stolen,
        }
    }
}

/// What `/proc/PID/stat` says of a process: its name and parent, and CPU seconds of its own and of its children that
/// ended.
pub(crate) struct Stat<'a> {
    pub(crate) name: &'a str,
    pub(crate) parent: u32,
    pub(crate) own: f64,
    pub(crate) reaped: f64,
}

impl<'a> Stat<'a> {
    pub(crate) fn of(stat: &'a str) -> Option<Self> {
        // The name, in parentheses, may itself hold spaces and parentheses.
        let (before, fields) = stat.rsplit_once(')')?;
        let (_, name) = before.split_once('(')?;
        let parent = fields.split_whitespace().nth(1)?.parse().ok()?;
        let mut ticks = fields.split_whitespace().skip(11).map_while(|field| field.parse::<f64>().ok());
        let mut pair = || Some((ticks.next()? + ticks.next()?) / ticks_per_second());
        Some(Self { name, parent, own: pair()?, reaped: pair()? })
    }
}

/// Seconds of the whole machine in interrupts, and stolen by the hypervisor.
fn interrupts_and_stolen() -> (f64, f64) {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let seconds = |column: usize| {
        let ticks = line.split_whitespace().nth(column).and_then(|field| field.parse::<f64>().ok());
        ticks.unwrap_or(0.0) / ticks_per_second()
    };
    // cpu user nice system idle iowait irq softirq steal
    (seconds(6) + seconds(7), seconds(8))
}

#[expect(clippy::cast_precision_loss, reason = "it is 100 nearly everywhere")]
fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_it_is_called() {
        let stat = "7 (a) b (c) S 3 7 7 0 -1 4194560 1 2 3 4 150 50 25 75 20 0 1 0 9";
        let Stat { name, parent, own, reaped } = Stat::of(stat).unwrap();
        let ticks = ticks_per_second();
        assert_eq!((name, parent, own, reaped), ("a) b (c", 3, 200.0 / ticks, 100.0 / ticks));
        assert!(Stat::of("").is_none() && Stat::of("7 (a) S 1").is_none());
    }

    #[test]
    fn this_process_has_memory_and_a_clock() {
        assert!(status_kb(std::process::id(), "VmRSS") > 0);
        assert!(now_ns() > 0);
        assert_eq!(status_kb(u32::MAX, "VmRSS"), 0);
    }
}
