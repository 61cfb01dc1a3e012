//! Which cores are whose, and how much of them the machine gave to others.

use std::fs::read_to_string;

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Clients and attackers have machines of their own in the field. Here attackers have one half of the cores to themselves,
/// and what their bytes cost until they lie in the center's sockets is worked there; the center has the other half, and so
/// has normal clients' little work.
pub(crate) struct Cores {
    /// All of them, where attackers have none to themselves.
    center: CpuSet,
    hostile: Option<CpuSet>,
    /// The numbers of the center's.
    each: Vec<usize>,
}

/// The time of the center's cores so far, in hundredths of a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Times {
    all: u64,
    stolen: u64,
}

impl Cores {
    /// Divides those of this process, which has the center's from here on. With one core nothing is divided.
    pub(crate) fn divide(divides: bool) -> Result<Self> {
        let all = sched_getaffinity(None)?;
        let each: Vec<_> = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core)).collect();
        if !divides || each.len() < 2 {
            return Ok(Self { center: all, hostile: None, each });
        }
        let (each, hostile) = each.split_at(each.len() / 2);
        let (center, hostile) = (set(each), set(hostile));
        sched_setaffinity(None, &center)?;
        Ok(Self { center, hostile: Some(hostile), each: each.to_vec() })
    }

    /// The numbers of the center's.
    pub(crate) fn each(&self) -> &[usize] {
        &self.each
    }

    pub(crate) fn are_divided(&self) -> bool {
        self.hostile.is_some()
    }

    /// Whatever process this starts has the attackers' cores.
    pub(crate) fn with_hostile<T>(&self, start: impl FnOnce() -> Result<T>) -> Result<T> {
        if let Some(hostile) = &self.hostile {
            sched_setaffinity(None, hostile)?;
        }
        let started = start();
        sched_setaffinity(None, &self.center)?;
        started
    }

    pub(crate) fn times(&self) -> Result<Times> {
        self.times_in(&read_to_string("/proc/stat")?)
    }

    /// Each core has a line: its number behind `cpu`, then its times as user, nice, system, idle, waiting, two kinds of
    /// interrupts, stolen.
    fn times_in(&self, stat: &str) -> Result<Times> {
        let mut times = Times::default();
        for line in stat.lines() {
            let mut words = line.split_whitespace();
            let number = words.next().and_then(|name| name.strip_prefix("cpu")).and_then(|number| number.parse().ok());
            if number.is_some_and(|number: usize| number < CpuSet::MAX_CPU && self.center.is_set(number)) {
                let each: Vec<u64> = words.take(8).map(str::parse).collect::<Result<_, _>>()?;
                times.all += each.iter().sum::<u64>();
                times.stolen += each.get(7).context("no time that was stolen")?;
            }
        }
        Ok(times)
    }
}

impl Times {
    /// How much of the time since then was stolen: other machines had it that share the cores with this one.
    #[expect(clippy::cast_precision_loss, reason = "they are few")]
    pub(crate) fn stolen_since(self, before: Self) -> f64 {
        (self.stolen - before.stolen) as f64 / (self.all - before.all).max(1) as f64
    }
}

pub(crate) fn set(cores: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stolen_of_the_centers_cores_is_read_from_the_systems_times() {
        let cores = Cores { center: set(&[1, 10]), hostile: None, each: vec![1, 10] };
        let stat = "cpu 9 9 9 9 9 9 9 9 0 0\ncpu0 7 7 7 7 7 7 7 7 0 0\ncpu1 1 2 3 4 0 0 0 5 0 0\ncpu10 10 0 0 0 0 0 0 10 0 0\nintr 5";
        let times = cores.times_in(stat).unwrap();
        assert_eq!(times, Times { all: 35, stolen: 15 });
        assert!(cores.times_in("cpu1 1 2").is_err());
        let later = Times { all: 135, stolen: 40 };
        assert!((later.stolen_since(times) - 0.25).abs() < 1e-9);
        assert!((times.stolen_since(times)).abs() < 1e-9);
    }
}
