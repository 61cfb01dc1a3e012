use callboard_common::{CallerTag, Connection, ConnectionId};

/// Who calls: its connection, and of those whose calls a center passes on over its own one, which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct CallerId {
    conn: ConnectionId,
    behind: Option<u64>,
}

impl CallerId {
    /// Who has called over this connection with this id.
    pub(crate) fn of_call<C: Connection>(conn: &C, id: &[u8]) -> Self {
        Self { conn: conn.id(), behind: CallerTag::of_call(conn.session(), id).map(CallerTag::number) }
    }

    /// The peer at the other end of a connection.
    pub(crate) const fn direct(conn: u64) -> Self {
        Self { conn: ConnectionId(conn), behind: None }
    }

    /// Whether it calls through a center.
    pub(crate) const fn is_behind_center(self) -> bool {
        self.behind.is_some()
    }

    #[cfg(test)]
    pub(crate) const fn behind(conn: u64, number: u64) -> Self {
        Self { conn: ConnectionId(conn), behind: Some(number) }
    }
}
