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
    /// All changes within the window, oldest first. They are numbered.
    recent: VecDeque<Change>,
    /// The number of the oldest, or of the next one.
    first: u64,
    /// What their names take.
    name_bytes: usize,
    /// Those that have changed.
    of: HashTable<Changed>,
    /// Ever.
    entered: u64,
    /// With a secret key: peers choose the names.
    hasher: RandomState,
}

/// It does not hold the name, so that one that was told long ago is forgotten with no look at it.
#[derive(Clone, Copy, Debug)]
struct Change {
    at: Instant,
    hash: u64,
    /// Of what has changed.
    id: u64,
    /// The number of the change of the same before it, if that is not forgotten.
    before: u64,
}

/// A method at a host.
#[derive(Debug)]
struct Changed {
    hash: u64,
    id: u64,
    method: Arc<str>,
    host: Host,
    /// The number of its last change.
    last: u64,
    /// How many of its changes are not forgotten; at least one.
    count: usize,
}

/// More changes than this are not looked back upon, over all entries, and no more than so many bytes of names: a flood of
/// names takes no more memory.
const MAX_RECENT: usize = 65_536;
const MAX_NAME_BYTES: usize = 8 << 20;

impl Damping {
    pub(super) fn new(changes: usize, window: Duration) -> Self {
        Self {
            changes,
            window,
            recent: VecDeque::new(),
            first: 0,
            name_bytes: 0,
            of: HashTable::new(),
            entered: 0,
            hasher: RandomState::new(),
        }
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
        let (hash, number) = (self.hash(method, host), self.first + self.recent.len() as u64);
        let change = match self.of.entry(hash, |known| known.is(hash, method, host), |known| known.hash) {
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                known.count += 1;
                Change { at: now, hash, id: known.id, before: std::mem::replace(&mut known.last, number) }
            }
            Entry::Vacant(place) => {
                self.entered += 1;
                let id = self.entered;
                place.insert(Changed { hash, id, method: Arc::clone(method), host, last: number, count: 1 });
                Change { at: now, hash, id, before: number }
            }
        };
        self.recent.push_back(change);
    }

    /// When one more change of the entry may be told; `None` is now.
    pub(super) fn wait(&mut self, method: &str, host: Host, now: Instant) -> Option<Instant> {
        if self.window.is_zero() {
            return None;
        }
        self.forget(now);
        let hash = self.hash(method, host);
        let known = self.of.find(hash, |known| known.is(hash, method, host))?;
        // With the new one there are to be no more than permitted: so many of the old ones have to be over.
        let over = (known.count + 1).checked_sub(self.changes)?.checked_sub(1)?;
        let mut change = self.numbered(known.last)?;
        for _ in over + 1..known.count {
            change = self.numbered(change.before)?;
        }
        (over < known.count).then(|| later(change.at, self.window))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.recent.len()
    }

    fn numbered(&self, number: u64) -> Option<&Change> {
        self.recent.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    fn forget(&mut self, now: Instant) {
        while self.recent.front().is_some_and(|change| now.saturating_duration_since(change.at) >= self.window) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some(Change { hash, id, .. }) = self.recent.pop_front() else { return };
        self.first += 1;
        let Ok(mut known) = self.of.find_entry(hash, |known| known.id == id) else { return };
        self.name_bytes -= known.get().method.len();
        known.get_mut().count -= 1;
        if known.get().count == 0 {
            known.remove();
        }
    }

    fn hash(&self, method: &str, host: Host) -> u64 {
        self.hasher.hash_one((method, host))
    }
}

impl Changed {
    fn is(&self, hash: u64, method: &str, host: Host) -> bool {
        self.hash == hash && self.host == host && *self.method == *method
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

    /// What it is to do, with the times of all changes at hand.
    fn wait_of(times: &[Instant], changes: usize, window: Duration, now: Instant) -> Option<Instant> {
        let told: Vec<_> = times.iter().filter(|time| now.saturating_duration_since(**time) < window).collect();
        let over = (told.len() + 1).checked_sub(changes)?.checked_sub(1)?;
        told.get(over).map(|time| **time + window)
    }

    #[test]
    fn each_waits_for_its_own_changes_however_they_are_mixed() {
        let (hosts, begin) = ([1, 2, 3].map(|port| Host::new([127, 0, 0, 1].into(), port).unwrap()), Instant::now());
        let window = Duration::from_secs(10);
        for changes in [0, 1, 2, 5, 100, usize::MAX] {
            let (mut damping, mut times) = (Damping::new(changes, window), vec![Vec::new(); 6]);
            let mut chance = 1_u32;
            for step in 0..2_000_u64 {
                chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let (now, which) = (begin + Duration::from_millis(step * 97), (chance >> 16) as usize % 6);
                let (method, host) = (Arc::from(["a", "b"][which % 2]), hosts[which / 2]);
                let expected = wait_of(&times[which], changes, window, now);
                assert_eq!(damping.wait(&method, host, now), expected, "{changes} {step}");
                if chance & 1 << 12 != 0 {
                    damping.record(&method, host, now);
                    times[which].push(now);
                }
            }
            assert!(damping.of.len() <= 6 && damping.len() < 200);
            assert_eq!(damping.wait("a", hosts[0], begin + Duration::from_hours(1)), None);
            assert_eq!((damping.of.len(), damping.len(), damping.name_bytes), (0, 0, 0));
        }
    }
}
