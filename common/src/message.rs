use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::{EncodeError, MessageType};

/// Bytes of a frame before its id: Length, `MType` and `IDLength`, four each.
pub const HEADER_BYTES: usize = 12;
/// The longest id that a frame may carry, in bytes.
pub const MAX_ID_BYTES: usize = 255;
/// Flag bit 24 of `MType`: the sender wants no response. Sessions only.
pub const FLAG_ONE_WAY: u8 = 0b1;
/// Flag bit 26 of `MType`, of a REQ_RPC: it is to be passed on to the provider that its `meta` names. Sessions only.
pub const FLAG_RELAY: u8 = 0b100;

/// The parts of a frame's header that an encoder is told; lengths it finds itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// What the frame is about.
    pub kind: MessageType,
    /// Bits 24 to 31 of `MType`; zero towards a v1 peer.
    pub flags: u8,
    /// The requester's id, 0 to 255 opaque bytes; an answer repeats it.
    pub id: &'a [u8],
}

impl<'a> Head<'a> {
    /// A head without flags, as v1 peers send and expect it.
    pub const fn new(kind: MessageType, id: &'a [u8]) -> Self {
        Self { kind, flags: 0, id }
    }
}

/// One whole frame and where its parts lie: forwarding it is a clone, never a re-encode.
///
/// In memory a frame always lies as the wire contract has it: Length, `MType`, `IDLength`, id, body.
///
/// A message is a view into the buffer that it arrived in. Keep one for long and it keeps that buffer;
/// [`Message::detach`] copies it out.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    frame: Bytes,
    mtype: u32,
    id_bytes: u8,
}

impl Message {
    /// Copies the parts together: for a [`BodyFilter`](crate::BodyFilter) that changed the body, and for a
    /// [`Protocol`](crate::Protocol) whose frames lie otherwise on the wire than in memory.
    ///
    /// ```
    /// use callboard_common::{Head, Message, MessageType};
    /// let message = Message::new(Head::new(MessageType::TopicResponse, b"7"), 0, br#"{"rcode":0}"#)?;
    /// assert_eq!((message.id(), message.body()), (&b"7"[..], &br#"{"rcode":0}"#[..]));
    /// # Ok::<(), callboard_common::EncodeError>(())
    /// ```
    ///
    /// # Errors
    /// `IdTooLong`; `TooLarge` where the frame's length does not fit into the 32 bits that the wire has for it.
    pub fn new(head: Head<'_>, codec: u8, body: &[u8]) -> Result<Self, EncodeError> {
        let id_bytes = u8::try_from(head.id.len())
            .map_err(|_| EncodeError::IdTooLong { id_bytes: head.id.len(), max_id_bytes: MAX_ID_BYTES })?;
        let frame_bytes = HEADER_BYTES + head.id.len() + body.len();
        let length = u32::try_from(frame_bytes - 4)
            .map_err(|_| EncodeError::TooLarge { frame_bytes, max_frame_bytes: u32::MAX as usize })?;
        let mtype = u32::from(head.kind.to_wire()) | u32::from(codec) << 16 | u32::from(head.flags) << 24;
        let mut frame = BytesMut::with_capacity(frame_bytes);
        frame.put_u32(length);
        frame.put_u32(mtype);
        frame.put_u32(u32::from(id_bytes));
        frame.put_slice(head.id);
        frame.put_slice(body);
        Ok(Self { frame: frame.freeze(), mtype, id_bytes })
    }

    /// Wraps a frame whose header was checked: `frame` holds [`HEADER_BYTES`] and `id_bytes` at least.
    pub(crate) fn from_checked(frame: Bytes, mtype: u32, id_bytes: u8) -> Self {
        debug_assert!(frame.len() >= HEADER_BYTES + usize::from(id_bytes));
        Self { frame, mtype, id_bytes }
    }

    /// What the message is about.
    pub const fn kind(&self) -> MessageType {
        MessageType::from_wire((self.mtype & 0xffff) as u16)
    }

    /// The codec of the body: 0 is JSON.
    pub const fn codec(&self) -> u8 {
        (self.mtype >> 16 & 0xff) as u8
    }

    /// The flags, zero in v1.
    pub const fn flags(&self) -> u8 {
        (self.mtype >> 24) as u8
    }

    /// Whether the sender wants no response ([`FLAG_ONE_WAY`]).
    pub const fn is_one_way(&self) -> bool {
        self.flags() & FLAG_ONE_WAY != 0
    }

    /// The requester's id, byte for byte.
    pub fn id(&self) -> &[u8] {
        self.frame.get(HEADER_BYTES..self.body_at()).unwrap_or_default()
    }

    /// The encoded body.
    pub fn body(&self) -> &[u8] {
        self.frame.get(self.body_at()..).unwrap_or_default()
    }

    /// The whole frame, length field included.
    pub const fn frame(&self) -> &Bytes {
        &self.frame
    }

    /// The same message in bytes of its own, so that it no longer holds the buffer that it arrived in.
    #[must_use]
    pub fn detach(&self) -> Self {
        Self { frame: Bytes::copy_from_slice(&self.frame), ..*self }
    }

    fn body_at(&self) -> usize {
        HEADER_BYTES + usize::from(self.id_bytes)
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("kind", &self.kind())
            .field("flags", &self.flags())
            .field("codec", &self.codec())
            .field("id", &String::from_utf8_lossy(self.id()))
            .field("body_bytes", &self.body().len())
            .finish()
    }
}
