use bytes::BytesMut;

use crate::{Codec, Encode, EncodeError, MessageType};

/// The empty body of a CANCEL, whose id is that of a call: its caller waits no longer. Nothing answers it, the call least of
/// all.
#[derive(Clone, Copy, Debug)]
pub struct Cancel;

impl Encode for Cancel {
    fn kind(&self) -> MessageType {
        MessageType::Cancel
    }

    fn encode<C: Codec>(&self, _out: &mut BytesMut) -> Result<(), EncodeError> {
        Ok(())
    }
}
