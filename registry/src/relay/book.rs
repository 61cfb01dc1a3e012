mod crowd;
mod places;

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use callboard_common::CallerTag;
use rustc_hash::FxBuildHasher;
use smallvec::SmallVec;
use tokio::time::Instant;

use self::crowd::Crowd;
use self::places::Places;

/// The calls that were passed on and wait for their answers: whose each of them is, and who is to answer. Without I/O: time
/// comes in as a value.
///
/// `K` names a connection, `H` is what a call holds as long as it waits. Each call that is entered comes out once: by its
/// answer, since it is given up, since its time is over, with either of its two connections, or for a call of somebody who
/// has fewer, where as many wait as may.
#[derive(Debug)]
pub(super) struct Book<K, H> {
    calls: HashMap<Number, Call<K, H>, FxBuildHasher>,
    by_caller: Crowd<K>,
    /// What each caller calls its calls: who gives up a call that is not there must cost no more than one that is. A tree
    /// and not a hash map, since peers choose the ids.
    by_id: BTreeSet<(K, CallerId, Number)>,
    by_provider: HashMap<K, Places<K>, FxBuildHasher>,
    due: BTreeSet<(Instant, Number)>,
    /// When its keeper looks next; never later than the first of those that are due.
    looks_at: Option<Instant>,
    bound: usize,
    next: u64,
}

/// A call that was passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call<K, H> {
    pub(super) caller: K,
    /// What the caller calls it.
    pub(super) id: CallerId,
    /// What its provider knows the caller by, if it wants to.
    pub(super) tag: Option<CallerTag>,
    pub(super) provider: K,
    pub(super) method: Arc<str>,
    /// When its caller waits no longer, as far as it said so.
    pub(super) deadline: Option<Instant>,
    /// To one who has called.
    pub(super) goes_back: bool,
    /// Of its frame.
    pub(super) bytes: usize,
    /// Where in the stream of all bytes to the provider it begins; 0 as long as that is not known.
    pub(super) at: u64,
    pub(super) held: H,
}

/// Has room for the ids of this version's own clients.
pub(super) type CallerId = SmallVec<[u8; 16]>;

/// What a call is called towards its provider.
pub(super) type WireId = SmallVec<[u8; 36]>;

/// Names a call to its provider, and no other ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Number(u64);

/// What a provider permits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Permits {
    /// So many calls may wait for it at once.
    pub(super) calls: usize,
    /// So many methods they are for.
    pub(super) methods: usize,
    /// Who has any waiting for it may have so many bytes: while much is to be written to it, as many as are free.
    pub(super) bytes: usize,
}

/// A call was entered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entered<K, H> {
    pub(super) number: Number,
    /// The one that made room for it.
    pub(super) gave_way: Option<(Number, Call<K, H>)>,
}

/// Why a call is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// So many wait in all, and no caller has more of them than this one would.
    Total { bound: usize },
    /// So many wait for this provider.
    Provider { bound: usize },
    /// Of so many that may wait for this provider the method has its share, or the caller.
    Share { bound: usize },
    /// So much is to be written to it that a caller's calls may have no more than so many bytes.
    Bytes { bound: usize },
}

impl Number {
    /// How many bytes it has on the wire.
    const WIRE_BYTES: usize = 17;
    const FIRST: Self = Self(0);
    const LAST: Self = Self(u64::MAX);

    /// `r`, and 16 hex digits: no call that this side makes for itself has such an id.
    fn to_wire(self) -> [u8; Self::WIRE_BYTES] {
        let mut wire = [b'r'; Self::WIRE_BYTES];
        let (_, digits) = wire.split_at_mut(1);
        digits.copy_from_slice(&CallerTag::digits(self.0));
        wire
    }

    /// The id of a call with this number: it ends with whose it is, where its provider is to know.
    pub(super) fn id_of(self, tag: Option<CallerTag>) -> WireId {
        let mut id = WireId::from_slice(&self.to_wire());
        id.extend_from_slice(tag.map(CallerTag::to_wire).as_ref().map_or(&[], |tag| &tag[..]));
        id
    }

    /// How many bytes that has.
    pub(super) const fn id_bytes(has_tag: bool) -> usize {
        Self::WIRE_BYTES + if has_tag { CallerTag::WIRE_BYTES } else { 0 }
    }

    /// The number of the call with this id; `None` for bytes that are none.
    pub(super) fn of_id(id: &[u8]) -> Option<Self> {
        let (number, tag) = id.split_at_checked(Self::WIRE_BYTES)?;
        let is_whole = tag.is_empty() || (tag.len() == CallerTag::WIRE_BYTES && CallerTag::from_id(tag).is_some());
        if is_whole { Self::from_wire(number) } else { None }
    }

    fn from_wire(wire: &[u8]) -> Option<Self> {
        wire.strip_prefix(b"r").and_then(CallerTag::read_digits).map(Self)
    }
}

impl<K: Clone + Eq + Hash + Ord, H> Book<K, H> {
    /// For up to `bound` calls at once.
    pub(super) fn new(bound: usize) -> Self {
        Self {
            calls: HashMap::default(),
            by_caller: Crowd::default(),
            by_id: BTreeSet::new(),
            by_provider: HashMap::default(),
            due: BTreeSet::new(),
            looks_at: None,
            bound,
            next: 0,
        }
    }

    /// Enters a call to a provider that permits so much.
    pub(super) fn enter(&mut self, call: Call<K, H>, permits: Permits) -> Result<Entered<K, H>, Full> {
        let places = self.by_provider.get_mut(&call.provider);
        let mut gives_way = places.map_or(Ok(None), |places| places.room(&call, permits))?;
        if gives_way.is_none() && self.calls.len() >= self.bound {
            let newest = self.by_caller.gives_way_to(&call.caller);
            gives_way = Some(newest.ok_or(Full::Total { bound: self.bound })?);
        }
        let gave_way = gives_way.and_then(|number| Some((number, self.take(number)?)));
        let number = Number(self.next);
        self.next += 1;
        self.by_caller.enter(&call.caller, number);
        self.by_id.insert((call.caller.clone(), CallerId::from_slice(&call.id), number));
        self.by_provider.entry(call.provider.clone()).or_default().enter(&call, number);
        self.due.extend(call.deadline.map(|deadline| (deadline, number)));
        self.calls.insert(number, call);
        Ok(Entered { number, gave_way })
    }

    /// It was queued, and begins there. Whether it is still here.
    pub(super) fn sent(&mut self, number: Number, at: u64) -> bool {
        let call = self.calls.get_mut(&number);
        call.map(|call| call.at = at).is_some()
    }

    /// `provider` has answered: the call, if it is one that this provider was to answer.
    pub(super) fn answered(&mut self, provider: &K, number: Number) -> Option<Call<K, H>> {
        self.calls.get(&number).filter(|call| call.provider == *provider)?;
        self.take(number)
    }

    /// The caller has given up what it calls so.
    pub(super) fn give_up(&mut self, caller: &K, id: &[u8]) -> Vec<(Number, Call<K, H>)> {
        let named = |number| (caller.clone(), CallerId::from_slice(id), number);
        let of_id = self.by_id.range(named(Number::FIRST)..=named(Number::LAST));
        let given_up = of_id.map(|(.., number)| *number).collect();
        self.take_all(given_up)
    }

    /// The caller has given up all that it calls.
    pub(super) fn give_up_all(&mut self, caller: &K) -> Vec<(Number, Call<K, H>)> {
        let own = self.by_caller.of(caller).collect();
        self.take_all(own)
    }

    /// `provider` answers no more: the calls that it was to answer, of those that begin before `end`.
    pub(super) fn lose(&mut self, provider: &K, end: u64) -> Vec<(Number, Call<K, H>)> {
        let is_before = |number: &Number| self.calls.get(number).is_some_and(|call| call.at < end);
        let to_answer = self.by_provider.get(provider).into_iter().flat_map(Places::numbers);
        let lost = to_answer.filter(is_before).collect();
        self.take_all(lost)
    }

    /// Those whose time is over, so many at most: the first ones.
    pub(super) fn expired(&mut self, now: Instant, most: usize) -> Vec<(Number, Call<K, H>)> {
        let over = self.due.iter().take_while(|(deadline, _)| *deadline <= now).map(|(_, number)| *number);
        let over: Vec<_> = over.take(most).collect();
        self.take_all(over)
    }

    /// Takes a call out. `None` if it has come out already.
    pub(super) fn take(&mut self, number: Number) -> Option<Call<K, H>> {
        let call = self.calls.remove(&number)?;
        self.by_caller.leave(&call.caller, number);
        self.by_id.remove(&(call.caller.clone(), CallerId::from_slice(&call.id), number));
        if self.by_provider.get_mut(&call.provider).is_some_and(|places| places.leave(&call, number)) {
            self.by_provider.remove(&call.provider);
        }
        if let Some(deadline) = call.deadline {
            self.due.remove(&(deadline, number));
        }
        Some(call)
    }

    /// When the keeper is to look next, who has other things to do then; it will.
    pub(super) fn look_next(&mut self, others: Option<Instant>) -> Option<Instant> {
        self.looks_at = self.due.first().map(|(deadline, _)| *deadline).into_iter().chain(others).min();
        self.looks_at
    }

    /// Whether the keeper would look too late for this one. Those that are answered in time cost it nothing.
    pub(super) fn is_too_late_for(&self, deadline: Instant) -> bool {
        self.looks_at.is_none_or(|looks_at| deadline < looks_at)
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    fn take_all(&mut self, numbers: Vec<Number>) -> Vec<(Number, Call<K, H>)> {
        numbers.into_iter().filter_map(|number| Some((number, self.take(number)?))).collect()
    }
}

#[cfg(test)]
mod tests;
