//! The hot paths, one operation at a time, through the public interfaces of the crates: what is timed by
//! `cargo bench -p micro`, and what `instructions` counts.

#![expect(clippy::unwrap_used, reason = "an operation that fails ends the measurement")]

mod calls;
mod frames;
mod tables;

use std::fmt;

/// Something that is done over and over.
#[derive(Clone, Copy)]
pub struct Operation {
    /// What it is called in tables.
    pub name: &'static str,
    /// How often it is done where its instructions are counted.
    pub rounds: u32,
    /// By how much a count may be off the recorded one, in percent.
    pub tolerance: u64,
    prepare: fn() -> Run,
}

/// One operation, with all that it needs.
pub type Run = Box<dyn FnMut()>;

/// All operations, in the order of a call's way through the house.
pub fn operations() -> Vec<Operation> {
    [frames::OPERATIONS, calls::OPERATIONS, tables::OPERATIONS].concat()
}

impl Operation {
    const fn new(name: &'static str, rounds: u32, prepare: fn() -> Run) -> Self {
        Self { name, rounds, tolerance: 2, prepare }
    }

    /// For what depends on where names come to lie in a hash table.
    const fn loose(self) -> Self {
        Self { tolerance: 12, ..self }
    }

    /// Makes what it needs, and does it once, so that what is made on first use is there.
    pub fn prepare(&self) -> Run {
        let mut run = (self.prepare)();
        run();
        run
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation").field("name", &self.name).field("rounds", &self.rounds).finish_non_exhaustive()
    }
}

/// The parameters of `add`.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
struct Pair {
    num1: i64,
    num2: i64,
}

const PAIR: Pair = Pair { num1: 1, num2: 2 };
/// As long as the ids of our clients.
const ID: &[u8] = b"0123456789abcdef";
const CALL: &[u8] = br#"{"method":"add","parameters":{"num1":1,"num2":2},"meta":{"timeout_ms":5000}}"#;
/// With its header and id about the 64 bytes of a small message.
const TEXT: &str = "sixty-four bytes with its name and its header";
