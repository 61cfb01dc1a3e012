use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use callboard_common::Host;
use tokio::time::Instant;

/// Whose connections ended unexpectedly and may be back soon. `K` names the connection that ended.
#[derive(Debug)]
pub(super) struct Departures<K> {
    of: BTreeMap<(K, Host), Departed>,
    due: BTreeSet<(Instant, K, Host)>,
    at: HashMap<Host, BTreeSet<K>>,
}

#[derive(Clone, Debug)]
struct Departed {
    run: Run,
    until: Instant,
}

/// What one is known by that comes back.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) instance: Arc<str>,
    /// Where it keeps its answers to calls under keys: who has another one knows nothing of them.
    pub(super) store: Option<Arc<str>>,
}

impl<K: Clone + Ord + Hash> Departures<K> {
    pub(super) fn enter(&mut self, peer: &K, host: Host, run: Run, until: Instant) {
        self.remove(peer, host);
        self.of.insert((peer.clone(), host), Departed { run, until });
        self.due.insert((until, peer.clone(), host));
        self.at.entry(host).or_default().insert(peer.clone());
    }

    pub(super) fn remove(&mut self, peer: &K, host: Host) {
        let Some(departed) = self.of.remove(&(peer.clone(), host)) else { return };
        self.due.remove(&(departed.until, peer.clone(), host));
        if let Some(peers) = self.at.get_mut(&host) {
            peers.remove(peer);
            if peers.is_empty() {
                self.at.remove(&host);
            }
        }
    }

    pub(super) fn has(&self, peer: &K, host: Host) -> bool {
        self.of.contains_key(&(peer.clone(), host))
    }

    /// When the last of those at a host has had its time.
    pub(super) fn until(&self, host: Host) -> Option<Instant> {
        let of_peer = |peer: &K| self.of.get(&(peer.clone(), host)).map(|departed| departed.until);
        self.at.get(&host)?.iter().filter_map(of_peer).max()
    }

    /// Those at a host, and whether each is the run that is called `instance`, with the same store.
    pub(super) fn at(&self, host: Host, instance: Option<&str>, store: Option<&str>) -> Vec<(K, bool)> {
        let is_it = |peer: &K| {
            let departed = self.of.get(&(peer.clone(), host)).map(|departed| &departed.run);
            departed.is_some_and(|run| Some(&*run.instance) == instance && run.store.as_deref() == store)
        };
        self.at.get(&host).into_iter().flatten().map(|peer| (peer.clone(), is_it(peer))).collect()
    }

    /// The run that is called `instance` is back at `host`, and about to register: it has at least until then.
    pub(super) fn hold(&mut self, host: Host, instance: Option<&str>, store: Option<&str>, until: Instant) {
        for (peer, is_it) in self.at(host, instance, store) {
            if let Some(departed) = self.of.get_mut(&(peer.clone(), host)).filter(|old| is_it && old.until < until) {
                self.due.remove(&(departed.until, peer.clone(), host));
                departed.until = until;
                self.due.insert((until, peer, host));
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.due.first().map(|(until, ..)| *until)
    }

    /// One whose time is over.
    pub(super) fn expired(&self, now: Instant) -> Option<(K, Host)> {
        let (_, peer, host) = self.due.first().filter(|(until, ..)| *until <= now)?.clone();
        Some((peer, host))
    }

    /// It has no time left. Whether it had some.
    pub(super) fn expire(&mut self, peer: &K, host: Host, now: Instant) -> bool {
        let Some(departed) = self.of.get_mut(&(peer.clone(), host)).filter(|departed| departed.until > now) else {
            return false;
        };
        let until = std::mem::replace(&mut departed.until, now);
        self.due.remove(&(until, peer.clone(), host));
        self.due.insert((now, peer.clone(), host));
        true
    }
}

impl<K> Default for Departures<K> {
    fn default() -> Self {
        Self { of: BTreeMap::new(), due: BTreeSet::new(), at: HashMap::new() }
    }
}
