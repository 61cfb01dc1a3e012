use std::collections::BTreeMap;
use std::sync::Arc;

use callboard_common::Host;

/// Which hosts were reached for which connection, and what waits for that.
#[derive(Debug)]
pub(super) struct Probes<K, T> {
    of: BTreeMap<K, BTreeMap<Host, Probe<T>>>,
    /// Hosts of one connection that are remembered as reached; others are tried again with each registration.
    max_reached: usize,
}

#[derive(Debug)]
enum Probe<T> {
    Waiting(Vec<Registration<T>>),
    Reached,
}

/// A registration that waits for its host to be reached.
#[derive(Debug)]
pub(super) struct Registration<T> {
    pub(super) method: Box<str>,
    pub(super) instance: Option<Arc<str>>,
    pub(super) ticket: T,
}

impl<K: Clone + Ord, T> Probes<K, T> {
    pub(super) fn new(max_reached: usize) -> Self {
        Self { of: BTreeMap::new(), max_reached }
    }

    pub(super) fn is_reached(&self, peer: &K, host: Host) -> bool {
        self.of.get(peer).is_some_and(|hosts| matches!(hosts.get(&host), Some(Probe::Reached)))
    }

    /// Whether registrations wait for the host.
    pub(super) fn has(&self, peer: &K, host: Host) -> bool {
        self.of.get(peer).is_some_and(|hosts| matches!(hosts.get(&host), Some(Probe::Waiting(_))))
    }

    /// Whether the host is to be tried now: it is not under way.
    pub(super) fn wait(&mut self, peer: &K, host: Host, registration: Registration<T>) -> bool {
        let hosts = self.of.entry(peer.clone()).or_default();
        if let Some(Probe::Waiting(waiting)) = hosts.get_mut(&host) {
            waiting.push(registration);
            return false;
        }
        hosts.insert(host, Probe::Waiting(vec![registration]));
        true
    }

    /// How many registrations wait for the host.
    pub(super) fn waiting(&self, peer: &K, host: Host) -> usize {
        match self.of.get(peer).and_then(|hosts| hosts.get(&host)) {
            Some(Probe::Waiting(waiting)) => waiting.len(),
            Some(Probe::Reached) | None => 0,
        }
    }

    /// What has waited for the host for longest, so many at most, in the order in which they came.
    pub(super) fn decide(&mut self, peer: &K, host: Host, is_reached: bool, most: usize) -> Vec<Registration<T>> {
        let Some(hosts) = self.of.get_mut(peer) else { return Vec::new() };
        let Some(Probe::Waiting(waiting)) = hosts.get_mut(&host) else { return Vec::new() };
        let decided: Vec<_> = waiting.drain(..most.min(waiting.len())).collect();
        if waiting.is_empty() {
            hosts.remove(&host);
            if is_reached && hosts.len() < self.max_reached {
                hosts.insert(host, Probe::Reached);
            }
        }
        if hosts.is_empty() {
            self.of.remove(peer);
        }
        decided
    }

    /// What waits of a method, at `host` or wherever it does, no longer does; also gives the hosts for which nothing waits any
    /// more.
    pub(super) fn cancel(&mut self, peer: &K, method: &str, host: Option<Host>) -> (Vec<Registration<T>>, Vec<Host>) {
        let Some(hosts) = self.of.get_mut(peer) else { return (Vec::new(), Vec::new()) };
        let among: Vec<_> = host.map_or_else(|| hosts.keys().copied().collect(), |host| vec![host]);
        let (mut cancelled, mut left) = (Vec::new(), Vec::new());
        for host in among {
            let Some(Probe::Waiting(waiting)) = hosts.get_mut(&host) else { continue };
            cancelled.extend(waiting.extract_if(.., |registration| *registration.method == *method));
            if waiting.is_empty() {
                hosts.remove(&host);
                left.push(host);
            }
        }
        if hosts.is_empty() {
            self.of.remove(peer);
        }
        (cancelled, left)
    }

    /// Nothing of a connection is known any more; returns what waited.
    pub(super) fn forget(&mut self, peer: &K) -> Vec<Registration<T>> {
        waiting(self.of.remove(peer))
    }

    /// Nothing is tried any more; returns what waited.
    pub(super) fn stop(&mut self) -> Vec<Registration<T>> {
        waiting(std::mem::take(&mut self.of).into_values())
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }
}

fn waiting<T>(probes: impl IntoIterator<Item = BTreeMap<Host, Probe<T>>>) -> Vec<Registration<T>> {
    let waiting = probes.into_iter().flat_map(BTreeMap::into_values).flat_map(|probe| match probe {
        Probe::Waiting(waiting) => waiting,
        Probe::Reached => Vec::new(),
    });
    waiting.collect()
}
