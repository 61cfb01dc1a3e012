//! The buffers that all connections of a thread are read into.

use std::cell::RefCell;

use bytes::BytesMut;

/// One read asks for at most this many bytes.
pub(super) const READ_BYTES: usize = 64 << 10;

/// A buffer with less room than this is used again from its start, or put aside.
const LEAST_ROOM: usize = READ_BYTES / 4;

thread_local! {
    static SHARED: RefCell<Buffers> = RefCell::default();
}

/// An empty buffer with room; to be [put back](put_back).
pub(super) fn take() -> BytesMut {
    SHARED.with_borrow_mut(Buffers::take)
}

pub(super) fn put_back(mut buffer: BytesMut) {
    buffer.clear();
    SHARED.with_borrow_mut(|buffers| buffers.put_back(buffer));
}

/// Messages that wait elsewhere hold the buffer that they lie in for a moment longer: meanwhile another one serves, so
/// that a buffer is seldom made anew.
#[derive(Debug, Default)]
struct Buffers {
    kept: [BytesMut; 2],
}

impl Buffers {
    fn take(&mut self) -> BytesMut {
        let [first, second] = &mut self.kept;
        if first.capacity() < LEAST_ROOM && !first.try_reclaim(READ_BYTES) {
            std::mem::swap(first, second);
            if !first.try_reclaim(READ_BYTES) {
                *first = BytesMut::with_capacity(READ_BYTES);
            }
        }
        std::mem::take(first)
    }

    fn put_back(&mut self, buffer: BytesMut) {
        let [first, _] = &mut self.kept;
        *first = buffer;
    }
}
