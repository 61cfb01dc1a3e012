//! What processes use, read from `/proc`.
use std::collections::HashMap;
use std::fs;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};

use crate::Opt;

/// Nanoseconds of the machine's monotonic clock, the same in every process.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// User and system time of a process, in seconds.
pub fn cpu(pid: u32) -> f64 {
    times(pid).own
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
#[derive(Debug, Default)]
pub(crate) struct Used {
    pub(crate) server: f64,
    pub(crate) helpers: f64,
    pub(crate) own: f64,
    pub(crate) strangers: f64,
    pub(crate) interrupts: f64,
    pub(crate) stolen: f64,
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
    others: HashMap<u32, Times>,
    interrupts: f64,
    stolen: f64,
}

impl Sample {
    fn take(server: &[u32], helpers: &[u32]) -> Self {
        let (interrupts, stolen) = interrupts_and_stolen();
        Self {
            server: server.iter().copied().map(cpu).sum(),
            helpers: helpers.iter().copied().map(cpu).sum(),
            own: cpu(std::process::id()),
            others: others(server, helpers),
            interrupts,
            stolen,
        }
    }

    fn since(&self, before: &Self, secs: f64) -> Used {
        Used {
            server: self.server - before.server,
            helpers: self.helpers - before.helpers,
            own: self.own - before.own,
            strangers: strangers(&before.others, &self.others, secs),
            interrupts: self.interrupts - before.interrupts,
            stolen: self.stolen - before.stolen,
        }
    }
}

/// CPU seconds of a process and of its children that ended.
#[derive(Clone, Copy, Default)]
struct Times {
    own: f64,
    reaped: f64,
}

/// Every process but those under measurement. `/proc/stat` would be cheaper, but it is sampled by the tick, which paced
/// loads bias.
fn others(server: &[u32], helpers: &[u32]) -> HashMap<u32, Times> {
    let ours = |pid: &u32| *pid == std::process::id() || server.contains(pid) || helpers.contains(pid);
    let Ok(entries) = fs::read_dir("/proc") else { return HashMap::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| !ours(pid)).map(|pid| (pid, times(pid))).collect()
}

fn strangers(before: &HashMap<u32, Times>, after: &HashMap<u32, Times>, secs: f64) -> f64 {
    let used = after.iter().map(|(pid, now)| {
        let old = before.get(pid);
        let Times { own, reaped } = old.copied().unwrap_or_default();
        let children = now.reaped - reaped;
        // A child reaped now may have lived long before the window.
        let counted = old.is_some() && children > 0.0 && children < secs;
        (now.own - own).max(0.0) + if counted { children } else { 0.0 }
    });
    used.sum()
}

fn times(pid: u32) -> Times {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may itself hold spaces and parentheses.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut ticks = fields.split_whitespace().skip(11).map_while(|field| field.parse::<f64>().ok());
    let mut pair = || (ticks.next().unwrap_or(0.0) + ticks.next().unwrap_or(0.0)) / ticks_per_second();
    Times { own: pair(), reaped: pair() }
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
    fn strangers_are_what_ran_and_what_was_reaped_within_the_window() {
        let at = |own, reaped| Times { own, reaped };
        let before = HashMap::from([(1, at(5.0, 0.0)), (2, at(1.0, 3.0)), (3, at(0.0, 0.0))]);
        let after = HashMap::from([(1, at(5.5, 0.0)), (2, at(1.0, 3.25)), (3, at(0.0, 60.0)), (4, at(0.125, 9.0))]);
        let sum = strangers(&before, &after, 2.0);
        assert!((sum - 0.875).abs() < 1e-9, "{sum}");
    }

    #[test]
    fn this_process_has_memory_and_a_clock() {
        assert!(status_kb(std::process::id(), "VmRSS") > 0);
        assert!(now_ns() > 0);
        assert_eq!(status_kb(u32::MAX, "VmRSS"), 0);
    }
}
