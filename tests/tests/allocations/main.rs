//! How often the heap is asked for memory, per call and per message, over real sockets.
//!
//! It is one test in a process of its own: everything in the process is counted, so nothing else may run beside it.
//! `cargo test -p callboard-tests --test allocations -- --nocapture` prints the figures; a figure over its bound says
//! where the allocations were made.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod client;
mod heap;
mod serving;
mod wire;

use heap::Seen;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// What was counted while something was done so many times.
struct Figure {
    what: &'static str,
    operations: u32,
    seen: Seen,
    /// Allocations for each, at most.
    at_most: f64,
}

impl Figure {
    fn each(&self) -> f64 {
        f64::from(u32::try_from(self.seen.blocks).unwrap()) / f64::from(self.operations)
    }
}

#[test]
fn allocations_are_within_their_bounds() {
    let figures = serving::figures().into_iter().chain(client::figures());
    let mut over = Vec::new();
    for figure in figures {
        let (each, Figure { what, at_most, seen, .. }) = (figure.each(), &figure);
        let line = format!("{what:<44} {each:>7.3} allocations each, at most {at_most}");
        println!("{line}");
        if each > *at_most {
            over.push(format!("{line}\n{}", seen.places()));
        }
    }
    assert!(over.is_empty(), "over their bounds:\n{}", over.join("\n"));
}
