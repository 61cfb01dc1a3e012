use bytes::BytesMut;

use crate::{Codec, Encode, EncodeError, MessageType};

/// The empty body of a PING. Its answer comes when the peer has handled what was sent before.
#[derive(Clone, Copy, Debug)]
pub struct Ping;

impl Encode for Ping {
    fn kind(&self) -> MessageType {
        MessageType::Ping
    }

    fn encode<C: Codec>(&self, _out: &mut BytesMut) -> Result<(), EncodeError> {
        Ok(())
    }
}
