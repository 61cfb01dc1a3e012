use std::collections::BTreeSet;
use std::hash::Hash;
use std::sync::Arc;

use callboard_common::Host;

use super::peer::Peer;
use super::{Effects, Table, cost};

/// What is taken back of a connection a piece at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Leaves {
    /// What it watches; what it registered stays for a while.
    Watches,
    All,
}

/// For connections whose entries outlive them for a while.
impl<K: Clone + Eq + Hash + Ord> Table<K> {
    /// Takes back what `peer` watched, of so many methods; what it registered stays. How many they were.
    pub(crate) fn end_watches(&mut self, peer: &K, most: usize) -> usize {
        let Some(own) = self.peers.get_mut(peer) else { return 0 };
        let ended: Vec<_> = own.watches.extract_if(|_| true).take(most).collect();
        for id in &ended {
            if let Some(method) = self.methods.get(*id) {
                self.shares.give_back(peer, cost(method.name()));
            }
            self.remove_watcher(peer, *id);
        }
        self.drop_if_empty(peer);
        ended.len()
    }

    /// Takes back what `peer` registered, at `host` or anywhere, of so many methods, in their order. How many they were.
    pub(crate) fn leave_some(
        &mut self,
        peer: &K,
        host: Option<Host>,
        most: usize,
        effects: &mut impl Effects<K>,
    ) -> usize {
        let Some(own) = self.peers.get(peer) else { return 0 };
        let named = |id| self.methods.get(id).map(|method| (Arc::clone(method.name()), id));
        let mut methods: Vec<_> = own.methods_at(host).take(most).filter_map(named).collect();
        methods.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        for (method, id) in &methods {
            self.take_back(peer, (method, *id), host, effects);
        }
        methods.len()
    }

    /// From now on [`leave_on`](Self::leave_on) takes back what `peer` has; whether it has anything.
    pub(crate) fn begin_to_leave(&mut self, peer: &K, what: Leaves) -> bool {
        let has = self.peers.contains_key(peer);
        if has {
            let leaves = self.leaving.entry(peer.clone()).or_insert(what);
            *leaves = what.max(*leaves);
        } else {
            self.shares.forget(peer);
        }
        has
    }

    /// Whether all that `peer` has is being taken back.
    pub(crate) fn leaves_all(&self, peer: &K) -> bool {
        self.leaving.get(peer) == Some(&Leaves::All)
    }

    /// One whose entries are being taken back.
    pub(crate) fn next_to_leave(&self) -> Option<K> {
        self.leaving.first_key_value().map(|(peer, _)| peer.clone())
    }

    /// Takes back some of what `peer` has, of so many methods at most: first as a watcher, so that it is not told of its own
    /// end. How many they were.
    pub(crate) fn leave_on(&mut self, peer: &K, most: usize, effects: &mut impl Effects<K>) -> usize {
        let all = self.leaves_all(peer);
        let ended = self.end_watches(peer, most);
        let left = if all { self.leave_some(peer, None, most - ended, effects) } else { 0 };
        if ended + left < most {
            self.leaving.remove(peer);
            if all {
                self.shares.forget(peer);
            }
        }
        ended + left
    }

    /// Where `peer` provides something, and the last instance that it named.
    pub(crate) fn places_of(&self, peer: &K) -> (BTreeSet<Host>, Option<Arc<str>>) {
        let Some(own) = self.peers.get(peer) else { return (BTreeSet::new(), None) };
        (own.hosts(), own.last_instance())
    }

    /// Where `peer` keeps its answers to calls under keys, if it said so.
    pub(crate) fn store_of(&self, peer: &K) -> Option<Arc<str>> {
        self.peers.get(peer).and_then(Peer::store)
    }

    /// `peer`, which listens nowhere, keeps its answers there. To be said before it is entered.
    pub(crate) fn keeps_in(&mut self, peer: &K, store: &str) {
        self.peers.entry(peer.clone()).or_default().keeps_in(store);
    }
}
