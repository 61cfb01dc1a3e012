use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use callboard_common::{CallerTag, Connection};
use tokio::time::Instant;

use crate::asked::Asked;
use crate::method::Method;
use crate::peer::{Line, Peer};

/// What a handler may know of the call that it handles, and its way back to the caller.
///
/// Methods that are registered with `method_with` and its like get one; the others do not pay for it.
#[derive(Clone)]
pub struct Context {
    line: Arc<dyn Line>,
    asked: Arc<Asked>,
    peer: OnceLock<String>,
    method: Arc<Method>,
    id: Bytes,
    deadline: Option<Instant>,
}

impl Context {
    pub(crate) fn new<C: Connection>(
        conn: &C,
        asked: &Arc<Asked>,
        id: &[u8],
        method: &Arc<Method>,
        deadline: Option<Instant>,
    ) -> Self {
        Self {
            line: Arc::new(conn.clone()),
            asked: Arc::clone(asked),
            peer: OnceLock::new(),
            method: Arc::clone(method),
            id: Bytes::copy_from_slice(id),
            deadline,
        }
    }

    /// The address that the call came from, for example `tcp://127.0.0.1:41522`: of a call that a center has passed on, that
    /// of the center.
    pub fn peer(&self) -> &str {
        self.peer.get_or_init(|| self.line.address())
    }

    /// The caller, whose own methods can be called where it offers some, also where it calls through a center. It may be kept
    /// beyond the call.
    pub fn caller(&self) -> Peer {
        let behind = CallerTag::of_call(self.line.session(), &self.id);
        Peer::new(Arc::clone(&self.line), Arc::clone(&self.asked), behind)
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

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("peer", &self.peer())
            .field("method", &self.method)
            .field("id", &self.id)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}
