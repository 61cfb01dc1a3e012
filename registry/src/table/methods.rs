use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;
use slab::Slab;

use super::held::Held;
use super::providers::Providers;

/// The methods that are provided or watched, found by name.
#[derive(Debug)]
pub(super) struct Methods<K> {
    /// With a secret key: peers choose the names.
    hasher: RandomState,
    /// Peers choose how many there are: so what moves when one of [so many](PARTS) grows is little, and keeps nobody
    /// waiting.
    by_name: Box<[HashTable<Named>; PARTS]>,
    by_id: Slab<Box<Method<K>>>,
    /// The highest revision of any method that is gone: one that comes again goes on from here, so that a number never
    /// means two sets.
    last_revision: u64,
}

/// One method. It is there for as long as somebody provides or watches it.
#[derive(Debug)]
pub(super) struct Method<K> {
    name: Arc<str>,
    hash: u64,
    pub(super) providers: Providers,
    pub(super) watchers: BTreeSet<K>,
    pub(super) held: Held<K>,
    /// Grows by one with each change of `providers` that is told.
    pub(super) revision: u64,
}

/// Where a name's method lies, with the name's hash: to grow needs no look at the methods.
#[derive(Clone, Copy, Debug)]
struct Named {
    hash: u64,
    id: MethodId,
}

/// Where a method lies, for as long as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct MethodId(usize);

/// Where a method is, or with what it would be entered.
#[derive(Clone, Copy, Debug)]
pub(super) enum Slot<'a> {
    Taken(MethodId),
    Free { name: &'a str, hash: u64 },
}

/// Names are spread over so many tables, which grow one after the other.
const PARTS: usize = 64;

/// An empty table with room for more methods than this gives its memory back.
const KEEP_METHODS: usize = 1024;

impl<K> Methods<K> {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn find(&self, name: &str) -> Option<MethodId> {
        match self.slot(name) {
            Slot::Taken(id) => Some(id),
            Slot::Free { .. } => None,
        }
    }

    pub(super) fn slot<'a>(&self, name: &'a str) -> Slot<'a> {
        let hash = self.hasher.hash_one(name);
        let is_it = |of: &Named| of.hash == hash && self.get(of.id).is_some_and(|method| *method.name == *name);
        self.part(hash).find(hash, is_it).map_or(Slot::Free { name, hash }, |of| Slot::Taken(of.id))
    }

    /// The method, which is made if there is none.
    pub(super) fn enter(&mut self, slot: Slot<'_>) -> MethodId {
        let (name, hash) = match slot {
            Slot::Taken(id) => return id,
            Slot::Free { name, hash } => (name, hash),
        };
        let method = Method {
            name: Arc::from(name),
            hash,
            providers: Providers::default(),
            watchers: BTreeSet::new(),
            held: None,
            revision: self.last_revision,
        };
        let id = MethodId(self.by_id.insert(Box::new(method)));
        self.part_mut(hash).insert_unique(hash, Named { hash, id }, |of| of.hash);
        id
    }

    pub(super) fn get(&self, id: MethodId) -> Option<&Method<K>> {
        self.by_id.get(id.0).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, id: MethodId) -> Option<&mut Method<K>> {
        self.by_id.get_mut(id.0).map(Box::as_mut)
    }

    /// Forgets a method that nobody provides or watches any longer. Whether that was so.
    pub(super) fn drop_if_empty(&mut self, id: MethodId) -> bool {
        let Some(method) = self.by_id.get(id.0).filter(|method| method.is_empty()) else { return false };
        let (hash, revision) = (method.hash, method.revision);
        if let Ok(entry) = self.part_mut(hash).find_entry(hash, |of| of.id == id) {
            entry.remove();
        }
        self.last_revision = self.last_revision.max(revision);
        self.by_id.remove(id.0);
        if self.by_id.is_empty() && self.by_id.capacity() > KEEP_METHODS {
            self.by_id = Slab::new();
            self.by_name = no_names();
        }
        true
    }

    #[expect(clippy::indexing_slicing, reason = "the remainder is below")]
    fn part(&self, hash: u64) -> &HashTable<Named> {
        &self.by_name[part(hash)]
    }

    #[expect(clippy::indexing_slicing, reason = "the remainder is below")]
    fn part_mut(&mut self, hash: u64) -> &mut HashTable<Named> {
        &mut self.by_name[part(hash)]
    }
}

/// By bits in the middle: within a table the lowest and the highest ones tell names apart.
const fn part(hash: u64) -> usize {
    (hash >> 32) as usize % PARTS
}

fn no_names() -> Box<[HashTable<Named>; PARTS]> {
    Box::new([const { HashTable::new() }; PARTS])
}

impl<K> Method<K> {
    pub(super) const fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn is_empty(&self) -> bool {
        self.providers.is_empty() && self.watchers.is_empty()
    }
}

impl<K> Default for Methods<K> {
    fn default() -> Self {
        Self { hasher: RandomState::new(), by_name: no_names(), by_id: Slab::new(), last_revision: 0 }
    }
}
