use std::time::Duration;

use super::{Adaptive, Took};

/// How many calls may run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Concurrency {
    /// As many as come.
    Unlimited,
    /// So many.
    Fixed(usize),
    /// As many as end within this time, between these bounds.
    Adaptive { least: usize, most: usize, target: Duration },
}

/// Whose calls pass a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passes {
    /// One method's.
    Method,
    /// Those of all that block.
    Blocking,
    /// Those of all.
    All,
}

/// Counts those who have passed it and have not come back.
#[derive(Debug)]
pub(crate) struct Gate {
    passes: Passes,
    running: usize,
    limit: Limit,
}

#[derive(Debug)]
enum Limit {
    Fixed(usize),
    Adaptive(Adaptive),
}

impl Gate {
    pub(crate) fn new(passes: Passes, concurrency: Concurrency) -> Self {
        let limit = match concurrency {
            Concurrency::Unlimited => Limit::Fixed(usize::MAX),
            Concurrency::Fixed(limit) => Limit::Fixed(limit),
            Concurrency::Adaptive { least, most, target } => Limit::Adaptive(Adaptive::new(least, most, target)),
        };
        Self { passes, running: 0, limit }
    }

    pub(crate) const fn passes(&self) -> Passes {
        self.passes
    }

    pub(crate) const fn running(&self) -> usize {
        self.running
    }

    pub(crate) const fn limit(&self) -> usize {
        match &self.limit {
            Limit::Fixed(limit) => *limit,
            Limit::Adaptive(adaptive) => adaptive.limit(),
        }
    }

    pub(crate) const fn has_room(&self) -> bool {
        self.running < self.limit()
    }

    pub(crate) const fn enter(&mut self) {
        self.running += 1;
    }

    /// One has come back, after so long if that counts.
    pub(crate) fn leave(&mut self, took: Option<Took>) {
        if let (Limit::Adaptive(adaptive), Some(took)) = (&mut self.limit, took) {
            adaptive.took(took, self.running);
        }
        self.running = self.running.saturating_sub(1);
    }
}
