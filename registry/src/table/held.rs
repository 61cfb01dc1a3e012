use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::sync::Arc;

use callboard_common::{Host, ListedHost};

use super::methods::{Method, MethodId};
use super::{Effects, Entered, Listing, Table};
use crate::{Notice, Refused};

/// Hosts of one method that are in the table and not announced yet, and who has found them there all the same. They
/// alone are told when such a host goes, and they alone are not told when it is announced.
pub(super) type Held<K> = Option<Box<BTreeMap<Host, BTreeSet<K>>>>;

impl<K: Clone + Eq + Hash + Ord> Table<K> {
    /// As [`register`](Self::register), but watchers are not told until [`release`](Self::release). Whether it is held
    /// back from now on.
    pub(crate) fn register_held(
        &mut self,
        peer: &K,
        method: &str,
        host: Host,
        instance: Option<&str>,
    ) -> Result<bool, Refused> {
        let Entered::New(id, _) = self.enter(peer, method, host, instance)? else { return Ok(false) };
        if let Some(method) = self.methods.get_mut(id) {
            method.held.get_or_insert_default().insert(host, BTreeSet::new());
        }
        Ok(true)
    }

    /// As [`discover`](Self::discover), with the hosts that are held back.
    pub(crate) fn discover_all(&mut self, peer: &K, method: &str) -> Result<Listing, Refused> {
        let id = self.begin_to_watch(peer, method)?;
        let Some(method) = self.methods.get_mut(id) else { return Ok(Listing::default()) };
        for informed in method.held.iter_mut().flat_map(|held| held.values_mut()) {
            informed.insert(peer.clone());
        }
        Ok(Listing { hosts: method.providers.listed().cloned().collect(), revision: method.revision })
    }

    /// Announces what was held back.
    pub(crate) fn release(&mut self, method: &str, host: Host, effects: &mut impl Effects<K>) {
        if let Some(id) = self.methods.find(method) {
            self.release_entry(id, host, effects);
        }
    }

    pub(crate) fn is_held(&self, method: &str, host: Host) -> bool {
        let method = self.methods.find(method).and_then(|id| self.methods.get(id));
        method.is_some_and(|method| method.is_held(host))
    }

    pub(super) fn release_entry(&mut self, id: MethodId, host: Host, effects: &mut impl Effects<K>) {
        let Some(method) = self.methods.get_mut(id) else { return };
        let Some(informed) = method.take_held(host) else { return };
        let Some(listed) = method.providers.listed().find(|listed| listed.host == host).cloned() else { return };
        let others = method.watchers.difference(&informed).cloned().collect();
        method.revision += 1;
        effects.changed(method.name(), host);
        method.tell_those(listed, true, &others, effects);
    }
}

impl<K: Clone + Ord> Method<K> {
    /// Who has found it, if the host was held back.
    pub(super) fn take_held(&mut self, host: Host) -> Option<BTreeSet<K>> {
        let held = self.held.as_mut()?;
        let informed = held.remove(&host);
        if held.is_empty() {
            self.held = None;
        }
        informed
    }

    /// Where nobody knew of the host, nothing has changed for anybody.
    pub(super) fn tell_some(
        &mut self,
        changed: ListedHost,
        online: bool,
        informed: &BTreeSet<K>,
        effects: &mut impl Effects<K>,
    ) {
        let informed: BTreeSet<K> = self.watchers.intersection(informed).cloned().collect();
        if !informed.is_empty() {
            self.revision += 1;
            self.tell_those(changed, online, &informed, effects);
        }
    }

    fn tell_those(&self, changed: ListedHost, online: bool, whom: &BTreeSet<K>, effects: &mut impl Effects<K>) {
        if !whom.is_empty() {
            effects.notice(&self.notice(changed, online), whom);
        }
    }

    pub(super) fn notice(&self, changed: ListedHost, online: bool) -> Notice {
        let ListedHost { host, instance, store } = changed;
        Notice { method: Arc::clone(self.name()), host, online, instance, store, revision: Some(self.revision) }
    }
}

impl<K> Method<K> {
    pub(super) fn is_held(&self, host: Host) -> bool {
        self.held.as_ref().is_some_and(|held| held.contains_key(&host))
    }

    pub(super) fn announced(&self) -> impl Iterator<Item = &ListedHost> {
        self.providers.listed().filter(|listed| !self.is_held(listed.host))
    }

    pub(super) fn listing(&self) -> Listing {
        Listing { hosts: self.announced().cloned().collect(), revision: self.revision }
    }
}
