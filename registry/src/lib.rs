//! Who provides what: the registry of a center, and what providers and callers do with it.
//!
//! In reading order:
//!
//! 1. [`Table`] (pure): providers and watchers; [`Notice`]: a change; [`RegistryLimits`] and [`Refused`].
//! 2. [`RegistryService`]: the center's handler around the table; `availability` (pure): who of those that register is
//!    announced, and when who is gone goes offline, as an [`AvailabilityPolicy`] says; [`Reach`]: tries their hosts.
//! 3. [`Relay`]: passes calls on to providers that listen nowhere; its `book` (pure): whose they are; its
//!    `lobby` (pure): those that wait for one that may be back; `callers`: what providers know their callers by.
//! 4. [`Provider`]: announces methods at a [`Place`].
//! 5. [`HostCache`] (pure) and [`Discovery`]: what a center tells, kept true by its notices ([`Notices`]).
//! 6. [`Balancer`] and [`RoundRobin`]: who is called.
//! 7. [`Caller`] and its [`CallerBuilder`]: all of that behind one `call`; `route`: the way of one call over the
//!    providers; `hedge`: two tries at once; `pool`: one connection to each of them.
//!
//! All of it in one program:
//!
//! ```
//! use std::sync::Arc;
//! use callboard_common::Dispatcher;
//! use callboard_net::{Settings, serve};
//! use callboard_registry::{Caller, Provider, RegistryService};
//! use callboard_server::{Router, Server};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let registry = Arc::new(Dispatcher::new().on_service(RegistryService::default()));
//! let serving = serve(&["127.0.0.1:0".parse()?], Settings::default(), registry).await?;
//! let center = serving.addresses()[0].to_string();
//!
//! let router = Router::new().method("double", |n: i64| Ok(n * 2));
//! let names = router.names();
//! let server = Server::builder().router(router).listen("127.0.0.1:0").start().await?;
//! let provider = Provider::connect(&center).await?.announce(names, server.addresses()).await?;
//!
//! let caller = Caller::connect(&center).await?;
//! let doubled: i64 = caller.call("double", &21).await?;
//! assert_eq!(doubled, 42);
//! provider.withdraw().await?;
//! # Ok::<(), Box<dyn std::error::Error>>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(missing_docs)]

mod announcer;
mod at_all;
mod availability;
mod balancer;
mod cache;
mod caller;
mod caller_builder;
mod discovery;
mod doubt;
mod errors;
mod hedge;
mod limits;
mod metrics;
mod notice;
mod notices;
mod place;
mod policy;
mod pool;
mod provider;
mod reach;
mod relay;
#[cfg(test)]
mod restarts;
mod route;
mod service;
#[cfg(test)]
mod several;
mod table;
#[cfg(test)]
mod testing;
mod ticket;

pub use balancer::{Balancer, RoundRobin};
pub use cache::{CacheLimits, Change, HostCache, Known};
pub use caller::Caller;
pub use caller_builder::CallerBuilder;
pub use discovery::Discovery;
pub use limits::{Refused, RegistryLimits};
pub use metrics::RegistryMetrics;
pub use notice::Notice;
pub use notices::Notices;
pub use place::{Place, PlaceError};
pub use policy::AvailabilityPolicy;
pub use provider::{Provider, ProviderError};
pub use reach::Reach;
pub use relay::{Relay, RelayAnswers, RelayCalls, RelayLimits, RelayMetrics};
pub use service::RegistryService;
pub use table::{Effects, Listing, Table, TableSize};
