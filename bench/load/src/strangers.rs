//! Who else used the CPUs while we measured.
use std::collections::HashMap;
use std::thread::available_parallelism;
use std::{fs, iter};

use crate::usage::Stat;

/// One who took CPU time from us.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stranger {
    pub(crate) name: String,
    /// CPU seconds.
    pub(crate) used: f64,
}

/// Every process but those under measurement, and but the kernel's threads that finish network work: all of it is
/// loopback traffic, so whoever makes much of it runs himself, and what is left to them is our own. `/proc/stat` would be
/// cheaper, but it is sampled by the tick, which paced loads bias.
#[derive(Default)]
pub(crate) struct Others(HashMap<u32, Account>);

struct Account {
    name: String,
    parent: u32,
    own: f64,
    reaped: f64,
}

impl Others {
    pub(crate) fn but(ours: impl Fn(u32) -> bool) -> Self {
        let Ok(entries) = fs::read_dir("/proc") else { return Self::default() };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Self(pids.filter(|pid| !ours(*pid)).filter_map(|pid| Some((pid, Account::of(pid)?))).collect())
    }

    /// Those who ran since `before`, `secs` ago, by name, the most demanding first.
    pub(crate) fn since(&self, before: &Self, secs: f64) -> Vec<Stranger> {
        let strangers = self.by_name(before, secs).into_iter().filter(|&(name, used)| used > 0.0 && name != SOFTIRQD);
        let mut strangers: Vec<_> = strangers.map(|(name, used)| Stranger { name: name.into(), used }).collect();
        strangers.sort_by(|a, b| b.used.total_cmp(&a.used));
        strangers
    }

    /// CPU seconds that the kernel's threads took for network work that was too much for the processes that made it.
    pub(crate) fn softirqd_since(&self, before: &Self, secs: f64) -> f64 {
        self.by_name(before, secs).get(SOFTIRQD).copied().unwrap_or(0.0)
    }

    fn by_name(&self, before: &Self, secs: f64) -> HashMap<&str, f64> {
        let (ended, most) = (self.ended_since(before), secs * cpus());
        let mut used: HashMap<&str, f64> = HashMap::new();
        for (pid, now) in &self.0 {
            let earlier = ended.get(pid).copied().unwrap_or(0.0);
            *used.entry(&now.name).or_default() += now.since(before.0.get(pid), earlier, most);
        }
        used
    }

    /// What processes that ended since had used before, by the process that is left to have reaped them: the nearest
    /// ancestor, since each that ended handed on what it had reaped.
    fn ended_since(&self, before: &Self) -> HashMap<u32, f64> {
        let mut ended: HashMap<u32, f64> = HashMap::new();
        for (_, account) in before.0.iter().filter(|(pid, _)| !self.0.contains_key(pid)) {
            if let Some(pid) = self.nearest_ancestor(account, before) {
                *ended.entry(pid).or_default() += account.own + account.reaped;
            }
        }
        ended
    }

    fn nearest_ancestor(&self, account: &Account, before: &Self) -> Option<u32> {
        let parents = iter::successors(Some(account.parent), |pid| Some(before.0.get(pid)?.parent));
        parents.take(before.0.len()).find(|pid| self.0.contains_key(pid))
    }
}

impl Account {
    fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let Stat { name, parent, own, reaped } = Stat::of(&stat)?;
        // A kernel thread's name ends with its CPU or its work: `kworker/1:0-events`.
        let name = name.split_once('/').map_or(name, |(kind, _)| kind).into();
        Some(Self { name, parent, own, reaped })
    }

    /// What it used since, and what its children did that ended: of theirs not what they had used `earlier`, and no more
    /// than there was, in case it adopted what is not known to be its own.
    fn since(&self, before: Option<&Self>, earlier: f64, most: f64) -> f64 {
        let (own, reaped) = before.map_or((0.0, 0.0), |before| (before.own, before.reaped));
        let children = self.reaped - reaped - earlier;
        (self.own - own).max(0.0) + children.clamp(0.0, most)
    }
}

/// CPUs that the machine has, as far as this process may know.
#[expect(clippy::cast_precision_loss, reason = "there are not that many")]
fn cpus() -> f64 {
    available_parallelism().map_or(1, usize::from) as f64
}

const SOFTIRQD: &str = "ksoftirqd";

#[cfg(test)]
mod tests {
    use super::*;

    fn others(accounts: &[(u32, &str, f64, f64)]) -> Others {
        let account =
            |&(pid, name, own, reaped): &_| (pid, Account { name: String::from(name), parent: 1, own, reaped });
        Others(accounts.iter().map(account).collect())
    }

    /// The processes of a build: init, a shell, make below it, and a compiler below that.
    fn family(accounts: &[(u32, &str, f64, f64)]) -> Others {
        let mut others = others(accounts);
        for (pid, account) in &mut others.0 {
            account.parent = pid - 1;
        }
        others
    }

    #[test]
    fn strangers_are_what_ran_and_what_was_reaped_within_the_window() {
        let before = others(&[(1, "cc", 5.0, 0.0), (2, "make", 1.0, 3.0), (5, "idle", 2.0, 0.0)]);
        let after =
            others(&[(1, "cc", 5.5, 0.0), (2, "make", 1.0, 3.25), (4, "sh", 0.125, 0.5), (5, "idle", 2.0, 0.0)]);
        let stranger = |name: &str, used| Stranger { name: name.into(), used };
        let expected = [stranger("sh", 0.625), stranger("cc", 0.5), stranger("make", 0.25)];
        assert_eq!(after.since(&before, 2.0), expected);
    }

    #[test]
    fn what_ended_within_the_window_counts_from_its_beginning() {
        let before =
            family(&[(1, "init", 9.0, 0.0), (2, "sh", 1.0, 0.0), (3, "make", 1.0, 20.0), (4, "cc", 60.0, 0.0)]);
        let rows = [
            // The compiler ended.
            (vec![(1, "init", 9.0, 0.0), (2, "sh", 1.0, 0.0), (3, "make", 1.0, 81.5)], "make", 1.5),
            // Make did too.
            (vec![(1, "init", 9.0, 0.0), (2, "sh", 1.0, 82.75)], "sh", 1.75),
            // The shell did not wait.
            (vec![(1, "init", 9.0, 83.5)], "init", 1.5),
        ];
        for (after, name, used) in rows {
            assert_eq!(family(&after).since(&before, 2.0), [Stranger { name: name.into(), used }]);
        }
    }

    #[test]
    fn what_was_adopted_counts_for_no_more_than_there_was() {
        let (before, after) = (others(&[(1, "init", 0.0, 0.0)]), others(&[(1, "init", 0.0, 6e9)]));
        let strangers = after.since(&before, 2.0);
        assert!(
            matches!(strangers[..], [Stranger { used, .. }] if (used - 2.0 * cpus()).abs() < 1e-9),
            "{strangers:?}"
        );
    }

    #[test]
    fn what_the_kernel_finishes_of_our_traffic_is_no_strangers() {
        let before = others(&[(14, SOFTIRQD, 13.0, 0.0), (22, SOFTIRQD, 7.0, 0.0), (30, "kworker", 1.0, 0.0)]);
        let after = others(&[(14, SOFTIRQD, 13.25, 0.0), (22, SOFTIRQD, 7.125, 0.0), (30, "kworker", 1.5, 0.0)]);
        assert_eq!(after.since(&before, 2.0), [Stranger { name: "kworker".into(), used: 0.5 }]);
        assert!((after.softirqd_since(&before, 2.0) - 0.375).abs() < 1e-9);
    }

    #[test]
    fn this_kernels_threads_are_known_by_their_kind() {
        let others = Others::but(|pid| pid == std::process::id());
        assert!(!others.0.contains_key(&std::process::id()));
        assert!(others.0.values().all(|account| !account.name.is_empty() && !account.name.contains('/')));
    }
}
