use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use rustc_hash::FxBuildHasher;
use smallvec::SmallVec;
use tokio::time::Instant;

/// The calls that were passed on and wait for their answers: whose each of them is, and who is to answer. Without I/O: time
/// comes in as a value.
///
/// `K` names a connection, `H` is what a call holds as long as it waits. Each call that is entered comes out once: by its
/// answer, since it is given up, since its time is over, or with either of its two connections.
#[derive(Debug)]
pub(super) struct Book<K, H> {
    calls: HashMap<Number, Call<K, H>, FxBuildHasher>,
    by_caller: HashMap<K, BTreeSet<Number>, FxBuildHasher>,
    by_provider: HashMap<K, BTreeSet<Number>, FxBuildHasher>,
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
    pub(super) provider: K,
    /// When its caller waits no longer, as far as it said so.
    pub(super) deadline: Option<Instant>,
    /// Where in the stream of all bytes to the provider it begins; 0 as long as that is not known.
    pub(super) at: u64,
    pub(super) held: H,
}

/// Has room for the ids of this version's own clients.
pub(super) type CallerId = SmallVec<[u8; 16]>;

/// Names a call to its provider, and no other ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Number(u64);

/// Why a call is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// So many wait in all.
    Total { bound: usize },
    /// So many wait for this provider.
    Provider { bound: usize },
}

impl Number {
    /// How many bytes it has on the wire.
    pub(super) const WIRE_BYTES: usize = 17;

    /// `r`, and 16 hex digits: no call that this side makes for itself has such an id.
    pub(super) fn to_wire(self) -> [u8; Self::WIRE_BYTES] {
        let mut wire = [b'r'; Self::WIRE_BYTES];
        let mut rest = self.0;
        for digit in wire.iter_mut().skip(1).rev() {
            let nibble = (rest & 0xf) as u8;
            *digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
            rest >>= 4;
        }
        wire
    }

    /// `None` for bytes that name none.
    pub(super) fn from_wire(wire: &[u8]) -> Option<Self> {
        let digits = wire.strip_prefix(b"r").filter(|digits| digits.len() + 1 == Self::WIRE_BYTES)?;
        let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
        u64::from_str_radix(digits, 16).ok().map(Self)
    }
}

impl<K: Clone + Eq + Hash, H> Book<K, H> {
    /// For up to `bound` calls at once.
    pub(super) fn new(bound: usize) -> Self {
        Self {
            calls: HashMap::default(),
            by_caller: HashMap::default(),
            by_provider: HashMap::default(),
            due: BTreeSet::new(),
            looks_at: None,
            bound,
            next: 0,
        }
    }

    /// Enters a call; `provider_bound` of the provider's may wait at once.
    pub(super) fn enter(&mut self, call: Call<K, H>, provider_bound: usize) -> Result<Number, Full> {
        if self.calls.len() >= self.bound {
            return Err(Full::Total { bound: self.bound });
        }
        if self.by_provider.get(&call.provider).map_or(0, BTreeSet::len) >= provider_bound {
            return Err(Full::Provider { bound: provider_bound });
        }
        let number = Number(self.next);
        self.next += 1;
        self.by_caller.entry(call.caller.clone()).or_default().insert(number);
        self.by_provider.entry(call.provider.clone()).or_default().insert(number);
        self.due.extend(call.deadline.map(|deadline| (deadline, number)));
        self.calls.insert(number, call);
        Ok(number)
    }

    /// It was queued, and begins there.
    pub(super) fn sent(&mut self, number: Number, at: u64) {
        if let Some(call) = self.calls.get_mut(&number) {
            call.at = at;
        }
    }

    /// `provider` has answered: the call, if it is one that this provider was to answer.
    pub(super) fn answered(&mut self, provider: &K, number: Number) -> Option<Call<K, H>> {
        self.calls.get(&number).filter(|call| call.provider == *provider)?;
        self.take(number)
    }

    /// The caller has given up what it calls so.
    pub(super) fn give_up(&mut self, caller: &K, id: &[u8]) -> Vec<(Number, Call<K, H>)> {
        let is_it = |number: &Number| self.calls.get(number).is_some_and(|call| *call.id == *id);
        let own = self.by_caller.get(caller).into_iter().flatten();
        let given_up: Vec<_> = own.copied().filter(is_it).collect();
        self.take_all(given_up)
    }

    /// The caller has given up all that it calls.
    pub(super) fn give_up_all(&mut self, caller: &K) -> Vec<(Number, Call<K, H>)> {
        let own = self.by_caller.get(caller).into_iter().flatten().copied().collect();
        self.take_all(own)
    }

    /// `provider` answers no more: the calls that it was to answer, of those that begin before `end`.
    pub(super) fn lose(&mut self, provider: &K, end: u64) -> Vec<(Number, Call<K, H>)> {
        let is_before = |number: &Number| self.calls.get(number).is_some_and(|call| call.at < end);
        let to_answer = self.by_provider.get(provider).into_iter().flatten();
        let lost = to_answer.copied().filter(is_before).collect();
        self.take_all(lost)
    }

    /// Those whose time is over.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<(Number, Call<K, H>)> {
        let over = self.due.iter().take_while(|(deadline, _)| *deadline <= now).map(|(_, number)| *number);
        let over: Vec<_> = over.collect();
        self.take_all(over)
    }

    /// Takes a call out. `None` if it has come out already.
    pub(super) fn take(&mut self, number: Number) -> Option<Call<K, H>> {
        let call = self.calls.remove(&number)?;
        remove(&mut self.by_caller, &call.caller, number);
        remove(&mut self.by_provider, &call.provider, number);
        if let Some(deadline) = call.deadline {
            self.due.remove(&(deadline, number));
        }
        Some(call)
    }

    /// When the keeper is to look next; it will.
    pub(super) fn look_next(&mut self) -> Option<Instant> {
        self.looks_at = self.due.first().map(|(deadline, _)| *deadline);
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

fn remove<K: Eq + Hash>(index: &mut HashMap<K, BTreeSet<Number>, FxBuildHasher>, conn: &K, number: Number) {
    if let Some(numbers) = index.get_mut(conn) {
        numbers.remove(&number);
        if numbers.is_empty() {
            index.remove(conn);
        }
    }
}

#[cfg(test)]
mod tests;
