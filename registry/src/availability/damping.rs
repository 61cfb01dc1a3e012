use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use callboard_client::later;
use callboard_common::Host;
use tokio::time::Instant;

/// How often each method at each host has changed of late.
#[derive(Debug)]
pub(super) struct Damping {
    /// Changes within the window that are told at once.
    changes: usize,
    window: Duration,
    /// All changes within the window, oldest first.
    recent: VecDeque<(Instant, Entry)>,
    /// What their names take.
    name_bytes: usize,
    /// The times of them for each entry.
    of: HashMap<Entry, VecDeque<Instant>>,
}

type Entry = (Arc<str>, Host);

/// More changes than this are not looked back upon, over all entries, and no more than so many bytes of names: a flood of
/// names takes no more memory.
const MAX_RECENT: usize = 65_536;
const MAX_NAME_BYTES: usize = 8 << 20;

impl Damping {
    pub(super) fn new(changes: usize, window: Duration) -> Self {
        Self { changes, window, recent: VecDeque::new(), name_bytes: 0, of: HashMap::new() }
    }

    pub(super) fn record(&mut self, method: &Arc<str>, host: Host, now: Instant) {
        if self.window.is_zero() {
            return;
        }
        self.forget(now);
        while self.recent.len() >= MAX_RECENT || self.name_bytes > MAX_NAME_BYTES {
            self.forget_oldest();
        }
        self.name_bytes += method.len();
        let entry = (Arc::clone(method), host);
        self.of.entry(entry.clone()).or_default().push_back(now);
        self.recent.push_back((now, entry));
    }

    /// When one more change of the entry may be told; `None` is now.
    pub(super) fn wait(&mut self, method: &str, host: Host, now: Instant) -> Option<Instant> {
        if self.window.is_zero() {
            return None;
        }
        self.forget(now);
        let times = self.of.get(&(Arc::from(method), host))?;
        // With the new one there are to be no more than permitted: so many of the old ones have to be over.
        let over = (times.len() + 1).checked_sub(self.changes)?.checked_sub(1)?;
        times.get(over).map(|time| later(*time, self.window))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.recent.len()
    }

    fn forget(&mut self, now: Instant) {
        while self.recent.front().is_some_and(|(time, _)| now.saturating_duration_since(*time) >= self.window) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((_, entry)) = self.recent.pop_front() else { return };
        self.name_bytes -= entry.0.len();
        let Some(times) = self.of.get_mut(&entry) else { return };
        times.pop_front();
        if times.is_empty() {
            self.of.remove(&entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_may_be_counted_over_any_time() {
        let (host, now) = (Host::new([127, 0, 0, 1].into(), 1).unwrap(), Instant::now());
        let mut damping = Damping::new(1, Duration::MAX);
        assert_eq!(damping.wait("m", host, now), None);
        damping.record(&Arc::from("m"), host, now);
        let years = Duration::from_hours(50 * 365 * 24);
        assert!(damping.wait("m", host, now + years).unwrap() > now + years);
    }
}
