//! The reactor: the only crate that opens sockets.
//!
//! In reading order:
//!
//! 1. [`Address`], [`Limits`], [`Settings`]: where, and within which bounds.
//! 2. [`serve`] and [`Serving`]: event loops (one a thread, each a current-thread tokio runtime), listeners (`acceptor`,
//!    with `churn`), and the dealing out of connections; [`connect`]: a client's connection, on the runtime that called;
//!    [`Connector`]: the same over whatever a program is given.
//! 3. [`Conn`]: a peer as handlers see it; its outbox is bounded in bytes.
//! 4. `driver`, `reader`, `writer`: the one task of a connection.
//! 5. [`Transport`] with [`Sockets`], [`Inherited`] and [`Memory`]: where byte streams come from. Time is tokio's, so
//!    that it can be paused in tests.
//! 6. [`spawn`], by which all of Callboard starts its tasks, and [`TaskGroup`]: tasks that a simulation holds and ends.
//! 7. `shared_state`: what the connections of one server share, totals among it; [`MetricsSnapshot`].
//!
//! ```
//! use std::sync::Arc;
//! use callboard_common::Dispatcher;
//! use callboard_net::{Settings, serve};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let serving = serve(&["127.0.0.1:0".parse()?], Settings::default(), Arc::new(Dispatcher::new())).await?;
//! println!("listening on {}", serving.addresses()[0]);
//! serving.shutdown(std::time::Duration::from_secs(1)).await;
//! # Ok::<(), Box<dyn std::error::Error>>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(missing_docs)]

mod address;
mod churn;
mod conn;
mod connect;
mod connector;
mod driver;
mod event_loop;
mod guards;
mod inherited;
mod keep_alive;
mod lane;
mod later;
mod limits;
mod may_block;
mod memory;
mod metrics;
mod open_files;
mod outbox;
mod pieces;
mod pulse;
mod reader;
mod serve;
mod shared_state;
mod sockets;
mod task_group;
mod transport;
mod writer;

pub use address::{Address, AddressError};
pub use conn::Conn;
pub use connect::{ConnectError, connect, connect_with};
pub use connector::Connector;
pub use guards::ReadHold;
pub use inherited::Inherited;
pub use keep_alive::KeepAlive;
pub use later::{deadline_after, later};
pub use limits::{Limits, LimitsError};
pub use may_block::{allow_blocking, may_block, refuse_blocking};
pub use memory::{Memory, MemoryListener};
pub use metrics::MetricsSnapshot;
pub use open_files::raise_open_files;
pub use serve::{ListenError, Serving, Settings, Stopped, serve, serve_with};
pub use sockets::{AcceptedSocket, BoundSocket, SocketFile, SocketListener, SocketStream, Sockets};
pub use task_group::{TaskGroup, spawn, spawn_on};
pub use transport::{Ends, Transport};
