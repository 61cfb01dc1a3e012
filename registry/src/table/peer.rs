use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use callboard_common::Host;
use rustc_hash::FxBuildHasher;
use smallvec::{SmallVec, smallvec};

use super::few_set::{FewSet, Removed};
use super::methods::MethodId;

/// What one connection stands for. There is none without anything.
#[derive(Debug, Default)]
pub(super) struct Peer {
    provides: HashMap<MethodId, FewSet<Host>, FxBuildHasher>,
    /// Hosts in `provides`, over all methods.
    registered: usize,
    pub(super) watches: HashSet<MethodId, FxBuildHasher>,
    /// The last one that it named: mostly all its entries have the same, which is kept once.
    instance: Option<Arc<str>>,
    /// The first one that it named, which counts for nothing.
    first: Option<Arc<str>>,
    /// Where it keeps its answers to calls under keys, if it listens nowhere.
    store: Option<Arc<str>>,
    /// What other ones take, in bytes, of the entries that have them.
    others: HashMap<(MethodId, Host), usize, FxBuildHasher>,
}

impl Peer {
    pub(super) fn provides(&self, id: MethodId, host: Host) -> bool {
        self.provides.get(&id).is_some_and(|hosts| hosts.contains(host))
    }

    /// How many methods it provides.
    pub(super) fn methods(&self) -> usize {
        self.provides.len()
    }

    pub(super) const fn registered(&self) -> usize {
        self.registered
    }

    pub(super) fn instance(&mut self, name: &str) -> Arc<str> {
        let instance = match &self.instance {
            Some(known) if **known == *name => Arc::clone(known),
            _ => Arc::clone(self.instance.insert(name.into())),
        };
        self.first.get_or_insert_with(|| Arc::clone(&instance));
        instance
    }

    /// What an entry with this instance takes beside others, in bytes.
    pub(super) fn instance_bytes(&self, name: &str) -> usize {
        let is_other = self.first.as_ref().is_some_and(|first| **first != *name);
        if is_other { INSTANCE_BYTES + name.len() } else { 0 }
    }

    pub(super) fn last_instance(&self) -> Option<Arc<str>> {
        self.instance.clone()
    }

    /// It has one for as long as it is connected, which counts for nothing.
    pub(super) fn keeps_in(&mut self, store: &str) {
        if self.store.is_none() {
            self.store = Some(store.into());
        }
    }

    pub(super) fn store(&self) -> Option<Arc<str>> {
        self.store.clone()
    }

    pub(super) fn hosts(&self) -> BTreeSet<Host> {
        self.provides.values().flat_map(|hosts| hosts.clone().into_sorted()).collect()
    }

    /// What it provides at `host`, or anywhere.
    pub(super) fn methods_at(&self, host: Option<Host>) -> impl Iterator<Item = MethodId> {
        let is_there = move |hosts: &FewSet<Host>| host.is_none_or(|host| hosts.contains(host));
        self.provides.iter().filter(move |(_, hosts)| is_there(hosts)).map(|(id, _)| *id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.provides.is_empty() && self.watches.is_empty()
    }

    /// Enters what it does not provide yet, with an instance that takes so many bytes.
    pub(super) fn enter(&mut self, id: MethodId, host: Host, instance_bytes: usize) {
        if instance_bytes > 0 {
            self.others.insert((id, host), instance_bytes);
        }
        self.provides.entry(id).and_modify(|hosts| hosts.insert(host)).or_insert(FewSet::One(host));
        self.registered += 1;
    }

    /// Takes out what it registered for a method, at `host` or wherever it did, so many at most; in order, and what its
    /// instances took.
    pub(super) fn take(&mut self, id: MethodId, host: Option<Host>, most: usize) -> (SmallVec<[Host; 1]>, usize) {
        let Entry::Occupied(mut hosts) = self.provides.entry(id) else { return (SmallVec::new(), 0) };
        let taken = match host.map(|host| (host, hosts.get_mut().remove(host))) {
            None if hosts.get().len() > most => hosts.get_mut().take_first(most).collect(),
            None => hosts.remove().into_sorted().collect(),
            Some((_, Removed::Nothing)) => SmallVec::new(),
            Some((host, Removed::One)) => smallvec![host],
            Some((host, Removed::Last)) => {
                hosts.remove();
                smallvec![host]
            }
        };
        self.registered -= taken.len();
        let instances = if self.others.is_empty() { 0 } else { self.forget_others(id, &taken) };
        (taken, instances)
    }

    fn forget_others(&mut self, id: MethodId, hosts: &[Host]) -> usize {
        hosts.iter().filter_map(|host| self.others.remove(&(id, *host))).sum()
    }
}

/// What an instance takes beside its bytes: so much was measured.
const INSTANCE_BYTES: usize = 150;
