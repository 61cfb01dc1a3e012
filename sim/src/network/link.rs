use super::state::HostId;
use crate::pipe::Pipe;

/// A connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkId(pub(super) u64);

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Caller,
    Listener,
}

/// A connection between two machines.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) ends: Both<LinkEnd>,
    /// By who writes.
    pub(super) pipes: Both<Pipe>,
    /// By who writes: whatever it sends is dropped on the way, and nobody is told.
    pub(super) is_lost: Both<bool>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct LinkEnd {
    pub(super) host: HostId,
    pub(super) run: u64,
    pub(super) closed: bool,
}

/// Something of either side of a connection.
#[derive(Debug)]
pub(super) struct Both<T> {
    pub(super) caller: T,
    pub(super) listener: T,
}

impl<T> Both<T> {
    pub(super) const fn of(&self, side: Side) -> &T {
        match side {
            Side::Caller => &self.caller,
            Side::Listener => &self.listener,
        }
    }

    pub(super) const fn of_mut(&mut self, side: Side) -> &mut T {
        match side {
            Side::Caller => &mut self.caller,
            Side::Listener => &mut self.listener,
        }
    }

    pub(super) const fn all_mut(&mut self) -> [&mut T; 2] {
        [&mut self.caller, &mut self.listener]
    }
}

impl Side {
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Caller => Self::Listener,
            Self::Listener => Self::Caller,
        }
    }
}
