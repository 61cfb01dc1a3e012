use std::task::Waker;

use super::Then;

/// What a push did.
#[derive(Debug, Default)]
pub(crate) struct Pushed {
    /// To be woken, outside the lock.
    pub(crate) waker: Option<Waker>,
    /// Where in the stream of all bytes the frame begins.
    pub(crate) at: u64,
    /// More counts against the total.
    pub(crate) booked: bool,
    /// So much waits for the peer that publishers to it are held, and it has taken bytes of late.
    pub(crate) behind: bool,
}

/// Why a push did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Full,
    Closed,
}

/// What writing set free, to be dropped, run or woken outside the lock.
#[derive(Debug)]
pub(crate) struct Freed<H> {
    pub(crate) held: Vec<H>,
    /// Due to be run; after the end, to be dropped.
    pub(crate) due: Vec<(u64, Then)>,
    /// What counts against the total no longer.
    pub(crate) booked: usize,
    /// Who waits may go on: the outbox has just come down to its mark or is empty, or what was awaited has left.
    pub(crate) room: bool,
}
