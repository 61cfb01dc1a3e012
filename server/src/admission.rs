//! Which calls may run at once, which wait, and which are refused. Pure: what happens comes in, what to do comes out.

mod adaptive;
mod gate;
mod gates;
mod queue;
mod repeats;

use std::collections::VecDeque;
use std::sync::Arc;

use callboard_common::Shares;

pub(crate) use self::adaptive::{Adaptive, Took};
pub(crate) use self::gate::{Concurrency, Gate, Passes};
pub(crate) use self::gates::{Closed, Gates};
pub(crate) use self::queue::{Queue, Waiting, weight};
pub(crate) use self::repeats::Repeats;
use crate::caller_id::CallerId;

/// Numbers a call that was let in or waits.
pub(crate) type Place = u64;

/// Who waits at the [`Gates`], and whose turn it is.
///
/// A call runs when each gate of its method has room. Where a place is free that several methods wait for, they take turns,
/// and so do the callers that wait for one method; the calls of one caller run in the order in which they came. Where no more
/// may wait, who waits with most gives way for one that would wait with less: its newest call is refused.
#[derive(Debug)]
pub(crate) struct Admission<T> {
    gates: Arc<Gates>,
    methods: Vec<Queue<T>>,
    /// The methods with calls that wait, in the order of their turns.
    turns: VecDeque<usize>,
    waiting: Load,
    room: Room,
    /// Who waits with how much, for whichever method.
    shares: Shares<CallerId>,
    last_place: Place,
}

/// What those that wait may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) calls: usize,
    pub(crate) bytes: usize,
}

/// What those that wait do take.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    pub(crate) calls: usize,
    pub(crate) bytes: usize,
}

/// A call that has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) method: usize,
    pub(crate) caller: CallerId,
    pub(crate) bytes: usize,
}

/// What becomes of a call that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entered {
    /// It runs.
    Runs,
    /// It waits under this number.
    Waits(Place),
    /// It is not run, since this is full.
    Refused(Full),
}

/// What has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// As many run at this gate as may, and none may wait.
    Gate(Closed),
    /// So many of the method's calls run, and as many wait as may.
    Method { running: usize, waiting: usize },
    /// As many calls wait as may in all.
    Total { waiting: usize },
    /// With this one, those of the method that wait would take more than so many bytes.
    MethodBytes { bound: usize },
    /// With this one, those that wait would take more than so many bytes in all.
    Bytes { bound: usize },
}

impl<T> Admission<T> {
    /// With room for so many that wait, in all and of each method that has gates.
    pub(crate) fn new(gates: Arc<Gates>, room: Room, of_methods: impl IntoIterator<Item = Room>) -> Self {
        let (methods, turns) = (of_methods.into_iter().map(Queue::new).collect(), VecDeque::new());
        let shares = Shares::new(usize::MAX);
        Self { gates, methods, turns, waiting: Load::default(), room, shares, last_place: 0 }
    }

    /// A call has come; `who` is kept while it waits. Calls that are refused now though they have waited, since they give way
    /// to this one, are put into `gone`.
    pub(crate) fn enter(&mut self, call: Arrival, who: impl FnOnce() -> T, gone: &mut Vec<(T, Full)>) -> Entered {
        let Arrival { method, caller, bytes } = call;
        let Some(queue) = self.methods.get(method) else { return Entered::Runs };
        // Nobody overtakes those that wait for the same method.
        let closed = if queue.is_empty() { self.gates.enter(method) } else { Ok(()) };
        if queue.is_empty() && closed.is_ok() {
            return Entered::Runs;
        }
        let closed = closed.err();
        while let Some(full) = self.full(call, closed) {
            let Some((method, caller, place)) = self.gives_way(call, full) else { return Entered::Refused(full) };
            gone.extend(self.give_up(method, caller, place).map(|who| (who, full)));
        }
        self.last_place += 1;
        let place = self.last_place;
        if let Some(queue) = self.methods.get_mut(method) {
            if queue.is_empty() {
                self.turns.push_back(method);
            }
            queue.push(Waiting { place, caller, bytes, who: who() });
            self.waiting.add(bytes);
            self.shares.take(&caller, weight(bytes));
            self.gates.announce();
        }
        Entered::Waits(place)
    }

    /// A call that ran has ended, after so long where that tells how busy the method is. Gives who runs now in its place,
    /// with their methods.
    pub(crate) fn leave(&mut self, method: usize, took: Option<Took>) -> Vec<(usize, T)> {
        self.gates.leave(method, took);
        self.let_in()
    }

    /// One that waits does so no longer. Gives it, unless it was let in or refused before.
    pub(crate) fn give_up(&mut self, method: usize, caller: CallerId, place: Place) -> Option<T> {
        let queue = self.methods.get_mut(method)?;
        let gone = queue.remove(caller, place)?;
        if queue.is_empty() {
            self.turns.retain(|turn| *turn != method);
        }
        Some(self.has_left(gone))
    }

    /// How many calls of a method run, and how many wait.
    #[cfg(test)]
    pub(crate) fn load(&self, method: usize) -> (usize, usize) {
        (self.gates.running(method), self.methods[method].load.calls)
    }

    /// All that may run now; one place is free as a rule, more where a limit has grown. Who has no room keeps its turn.
    pub(crate) fn let_in(&mut self) -> Vec<(usize, T)> {
        let mut let_in = Vec::new();
        let mut at = 0;
        while let Some(method) = self.turns.get(at).copied() {
            if self.gates.enter(method).is_err() {
                at += 1;
                continue;
            }
            self.turns.remove(at);
            let Some(queue) = self.methods.get_mut(method) else { continue };
            // Whose turn it is has somebody who waits.
            let Some(next) = queue.pop() else { continue };
            if !queue.is_empty() {
                self.turns.push_back(method);
            }
            let_in.push((method, self.has_left(next)));
        }
        let_in
    }

    fn has_left(&mut self, gone: Waiting<T>) -> T {
        self.waiting.take(gone.bytes);
        self.shares.give_back(&gone.caller, weight(gone.bytes));
        self.gates.retract();
        gone.who
    }

    /// Who gives way to this call where that is full: the newest call of whoever waits with more than this one's caller would.
    fn gives_way(&self, call: Arrival, full: Full) -> Option<(usize, CallerId, Place)> {
        let weight = weight(call.bytes);
        let of_method = |at: usize, caller| Some((at, caller, self.methods.get(at)?.newest(caller)?));
        match full {
            // None may wait at all, or this one is larger than may.
            Full::Gate(_) => None,
            Full::MethodBytes { bound } | Full::Bytes { bound } if call.bytes > bound => None,
            Full::Method { .. } | Full::MethodBytes { .. } => {
                let shares = &self.methods.get(call.method)?.shares;
                of_method(call.method, *shares.above(&call.caller, weight)?)
            }
            Full::Total { .. } | Full::Bytes { .. } => {
                let caller = *self.shares.above(&call.caller, weight)?;
                (0..self.methods.len()).filter_map(|at| of_method(at, caller)).max_by_key(|(.., place)| *place)
            }
        }
    }

    fn full(&self, call: Arrival, closed: Option<Closed>) -> Option<Full> {
        let Queue { room, load, .. } = self.methods.get(call.method)?;
        if let Some(closed) = closed.filter(|_| room.calls == 0 || self.room.calls == 0) {
            return Some(Full::Gate(closed));
        }
        if load.calls >= room.calls {
            return Some(Full::Method { running: self.gates.running(call.method), waiting: load.calls });
        }
        if self.waiting.calls >= self.room.calls {
            return Some(Full::Total { waiting: self.waiting.calls });
        }
        let has_room = |load: &Load, room: &Room| call.bytes <= room.bytes.saturating_sub(load.bytes);
        if !has_room(load, room) {
            return Some(Full::MethodBytes { bound: room.bytes });
        }
        (!has_room(&self.waiting, &self.room)).then_some(Full::Bytes { bound: self.room.bytes })
    }
}

impl Load {
    const fn add(&mut self, bytes: usize) {
        self.calls += 1;
        self.bytes += bytes;
    }

    const fn take(&mut self, bytes: usize) {
        self.calls -= 1;
        self.bytes -= bytes;
    }
}

#[cfg(test)]
mod tests;
