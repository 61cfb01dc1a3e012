use std::fmt;
use std::sync::Arc;

use callboard_common::{Handler, Message};
use callboard_net::Conn;

/// The methods that a client offers to its peer: whatever takes calls.
#[derive(Clone)]
pub(crate) struct Served(Arc<dyn Handler<Conn>>);

impl Served {
    pub(crate) fn new(methods: impl Handler<Conn>) -> Self {
        Self(Arc::new(methods))
    }

    /// A call, or what gives one up, or the answer to one that its methods have made to a caller behind the peer.
    pub(crate) fn handle(&self, conn: &Conn, message: Message) {
        self.0.handle(conn, message);
    }

    /// Where it keeps its answers to calls under keys beyond its own end.
    pub(crate) fn store(&self) -> Option<&str> {
        self.0.store()
    }

    /// The peer sends no more.
    pub(crate) fn ended(&self, conn: &Conn) {
        self.0.ended(conn);
    }

    /// The connection has ended.
    pub(crate) fn closed(&self, conn: &Conn) {
        self.0.closed(conn);
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Served")
    }
}
