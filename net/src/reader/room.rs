//! Where the parts of large frames lie.

use bytes::BytesMut;
use callboard_common::Protocol;

use super::Reader;
use super::buffers::READ_BYTES;
use crate::Conn;

/// A buffer up to this may also take what comes behind the frame that it was made for: as much as a read brings.
const LARGE_BYTES: usize = 2 * READ_BYTES;

impl Reader {
    /// How much more a started frame is given room for: at most as much again as came already, since only that is
    /// booked.
    pub(super) fn missing<P: Protocol>(conn: &Conn<P>, part: &[u8]) -> usize {
        let missing = conn.shared().protocol.frame_bytes(part).saturating_sub(part.len());
        missing.min(part.len()).max(1)
    }

    /// Moves some of what is pending to a larger buffer, which takes its place once all of it is there. What is there twice
    /// meanwhile is booked; where there is no room for that, all is moved at once.
    ///
    /// Otherwise a piece is no more than a read brings, and the clock is looked at before the next one is moved or read:
    /// memory that nobody has touched yet takes longer than the bytes that go there.
    pub(super) fn grow<P: Protocol>(&mut self, conn: &Conn<P>) {
        let mut most = READ_BYTES;
        if self.larger.capacity() == 0 {
            // Not `reserve`, which may double what is nearly whole: it is counted, and bounded, as what it holds.
            self.larger = BytesMut::with_capacity(self.pending.len() + Self::missing(conn, &self.pending));
            if !conn.shared().has_room_for_part(self.larger.capacity()) {
                most = self.pending.len();
            }
        }
        let rest = self.pending.get(self.larger.len()..).unwrap_or_default();
        self.larger.extend_from_slice(rest.get(..most).unwrap_or(rest));
        self.brought = 0;
        // It works for its peer, which is not silent meanwhile: there is no room for what it may have sent.
        self.turn.read(0);
        self.goes_on(conn);
        if self.larger.len() == self.pending.len() {
            self.pending = std::mem::take(&mut self.larger);
        }
    }

    /// How much the next read may bring. Behind a large frame nothing else comes into its buffer: a message that is
    /// kept would hold all of it, and count as its own few bytes.
    pub(super) fn most<P: Protocol>(&self, conn: &Conn<P>) -> usize {
        if self.pending.capacity() <= LARGE_BYTES {
            return usize::MAX;
        }
        // Never nothing: a read without room looks like the end of the stream.
        let missing = conn.shared().protocol.frame_bytes(&self.pending).saturating_sub(self.pending.len());
        missing.clamp(1, READ_BYTES)
    }
}
