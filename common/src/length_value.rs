use bytes::{Buf, BufMut, BytesMut};

use crate::message::{HEADER_BYTES, MAX_ID_BYTES};
use crate::{BodyFilter, Codec, Encode, EncodeError, Head, Message, MessageType, Plain, Protocol, ProtocolError};

/// The v1 frame: a length, then that many bytes. `docs/protocol.md` has each byte.
///
/// ```
/// use bytes::BytesMut;
/// use callboard_common::{Head, Json, LengthValue, MessageType, Protocol, ResultCode, TopicAnswer};
///
/// let protocol = LengthValue::default();
/// let mut buf = BytesMut::new();
/// let head = Head::new(MessageType::TopicResponse, b"7");
/// protocol.encode::<Json, _>(head, &TopicAnswer::ok(), &mut buf)?;
/// assert_eq!(&buf[..], b"\0\0\0\x14\0\0\0\x03\0\0\0\x017{\"rcode\":0}");
/// let message = protocol.decode(&mut buf).unwrap().unwrap();
/// assert_eq!(message.id(), b"7");
/// # Ok::<(), callboard_common::EncodeError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct LengthValue<F = Plain> {
    max_frame_bytes: usize,
    filter: F,
}

/// The largest frame, as its length field counts it, unless set otherwise: 16 MiB.
pub const DEFAULT_MAX_FRAME_BYTES: usize = 16 << 20;

impl LengthValue {
    /// Frames whose length field says up to `max_frame_bytes`. Default 16 MiB.
    pub fn new(max_frame_bytes: usize) -> Self {
        Self::with_filter(max_frame_bytes, Plain)
    }
}

impl<F: BodyFilter> LengthValue<F> {
    /// The same frames with a filter on their bodies.
    pub fn with_filter(max_frame_bytes: usize, filter: F) -> Self {
        Self { max_frame_bytes, filter }
    }

    /// The bound on one frame in bytes.
    pub fn max_frame_bytes(&self) -> usize {
        self.max_frame_bytes
    }

    /// `frame length, MType, id length` once they are there; checked as early as each can be.
    fn header(&self, buf: &[u8]) -> Result<Option<Header>, ProtocolError> {
        let Some(length) = word(buf, 0) else { return Ok(None) };
        let length = length as usize;
        if length < HEADER_BYTES - LENGTH_BYTES {
            return Err(ProtocolError::TooShort { length });
        }
        let frame_bytes = length.saturating_add(LENGTH_BYTES);
        if length > self.max_frame_bytes {
            return Err(ProtocolError::TooLarge { frame_bytes: length, max_frame_bytes: self.max_frame_bytes });
        }
        let (Some(mtype), Some(id_bytes)) = (word(buf, 4), word(buf, 8)) else { return Ok(None) };
        match u8::try_from(id_bytes) {
            Ok(id_bytes) if HEADER_BYTES + usize::from(id_bytes) <= frame_bytes => {
                Ok(Some(Header { frame_bytes, mtype, id_bytes }))
            }
            _ => Err(ProtocolError::BadIdLength { id_bytes: id_bytes as usize, length }),
        }
    }
}

impl Default for LengthValue {
    fn default() -> Self {
        Self::new(DEFAULT_MAX_FRAME_BYTES)
    }
}

impl<F: BodyFilter> Protocol for LengthValue<F> {
    fn decode(&self, buf: &mut BytesMut) -> Result<Option<Message>, ProtocolError> {
        match self.header(buf)? {
            Some(header) if buf.len() >= header.frame_bytes => {
                let frame = buf.split_to(header.frame_bytes).freeze();
                let message = Message::from_checked(frame, header.mtype, header.id_bytes);
                self.filter.incoming(message, self.max_frame_bytes).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn encode<C: Codec, B: Encode>(&self, head: Head<'_>, body: &B, out: &mut BytesMut) -> Result<(), EncodeError> {
        let start = out.len();
        let encoded = self.append::<C, B>(head, body, out, start);
        if encoded.is_err() {
            out.truncate(start);
        }
        encoded
    }

    fn frame_bytes(&self, buf: &[u8]) -> usize {
        word(buf, 0).map_or(0, |length| (length as usize).saturating_add(LENGTH_BYTES))
    }

    fn peek<'a>(&self, buf: &'a [u8]) -> Option<(MessageType, &'a [u8])> {
        let kind = MessageType::from_wire((word(buf, 4)? & 0xffff) as u16);
        match word(buf, 8)? as usize {
            id_bytes @ ..=MAX_ID_BYTES => buf.get(HEADER_BYTES..HEADER_BYTES + id_bytes).map(|id| (kind, id)),
            _ => Some((kind, &[])),
        }
    }
}

impl<F: BodyFilter> LengthValue<F> {
    fn append<C: Codec, B: Encode>(
        &self,
        head: Head<'_>,
        body: &B,
        out: &mut BytesMut,
        start: usize,
    ) -> Result<(), EncodeError> {
        let id_bytes = u8::try_from(head.id.len())
            .map_err(|_| EncodeError::IdTooLong { id_bytes: head.id.len(), max_id_bytes: MAX_ID_BYTES })?;
        let mtype = u32::from(head.kind.to_wire()) | u32::from(C::ID) << 16;
        out.put_u32(0); // the length, filled in below
        out.put_u32(mtype);
        out.put_u32(u32::from(id_bytes));
        out.put_slice(head.id);
        let body_at = out.len();
        body.encode::<C>(out)?;
        let flags = self.filter.outgoing(head.flags, out, body_at)?;
        let frame_bytes = out.len() - start - LENGTH_BYTES;
        let length = u32::try_from(frame_bytes).ok().filter(|_| frame_bytes <= self.max_frame_bytes);
        let Some(length) = length else {
            return Err(EncodeError::TooLarge { frame_bytes, max_frame_bytes: self.max_frame_bytes });
        };
        if let Some(mut header) = out.get_mut(start..start + HEADER_BYTES) {
            header.put_u32(length);
            header.put_u32(mtype | u32::from(flags) << 24);
        }
        Ok(())
    }
}

struct Header {
    frame_bytes: usize,
    mtype: u32,
    id_bytes: u8,
}

const LENGTH_BYTES: usize = 4;

fn word(buf: &[u8], at: usize) -> Option<u32> {
    buf.get(at..at + 4).map(|mut bytes| bytes.get_u32())
}
