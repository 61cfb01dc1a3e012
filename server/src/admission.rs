//! Which calls may run at once, which wait, and which are refused. Pure: what happens comes in, what to do comes out.

mod adaptive;
mod gate;

use std::collections::VecDeque;

pub(crate) use self::adaptive::{Adaptive, Took};
pub(crate) use self::gate::{Concurrency, Gate, Passes};

/// Numbers a call that was let in or waits.
pub(crate) type Place = u64;

/// The gates that calls of several methods pass, and who waits at them.
///
/// A call passes its method's own gate and those that it shares with others (all that block, all together); it runs when
/// each has room. Calls of one method run in the order in which they came; where a place is free that several methods wait
/// for, they take turns.
#[derive(Debug)]
pub(crate) struct Admission<T> {
    gates: Vec<Gate>,
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
    /// Its own gate first.
    gates: Vec<usize>,
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
    /// So many run at this gate, as many as may, and none may wait.
    Gate { passes: Passes, running: usize },
    /// So many of the method's calls run, and as many wait as may.
    Method { running: usize, waiting: usize },
    /// As many calls wait as may in all.
    Total { waiting: usize },
    /// With this one, those that wait would take more than so many bytes: of the method, or in all.
    Bytes { bound: usize },
}

impl<T> Admission<T> {
    /// With room for so many that wait, in all.
    pub(crate) fn new(room: Room) -> Self {
        let (gates, methods, turns) = (Vec::new(), Vec::new(), VecDeque::new());
        Self { gates, methods, turns, waiting: Load::default(), room, last_place: 0 }
    }

    /// Adds a gate for calls of several methods.
    pub(crate) fn add_gate(&mut self, passes: Passes, concurrency: Concurrency) -> usize {
        self.gates.push(Gate::new(passes, concurrency));
        self.gates.len() - 1
    }

    /// Adds a method with a gate of its own and these others, and room for so many that wait.
    pub(crate) fn add_method(&mut self, concurrency: Concurrency, shared: &[usize], room: Room) -> usize {
        let own = self.add_gate(Passes::Method, concurrency);
        let gates = [own].into_iter().chain(shared.iter().copied()).collect();
        self.methods.push(Method { gates, queue: VecDeque::new(), waiting: Load::default(), room });
        self.methods.len() - 1
    }

    /// A call has come, of so many bytes; `who` is kept while it waits.
    pub(crate) fn enter(&mut self, method: usize, bytes: usize, who: impl FnOnce() -> T) -> Entered {
        let Some(state) = self.methods.get(method) else { return Entered::Runs };
        // Nobody overtakes those that wait for the same method.
        if state.queue.is_empty() && self.has_room(method) {
            self.begin(method);
            return Entered::Runs;
        }
        if let Some(full) = self.full(state, bytes) {
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
        }
        Entered::Waits(place)
    }

    /// A call that ran has ended, after so long where that tells how busy the method is. Gives who runs now in its place,
    /// with their methods.
    pub(crate) fn leave(&mut self, method: usize, took: Option<Took>) -> Vec<(usize, T)> {
        let Some(state) = self.methods.get(method) else { return Vec::new() };
        for (at, gate) in state.gates.iter().enumerate() {
            if let Some(gate) = self.gates.get_mut(*gate) {
                gate.leave(took.filter(|_| at == 0));
            }
        }
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
        Some(gone.who)
    }

    /// How many calls of a method run, and how many wait.
    #[cfg(test)]
    pub(crate) fn load(&self, method: usize) -> (usize, usize) {
        let Some(state) = self.methods.get(method) else { return (0, 0) };
        (self.running(state), state.queue.len())
    }

    /// All that may run now; one place is free as a rule, more where a limit has grown. Who has no room keeps its turn.
    fn let_in(&mut self) -> Vec<(usize, T)> {
        let mut let_in = Vec::new();
        let mut at = 0;
        while let Some(method) = self.turns.get(at).copied() {
            if !self.has_room(method) {
                at += 1;
                continue;
            }
            self.turns.remove(at);
            let Some(state) = self.methods.get_mut(method) else { continue };
            let Some(next) = state.queue.pop_front() else { continue };
            if !state.queue.is_empty() {
                self.turns.push_back(method);
            }
            state.waiting.take(next.bytes);
            self.waiting.take(next.bytes);
            let_in.push((method, next.who));
            self.begin(method);
        }
        let_in
    }

    fn has_room(&self, method: usize) -> bool {
        let gates = self.methods.get(method).map_or(&[][..], |state| &state.gates);
        gates.iter().filter_map(|gate| self.gates.get(*gate)).all(Gate::has_room)
    }

    fn begin(&mut self, method: usize) {
        let gates = self.methods.get(method).map_or(&[][..], |state| &state.gates);
        for gate in gates {
            if let Some(gate) = self.gates.get_mut(*gate) {
                gate.enter();
            }
        }
    }

    fn full(&self, method: &Method<T>, bytes: usize) -> Option<Full> {
        if method.room.calls == 0 || self.room.calls == 0 {
            let mut gates = method.gates.iter().filter_map(|gate| self.gates.get(*gate));
            let full = gates.find(|gate| !gate.has_room())?;
            return Some(Full::Gate { passes: full.passes(), running: full.running() });
        }
        if method.waiting.calls >= method.room.calls {
            return Some(Full::Method { running: self.running(method), waiting: method.waiting.calls });
        }
        if self.waiting.calls >= self.room.calls {
            return Some(Full::Total { waiting: self.waiting.calls });
        }
        let has_room = |waiting: Load, room: Room| bytes <= room.bytes.saturating_sub(waiting.bytes);
        let loads = [(method.waiting, method.room), (self.waiting, self.room)];
        let (_, full) = loads.into_iter().find(|(waiting, room)| !has_room(*waiting, *room))?;
        Some(Full::Bytes { bound: full.bytes })
    }

    fn running(&self, method: &Method<T>) -> usize {
        method.gates.first().and_then(|own| self.gates.get(*own)).map_or(0, Gate::running)
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
