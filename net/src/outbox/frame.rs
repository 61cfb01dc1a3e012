use bytes::{Bytes, BytesMut};

/// How a frame comes into the outbox.
#[derive(Debug)]
pub(crate) enum Frame<'a> {
    /// Bytes that are copied if they are few.
    Slice(&'a mut BytesMut),
    /// A frame of its own.
    Own(Bytes),
    /// One that many outboxes hold; it is counted elsewhere.
    Shared(&'a Bytes),
}

impl Frame<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Slice(slice) => slice.len(),
            Self::Own(bytes) => bytes.len(),
            Self::Shared(bytes) => bytes.len(),
        }
    }
}
