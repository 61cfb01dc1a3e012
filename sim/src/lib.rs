//! Whole houses under simulated time, network and faults: real centers, providers, callers and subscribers, on one
//! thread, with every choice drawn from a seed, so that a run can be repeated step by step.
//!
//! In reading order:
//!
//! 1. [`Sim`]: one run; [`Host`]: a machine of it, on which programs are started, killed, stopped and cut off.
//! 2. [`Network`]: what lies between hosts, with delays, partitions and ends of every kind; [`SimTransport`]: a host's
//!    access to it.
//! 3. [`run_seeds`]: many runs, on all cores.
//! 4. [`house`]: a house under random faults, which the program `sim` runs by the thousand.
//!
//! A service of your own is tested by programs like these. They use the settings of their host
//! ([`Host::client`], [`Host::caller`], [`Host::server`], [`Host::center`]), draw what they need by chance from
//! [`Sim::draw`], start tasks by [`callboard_net::spawn`], and keep to tokio's time:
//!
//! ```
//! use std::time::Duration;
//!
//! use callboard_client::Reconnect;
//! use callboard_registry::Provider;
//! use callboard_server::Router;
//! use callboard_sim::{Host, Sim, run_seeds};
//!
//! async fn center(host: Host) {
//!     let _center = host.center().start_over(host.transport()).await.unwrap();
//!     std::future::pending().await
//! }
//!
//! async fn provider(host: Host, center: String) {
//!     let router = Router::new().method("double", |n: u64| Ok(2 * n));
//!     let server = host.server(7071).router(router.clone()).start_over(host.transport()).await.unwrap();
//!     let client = host.client().reconnect(Reconnect::default()).connect(center).await.unwrap();
//!     let _provider = Provider::new(client).announce(router.names(), server.addresses()).await.unwrap();
//!     std::future::pending().await
//! }
//!
//! async fn scenario(sim: Sim) {
//!     let (stage, barn, desk) = (sim.host("center"), sim.host("provider"), sim.host("caller"));
//!     stage.start(center);
//!     sim.sleep(Duration::from_secs(1)).await;
//!     barn.start(|host| provider(host, stage.address(7070)));
//!     let caller = desk.caller().connect(stage.address(7070)).await.unwrap();
//!     caller.wait_for_provider("double", Duration::from_secs(1)).await.unwrap();
//!     // The center restarts at any time. Calls go on without it, and the provider comes back to it.
//!     sim.sleep(sim.draw_time(Duration::from_secs(1))).await;
//!     stage.kill();
//!     assert_eq!(caller.call::<u64>("double", &21).await.unwrap(), 42);
//!     stage.start(center);
//!     sim.sleep(Duration::from_secs(10)).await;
//!     let other = desk.caller().connect(stage.address(7070)).await.unwrap();
//!     assert_eq!(other.hosts("double").await.unwrap().len(), 1);
//! }
//!
//! run_seeds(0..20, |seed| Sim::run(seed, scenario), |seed, outcome| {
//!     outcome.unwrap_or_else(|why| panic!("seed {seed}: {why}"));
//! });
//! ```

#![deny(missing_docs)]

mod host;
pub mod house;
mod network;
mod pipe;
mod seeds;
mod sim;
mod stream;

pub use host::Host;
pub use network::{Listening, Network, SimTransport};
pub use seeds::run_seeds;
pub use sim::Sim;
pub use stream::SimStream;
