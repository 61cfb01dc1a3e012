//! Behaviour over real sockets. Each file is one subject; `hostile` has a test for each row of the table of broken input
//! in `docs/protocol.md`.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod crowd;
mod faults;
mod forebear;
mod foreign;
mod given_up;
mod golden;
mod greedy;
mod hostile;
mod house;
mod keys;
mod one_thread;
mod protocol_page;
mod registry;
mod relay;
mod relay_callers;
mod relay_ends;
mod relay_greedy;
mod relay_keys;
mod relay_returns;
mod reverse;
mod rolling;
mod rpc;
mod several_centers;
mod several_heard;
mod several_still;
mod shutdown;
mod slow;
mod topics;
mod totals;
