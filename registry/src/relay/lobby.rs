mod room;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::sync::Arc;

use callboard_common::{Host, Shares};
use tokio::time::Instant;

use super::book::CallerId;

/// The calls that wait for a provider which may be back soon: none of them has been passed on to anybody. Without I/O: time
/// comes in as a value.
///
/// `K` names a connection, `T` is what a call holds as long as it waits. Each call that is entered comes out once: since its
/// provider is back, since its time is over, since it is given up, or for a call of somebody who has less, where as much
/// waits as may.
#[derive(Debug)]
pub(super) struct Lobby<K, T> {
    calls: BTreeMap<Turn, Waiting<K, T>>,
    by_place: BTreeMap<(Host, Arc<str>), BTreeSet<Turn>>,
    /// What each caller calls its calls. One-way calls have no name: nobody gives them up.
    by_id: BTreeSet<(K, CallerId, Turn)>,
    by_caller: BTreeMap<K, BTreeSet<Turn>>,
    due: BTreeSet<(Instant, Turn)>,
    places: Shares<K>,
    bytes: Shares<K>,
    is_closed: bool,
    next: Turn,
}

/// How much may wait for providers that may be back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LobbyBounds {
    pub(super) calls: usize,
    pub(super) bytes: usize,
}

/// A call that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting<K, T> {
    pub(super) caller: K,
    /// What the caller calls it; `None` for a one-way call.
    pub(super) id: Option<CallerId>,
    /// What stands for its provider.
    pub(super) host: Host,
    pub(super) method: Arc<str>,
    /// It waits no longer than that.
    pub(super) until: Instant,
    /// What is kept of it, in bytes.
    pub(super) bytes: usize,
    pub(super) held: T,
}

/// Why a call does not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// So many wait, and nobody has more of them than this caller would.
    Calls { bound: usize },
    /// So many bytes do, and nobody has more of them.
    Bytes { bound: usize },
    /// The center is about to end.
    Closed,
}

type Turn = u64;

impl<K: Clone + Eq + Hash + Ord, T> Lobby<K, T> {
    pub(super) fn new(bounds: LobbyBounds) -> Self {
        Self {
            calls: BTreeMap::new(),
            by_place: BTreeMap::new(),
            by_id: BTreeSet::new(),
            by_caller: BTreeMap::new(),
            due: BTreeSet::new(),
            places: Shares::new(bounds.calls),
            bytes: Shares::new(bounds.bytes),
            is_closed: false,
            next: 0,
        }
    }

    /// Makes room for a call of so many bytes. Those that made it have to be told; where they would not suffice none does.
    pub(super) fn make_room(&mut self, caller: &K, bytes: usize) -> Result<Vec<Waiting<K, T>>, NoRoom> {
        let in_the_way = self.in_the_way(caller, bytes)?;
        Ok(self.take_all(in_the_way))
    }

    /// Enters a call for which there [is room](Self::make_room).
    pub(super) fn enter(&mut self, waiting: Waiting<K, T>) {
        let turn = self.next;
        self.next += 1;
        self.places.take(&waiting.caller, 1);
        self.bytes.take(&waiting.caller, waiting.bytes);
        self.by_place.entry(waiting.place()).or_default().insert(turn);
        self.by_id.extend(waiting.id.clone().map(|id| (waiting.caller.clone(), id, turn)));
        self.by_caller.entry(waiting.caller.clone()).or_default().insert(turn);
        self.due.insert((waiting.until, turn));
        self.calls.insert(turn, waiting);
    }

    /// For which methods calls wait for the provider that `host` stands for: so many at most, in order, from this one on.
    pub(super) fn methods(&self, host: Host, first: &Arc<str>, most: usize) -> Vec<Arc<str>> {
        let first = (host, Arc::clone(first));
        let of_host = self.by_place.range(first..).take_while(|((other, _), _)| *other == host);
        of_host.map(|((_, method), _)| Arc::clone(method)).take(most).collect()
    }

    /// Takes out the call that has waited for longest for this method there.
    pub(super) fn pop(&mut self, host: Host, method: &Arc<str>) -> Option<Waiting<K, T>> {
        let first = *self.by_place.get(&(host, Arc::clone(method)))?.first()?;
        self.take(first)
    }

    /// The caller has given up what it calls so.
    pub(super) fn give_up(&mut self, caller: &K, id: &[u8]) -> Vec<Waiting<K, T>> {
        let named = |turn| (caller.clone(), CallerId::from_slice(id), turn);
        let of_id = self.by_id.range(named(Turn::MIN)..=named(Turn::MAX));
        let given_up: Vec<_> = of_id.map(|(.., turn)| *turn).collect();
        self.take_all(given_up)
    }

    /// The caller has given up all that it calls. Its one-way calls go on.
    pub(super) fn give_up_all(&mut self, caller: &K) -> Vec<Waiting<K, T>> {
        let own = self.by_caller.get(caller).into_iter().flatten().copied();
        let named = |turn: &Turn| self.calls.get(turn).is_some_and(|waiting| waiting.id.is_some());
        let given_up: Vec<_> = own.filter(named).collect();
        self.take_all(given_up)
    }

    /// Those whose time is over, so many at most: the first ones.
    pub(super) fn expired(&mut self, now: Instant, most: usize) -> Vec<Waiting<K, T>> {
        let over = self.due.iter().take_while(|(until, _)| *until <= now).map(|(_, turn)| *turn);
        let over: Vec<_> = over.take(most).collect();
        self.take_all(over)
    }

    /// Nobody is waited for any longer: so many at most of those that waited.
    pub(super) fn close(&mut self, most: usize) -> Vec<Waiting<K, T>> {
        self.is_closed = true;
        let some: Vec<_> = self.calls.keys().copied().take(most).collect();
        self.take_all(some)
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(until, _)| *until)
    }

    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes.total()
    }

    fn take(&mut self, turn: Turn) -> Option<Waiting<K, T>> {
        let waiting = self.calls.remove(&turn)?;
        self.places.give_back(&waiting.caller, 1);
        self.bytes.give_back(&waiting.caller, waiting.bytes);
        forget(&mut self.by_place, &waiting.place(), turn);
        forget(&mut self.by_caller, &waiting.caller, turn);
        if let Some(id) = waiting.id.clone() {
            self.by_id.remove(&(waiting.caller.clone(), id, turn));
        }
        self.due.remove(&(waiting.until, turn));
        Some(waiting)
    }

    fn take_all(&mut self, turns: Vec<Turn>) -> Vec<Waiting<K, T>> {
        turns.into_iter().filter_map(|turn| self.take(turn)).collect()
    }
}

impl<K, T> Waiting<K, T> {
    fn place(&self) -> (Host, Arc<str>) {
        (self.host, Arc::clone(&self.method))
    }
}

fn forget<Q: Ord>(turns: &mut BTreeMap<Q, BTreeSet<Turn>>, of: &Q, turn: Turn) {
    if let Some(own) = turns.get_mut(of) {
        own.remove(&turn);
        if own.is_empty() {
            turns.remove(of);
        }
    }
}

#[cfg(test)]
mod tests;
