use bytes::BytesMut;
use callboard_common::{Head, LengthValue, Message, Protocol, ProtocolError};

/// A stream in any reads gives the frames that a plain reading of the contract gives.
///
/// The first byte counts the bytes behind it that say how long each read is, in turn; the rest is the stream.
pub fn check_frame(data: &[u8]) {
    let Some((count, rest)) = data.split_first() else { return };
    let (reads, stream) = rest.split_at(rest.len().min(usize::from(*count)));
    let (frames, broken) = plain_reading(stream);
    for lengths in [reads, &[1], &[]] {
        let (messages, error) = receive(stream, lengths);
        assert_eq!(error.is_some(), broken, "{error:?}");
        assert_eq!(messages.len(), frames.len());
        messages.iter().zip(&frames).for_each(|(message, frame)| check_message(message, frame));
    }
    PROTOCOL.frame_bytes(stream);
    PROTOCOL.peek(stream);
}

/// As a connection takes it: all that is whole after each read, up to the first error.
fn receive(stream: &[u8], lengths: &[u8]) -> (Vec<Message>, Option<ProtocolError>) {
    let mut lengths = lengths.iter().map(|length| usize::from(*length).max(1)).cycle();
    let (mut buf, mut messages, mut rest) = (BytesMut::new(), Vec::new(), stream);
    loop {
        let had = buf.len();
        match PROTOCOL.decode(&mut buf) {
            Ok(Some(message)) => messages.push(message),
            Err(error) => {
                let read = stream.len() - rest.len();
                assert_eq!(buf, stream[read - had..read], "an error leaves the buffer as it was");
                return (messages, Some(error));
            }
            Ok(None) if rest.is_empty() => return (messages, None),
            Ok(None) => {
                assert_eq!(buf.len(), had);
                let (read, after) = rest.split_at(lengths.next().unwrap_or(rest.len()).min(rest.len()));
                buf.extend_from_slice(read);
                rest = after;
            }
        }
    }
}

/// The whole frames of a stream, and whether it breaks behind them.
fn plain_reading(mut stream: &[u8]) -> (Vec<&[u8]>, bool) {
    let mut frames = Vec::new();
    loop {
        let Some(length) = number(stream, 0) else { return (frames, false) };
        if !(8..=MAX_FRAME_BYTES).contains(&length) {
            return (frames, true);
        }
        let Some(id_bytes) = number(stream, 8) else { return (frames, false) };
        if id_bytes > 255 || id_bytes > length - 8 {
            return (frames, true);
        }
        let Some((frame, rest)) = stream.split_at_checked(length + 4) else { return (frames, false) };
        frames.push(frame);
        stream = rest;
    }
}

fn check_message(message: &Message, frame: &[u8]) {
    let (body_at, mtype) = (12 + number(frame, 8).unwrap(), number(frame, 4).unwrap());
    assert_eq!(message.frame(), frame);
    assert_eq!(message.id(), &frame[12..body_at]);
    assert_eq!(message.body(), &frame[body_at..]);
    let words = [usize::from(message.kind().to_wire()), message.codec().into(), message.flags().into()];
    assert_eq!(words, [mtype & 0xffff, mtype >> 16 & 0xff, mtype >> 24]);
    let head = Head { kind: message.kind(), flags: message.flags(), id: message.id() };
    let again = Message::new(head, message.codec(), message.body()).unwrap();
    assert_eq!((&again, &message.detach()), (message, message));
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..at + 4)?;
    Some(word.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
}

static PROTOCOL: std::sync::LazyLock<LengthValue> = std::sync::LazyLock::new(|| LengthValue::new(MAX_FRAME_BYTES));

/// Small, so that a short input can be over it.
const MAX_FRAME_BYTES: usize = 1000;
