//! Whole houses under simulated time, network and faults: real centers, providers, callers and subscribers, on one
//! thread, with every choice drawn from a seed, so that a run can be repeated step by step.
//!
//! In reading order:
//!
//! 1. [`Sim`]: one run; [`Host`]: a machine of it, on which programs are started, killed and cut off.
//! 2. [`Network`]: what lies between hosts, with delays, partitions and ends of every kind; [`SimTransport`]: a host's
//!    access to it.
//! 3. [`house`]: a house under random faults, which the program `sim` runs by the thousand.
//!
//! ```
//! use std::time::Duration;
//! use callboard_sim::Sim;
//!
//! let sum = Sim::run(42, |sim| async move {
//!     let (stage, desk) = (sim.host("center"), sim.host("caller"));
//!     stage.start(async |host| {
//!         let center = host.center().start_over(host.transport()).await.unwrap();
//!         std::future::pending::<()>().await;
//!         drop(center);
//!     });
//!     sim.sleep(Duration::from_millis(10)).await;
//!     let client = desk.client().connect(stage.address(7070)).await.unwrap();
//!     client.call::<i64>("none", &()).await.unwrap_err().to_string()
//! });
//! assert!(sum.contains("none"), "{sum}");
//! ```

#![deny(missing_docs)]

mod host;
pub mod house;
mod network;
mod news;
mod pipe;
mod sim;
mod stream;

pub use host::Host;
pub use network::{Network, SimTransport};
pub use sim::Sim;
pub use stream::SimStream;
