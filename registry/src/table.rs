mod few_set;
mod held;
mod methods;
mod parting;
mod peer;
mod providers;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use callboard_common::{Host, ListedHost, Room, Shares};
use rustc_hash::FxBuildHasher;

use self::methods::{Method, MethodId, Methods, Slot};
pub(crate) use self::parting::Leaves;
#[cfg(test)]
pub(crate) use self::parting::TOLD;
use self::peer::Peer;
use crate::{Notice, Refused, RegistryLimits};

/// Who provides what and who watches what: the state of a center's registry, without any I/O.
///
/// `K` names a connection. Every operation returns what its answer says, and pushes what others are to be told into
/// [`Effects`], in order, after the table has changed. A caller that queues both before the next operation gives every
/// watcher one history: no ONLINE for a host that it knows, no OFFLINE for one that it does not.
///
/// An operation looks for its method once, by a hash of the name, and costs at most the logarithm of what else is in
/// the table; a list of hosts costs its own length, a notice its watchers, and the end of a connection its own entries.
///
/// ```
/// use std::collections::BTreeSet;
/// use callboard_registry::{Effects, Notice, Table};
///
/// struct Print;
/// impl Effects<u32> for Print {
///     fn notice(&mut self, notice: &Notice, watchers: &BTreeSet<u32>) {
///         println!("{notice}, to {watchers:?}");
///     }
/// }
/// let mut table = Table::default();
/// let (provider, watcher) = (1, 2);
/// assert_eq!(table.discover(&watcher, "add")?.hosts, []);
/// let host = "127.0.0.1:7071".parse()?;
/// table.register(&provider, "add", host, None, &mut Print)?; // "add" online at 127.0.0.1:7071, to {2}
/// assert_eq!(table.discover(&watcher, "add")?.hosts.len(), 1);
/// table.leave(&provider, &mut Print); // "add" offline at 127.0.0.1:7071, to {2}
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Table<K> {
    methods: Methods<K>,
    /// By a quick hash: connections are named on this side.
    peers: HashMap<K, Peer, FxBuildHasher>,
    /// Those of them whose entries are being taken back.
    leaving: BTreeMap<K, Leaves>,
    /// What each takes of what all may take together.
    shares: Shares<K>,
    limits: RegistryLimits,
}

/// What a [`Table`] tells others.
pub trait Effects<K> {
    /// `notice` is to be queued for each of `watchers`, of which there is one at least.
    fn notice(&mut self, notice: &Notice, watchers: &BTreeSet<K>);

    /// The set of those who provide `method` has changed at `host`, whether or not anybody watches it.
    fn changed(&mut self, method: &Arc<str>, host: Host) {
        let _ = (method, host);
    }
}

/// Who provides a method.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// They, in the order in which they came.
    pub hosts: Vec<ListedHost>,
    /// Of this set: it grows by one with each change of it, and never shrinks as long as the table is there.
    pub revision: u64,
}

/// How much a [`Table`] holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableSize {
    /// Methods that are provided or watched.
    pub methods: usize,
    /// Connections that provide or watch something.
    pub connections: usize,
    /// What counts against [`RegistryLimits::total_bytes`].
    pub bytes: usize,
}

impl<K: Clone + Eq + Hash + Ord> Table<K> {
    /// An empty table with these limits.
    pub fn new(limits: RegistryLimits) -> Self {
        let shares = Shares::new(limits.total_bytes);
        Self { methods: Methods::default(), peers: HashMap::default(), leaving: BTreeMap::new(), shares, limits }
    }

    /// Enters that `peer` says that `method` is provided at `host`, by a run that is called `instance`. The same method
    /// and host again, by this connection or by another one, is the same entry: its watchers hear of it once.
    ///
    /// # Errors
    /// [`Refused::Registered`], [`Refused::Total`] or [`Refused::Name`].
    pub fn register(
        &mut self,
        peer: &K,
        method: &str,
        host: Host,
        instance: Option<&str>,
        effects: &mut impl Effects<K>,
    ) -> Result<(), Refused> {
        match self.enter(peer, method, host, instance)? {
            Entered::New(id, listed) => self.tell(id, listed, true, effects),
            Entered::Known(id) => self.release_entry(id, host, effects),
        }
        Ok(())
    }

    /// Who provides `method`. From now on `peer` watches the method, also where the list is empty.
    ///
    /// # Errors
    /// [`Refused::Watched`], [`Refused::Total`] or [`Refused::Name`].
    pub fn discover(&mut self, peer: &K, method: &str) -> Result<Listing, Refused> {
        let id = self.begin_to_watch(peer, method)?;
        Ok(self.methods.get(id).map(Method::listing).unwrap_or_default())
    }

    fn begin_to_watch(&mut self, peer: &K, method: &str) -> Result<MethodId, Refused> {
        self.check_name(method)?;
        let slot = self.methods.slot(method);
        let own = self.peers.get(peer);
        match slot {
            Slot::Taken(id) if own.is_some_and(|own| own.watches.contains(&id)) => Ok(id),
            slot => {
                let bound = self.limits.watched_per_connection;
                if own.map_or(0, |own| own.watches.len()) >= bound {
                    return Err(Refused::Watched { bound });
                }
                self.check_total(peer, self.entry_bytes(peer, method, None))?;
                self.shares.take(peer, cost(method));
                Ok(self.watch(peer, slot))
            }
        }
    }

    /// `peer` is no longer told of changes to `method`.
    pub fn stop_watching(&mut self, peer: &K, method: &str) {
        let Some(id) = self.methods.find(method) else { return };
        let Some(own) = self.peers.get_mut(peer) else { return };
        if own.watches.remove(&id) {
            self.drop_if_empty(peer);
            self.shares.give_back(peer, cost(method));
            self.remove_watcher(peer, id);
        }
    }

    /// Takes back what `peer` registered for `method`: at `host`, or wherever it did. What others registered stays, and
    /// so do the peer's other methods. What is not there is not missed.
    pub fn withdraw(&mut self, peer: &K, method: &str, host: Option<Host>, effects: &mut impl Effects<K>) {
        if let Some(id) = self.methods.find(method) {
            self.take_back(peer, (method, id), host, usize::MAX, effects);
        }
    }

    /// How many entries that were.
    fn take_back(
        &mut self,
        peer: &K,
        (method, id): (&str, MethodId),
        host: Option<Host>,
        most: usize,
        effects: &mut impl Effects<K>,
    ) -> usize {
        let Some(own) = self.peers.get_mut(peer) else { return 0 };
        let (taken, instances) = own.take(id, host, most);
        self.drop_if_empty(peer);
        self.shares.give_back(peer, taken.len() * cost(method) + instances);
        for host in &taken {
            self.leave_entry(id, *host, effects);
        }
        taken.len()
    }

    /// Takes back all that `peer` registered and watched: its connection has ended. Offline notices come in the order
    /// of method and host, and none goes to `peer`.
    pub fn leave(&mut self, peer: &K, effects: &mut impl Effects<K>) {
        // First as a watcher, so that the peer is not told of its own end.
        self.end_watches(peer, usize::MAX);
        self.leave_some(peer, None, usize::MAX, effects);
        self.shares.forget(peer);
    }

    /// The hosts that provide `method` and were announced, in the order in which they came.
    pub fn hosts(&self, method: &str) -> impl Iterator<Item = Host> {
        let method = self.methods.find(method).and_then(|id| self.methods.get(id));
        method.into_iter().flat_map(Method::announced).map(|listed| listed.host)
    }

    /// Whether anybody provides `method` at `host`, announced or not.
    pub(crate) fn is_provided(&self, method: &str, host: Host) -> bool {
        let method = self.methods.find(method).and_then(|id| self.methods.get(id));
        method.is_some_and(|method| method.providers.registrations(host) > 0)
    }

    /// How much is in it.
    pub fn size(&self) -> TableSize {
        TableSize { methods: self.methods.len(), connections: self.peers.len(), bytes: self.shares.total() }
    }

    /// What an entry of this method by this peer would take, in bytes.
    pub(crate) fn entry_bytes(&self, peer: &K, method: &str, instance: Option<&str>) -> usize {
        entry_bytes(self.methods.slot(method), self.peers.get(peer), method, instance)
    }

    /// Why the table would not take an entry of this method by this peer, which takes so many bytes.
    pub(crate) fn check(&self, peer: &K, method: &str, bytes: usize) -> Result<(), Refused> {
        self.check_name(method)?;
        self.check_room(peer, self.peers.get(peer), bytes)
    }

    fn check_room(&self, peer: &K, own: Option<&Peer>, bytes: usize) -> Result<(), Refused> {
        let bound = self.limits.registered_per_connection;
        let registered = own.map_or(0, Peer::registered);
        if registered >= bound { Err(Refused::Registered { bound }) } else { self.check_total(peer, bytes) }
    }

    /// Who is to go, so that `peer` may take so many bytes.
    pub(crate) fn gives_way(&self, peer: &K, bytes: usize) -> Option<K> {
        match self.shares.room(peer, bytes) {
            Room::After(other) => Some(other),
            Room::Free | Room::None => None,
        }
    }

    /// Counts a registration of `peer` that waits, for which there is room.
    pub(crate) fn begin_to_wait(&mut self, peer: &K, method: &str, instance: Option<&str>) {
        self.shares.take(peer, waiting_bytes(method, instance));
    }

    /// It waits no longer.
    pub(crate) fn waits_no_more(&mut self, peer: &K, method: &str, instance: Option<&str>) {
        self.shares.give_back(peer, waiting_bytes(method, instance));
    }

    fn check_total(&self, peer: &K, bytes: usize) -> Result<(), Refused> {
        match self.shares.room(peer, bytes) {
            Room::Free => Ok(()),
            Room::After(_) | Room::None => Err(Refused::Total { bound: self.shares.bound() }),
        }
    }

    /// Whether `peer` has registered this.
    pub(crate) fn provides(&self, peer: &K, method: &str, host: Host) -> bool {
        let id = self.methods.find(method);
        id.zip(self.peers.get(peer)).is_some_and(|(id, own)| own.provides(id, host))
    }

    /// The same, with what it is among.
    pub(crate) fn offer(&self, peer: &K, method: &str, host: Host) -> Option<Offer> {
        let (id, own) = self.methods.find(method).zip(self.peers.get(peer))?;
        let method = self.methods.get(id).filter(|_| own.provides(id, host))?;
        Some(Offer { method: Arc::clone(method.name()), methods: own.methods() })
    }

    fn enter(&mut self, peer: &K, method: &str, host: Host, instance: Option<&str>) -> Result<Entered, Refused> {
        self.check_name(method)?;
        let (slot, own) = (self.methods.slot(method), self.peers.get(peer));
        if let (Some(own), Slot::Taken(id)) = (own, slot)
            && own.provides(id, host)
        {
            return Ok(Entered::Known(id));
        }
        self.check_room(peer, own, entry_bytes(slot, own, method, instance))?;
        let own = self.peers.entry(peer.clone()).or_default();
        let instance_bytes = instance.map_or(0, |instance| own.instance_bytes(instance));
        self.shares.take(peer, cost(method) + instance_bytes);
        let id = self.methods.enter(slot);
        count(&mut self.shares, slot);
        own.enter(id, host, instance_bytes);
        let instance = instance.map(|instance| own.instance(instance));
        let store = if host.is_relayed() { own.store() } else { None };
        let listed = ListedHost { host, instance, store };
        let method = self.methods.get_mut(id);
        let is_new = method.is_some_and(|method| method.providers.enter(listed.clone()));
        Ok(if is_new { Entered::New(id, listed) } else { Entered::Known(id) })
    }

    fn check_name(&self, method: &str) -> Result<(), Refused> {
        let (name_bytes, bound) = (method.len(), self.limits.max_name_bytes);
        if name_bytes > bound { Err(Refused::Name { name_bytes, bound }) } else { Ok(()) }
    }

    fn watch(&mut self, peer: &K, slot: Slot<'_>) -> MethodId {
        let id = self.methods.enter(slot);
        count(&mut self.shares, slot);
        self.peers.entry(peer.clone()).or_default().watches.insert(id);
        if let Some(method) = self.methods.get_mut(id) {
            method.watchers.insert(peer.clone());
        }
        id
    }

    fn remove_watcher(&mut self, peer: &K, id: MethodId) {
        if let Some(method) = self.methods.get_mut(id) {
            method.watchers.remove(peer);
            self.drop_method_if_empty(id);
        }
    }

    fn leave_entry(&mut self, id: MethodId, host: Host, effects: &mut impl Effects<K>) {
        if let Some(method) = self.methods.get_mut(id)
            && let Some(listed) = method.providers.leave(host)
        {
            self.tell(id, listed, false, effects);
            self.drop_method_if_empty(id);
        }
    }

    /// Also where nobody watches the set has changed.
    fn tell(&mut self, id: MethodId, changed: ListedHost, online: bool, effects: &mut impl Effects<K>) {
        let Some(method) = self.methods.get_mut(id) else { return };
        if let Some(informed) = method.take_held(changed.host) {
            return method.tell_some(changed, online, &informed, effects);
        }
        method.revision += 1;
        effects.changed(method.name(), changed.host);
        if !method.watchers.is_empty() {
            effects.notice(&method.notice(changed, online), &method.watchers);
        }
    }

    fn drop_method_if_empty(&mut self, id: MethodId) {
        if self.methods.drop_if_empty(id) {
            self.shares.clear(METHOD_BYTES);
        }
    }

    /// Forgets of a peer that provides and watches nothing where it keeps its answers.
    pub(crate) fn drop_if_empty(&mut self, peer: &K) {
        if self.peers.get(peer).is_some_and(Peer::is_empty) {
            self.peers.remove(peer);
            self.leaving.remove(peer);
        }
    }
}

impl<K: Clone + Eq + Hash + Ord> Default for Table<K> {
    fn default() -> Self {
        Self::new(RegistryLimits::default())
    }
}

/// A method that was entered is nobody's: whoever made it may go while others stay.
fn count<K: Clone + Eq + Hash + Ord>(shares: &mut Shares<K>, slot: Slot<'_>) {
    if let Slot::Free { .. } = slot {
        shares.set_aside(METHOD_BYTES);
    }
}

/// What an entry takes of a method that has its place, or would get one there.
fn entry_bytes(slot: Slot<'_>, own: Option<&Peer>, method: &str, instance: Option<&str>) -> usize {
    let of_method = if let Slot::Free { .. } = slot { METHOD_BYTES } else { 0 };
    let of_instance = instance.zip(own).map_or(0, |(instance, own)| own.instance_bytes(instance));
    cost(method) + of_method + of_instance
}

/// What one entry or watcher of a method takes, in bytes: what was measured, names aside, and the name.
const fn cost(method: &str) -> usize {
    ENTRY_BYTES + method.len()
}

/// What a registration takes that waits. It may be the only one that names its method.
pub(crate) fn waiting_bytes(method: &str, instance: Option<&str>) -> usize {
    cost(method) + METHOD_BYTES + instance.map_or(0, str::len)
}

const ENTRY_BYTES: usize = 200;
/// What a method takes beside its entries and watchers: so much was measured.
const METHOD_BYTES: usize = 260;

/// A method that a connection provides.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) method: Arc<str>,
    /// How many it provides.
    pub(crate) methods: usize,
}

/// What became of a registration.
enum Entered {
    /// Nobody has said so before.
    New(MethodId, ListedHost),
    Known(MethodId),
}

#[cfg(test)]
mod tests;
