use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::{Concurrency, Gate, Passes, Took};

/// The gates that calls pass, their method's own and those that it shares with others (all that block, all together). As
/// long as nobody waits, calls come and go without a lock.
///
/// Whoever finds a gate closed says that somebody [waits](Self::announce), and then looks once more, under the lock; whoever
/// leaves looks afterwards whether somebody waits. So one of them sees the other.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    all: Vec<Gate>,
    /// Which of them the calls of each method pass.
    methods: Vec<Vec<usize>>,
    /// How many calls wait, or are about to.
    waiting: AtomicUsize,
}

/// A gate that has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed {
    pub(crate) passes: Passes,
    /// So many have passed it, as many as may.
    pub(crate) running: usize,
}

impl Gates {
    /// Adds a gate for calls of several methods.
    pub(crate) fn add(&mut self, passes: Passes, concurrency: Concurrency) -> usize {
        self.all.push(Gate::new(passes, concurrency));
        self.all.len() - 1
    }

    /// Adds a method whose calls pass these gates; those at the first of them are its own.
    pub(crate) fn add_method(&mut self, gates: Vec<usize>) -> usize {
        self.methods.push(gates);
        self.methods.len() - 1
    }

    /// Takes a place at each of the method's gates.
    ///
    /// # Errors
    /// The first one that has no room; none is taken then. For a moment those before it may have seemed to be fuller than
    /// they are: who saw that looks once more, and so must who was refused.
    pub(crate) fn enter(&self, method: usize) -> Result<(), Closed> {
        for (at, gate) in self.of(method).enumerate() {
            if let Err(running) = gate.enter() {
                self.of(method).take(at).for_each(Gate::leave);
                return Err(Closed { passes: gate.passes(), running });
            }
        }
        Ok(())
    }

    /// Gives the places back, after so long where that tells how busy the method is.
    pub(crate) fn leave(&self, method: usize, took: Option<Took>) {
        if let (Some(own), Some(took)) = (self.of(method).next(), took) {
            own.took(took);
        }
        self.of(method).for_each(Gate::leave);
    }

    #[cfg(test)]
    pub(crate) fn has_room(&self, method: usize) -> bool {
        self.of(method).all(Gate::has_room)
    }

    /// How many of the method's calls run.
    pub(crate) fn running(&self, method: usize) -> usize {
        self.of(method).next().map_or(0, Gate::running)
    }

    /// Whether the time counts that the method's calls take.
    pub(crate) fn is_timed(&self, method: usize) -> bool {
        self.of(method).next().is_some_and(Gate::is_timed)
    }

    pub(crate) fn somebody_waits(&self) -> bool {
        self.waiting.load(SeqCst) > 0
    }

    /// One more waits, or is about to.
    pub(crate) fn announce(&self) {
        self.waiting.fetch_add(1, SeqCst);
    }

    /// One less does.
    pub(crate) fn retract(&self) {
        self.waiting.fetch_sub(1, SeqCst);
    }

    fn of(&self, method: usize) -> impl Iterator<Item = &Gate> {
        self.methods.get(method).into_iter().flatten().filter_map(|gate| self.all.get(*gate))
    }
}
