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

/// So many watchers are told in the time that one entry takes.
pub(crate) const TOLD: usize = 8;

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

    /// Takes back what `peer` registered, at `host` or anywhere, in the order of the methods of a piece. How much work that
    /// was: an entry is one, and so are [so many](TOLD) of those who are told; `most` bounds it, as closely as it is known
    /// before.
    pub(crate) fn leave_some(
        &mut self,
        peer: &K,
        host: Option<Host>,
        most: usize,
        effects: &mut impl Effects<K>,
    ) -> usize {
        let Some(own) = self.peers.get(peer) else { return 0 };
        let named = |id| self.methods.get(id).map(|method| (Arc::clone(method.name()), id, method.watchers.len()));
        let mut methods: Vec<_> = own.methods_at(host).take(most).filter_map(named).collect();
        methods.sort_unstable_by(|(one, ..), (other, ..)| one.cmp(other));
        let mut done = 0;
        for (method, id, watchers) in &methods {
            if done >= most {
                break;
            }
            let each = 1 + watchers / TOLD;
            let entries = ((most - done) / each).max(1);
            done = done.saturating_add(each * self.take_back(peer, (method, *id), host, entries, effects));
        }
        done
    }

    /// What those have at `host` whose entries are all being taken back goes at once for this method: another one is about
    /// to come there.
    pub(crate) fn make_way(&mut self, method: &str, host: Host, effects: &mut impl Effects<K>) {
        if self.leaving.is_empty() || !self.is_provided(method, host) {
            return;
        }
        let Some(id) = self.methods.find(method) else { return };
        let is_there = |peer: &K| self.peers.get(peer).is_some_and(|own| own.provides(id, host));
        let all = self.leaving.iter().filter(|(peer, what)| **what == Leaves::All && is_there(peer));
        let those: Vec<_> = all.map(|(peer, _)| peer.clone()).collect();
        for peer in those {
            self.take_back(&peer, (method, id), Some(host), usize::MAX, effects);
        }
    }

    /// Whether all who provide `method` at `host` are about to be taken back.
    pub(crate) fn is_left(&self, method: &str, host: Host) -> bool {
        let Some((id, method)) = self.methods.find(method).and_then(|id| Some((id, self.methods.get(id)?))) else {
            return true;
        };
        let is_there = |peer: &K| self.peers.get(peer).is_some_and(|own| own.provides(id, host));
        let leave = self.leaving.iter().filter(|(peer, what)| **what == Leaves::All && is_there(peer)).count();
        method.providers.registrations(host) <= leave
    }

    /// Whether it provides anything at `host`.
    pub(crate) fn is_at(&self, peer: &K, host: Host) -> bool {
        self.peers.get(peer).is_some_and(|own| own.methods_at(Some(host)).next().is_some())
    }

    /// How many methods it provides.
    pub(crate) fn methods_of(&self, peer: &K) -> usize {
        self.peers.get(peer).map_or(0, Peer::methods)
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

    /// Takes back some of what `peer` has: first as a watcher, so that it is not told of its own end. How much work that
    /// was, as of [`leave_some`](Self::leave_some).
    pub(crate) fn leave_on(&mut self, peer: &K, most: usize, effects: &mut impl Effects<K>) -> usize {
        let all = self.leaves_all(peer);
        let ended = self.end_watches(peer, most);
        let left = if all && ended < most { self.leave_some(peer, None, most - ended, effects) } else { 0 };
        let is_done = self.peers.get(peer).is_none_or(|own| own.watches.is_empty() && !all);
        if is_done || ended + left == 0 {
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
