//! What the whole-house tests share: a peer that speaks the wire by hand, callers that do not rest, a proxy that does what
//! bad networks do, a host whose packets are dropped, a center at whose memory and tables one can look, and what
//! becomes of a test that can't be run here.
//!
//! [`RawPeer`] knows nothing of `callboard-common`: it builds and takes apart frames as `docs/protocol.md` describes
//! them, so that a mistake in our codec can't hide itself.

#![deny(missing_docs)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a helper of tests fails by panicking"
)]

mod far_host;
mod load;
mod proxy;
mod raw_peer;
mod untested;
mod watched_center;

pub use far_host::{FarHost, Unable};
pub use load::{Load, Report, methods};
pub use proxy::{FaultProxy, Towards, Weather};
pub use raw_peer::{Frame, RawPeer, frame, within};
pub use untested::{is_ci, not_tested};
pub use watched_center::{Look, Tables, WatchedCenter};
