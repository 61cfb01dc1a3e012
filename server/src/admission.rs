//! Which calls may run at once, which wait, and which are refused. Pure: what happens comes in, what to do comes out.

mod adaptive;
mod gate;
mod gates;
mod repeats;

use std::collections::VecDeque;
use std::sync::Arc;

pub(crate) use self::adaptive::{Adaptive, Took};
pub(crate) use self::gate::{Concurrency, Gate, Passes};
pub(crate) use self::gates::{Closed, Gates};
pub(crate) use self::repeats::Repeats;

/// Numbers a call that was let in or waits.
pub(crate) type Place = u64;

/// Who waits at the [`Gates`], and whose turn it is.
///
/// A call runs when each gate of its method has room. Calls of one method run in the order in which they came; where a place
/// is free that several methods wait for, they take turns.
#[derive(Debug)]
pub(crate) struct Admission<T> {
    gates: Arc<Gates>,
    methods: Vec<Method<T>>,
    /// The methods with calls that wait, in the order of their turns.
    turns: VecDeque<usize>,
    waiting: Load,
    room: Room,
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
struct Load {
    calls: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Method<T> {
    queue: VecDeque<Waiting<T>>,
    waiting: Load,
    room: Room,
}

#[derive(Debug)]
struct Waiting<T> {
    place: Place,
    bytes: usize,
    who: T,
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
    /// With this one, those that wait would take more than so many bytes: of the method, or in all.
    Bytes { bound: usize },
}

impl<T> Admission<T> {
    /// With room for so many that wait, in all and of each method that has gates.
    pub(crate) fn new(gates: Arc<Gates>, room: Room, of_methods: impl IntoIterator<Item = Room>) -> Self {
        let method = |room| Method { queue: VecDeque::new(), waiting: Load::default(), room };
        let (methods, turns) = (of_methods.into_iter().map(method).collect(), VecDeque::new());
        Self { gates, methods, turns, waiting: Load::default(), room, last_place: 0 }
    }

    /// A call has come, of so many bytes; `who` is kept while it waits.
    pub(crate) fn enter(&mut self, method: usize, bytes: usize, who: impl FnOnce() -> T) -> Entered {
        let Some(state) = self.methods.get(method) else { return Entered::Runs };
        // Nobody overtakes those that wait for the same method.
        let closed = if state.queue.is_empty() { self.gates.enter(method) } else { Ok(()) };
        if state.queue.is_empty() && closed.is_ok() {
            return Entered::Runs;
        }
        if let Some(full) = self.full(method, state, bytes, closed.err()) {
            return Entered::Refused(full);
        }
        self.last_place += 1;
        let place = self.last_place;
        if let Some(state) = self.methods.get_mut(method) {
            if state.queue.is_empty() {
                self.turns.push_back(method);
            }
            state.queue.push_back(Waiting { place, bytes, who: who() });
            state.waiting.add(bytes);
            self.waiting.add(bytes);
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

    /// One that waits does so no longer. Gives it, unless it was let in before.
    pub(crate) fn give_up(&mut self, method: usize, place: Place) -> Option<T> {
        let state = self.methods.get_mut(method)?;
        let at = state.queue.binary_search_by_key(&place, |waiting| waiting.place).ok()?;
        let gone = state.queue.remove(at)?;
        if state.queue.is_empty() {
            self.turns.retain(|turn| *turn != method);
        }
        state.waiting.take(gone.bytes);
        self.waiting.take(gone.bytes);
        self.gates.retract();
        Some(gone.who)
    }

    /// How many calls of a method run, and how many wait.
    #[cfg(test)]
    pub(crate) fn load(&self, method: usize) -> (usize, usize) {
        (self.gates.running(method), self.methods[method].queue.len())
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
            let Some(state) = self.methods.get_mut(method) else { continue };
            // Whose turn it is has somebody who waits.
            let Some(next) = state.queue.pop_front() else { continue };
            if !state.queue.is_empty() {
                self.turns.push_back(method);
            }
            state.waiting.take(next.bytes);
            self.waiting.take(next.bytes);
            self.gates.retract();
            let_in.push((method, next.who));
        }
        let_in
    }

    fn full(&self, at: usize, method: &Method<T>, bytes: usize, closed: Option<Closed>) -> Option<Full> {
        if let Some(closed) = closed.filter(|_| method.room.calls == 0 || self.room.calls == 0) {
            return Some(Full::Gate(closed));
        }
        if method.waiting.calls >= method.room.calls {
            return Some(Full::Method { running: self.gates.running(at), waiting: method.waiting.calls });
        }
        if self.waiting.calls >= self.room.calls {
            return Some(Full::Total { waiting: self.waiting.calls });
        }
        let has_room = |waiting: Load, room: Room| bytes <= room.bytes.saturating_sub(waiting.bytes);
        let loads = [(method.waiting, method.room), (self.waiting, self.room)];
        let (_, full) = loads.into_iter().find(|(waiting, room)| !has_room(*waiting, *room))?;
        Some(Full::Bytes { bound: full.bytes })
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
