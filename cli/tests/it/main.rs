//! The `callboard` program as its users meet it: real processes, their lines, their exit codes.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on says so by a panic"
)]

mod center;
mod client;
mod configuration;
mod deadline;
mod faults;
mod keys;
mod namespaces;
mod once;
mod packaging;
mod provide;
mod rolling;
mod service_manager;
mod several_centers;
mod stage;
mod topics;
mod tour;
