use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use callboard_common::Connection;
use tokio::time::Instant;

use crate::method::Method;

/// What a handler may know of the call that it handles.
///
/// Methods that are registered with `method_with` and its like get one; the others do not pay for it.
#[derive(Clone, Debug)]
pub struct Context {
    peer: String,
    method: Arc<Method>,
    id: Bytes,
    deadline: Option<Instant>,
}

impl Context {
    pub(crate) fn new<C: Connection>(conn: &C, id: &[u8], method: &Arc<Method>, deadline: Option<Instant>) -> Self {
        Self { peer: conn.peer(), method: Arc::clone(method), id: Bytes::copy_from_slice(id), deadline }
    }

    /// The address that the call came from, for example `tcp://127.0.0.1:41522`.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// The name that was called.
    pub fn method(&self) -> &str {
        self.method.name()
    }

    /// The caller's id of the call: any bytes, told from others of the same connection only.
    pub fn id(&self) -> &[u8] {
        &self.id
    }

    /// When the caller stops waiting, as far as it said so.
    pub const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// How long the caller still waits, as far as it said so; zero when it no longer does.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }
}
