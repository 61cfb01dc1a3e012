use bytes::{Buf, BufMut, BytesMut};
use callboard_common::{Codec, Encode, EncodeError, HEADER_BYTES, Message, MessageType};
use smallvec::SmallVec;

/// Frames of messages of one topic, one behind the other, each with its number in front of its body: `{"seq":7,` and
/// then what the publisher wrote. Their numbers follow each other.
#[derive(Debug)]
pub(crate) struct Numbered {
    frames: BytesMut,
    first: u64,
    messages: u64,
}

impl Numbered {
    /// Puts the numbers in front of bodies that begin with their object and have no number yet. These messages take so
    /// many bytes.
    pub(crate) fn of(messages: &[Message], bytes: usize, first: u64) -> Self {
        let added = messages.len() * AROUND_NUMBER_BYTES + digits_of(first, messages.len());
        let mut frames = BytesMut::with_capacity(bytes + added);
        let mut front = front(first);
        for (message, seq) in messages.iter().zip(first..) {
            append(message, &front, &mut frames);
            if !count(front.get_mut(BEFORE_NUMBER.len()..).unwrap_or_default()) {
                front = self::front(seq + 1);
            }
        }
        Self::new(frames, first, messages.len())
    }

    /// These frames, which are so many and have their numbers.
    pub(crate) const fn new(frames: BytesMut, first: u64, messages: usize) -> Self {
        Self { frames, first, messages: messages as u64 }
    }

    /// Lets the numbers begin with another one; `false` if they would take other room. Then nothing has changed.
    pub(crate) fn renumber(&mut self, first: u64) -> bool {
        if first == self.first {
            return true;
        }
        let last = self.messages.saturating_sub(1);
        let ends = [self.first, self.first + last, first, first + last].map(decimal_bytes);
        if ends.iter().any(|bytes| *bytes != decimal_bytes(first)) {
            return false;
        }
        self.first = first;
        let mut rest = &mut self.frames[..];
        for seq in first..=first + last {
            let Some((frame, others)) = split_frame(rest) else { break };
            put_seq(frame, seq);
            rest = others;
        }
        true
    }

    pub(crate) fn into_frames(self) -> BytesMut {
        self.frames
    }
}

/// A body with its number, for a frame whose size is to be checked.
#[derive(Debug)]
pub(crate) struct NumberedBody<'b> {
    pub(crate) seq: u64,
    /// Begins with its object and has no number yet.
    pub(crate) body: &'b [u8],
}

impl Encode for NumberedBody<'_> {
    fn kind(&self) -> MessageType {
        MessageType::TopicRequest
    }

    fn encode<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        out.reserve(self.body.len() + AROUND_NUMBER_BYTES + decimal_bytes(self.seq));
        put_body(self.body, &front(self.seq), out);
        Ok(())
    }
}

/// What stands before a number.
pub(crate) const BEFORE_NUMBER: &[u8] = br#"{"seq":"#;
/// What comes into a body beside the digits: the brace in front is there already, a comma is not.
const AROUND_NUMBER_BYTES: usize = BEFORE_NUMBER.len();
/// Where in a frame what follows its length begins: its flags, the highest byte of `MType`.
const FLAGS_AT: usize = 4;

/// What stands in front of a body with this number, but for the comma.
fn front(seq: u64) -> SmallVec<[u8; 32]> {
    let mut front = SmallVec::from_slice(BEFORE_NUMBER);
    front.resize(BEFORE_NUMBER.len() + decimal_bytes(seq), b'0');
    put_decimal(front.get_mut(BEFORE_NUMBER.len()..).unwrap_or_default(), seq);
    front
}

/// Goes on to the next number in its digits; `false` if it has one digit more.
pub(crate) fn count(digits: &mut [u8]) -> bool {
    for digit in digits.iter_mut().rev() {
        if *digit < b'9' {
            *digit += 1;
            return true;
        }
        *digit = b'0';
    }
    false
}

/// The publisher's frame with a number, and without flags: those are the publisher's.
fn append(message: &Message, front: &[u8], out: &mut BytesMut) {
    let (frame, body, start) = (message.frame(), message.body(), out.len());
    let counted = frame.len().saturating_sub(FLAGS_AT) + front.len();
    out.put_u32(u32::try_from(counted).unwrap_or(u32::MAX));
    out.extend_from_slice(frame.get(FLAGS_AT..frame.len() - body.len()).unwrap_or_default());
    if let Some(flags) = out.get_mut(start + FLAGS_AT) {
        *flags = 0;
    }
    put_body(body, front, out);
}

/// A comma stands where the body's own brace did.
fn put_body(body: &[u8], front: &[u8], out: &mut BytesMut) {
    out.extend_from_slice(front);
    out.put_u8(b',');
    out.extend_from_slice(body.get(1..).unwrap_or_default());
}

/// How many digits so many numbers have together.
fn digits_of(first: u64, numbers: usize) -> usize {
    let (least, most) = (decimal_bytes(first), decimal_bytes(first + numbers as u64));
    if least == most { numbers * least } else { (first..).take(numbers).map(decimal_bytes).sum() }
}

/// Writes over the number of a frame that has one of as many digits.
fn put_seq(frame: &mut [u8], seq: u64) {
    let id_bytes = frame.get(8..12).map_or(0, |mut bytes| bytes.get_u32() as usize);
    let number = frame.get_mut(HEADER_BYTES + id_bytes + BEFORE_NUMBER.len()..).unwrap_or_default();
    put_decimal(number.get_mut(..decimal_bytes(seq)).unwrap_or_default(), seq);
}

/// The first frame, and the others.
fn split_frame(frames: &mut [u8]) -> Option<(&mut [u8], &mut [u8])> {
    let counted = frames.first_chunk().map(|bytes| u32::from_be_bytes(*bytes) as usize)?;
    frames.split_at_mut_checked(4 + counted)
}

fn put_decimal(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789".get((number % 10) as usize).copied().unwrap_or(b'0');
        number /= 10;
    }
}

/// How many digits a number has.
fn decimal_bytes(number: u64) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

#[cfg(test)]
mod tests {
    use callboard_common::{Decode, Json, LengthValue, Protocol, Recorder, TopicRequest};

    use super::*;

    fn messages(count: usize) -> Vec<Message> {
        let peer = Recorder::new(1);
        let body = |n: usize| format!(r#"{{"topic_key":"t","optype":4,"topic_msg":{n}}}"#);
        // Ids of several lengths, flags too.
        (0..count).map(|n| peer.message(2 | 1 << 24, &b"id-id"[..n % 5], body(n).as_bytes())).collect()
    }

    fn numbered(messages: &[Message], first: u64) -> Numbered {
        Numbered::of(messages, messages.iter().map(|message| message.frame().len()).sum(), first)
    }

    /// The numbers and messages, by way of the codec.
    fn read(numbered: Numbered) -> Vec<(u64, String)> {
        let mut frames = numbered.into_frames();
        let mut read = Vec::new();
        while let Some(message) = LengthValue::default().decode(&mut frames).unwrap() {
            assert_eq!(message.flags(), 0);
            let request = TopicRequest::decode::<Json>(message.body()).unwrap();
            read.push((request.seq.unwrap(), String::from_utf8(request.message.unwrap().bytes().to_vec()).unwrap()));
        }
        read
    }

    fn expected(first: u64, count: usize) -> Vec<(u64, String)> {
        (first..).zip((0..count).map(|n| n.to_string())).collect()
    }

    #[test]
    fn each_message_has_the_next_number_in_exactly_the_room_that_was_taken() {
        for (first, count) in [(1, 1), (1, 12), (95, 30), (9_999_999_999, 2)] {
            let frames = numbered(&messages(count), first);
            assert_eq!(frames.frames.len(), frames.frames.capacity(), "{first} {count}");
            assert_eq!(read(frames), expected(first, count));
        }
    }

    #[test]
    fn numbers_of_as_many_digits_are_written_over_and_others_are_not() {
        let rows = [(1, 4, 5, true), (10, 30, 50, true), (1, 4, 7, false), (8, 4, 10, false), (95, 10, 93, false)];
        for (first, count, then, fits) in rows {
            let mut frames = numbered(&messages(count), first);
            assert_eq!(frames.renumber(then), fits, "{first} {then}");
            assert_eq!(read(frames), expected(if fits { then } else { first }, count), "{first} {then}");
        }
    }
}
