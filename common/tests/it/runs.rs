//! A second filter of bodies: runs of a byte become `count, byte`, where that is shorter, and flag bit 25 says so.

use bytes::BytesMut;
use callboard_common::{BodyFilter, EncodeError, HEADER_BYTES, Head, Message, ProtocolError};

/// Flag bit 25 of `MType`: the body is compressed.
pub(crate) const FLAG_COMPRESSED: u8 = 0b10;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Runs;

impl BodyFilter for Runs {
    fn outgoing(&self, flags: u8, out: &mut BytesMut, body_at: usize) -> Result<u8, EncodeError> {
        let runs: Vec<u8> = out[body_at..]
            .chunk_by(|one, next| one == next)
            .flat_map(|run| run.chunks(255))
            .flat_map(|run| [u8::try_from(run.len()).unwrap_or(u8::MAX), run[0]])
            .collect();
        if body_at + runs.len() >= out.len() {
            return Ok(flags);
        }
        out.truncate(body_at);
        out.extend_from_slice(&runs);
        Ok(flags | FLAG_COMPRESSED)
    }

    fn incoming(&self, message: Message, max_frame_bytes: usize) -> Result<Message, ProtocolError> {
        if message.flags() & FLAG_COMPRESSED == 0 {
            return Ok(message);
        }
        let (runs, rest) = message.body().as_chunks::<2>();
        if !rest.is_empty() {
            return Err(ProtocolError::Filter { reason: "half a run" });
        }
        let body_bytes: usize = runs.iter().map(|[count, _]| usize::from(*count)).sum();
        let frame_bytes = HEADER_BYTES + message.id().len() + body_bytes;
        if frame_bytes > max_frame_bytes {
            return Err(ProtocolError::TooLarge { frame_bytes, max_frame_bytes });
        }
        let body: Vec<u8> = runs.iter().flat_map(|[count, byte]| vec![*byte; usize::from(*count)]).collect();
        let head = Head { kind: message.kind(), flags: message.flags() & !FLAG_COMPRESSED, id: message.id() };
        Message::new(head, message.codec(), &body).map_err(|_| ProtocolError::Filter { reason: "too long" })
    }
}
