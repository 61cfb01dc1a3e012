use std::collections::{HashMap, VecDeque};

use callboard_common::Shares;

use super::{Load, Place, Room};
use crate::caller_id::CallerId;

/// Those that wait for one method: callers take turns, and the calls of each of them run in the order in which they came.
#[derive(Debug)]
pub(super) struct Queue<T> {
    pub(super) room: Room,
    pub(super) load: Load,
    lines: HashMap<CallerId, VecDeque<Waiting<T>>>,
    /// The callers with calls that wait, in the order of their turns.
    turns: VecDeque<CallerId>,
    /// Who waits with how much.
    pub(super) shares: Shares<CallerId>,
}

#[derive(Debug)]
pub(super) struct Waiting<T> {
    pub(super) place: Place,
    pub(super) caller: CallerId,
    pub(super) bytes: usize,
    pub(super) who: T,
}

impl<T> Queue<T> {
    pub(super) fn new(room: Room) -> Self {
        let shares = Shares::new(usize::MAX);
        Self { room, load: Load::default(), lines: HashMap::new(), turns: VecDeque::new(), shares }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    pub(super) fn push(&mut self, waiting: Waiting<T>) {
        let Waiting { caller, bytes, .. } = waiting;
        let line = self.lines.entry(caller).or_default();
        if line.is_empty() {
            self.turns.push_back(caller);
        }
        line.push_back(waiting);
        self.load.add(bytes);
        self.shares.take(&caller, weight(bytes));
    }

    /// Takes out whose turn it is.
    pub(super) fn pop(&mut self) -> Option<Waiting<T>> {
        let caller = self.turns.pop_front()?;
        let line = self.lines.get_mut(&caller)?;
        let next = line.pop_front()?;
        if line.is_empty() {
            self.lines.remove(&caller);
        } else {
            self.turns.push_back(caller);
        }
        self.has_left(&next);
        Some(next)
    }

    pub(super) fn remove(&mut self, caller: CallerId, place: Place) -> Option<Waiting<T>> {
        let line = self.lines.get_mut(&caller)?;
        let at = line.binary_search_by_key(&place, |waiting| waiting.place).ok()?;
        let gone = line.remove(at)?;
        if line.is_empty() {
            self.lines.remove(&caller);
            self.turns.retain(|turn| *turn != caller);
        }
        self.has_left(&gone);
        Some(gone)
    }

    /// The last one of this caller's that has come.
    pub(super) fn newest(&self, caller: CallerId) -> Option<Place> {
        self.lines.get(&caller)?.back().map(|waiting| waiting.place)
    }

    fn has_left(&mut self, gone: &Waiting<T>) {
        self.load.take(gone.bytes);
        self.shares.give_back(&gone.caller, weight(gone.bytes));
    }
}

/// What a call that waits takes of what there is: a place, and bytes.
pub(super) const fn weight(bytes: usize) -> usize {
    bytes.saturating_add(PLACE_BYTES)
}

/// A place counts like so many bytes. With the bounds that nobody has set there are as many for each place of a method.
const PLACE_BYTES: usize = 32 << 10;
