mod few_set;
mod methods;
mod peer;
mod providers;

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use callboard_common::Host;
use rustc_hash::FxBuildHasher;

use self::methods::{Method, MethodId, Methods, Slot};
use self::peer::Peer;
use crate::{Notice, Refused, RegistryLimits};

/// Who provides what and who watches what: the state of a center's registry, without any I/O.
///
/// `K` names a connection. Every operation returns what its answer says, and pushes what others are to be told into
/// [`Effects`], in order, after the table has changed. A caller that queues both before the next operation gives every
/// watcher one history: no ONLINE for a host that it knows, no OFFLINE for one that it does not.
///
/// An operation looks for its method once, by a hash of the name, and costs at most the logarithm of what else is in the
/// table; a list of hosts costs its own length, a notice its watchers, and the end of a connection its own entries.
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
/// assert_eq!(table.discover(&watcher, "add")?, []);
/// table.register(&provider, "add", "127.0.0.1:7071".parse()?, &mut Print)?; // "add" online at 127.0.0.1:7071, to {2}
/// assert_eq!(table.discover(&watcher, "add")?.len(), 1);
/// table.leave(&provider, &mut Print); // "add" offline at 127.0.0.1:7071, to {2}
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Table<K> {
    methods: Methods<K>,
    /// By a quick hash: connections are named on this side.
    peers: HashMap<K, Peer, FxBuildHasher>,
    limits: RegistryLimits,
}

/// What a [`Table`] tells others.
pub trait Effects<K> {
    /// `notice` is to be queued for each of `watchers`, of which there is one at least.
    fn notice(&mut self, notice: &Notice, watchers: &BTreeSet<K>);
}

/// How much a [`Table`] holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableSize {
    /// Methods that are provided or watched.
    pub methods: usize,
    /// Connections that provide or watch something.
    pub connections: usize,
}

impl<K: Clone + Eq + Hash + Ord> Table<K> {
    /// An empty table with these limits.
    pub fn new(limits: RegistryLimits) -> Self {
        Self { methods: Methods::default(), peers: HashMap::default(), limits }
    }

    /// Enters that `peer` says that `method` is provided at `host`. The same method and host again, by this connection
    /// or by another one, is the same entry: its watchers hear of it once.
    ///
    /// # Errors
    /// [`Refused::Registered`] or [`Refused::Name`].
    pub fn register(
        &mut self,
        peer: &K,
        method: &str,
        host: Host,
        effects: &mut impl Effects<K>,
    ) -> Result<(), Refused> {
        self.check_name(method)?;
        let slot = self.methods.slot(method);
        let own = self.peers.get(peer);
        if let (Some(own), Slot::Taken(id)) = (own, slot)
            && own.provides(id, host)
        {
            return Ok(());
        }
        let bound = self.limits.registered_per_connection;
        if own.map_or(0, Peer::registered) >= bound {
            return Err(Refused::Registered { bound });
        }
        let id = self.methods.enter(slot);
        self.peers.entry(peer.clone()).or_default().enter(id, host);
        if let Some(method) = self.methods.get_mut(id)
            && method.providers.enter(host)
        {
            tell(method, host, true, effects);
        }
        Ok(())
    }

    /// The hosts that provide `method`, in the order in which they came. From now on `peer` watches the method, also
    /// where the list is empty.
    ///
    /// # Errors
    /// [`Refused::Watched`] or [`Refused::Name`].
    pub fn discover(&mut self, peer: &K, method: &str) -> Result<Vec<Host>, Refused> {
        self.check_name(method)?;
        let slot = self.methods.slot(method);
        let own = self.peers.get(peer);
        let id = match slot {
            Slot::Taken(id) if own.is_some_and(|own| own.watches.contains(&id)) => id,
            slot => {
                let bound = self.limits.watched_per_connection;
                if own.map_or(0, |own| own.watches.len()) >= bound {
                    return Err(Refused::Watched { bound });
                }
                self.watch(peer, slot)
            }
        };
        Ok(self.hosts_of(id).collect())
    }

    /// `peer` is no longer told of changes to `method`.
    pub fn stop_watching(&mut self, peer: &K, method: &str) {
        let Some(id) = self.methods.find(method) else { return };
        let Some(own) = self.peers.get_mut(peer) else { return };
        if own.watches.remove(&id) {
            self.drop_if_empty(peer);
            self.remove_watcher(peer, id);
        }
    }

    /// Takes back what `peer` registered for `method`: at `host`, or wherever it did. What others registered stays, and
    /// so do the peer's other methods. What is not there is not missed.
    pub fn withdraw(&mut self, peer: &K, method: &str, host: Option<Host>, effects: &mut impl Effects<K>) {
        let Some(id) = self.methods.find(method) else { return };
        let Some(own) = self.peers.get_mut(peer) else { return };
        let taken = own.take(id, host);
        self.drop_if_empty(peer);
        for host in taken {
            self.leave_entry(id, host, effects);
        }
    }

    /// Takes back all that `peer` registered and watched: its connection has ended. Offline notices come in the order
    /// of method and host, and none goes to `peer`.
    pub fn leave(&mut self, peer: &K, effects: &mut impl Effects<K>) {
        let Some(own) = self.peers.remove(peer) else { return };
        // First as a watcher, so that the peer is not told of its own end.
        for id in &own.watches {
            self.remove_watcher(peer, *id);
        }
        let named = |(id, hosts)| self.methods.get(id).map(|method| (Arc::clone(method.name()), id, hosts));
        let mut provided: Vec<_> = own.into_provided().filter_map(named).collect();
        provided.sort_unstable_by(|(one, ..), (other, ..)| one.cmp(other));
        for (_, id, hosts) in provided {
            for host in hosts.into_sorted() {
                self.leave_entry(id, host, effects);
            }
        }
    }

    /// The hosts that provide `method`, in the order in which they came.
    pub fn hosts(&self, method: &str) -> impl Iterator<Item = Host> {
        self.methods.find(method).into_iter().flat_map(|id| self.hosts_of(id))
    }

    /// How much is in it.
    pub fn size(&self) -> TableSize {
        TableSize { methods: self.methods.len(), connections: self.peers.len() }
    }

    fn check_name(&self, method: &str) -> Result<(), Refused> {
        let (name_bytes, bound) = (method.len(), self.limits.max_name_bytes);
        if name_bytes > bound { Err(Refused::Name { name_bytes, bound }) } else { Ok(()) }
    }

    fn hosts_of(&self, id: MethodId) -> impl Iterator<Item = Host> {
        self.methods.get(id).into_iter().flat_map(|method| method.providers.hosts())
    }

    fn watch(&mut self, peer: &K, slot: Slot<'_>) -> MethodId {
        let id = self.methods.enter(slot);
        self.peers.entry(peer.clone()).or_default().watches.insert(id);
        if let Some(method) = self.methods.get_mut(id) {
            method.watchers.insert(peer.clone());
        }
        id
    }

    fn remove_watcher(&mut self, peer: &K, id: MethodId) {
        if let Some(method) = self.methods.get_mut(id) {
            method.watchers.remove(peer);
            self.methods.drop_if_empty(id);
        }
    }

    fn leave_entry(&mut self, id: MethodId, host: Host, effects: &mut impl Effects<K>) {
        if let Some(method) = self.methods.get_mut(id)
            && method.providers.leave(host)
        {
            tell(method, host, false, effects);
            self.methods.drop_if_empty(id);
        }
    }

    fn drop_if_empty(&mut self, peer: &K) {
        if self.peers.get(peer).is_some_and(Peer::is_empty) {
            self.peers.remove(peer);
        }
    }
}

impl<K: Clone + Eq + Hash + Ord> Default for Table<K> {
    fn default() -> Self {
        Self::new(RegistryLimits::default())
    }
}

fn tell<K>(method: &Method<K>, host: Host, online: bool, effects: &mut impl Effects<K>) {
    if !method.watchers.is_empty() {
        effects.notice(&Notice { method: Arc::clone(method.name()), host, online }, &method.watchers);
    }
}

#[cfg(test)]
mod tests;
