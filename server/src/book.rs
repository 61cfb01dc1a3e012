//! Which calls under a key run, wait for another under the same key, or get the answer that it had. Pure: what happens and
//! the time come in, what to do comes out.

mod ended;

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use tokio::time::Instant;

use self::ended::Ended;
use crate::answer_store::{Change, Kept, StoredCall};
use crate::caller_id::CallerId;
use crate::kept_metrics::KeptMetrics;

/// What a call is known by that its caller has given a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CallKey {
    pub(crate) method: Box<str>,
    pub(crate) key: Box<str>,
}

/// Stands for the parameters of a call: the same for the same bytes.
pub(crate) type Digest = u128;

/// The calls under keys, each once: those that run, and for a while those that have ended.
///
/// No more than one call runs under a key at any time. One that has begun is never forgotten before it has ended, and then
/// for as long as the [`Window`] has room for it: past that the oldest go first of the caller that has most.
#[derive(Debug)]
pub(crate) struct Book<W> {
    window: Window,
    entries: HashMap<Arc<CallKey>, Entry<W>>,
    ended: Ended,
    last_number: u64,
    /// The last that a store knows a call by.
    last_stored: u64,
    /// What the store is still to forget.
    forgotten: Vec<Change>,
    counted: KeptMetrics,
}

/// How much of what has ended is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) answers: usize,
    pub(crate) bytes: usize,
    pub(crate) age: Duration,
}

#[derive(Debug)]
struct Entry<W> {
    params: Digest,
    /// Whose call runs or ran.
    caller: CallerId,
    /// What the store knows it by, if it does.
    stored: Option<u64>,
    state: State<W>,
}

#[derive(Debug)]
enum State<W> {
    /// It runs, or waits for its turn to; others wait for what comes of it, by their numbers, in the order in which they came.
    /// A tree, since thousands may be given up at once, from the midst of others.
    Running(BTreeMap<u64, Waits<W>>),
    Ended(Kept),
}

#[derive(Debug)]
struct Waits<W> {
    caller: CallerId,
    who: W,
}

/// What becomes of a call that has come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entered {
    /// It is the one to run.
    Runs(Arc<CallKey>),
    /// Another one is, and it waits under this number for what comes of that.
    Waits(Arc<CallKey>, u64),
    /// Another one was, and has ended so.
    Ended(Kept),
    /// Another one with other parameters has the key.
    Conflict,
}

impl<W> Book<W> {
    pub(crate) fn new(window: Window) -> Self {
        Self {
            window,
            entries: HashMap::new(),
            ended: Ended::new(window),
            last_number: 0,
            last_stored: 0,
            forgotten: Vec::new(),
            counted: KeptMetrics::default(),
        }
    }

    /// Enters what a store holds, before any call comes: what had begun and not ended, was cut off. Gives what the store is
    /// to change.
    pub(crate) fn restore(&mut self, calls: Vec<StoredCall>, now: Instant) -> Vec<Change> {
        self.last_stored = calls.iter().map(|call| call.number).max().unwrap_or(0);
        let (mut calls, mut changes) = newest(calls);
        // The oldest first, and what was cut off, just now, last.
        calls.sort_by_key(|call| Reverse(call.end.as_ref().map(|(_, age)| *age)));
        for StoredCall { number, method, key, params, end } in calls {
            let (kept, age) = end.unwrap_or_else(|| {
                changes.push(Change::Ended { number, kept: Kept::CutOff });
                (Kept::CutOff, Duration::ZERO)
            });
            let call = Arc::new(CallKey { method: method.into(), key: key.into() });
            let kept = self.window.bounded(&call, kept);
            let at = now.checked_sub(age).unwrap_or(now);
            self.ended.push(Arc::clone(&call), RESTORED, cost(&call, &kept), at);
            let entry = Entry { params, caller: RESTORED, stored: Some(number), state: State::Ended(kept) };
            self.entries.insert(call, entry);
        }
        self.forget_old(now);
        self.make_room();
        changes.append(&mut self.forgotten);
        changes
    }

    /// The one that is to run is about to be written down. Gives what the store is to change.
    pub(crate) fn begin(&mut self, call: &CallKey) -> Option<Change> {
        let entry = self.entries.get_mut(call)?;
        self.last_stored += 1;
        let number = self.last_stored;
        entry.stored = Some(number);
        let (method, key) = (call.method.clone().into(), call.key.clone().into());
        Some(Change::Began { number, method, key, params: entry.params })
    }

    /// The same once it has ended so.
    pub(crate) fn ending(&self, call: &CallKey, kept: Kept) -> Option<Change> {
        let number = self.entries.get(call)?.stored?;
        Some(Change::Ended { number, kept: self.window.bounded(call, kept) })
    }

    pub(crate) fn has_forgotten(&self) -> bool {
        !self.forgotten.is_empty()
    }

    /// What else the store is to change, each time once.
    pub(crate) fn take_forgotten(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.forgotten)
    }

    /// What was counted, and what is remembered now.
    pub(crate) fn metrics(&mut self, now: Instant) -> KeptMetrics {
        self.forget_old(now);
        KeptMetrics {
            running: (self.entries.len() - self.ended.len()) as u64,
            remembered: self.ended.len() as u64,
            bytes: self.ended.bytes() as u64,
            ..self.counted
        }
    }

    /// A call has come; `wait` makes what is kept of it while it waits.
    pub(crate) fn enter(
        &mut self,
        call: CallKey,
        params: Digest,
        caller: CallerId,
        now: Instant,
        wait: impl FnOnce() -> W,
    ) -> Entered {
        self.forget_old(now);
        let call = self.entries.get_key_value(&call).map_or_else(|| Arc::new(call), |(known, _)| Arc::clone(known));
        match self.entries.get_mut(&call) {
            None => {
                let state = State::Running(BTreeMap::new());
                self.entries.insert(Arc::clone(&call), Entry { params, caller, stored: None, state });
                Entered::Runs(call)
            }
            Some(entry) if entry.params != params => {
                self.counted.conflicts += 1;
                Entered::Conflict
            }
            Some(Entry { state: State::Ended(kept), .. }) => {
                self.counted.repeated += 1;
                Entered::Ended(kept.clone())
            }
            Some(Entry { state: State::Running(waiting), .. }) => {
                self.last_number += 1;
                waiting.insert(self.last_number, Waits { caller, who: wait() });
                Entered::Waits(call, self.last_number)
            }
        }
    }

    /// One that waits does so no longer.
    pub(crate) fn give_up(&mut self, call: &CallKey, number: u64) {
        if let Some(Entry { state: State::Running(waiting), .. }) = self.entries.get_mut(call) {
            waiting.remove(&number);
        }
    }

    /// The one that was to run has not begun, and does not. Gives the one that is to run in its place.
    pub(crate) fn pass_on(&mut self, call: &CallKey) -> Option<W> {
        let Entry { caller, stored, state: State::Running(waiting), .. } = self.entries.get_mut(call)? else {
            return None;
        };
        self.forgotten.extend(stored.take().map(|number| Change::Forgotten { number }));
        let Some((_, next)) = waiting.pop_first() else {
            self.entries.remove(call);
            return None;
        };
        *caller = next.caller;
        Some(next.who)
    }

    /// The one that ran has ended. Gives those that wait for that.
    pub(crate) fn end(&mut self, call: &Arc<CallKey>, kept: Kept, now: Instant) -> Vec<W> {
        let Some(Entry { caller, state, .. }) = self.entries.get_mut(call) else { return Vec::new() };
        let State::Running(waiting) = state else { return Vec::new() };
        let (waiting, kept) = (std::mem::take(waiting), self.window.bounded(call, kept));
        self.ended.push(Arc::clone(call), *caller, cost(call, &kept), now);
        *state = State::Ended(kept);
        self.counted.stored += 1;
        self.counted.repeated += waiting.len() as u64;
        self.forget_old(now);
        self.make_room();
        waiting.into_values().map(|waits| waits.who).collect()
    }

    /// All that has ended.
    #[cfg(feature = "planted")]
    pub(crate) fn forget_all(&mut self) {
        while let Some((number, _)) = self.ended.oldest() {
            self.forget(number);
        }
    }

    fn forget_old(&mut self, now: Instant) {
        let age = self.window.age;
        while let Some((number, at)) = self.ended.oldest()
            && now.saturating_duration_since(at) >= age
        {
            self.counted.expired += 1;
            self.forget(number);
        }
    }

    /// The last one is known at least, however little room there is.
    fn make_room(&mut self) {
        while self.ended.len() > 1
            && let Some(number) = self.ended.excess()
        {
            if self.ended.is_last(number) && self.shorten(number) {
                self.counted.shortened += 1;
                continue;
            }
            // The last stays, if there is nothing of it to take away.
            let oldest = self.ended.oldest().map_or(number, |(oldest, _)| oldest);
            self.forget(if self.ended.is_last(number) { oldest } else { number });
            self.counted.evicted += 1;
        }
    }

    /// That it was executed is known, and its answer no longer; `false` if it was not before.
    fn shorten(&mut self, number: u64) -> bool {
        let Some(call) = self.ended.get(number).map(Arc::clone) else { return false };
        let Some(Entry { stored, state: State::Ended(kept), .. }) = self.entries.get_mut(&call) else { return false };
        let Kept::Answer(answer) = kept else { return false };
        *kept = Kept::TooLarge(answer.len());
        self.ended.shorten(number, cost(&call, kept));
        self.forgotten.extend(stored.map(|number| Change::Ended { number, kept: kept.clone() }));
        true
    }

    fn forget(&mut self, number: u64) {
        if let Some(call) = self.ended.remove(number) {
            let stored = self.entries.remove(&call).and_then(|entry| entry.stored);
            self.forgotten.extend(stored.map(|number| Change::Forgotten { number }));
        }
    }
}

impl Window {
    /// What is kept of an answer.
    pub(crate) fn bounded(&self, call: &CallKey, kept: Kept) -> Kept {
        match kept {
            Kept::Answer(answer) if answer.len().saturating_add(overhead(call)) > self.bytes => {
                Kept::TooLarge(answer.len())
            }
            kept => kept,
        }
    }
}

/// Of those under one key the last one, and what the store is to forget: it may not have got to it. In the order of their
/// numbers.
fn newest(mut calls: Vec<StoredCall>) -> (Vec<StoredCall>, Vec<Change>) {
    calls.sort_unstable_by_key(|call| call.number);
    let (mut newest, mut forgotten) = (IndexMap::new(), Vec::new());
    for call in calls {
        if let Some(older) = newest.insert((call.method.clone(), call.key.clone()), call) {
            forgotten.push(Change::Forgotten { number: older.number });
        }
    }
    (newest.into_values().collect(), forgotten)
}

/// What it takes to remember how a call has ended, in bytes.
fn cost(call: &CallKey, kept: &Kept) -> usize {
    overhead(call) + if let Kept::Answer(answer) = kept { answer.len() } else { 0 }
}

fn overhead(call: &CallKey) -> usize {
    ENTRY_BYTES + call.method.len() + call.key.len()
}

/// Whose the answers are that a store has brought back. No connection has this name.
const RESTORED: CallerId = CallerId::direct(0);

/// What an entry takes beside its texts and its answer, roughly.
pub(crate) const ENTRY_BYTES: usize = 256;

#[cfg(test)]
mod tests;
