//! Topics over real sockets: a center's handler on its event loops, and clients.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what fails here fails its test")]

mod center;
mod comebacks;
mod ends;
mod messages;
mod publishers;
mod several;
mod slow;
mod subscriptions;
