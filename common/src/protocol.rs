use bytes::BytesMut;

use crate::{Codec, Encode, EncodeError, Head, Message, MessageType};

/// Bytes to messages and back. Owns no socket, no clock, no task, and keeps nothing between calls:
/// what is not yet whole stays in the caller's buffer.
///
/// [`LengthValue`](crate::LengthValue) is the one that the wire contract describes. The tests hold a second.
pub trait Protocol: Send + Sync + 'static {
    /// Takes one whole message off the front of `buf`, without a copy; `None` asks for more bytes.
    ///
    /// # Errors
    /// The peer's bytes are wrong and there is no telling where its next frame begins: close the connection.
    /// `buf` is left as it was, but after [`ProtocolError::Filter`] its first frame is gone.
    fn decode(&self, buf: &mut BytesMut) -> Result<Option<Message>, ProtocolError>;

    /// Appends one frame to `out`.
    ///
    /// # Errors
    /// The body can't be encoded or the frame is over the bound; `out` is left as it was.
    fn encode<C: Codec, B: Encode>(&self, head: Head<'_>, body: &B, out: &mut BytesMut) -> Result<(), EncodeError>;

    /// How many bytes the frame at the front of `buf` has when it is whole; 0 where its header can't tell yet.
    fn frame_bytes(&self, buf: &[u8]) -> usize;

    /// Kind and id of the frame at the front of `buf`, once they are there: for a last word to a peer whose frame was
    /// refused. An id that can't be one is left out.
    fn peek<'a>(&self, buf: &'a [u8]) -> Option<(MessageType, &'a [u8])>;
}

/// What stands between a body in its codec and the body on the wire: where compression goes.
///
/// [`Plain`] changes nothing and costs nothing.
pub trait BodyFilter: Send + Sync + 'static {
    /// Changes the body that stands in `out` from `body_at` on, and returns the frame's flags, changed if need be.
    ///
    /// # Errors
    /// The body can't be put in this form; the frame is dropped.
    fn outgoing(&self, flags: u8, out: &mut BytesMut, body_at: usize) -> Result<u8, EncodeError>;

    /// Undoes [`outgoing`](BodyFilter::outgoing). `max_frame_bytes` bounds what it may grow to.
    ///
    /// # Errors
    /// The body is not in the form that its flags name.
    fn incoming(&self, message: Message, max_frame_bytes: usize) -> Result<Message, ProtocolError>;
}

/// The filter that leaves bodies as they are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl BodyFilter for Plain {
    fn outgoing(&self, flags: u8, _out: &mut BytesMut, _body_at: usize) -> Result<u8, EncodeError> {
        Ok(flags)
    }

    fn incoming(&self, message: Message, _max_frame_bytes: usize) -> Result<Message, ProtocolError> {
        Ok(message)
    }
}

/// The peer's bytes are wrong; its connection is to be closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The length field leaves no room for the header that it counts.
    #[error("frame length {length} is below the 8 bytes that a header counts")]
    TooShort {
        /// The length field.
        length: usize,
    },
    /// The frame is over the bound.
    #[error("frame of {frame_bytes} bytes is over the bound of {max_frame_bytes}")]
    TooLarge {
        /// What the frame would take, as its length field counts it.
        frame_bytes: usize,
        /// The bound.
        max_frame_bytes: usize,
    },
    /// The id is longer than the frame or than an id may be.
    #[error("id of {id_bytes} bytes does not fit into a frame of length {length}, or is over 255")]
    BadIdLength {
        /// The id's length field.
        id_bytes: usize,
        /// The frame's length field.
        length: usize,
    },
    /// A filter could not undo what the peer's filter did.
    #[error("body can't be taken out of its wire form: {reason}")]
    Filter {
        /// What is wrong with it.
        reason: &'static str,
    },
}
