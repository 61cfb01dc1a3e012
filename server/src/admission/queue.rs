use std::collections::{HashMap, VecDeque};

use callboard_common::Shares;

use super::{Load, Place, Room};
use crate::caller_id::CallerId;

/// Those that wait for one method: callers take turns, and the calls of each of them run in the order in which they came.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    pub(crate) room: Room,
    pub(crate) load: Load,
    lines: HashMap<CallerId, VecDeque<Waiting<T>>>,
    /// The callers with calls that wait, in the order of their turns.
    turns: VecDeque<CallerId>,
    /// Who waits with how much.
    pub(crate) shares: Shares<CallerId>,
}

#[derive(Debug)]
pub(crate) struct Waiting<T> {
    pub(crate) place: Place,
    pub(crate) caller: CallerId,
    pub(crate) bytes: usize,
    pub(crate) who: T,
}

impl<T> Queue<T> {
    pub(crate) fn new(room: Room) -> Self {
        let shares = Shares::new(usize::MAX);
        Self { room, load: Load::default(), lines: HashMap::new(), turns: VecDeque::new(), shares }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    pub(crate) fn push(&mut self, waiting: Waiting<T>) {
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
    pub(crate) fn pop(&mut self) -> Option<Waiting<T>> {
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

    pub(crate) fn remove(&mut self, caller: CallerId, place: Place) -> Option<Waiting<T>> {
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
    pub(crate) fn newest(&self, caller: CallerId) -> Option<Place> {
        self.lines.get(&caller)?.back().map(|waiting| waiting.place)
    }

    fn has_left(&mut self, gone: &Waiting<T>) {
        self.load.take(gone.bytes);
        self.shares.give_back(&gone.caller, weight(gone.bytes));
    }
}

/// What a call that waits takes of what there is: a place, and bytes.
pub(crate) const fn weight(bytes: usize) -> usize {
    bytes.saturating_add(PLACE_BYTES)
}

/// A place counts like so many bytes. With the bounds that nobody has set there are as many for each place of a method.
const PLACE_BYTES: usize = 32 << 10;
