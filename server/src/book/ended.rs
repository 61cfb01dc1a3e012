use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use callboard_common::Shares;
use tokio::time::Instant;

use super::{CallKey, Window};
use crate::caller_id::CallerId;

/// The calls that have ended, and which of them is forgotten next: past a bound the oldest of whoever has most, so that who
/// makes many calls under keys has its own forgotten, and not those of others.
#[derive(Debug)]
pub(super) struct Ended {
    window: Window,
    /// By their numbers, the oldest first.
    calls: BTreeMap<u64, EndedCall>,
    last_number: u64,
    of: HashMap<CallerId, VecDeque<u64>>,
    /// How many of them are whose, and how many bytes.
    answers: Shares<CallerId>,
    bytes: Shares<CallerId>,
}

#[derive(Debug)]
struct EndedCall {
    call: Arc<CallKey>,
    caller: CallerId,
    bytes: usize,
    at: Instant,
}

impl Ended {
    pub(super) fn new(window: Window) -> Self {
        // All may be entered; what is too much then goes.
        let (answers, bytes) = (Shares::new(usize::MAX), Shares::new(usize::MAX));
        Self { window, calls: BTreeMap::new(), last_number: 0, of: HashMap::new(), answers, bytes }
    }

    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    /// Adds one that takes so many bytes, after all others.
    pub(super) fn push(&mut self, call: Arc<CallKey>, caller: CallerId, bytes: usize, at: Instant) {
        self.last_number += 1;
        self.calls.insert(self.last_number, EndedCall { call, caller, bytes, at });
        self.of.entry(caller).or_default().push_back(self.last_number);
        self.answers.take(&caller, 1);
        self.bytes.take(&caller, bytes);
    }

    /// The oldest, and when it ended.
    pub(super) fn oldest(&self) -> Option<(u64, Instant)> {
        self.calls.first_key_value().map(|(number, ended)| (*number, ended.at))
    }

    /// The one to forget, if there are too many or they take too much.
    pub(super) fn excess(&self) -> Option<u64> {
        let most = if self.calls.len() > self.window.answers {
            self.answers.largest().filter(|caller| self.answers.of(caller) > 1)
        } else if self.bytes.total() > self.window.bytes {
            self.bytes.largest()
        } else {
            return None;
        };
        let of_most = most.and_then(|caller| self.of.get(caller)?.front());
        of_most.copied().or_else(|| self.oldest().map(|(number, _)| number))
    }

    /// Whether none has ended after this one.
    pub(super) fn is_last(&self, number: u64) -> bool {
        number == self.last_number
    }

    pub(super) fn get(&self, number: u64) -> Option<&Arc<CallKey>> {
        self.calls.get(&number).map(|ended| &ended.call)
    }

    /// It takes only so many bytes from now on.
    pub(super) fn shorten(&mut self, number: u64, bytes: usize) {
        if let Some(ended) = self.calls.get_mut(&number) {
            let before = std::mem::replace(&mut ended.bytes, bytes);
            self.bytes.give_back(&ended.caller, before.saturating_sub(bytes));
        }
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Arc<CallKey>> {
        let EndedCall { call, caller, bytes, .. } = self.calls.remove(&number)?;
        if let Some(numbers) = self.of.get_mut(&caller) {
            if let Ok(at) = numbers.binary_search(&number) {
                numbers.remove(at);
            }
            if numbers.is_empty() {
                self.of.remove(&caller);
            }
        }
        self.answers.give_back(&caller, 1);
        self.bytes.give_back(&caller, bytes);
        Some(call)
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<CallKey>> {
        self.calls.values().map(|ended| &ended.call)
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes.total()
    }
}
