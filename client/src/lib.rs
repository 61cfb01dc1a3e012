//! Call methods over Callboard: one clonable [`Client`] over one connection.
//!
//! In reading order:
//!
//! 1. [`Client`] and its [`ClientBuilder`]: connect, then call in one of four styles: awaited ([`Client::call`]), a
//!    handle kept and awaited later ([`Client::start`] gives a [`Call`]), a callback ([`Client::call_then`]), and
//!    without a runtime ([`blocking::Client`]).
//! 2. [`CallError`]: what happened, at which peer, to what, whether it ran, and what to do.
//! 3. [`RetryPolicy`] and [`RetryBudget`]: when a call is made again; [`Tries`] decides it, pure, for the clients' and for
//!    the callers' calls ([`Retries`]).
//! 4. [`Centers`]: a client of each of several centers.
//! 5. [`Inbox`]: how the layers above (registry, pubsub) hear what a center sends unasked.

#![deny(missing_docs)]

mod ahead;
mod background;
pub mod blocking;
mod budget;
mod builder;
mod call;
mod calls;
mod centers;
mod client;
mod clock;
mod connect;
mod count;
mod deadline;
mod dispatch;
mod error;
mod guard;
mod inbox;
mod key;
mod line;
mod link;
mod liveness;
mod reconnect;
mod relayed;
mod request;
mod retries;
mod retry;
mod served;
mod shared;
mod states;
mod supervisor;
#[cfg(test)]
mod tests;
mod together;
mod tries;
mod v1_peers;
mod way;

pub use ahead::ask_ahead;
pub use builder::{ClientBuilder, SessionMode};
pub use call::Call;
pub use callboard_common::{Ping, RequestId, Requestor};
pub use callboard_net::{Address, Conn, Connector, Limits, deadline_after, later, spawn, spawn_on};
pub use centers::Centers;
pub use client::Client;
pub use error::{CallError, CallErrorKind};
pub use inbox::Inbox;
pub use key::{IdempotencyKey, new_idempotency_key};
pub use line::{Line, Resume, Resuming, WeakLine};
pub use reconnect::Reconnect;
pub use retries::Retries;
pub use retry::{RetryBudget, RetryMetrics, RetryPolicy};
pub use states::{ClientState, ClientStates};
pub use together::{OwnTask, Together, all_together, most_together};
pub use tries::{Next, Tries};
