use std::sync::Arc;

use callboard_common::Raw;
use uuid::Uuid;

/// What a call is known by over all of its repeats, in the form that the wire has.
///
/// For the layers above, whose calls go over several clients.
#[derive(Clone, Debug)]
pub struct IdempotencyKey {
    json: Arc<[u8]>,
    bytes: usize,
}

impl IdempotencyKey {
    /// The key of this text. One of other than 1 to 255 bytes is refused when it is used.
    pub fn new(key: &str) -> Self {
        let json = serde_json::to_vec(key).unwrap_or_default();
        Self { json: json.into(), bytes: key.len() }
    }

    pub(crate) fn is_valid(&self) -> bool {
        (1..=MAX_BYTES).contains(&self.bytes)
    }

    pub(crate) fn raw(&self) -> Raw<'_> {
        Raw::new(&self.json)
    }
}

/// A key that nobody else takes: a random UUID.
///
/// ```
/// assert_ne!(callboard_client::new_idempotency_key(), callboard_client::new_idempotency_key());
/// ```
pub fn new_idempotency_key() -> String {
    Uuid::new_v4().to_string()
}

/// The longest key.
pub(crate) const MAX_BYTES: usize = 255;
