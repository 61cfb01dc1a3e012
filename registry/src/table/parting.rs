use std::collections::BTreeSet;
use std::hash::Hash;
use std::sync::Arc;

use callboard_common::Host;

use super::peer::Peer;
use super::{Effects, Table, cost};

/// For connections whose entries outlive them for a while.
impl<K: Clone + Eq + Hash + Ord> Table<K> {
    /// Takes back all that `peer` watched; what it registered stays.
    pub(crate) fn end_watches(&mut self, peer: &K) {
        let Some(own) = self.peers.get_mut(peer) else { return };
        for id in std::mem::take(&mut own.watches) {
            if let Some(method) = self.methods.get(id) {
                self.shares.give_back(peer, cost(method.name()));
            }
            self.remove_watcher(peer, id);
        }
        self.drop_if_empty(peer);
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

    /// Takes back what `peer` registered at `host`, in the order of the methods. Whether there was anything.
    pub(crate) fn leave_host(&mut self, peer: &K, host: Host, effects: &mut impl Effects<K>) -> bool {
        let Some(own) = self.peers.get(peer) else { return false };
        let at_host = own.methods_at(host);
        let named = at_host.filter_map(|id| self.methods.get(id).map(|method| Arc::clone(method.name())));
        let methods: BTreeSet<_> = named.collect();
        for method in &methods {
            self.withdraw(peer, method, Some(host), effects);
        }
        !methods.is_empty()
    }
}
