//! What several of the tests need: frames by hand, reads cut at will, and values to put into bodies.

use bytes::{BufMut, Bytes, BytesMut};
use callboard_common::{Encode, Head, Message, MessageType, Protocol, ProtocolError};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::Value;

/// A frame whose header says what it is told to, true or not.
pub(crate) fn raw_frame(length: u32, mtype: u32, id_bytes: u32, rest: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    for word in [length, mtype, id_bytes] {
        frame.put_u32(word);
    }
    frame.extend_from_slice(rest);
    frame
}

/// The body alone, in the codec.
pub(crate) fn encoded<C: callboard_common::Codec, B: Encode>(body: &B) -> Bytes {
    let mut out = BytesMut::new();
    body.encode::<C>(&mut out).unwrap();
    out.freeze()
}

/// What comes out when the stream arrives in these reads, as a connection would take it: all that is whole after each
/// read, up to the first error.
pub(crate) fn receive<'a, P: Protocol>(
    protocol: &P,
    reads: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Message>, Option<ProtocolError>) {
    let mut buf = BytesMut::new();
    let mut messages = Vec::new();
    for read in reads {
        buf.extend_from_slice(read);
        loop {
            match protocol.decode(&mut buf) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
    }
    (messages, None)
}

/// The stream cut at these places, empty reads among them.
pub(crate) fn cut<'a>(stream: &'a [u8], at: &[Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = at.iter().map(|place| place.index(stream.len() + 1)).collect();
    places.sort_unstable();
    places.insert(0, 0);
    places.push(stream.len());
    places.windows(2).map(|ends| &stream[ends[0]..ends[1]]).collect()
}

/// Where a stream may be cut.
pub(crate) fn cuts() -> impl Strategy<Value = Vec<Index>> {
    prop::collection::vec(any::<Index>(), 0..12)
}

/// An id of any length and any bytes.
pub(crate) fn id() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..=255)
}

/// Any message at all, of kinds and codecs that nobody knows too.
pub(crate) fn message() -> impl Strategy<Value = Message> {
    let body = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        (any::<u8>(), 0..3000_usize).prop_map(|(byte, times)| vec![byte; times]),
    ];
    (0..24_u16, any::<u8>(), id(), any::<u8>(), body).prop_map(|(kind, flags, id, codec, body)| {
        Message::new(Head { kind: MessageType::from_wire(kind), flags, id: &id }, codec, &body).unwrap()
    })
}

/// Any text, escapes and controls among it.
pub(crate) fn text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[ -~]{0,20}", "[\\\\\"/\u{0}-\u{1f}\u{e9}\u{1f600}]{0,12}"]
}

/// Any value. Fractions are of eight, so that a number's text is exact whatever reads it.
pub(crate) fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i32>().prop_map(|eighths| Value::from(f64::from(eighths) / 8.0)),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((text(), inner), 0..6)
                .prop_map(|members| members.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}
