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
        match &self.instance {
            Some(known) if **known == *name => Arc::clone(known),
            _ => Arc::clone(self.instance.insert(name.into())),
        }
    }

    pub(super) fn last_instance(&self) -> Option<Arc<str>> {
        self.instance.clone()
    }

    pub(super) fn hosts(&self) -> BTreeSet<Host> {
        self.provides.values().flat_map(|hosts| hosts.clone().into_sorted()).collect()
    }

    pub(super) fn methods_at(&self, host: Host) -> impl Iterator<Item = MethodId> {
        self.provides.iter().filter(move |(_, hosts)| hosts.contains(host)).map(|(id, _)| *id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.provides.is_empty() && self.watches.is_empty()
    }

    /// Enters what it does not provide yet.
    pub(super) fn enter(&mut self, id: MethodId, host: Host) {
        self.provides.entry(id).and_modify(|hosts| hosts.insert(host)).or_insert(FewSet::One(host));
        self.registered += 1;
    }

    /// Takes out what it registered for a method, at `host` or wherever it did; in order.
    pub(super) fn take(&mut self, id: MethodId, host: Option<Host>) -> SmallVec<[Host; 1]> {
        let Entry::Occupied(mut hosts) = self.provides.entry(id) else { return SmallVec::new() };
        let taken = match host.map(|host| (host, hosts.get_mut().remove(host))) {
            None => hosts.remove().into_sorted().collect(),
            Some((_, Removed::Nothing)) => SmallVec::new(),
            Some((host, Removed::One)) => smallvec![host],
            Some((host, Removed::Last)) => {
                hosts.remove();
                smallvec![host]
            }
        };
        self.registered -= taken.len();
        taken
    }

    pub(super) fn into_provided(self) -> impl Iterator<Item = (MethodId, FewSet<Host>)> {
        self.provides.into_iter()
    }
}
