use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use rustc_hash::FxBuildHasher;

use super::crowd::Crowd;
use super::{Call, Full, Number, Permits};

/// The calls that one provider is to answer, and who takes which part of those that it permits.
///
/// What a caller has stays below what is free, and what a method has does: so a newcomer finds room, however many calls one
/// caller makes and however long one method takes (for buffers of packets this is known as dynamic thresholds). Many callers
/// together may take all: then whoever has most gives way to one that has none.
#[derive(Debug)]
pub(super) struct Places<K> {
    all: Crowd<K>,
    /// Of the calls of each caller.
    bytes: HashMap<K, usize, FxBuildHasher>,
    methods: BTreeMap<Arc<str>, Crowd<K>>,
}

impl<K: Clone + Eq + Hash + Ord> Places<K> {
    /// Whether there is a place for this call, and which one is to give way to it.
    pub(super) fn room<H>(&mut self, call: &Call<K, H>, permits: Permits) -> Result<Option<Number>, Full> {
        let bound = permits.calls;
        let free = bound.saturating_sub(self.all.len());
        let own = self.all.own(&call.caller);
        let own_bytes = self.bytes.get(&call.caller).copied().unwrap_or(0);
        if own > 0 && own_bytes.saturating_add(call.bytes) > permits.bytes {
            return Err(Full::Bytes { bound: permits.bytes });
        }
        // The only method has nothing to leave to others.
        let of_method = self.methods.get_mut(&call.method).filter(|_| permits.methods > 1);
        let taken = of_method.as_ref().map(|method| method.len());
        // A method that has its half makes no use of the others'.
        let half = of_method.filter(|method| method.len() >= bound.div_ceil(2));
        let has_share = if own == 0 { half.is_some() } else { taken.is_some_and(|taken| taken >= free) };
        if own < free && !has_share {
            return Ok(None);
        }
        let full = if free == 0 { Full::Provider { bound } } else { Full::Share { bound } };
        if own > 0 {
            return Err(full);
        }
        half.unwrap_or(&mut self.all).gives_way_to(&call.caller).map(Some).ok_or(full)
    }

    pub(super) fn enter<H>(&mut self, call: &Call<K, H>, number: Number) {
        self.all.enter(&call.caller, number);
        *self.bytes.entry(call.caller.clone()).or_default() += call.bytes;
        self.methods.entry(Arc::clone(&call.method)).or_default().enter(&call.caller, number);
    }

    /// Whether nothing is left.
    pub(super) fn leave<H>(&mut self, call: &Call<K, H>, number: Number) -> bool {
        if self.methods.get_mut(&call.method).is_some_and(|method| method.leave(&call.caller, number)) {
            self.methods.remove(&call.method);
        }
        let is_empty = self.all.leave(&call.caller, number);
        if self.all.own(&call.caller) == 0 {
            self.bytes.remove(&call.caller);
        } else if let Some(own) = self.bytes.get_mut(&call.caller) {
            *own -= call.bytes;
        }
        is_empty
    }

    /// The oldest first.
    pub(super) fn numbers(&self) -> Vec<Number> {
        let mut numbers: Vec<_> = self.all.numbers().collect();
        numbers.sort_unstable();
        numbers
    }
}

impl<K> Default for Places<K> {
    fn default() -> Self {
        Self { all: Crowd::default(), bytes: HashMap::default(), methods: BTreeMap::new() }
    }
}
