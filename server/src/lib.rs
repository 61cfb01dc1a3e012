//! Serve methods: what they are called, what they take, where they run.
//!
//! In reading order:
//!
//! 1. [`Router`]: methods by name, the handler of calls; [`Context`] and [`MethodError`], what its closures get and give.
//! 2. [`Method`]: a method's description, and the check of parameters against it (`parameters`).
//! 3. `handler`: a typed closure as the router keeps it; `routing`: a call's way to it; `later`: those that are tasks;
//!    `answer`: what comes of a call and how its caller is told. `admission`, `gatekeeper`: which calls run at once and
//!    which wait; `running`: how they are ended when their caller has gone. `caller_id`: who calls, also through a center;
//!    `backlog` (pure) and `in_turn`: the turns of those in place; `asides`: how many of their calls go on unawaited.
//! 4. `book`: calls under an idempotency key, each run once; `shelf`, its shell; [`KeptAnswers`], how many answers are kept, and
//!    [`KeptMetrics`], what was counted of them.
//!    [`AnswerStore`], which keeps them beyond the end of the program; `writer`, its thread; `answer_file`, one in a file.
//! 5. [`Peer`]: the caller, whose own methods a method may call; [`PeerError`]. `asked`: the calls that wait for such a
//!    peer, and [`Answers`], which takes what it answers.
//! 6. [`Sessions`]: the handler that opens sessions.
//! 7. [`Server`]: both of them on addresses; [`ServerBuilder`], its settings.

#![deny(missing_docs)]

mod admission;
mod answer;
#[cfg(feature = "store")]
mod answer_file;
mod answer_store;
mod asides;
mod asked;
mod backlog;
mod book;
mod builder;
mod caller_id;
mod context;
mod gatekeeper;
mod handler;
mod in_turn;
mod kept_answers;
mod kept_metrics;
mod later;
mod method;
mod method_error;
mod parameters;
mod peer;
mod peer_error;
mod router;
mod routing;
mod running;
mod server;
mod sessions;
mod shelf;
mod writer;

#[cfg(feature = "store")]
pub use answer_file::AnswerFile;
pub use answer_store::{AnswerStore, Change, Kept, StoreError, StoredCall};
pub use asked::Answers;
pub use builder::{ServerBuilder, StartError};
pub use context::Context;
pub use kept_answers::KeptAnswers;
pub use kept_metrics::KeptMetrics;
pub use method::{Method, Parameter, Type};
pub use method_error::MethodError;
pub use peer::Peer;
pub use peer_error::{PeerError, PeerErrorKind};
pub use router::Router;
pub use server::Server;
pub use sessions::Sessions;
