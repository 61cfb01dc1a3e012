use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use callboard_client::later;
use callboard_common::Host;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use tokio::time::Instant;

/// How often each method at each host has changed of late.
#[derive(Debug)]
pub(super) struct Damping {
    /// Changes within the window that are told at once.
    changes: usize,
    window: Duration,
    /// All changes within the window, oldest first.
    recent: VecDeque<(Instant, Key)>,
    /// What their names take.
    name_bytes: usize,
    /// The times of them for each method at a host.
    of: HashTable<Changes>,
    /// With a secret key: peers choose the names.
    hasher: RandomState,
}

/// A method at a host, hashed once: a change is looked for when it comes and when it is forgotten.
#[derive(Clone, Debug)]
struct Key {
    hash: u64,
    method: Arc<str>,
    host: Host,
}

#[derive(Debug)]
struct Changes {
    of: Key,
    times: VecDeque<Instant>,
}

impl Changes {
    fn is_of(&self, hash: u64, method: &str, host: Host) -> bool {
        self.of.hash == hash && self.of.host == host && *self.of.method == *method
    }
}

/// More changes than this are not looked back upon, over all entries, and no more than so many bytes of names: a flood of
/// names takes no more memory.
const MAX_RECENT: usize = 65_536;
const MAX_NAME_BYTES: usize = 8 << 20;

impl Damping {
    pub(super) fn new(changes: usize, window: Duration) -> Self {
        Self { changes, window, recent: VecDeque::new(), name_bytes: 0, of: HashTable::new(), hasher: RandomState::new() }
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
        let hash = self.hash(method, host);
        let is_it = |changes: &Changes| changes.is_of(hash, method, host);
        let key = match self.of.entry(hash, is_it, |changes| changes.of.hash) {
            Entry::Occupied(mut known) => {
                known.get_mut().times.push_back(now);
                known.get().of.clone()
            }
            Entry::Vacant(place) => {
                let of = Key { hash, method: Arc::clone(method), host };
                place.insert(Changes { of: of.clone(), times: VecDeque::from([now]) });
                of
            }
        };
        self.recent.push_back((now, key));
    }

    /// When one more change of the entry may be told; `None` is now.
    pub(super) fn wait(&mut self, method: &str, host: Host, now: Instant) -> Option<Instant> {
        if self.window.is_zero() {
            return None;
        }
        self.forget(now);
        let hash = self.hash(method, host);
        let times = &self.of.find(hash, |changes| changes.is_of(hash, method, host))?.times;
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
        let Some((_, Key { hash, method, host })) = self.recent.pop_front() else { return };
        self.name_bytes -= method.len();
        let Ok(mut known) = self.of.find_entry(hash, |changes| changes.is_of(hash, &method, host)) else { return };
        known.get_mut().times.pop_front();
        if known.get().times.is_empty() {
            known.remove();
        }
    }

    fn hash(&self, method: &str, host: Host) -> u64 {
        self.hasher.hash_one((method, host))
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
