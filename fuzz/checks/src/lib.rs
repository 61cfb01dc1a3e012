//! What must hold for any bytes. Each `check_*` takes whatever a fuzzer or a seed file has, and panics where it does not
//! hold; `tests/replay.rs` runs all seeds through them, `tests/properties.rs` what is made for them.
//!
//! In reading order: `document` (what `serde_json` says of a text: the second opinion of all others), `json`, `frame`,
//! `body`, `dispatcher`.

#![deny(missing_docs)]
#![expect(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "to panic is how a check says no"
)]

mod body;
mod dispatcher;
mod document;
mod frame;
mod json;

pub use body::{check_rpc_body, check_service_body, check_session_body, check_topic_body};
pub use dispatcher::check_dispatcher;
pub use frame::check_frame;
pub use json::check_json;

/// Panics where what must hold for these bytes does not.
pub type Check = fn(&[u8]);

/// Every check, by the name of its fuzz target and of its folder of seeds.
pub const CHECKS: [(&str, Check); 7] = [
    ("frame", check_frame),
    ("rpc_body", check_rpc_body),
    ("topic_body", check_topic_body),
    ("service_body", check_service_body),
    ("session_body", check_session_body),
    ("json", check_json),
    ("dispatcher", check_dispatcher),
];
