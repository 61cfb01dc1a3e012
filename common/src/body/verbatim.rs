use bytes::BytesMut;

use crate::{Codec, Encode, EncodeError, MessageType};

/// A body that was written before, in the codec in which it is sent: for who passes messages on.
#[derive(Clone, Copy, Debug)]
pub struct Verbatim<'a> {
    /// What the frame is about.
    pub kind: MessageType,
    /// The encoded body.
    pub body: &'a [u8],
}

impl Encode for Verbatim<'_> {
    fn kind(&self) -> MessageType {
        self.kind
    }

    fn encode<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        out.extend_from_slice(self.body);
        Ok(())
    }
}
