//! A second protocol: one message a line, `kind flags codec id body` with the last two in hex, for example
//! `3 0 0 37 7b7d`. Bytes on the wire and bytes in memory have nothing in common here.

use std::fmt::Write;
use std::str;

use bytes::{Buf, BytesMut};
use callboard_common::{Codec, Encode, EncodeError, Head, Message, MessageType, Protocol, ProtocolError};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Lines {
    pub(crate) max_line_bytes: usize,
}

impl Protocol for Lines {
    fn decode(&self, buf: &mut BytesMut) -> Result<Option<Message>, ProtocolError> {
        let bytes = self.frame_bytes(buf);
        let frame_bytes = if bytes == 0 { buf.len() } else { bytes };
        if frame_bytes > self.max_line_bytes {
            return Err(ProtocolError::TooLarge { frame_bytes, max_frame_bytes: self.max_line_bytes });
        }
        if bytes == 0 {
            return Ok(None);
        }
        let message = parse(&buf[..bytes - 1]).ok_or(ProtocolError::Filter { reason: "not a line of five words" })?;
        buf.advance(bytes);
        Ok(Some(message))
    }

    fn encode<C: Codec, B: Encode>(&self, head: Head<'_>, body: &B, out: &mut BytesMut) -> Result<(), EncodeError> {
        let mut encoded = BytesMut::new();
        body.encode::<C>(&mut encoded)?;
        let (id, body) = (to_hex(head.id), to_hex(&encoded));
        let line = format!("{} {} {} {id} {body}\n", head.kind.to_wire(), head.flags, C::ID);
        if line.len() > self.max_line_bytes {
            return Err(EncodeError::TooLarge { frame_bytes: line.len(), max_frame_bytes: self.max_line_bytes });
        }
        out.extend_from_slice(line.as_bytes());
        Ok(())
    }

    fn frame_bytes(&self, buf: &[u8]) -> usize {
        buf.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1)
    }

    /// The id is in hex here, so there is nothing to borrow it from.
    fn peek<'a>(&self, buf: &'a [u8]) -> Option<(MessageType, &'a [u8])> {
        let word = buf.split(|byte| *byte == b' ').next()?;
        Some((MessageType::from_wire(str::from_utf8(word).ok()?.parse().ok()?), b""))
    }
}

fn parse(line: &[u8]) -> Option<Message> {
    let words: Vec<&str> = str::from_utf8(line).ok()?.split(' ').collect();
    let [kind, flags, codec, id, body] = words.try_into().ok()?;
    let id = from_hex(id)?;
    let head = Head { kind: MessageType::from_wire(kind.parse().ok()?), flags: flags.parse().ok()?, id: &id };
    Message::new(head, codec.parse().ok()?, &from_hex(body)?).ok()
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // a String takes everything
        text
    })
}

pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    if digits.len().is_multiple_of(2) { digits.chunks(2).map(byte).collect() } else { None }
}
