use bytes::Bytes;
use callboard_common::{Codec, Json, Message, Raw, TopicOp, TopicRequest};

use crate::numbered::{BEFORE_NUMBER, count};

/// How one peer spells its publishes to one topic. Of a body that is spelled as one before, only the message is read.
///
/// What stands before the message says all else: a body with the same bytes there, whose message is one valid value and
/// is followed by nothing but the end of the body, means the same. A number in front must be the one that follows.
#[derive(Debug, Default)]
pub(crate) struct Spelling {
    /// What stands before the message, without the number in front.
    before: Option<Bytes>,
    numbers: Option<Numbers>,
}

/// What stands in front of numbered messages. All of it is compared at once, and counting goes on in its digits: many
/// times faster than to read each number.
#[derive(Debug)]
struct Numbers {
    last: u64,
    /// All that stands before the next message; made when it is looked for.
    next: Vec<u8>,
    /// Where the digits in it end.
    digits_end: usize,
}

/// A message of which is known that it is valid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Value<'b> {
    pub(crate) raw: Raw<'b>,
    /// It is a string without escapes.
    pub(crate) is_plain: bool,
}

impl Spelling {
    /// Learns from a body that was read in full.
    pub(crate) fn learn(&mut self, message: &Message, request: &TopicRequest<'_>) {
        let before = before(message, request);
        let in_front = before
            .as_ref()
            .and_then(|before| split_number(before).map(|(last, after)| (last, before.slice_ref(after))));
        *self = match in_front {
            // Of two numbers the last one counts.
            Some((_, after)) if has_seq(&after, message.body()) => Self::default(),
            Some((last, after)) => {
                Self { before: Some(after), numbers: Some(Numbers { last, next: Vec::new(), digits_end: 0 }) }
            }
            None => Self { before: before.filter(|_| request.seq.is_none()), numbers: None },
        };
    }

    /// The message of a body that is spelled like that, and has the number that follows.
    pub(crate) fn read<'b>(&mut self, body: &'b [u8]) -> Option<Value<'b>> {
        let before = self.before.as_ref()?;
        let text = match &mut self.numbers {
            Some(numbers) => body.strip_prefix(numbers.next(before)),
            None => body.strip_prefix(&**before),
        };
        let value = value(text?.strip_suffix(b"}")?)?;
        if let Some(numbers) = &mut self.numbers {
            numbers.count();
        }
        Some(value)
    }
}

impl Numbers {
    fn next(&mut self, before: &[u8]) -> &[u8] {
        if self.next.is_empty() {
            let number = (self.last + 1).to_string();
            self.digits_end = BEFORE_NUMBER.len() + number.len();
            self.next = [BEFORE_NUMBER, number.as_bytes(), b",", before].concat();
        }
        &self.next
    }

    fn count(&mut self) {
        self.last += 1;
        if !count(self.next.get_mut(BEFORE_NUMBER.len()..self.digits_end).unwrap_or_default()) {
            self.next.clear();
        }
    }
}

fn value(text: &[u8]) -> Option<Value<'_>> {
    if Json::is_plain_string(text) {
        return Some(Value { raw: Raw::new(text), is_plain: true });
    }
    Json::check_member(text).ok().map(|raw| Value { raw, is_plain: false })
}

/// The number that a center puts in front, and what stands behind it.
fn split_number(body: &[u8]) -> Option<(u64, &[u8])> {
    let text = body.strip_prefix(BEFORE_NUMBER)?;
    let digits = text.iter().take(MOST_DIGITS).take_while(|byte| byte.is_ascii_digit()).count();
    let (number, after) = text.split_at_checked(digits)?;
    if digits == 0 || (digits > 1 && number.first() == Some(&b'0')) {
        return None;
    }
    let number = number.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    Some((number, after.strip_prefix(b",")?))
}

/// Whether a body names another `seq` behind the number in front, given what stands between that one and the message.
fn has_seq(after: &[u8], body: &[u8]) -> bool {
    let could = after.contains(&b'\\') || after.windows(5).any(|name| name == br#""seq""#);
    let without = || [b"{".as_slice(), split_number(body).map_or(body, |(_, rest)| rest)].concat();
    could && !matches!(Json::members(&without(), ["seq"]), Ok([None]))
}

/// As many as always fit into the number.
const MOST_DIGITS: usize = 18;

/// What stands before the message of a publish in our spelling, if nothing stands behind it.
fn before(message: &Message, request: &TopicRequest<'_>) -> Option<Bytes> {
    let value = request.message.filter(|_| request.canonical && request.op == TopicOp::Publish)?.bytes();
    let body = message.body();
    let before = body.strip_suffix(b"}")?.strip_suffix(value)?;
    // A slice of the frame would do, but only in the frame's own memory can it be found without a copy.
    let is_the_value = std::ptr::eq(before.as_ptr_range().end, value.as_ptr());
    is_the_value.then(|| message.frame().slice_ref(before))
}

#[cfg(test)]
mod tests {
    use callboard_common::{Decode, Recorder};

    use super::*;

    fn message(body: &str) -> Message {
        Recorder::new(1).message(2, b"id", body.as_bytes())
    }

    fn learned(body: &str) -> Spelling {
        let message = message(body);
        let mut spelling = Spelling::default();
        spelling.learn(&message, &TopicRequest::decode::<Json>(message.body()).unwrap());
        spelling
    }

    #[test]
    fn the_same_spelling_is_read_as_in_full_and_any_other_is_not() {
        let known = r#"{"topic_key":"t","more":[1],"optype":4,"topic_msg": "x"}"#;
        let deep = |n: usize| ["[".repeat(n), "]".repeat(n)].concat();
        let with = |value: &str| format!(r#"{{"topic_key":"t","more":[1],"optype":4,"topic_msg": {value}}}"#);
        let same = [r#""""#, r#""a\"}""#, "12", "null", r#" {"a":[1, 2]} "#, &deep(127)];
        for value in same {
            let body = with(value);
            let in_full = TopicRequest::decode::<Json>(body.as_bytes()).unwrap();
            let read = learned(known).read(body.as_bytes()).unwrap();
            assert_eq!(Some(read.raw), in_full.message, "{value}");
            assert_eq!(read.is_plain, value == r#""""#, "{value}");
        }
        let other = ["", r#""a","more":1"#, r#""a"}"#, "\"\u{1}\"", r#""\x""#, "1 2", &deep(128)];
        for value in other {
            assert!(learned(known).read(with(value).as_bytes()).is_none(), "{value}");
        }
        assert!(learned(known).read(br#"{"topic_key":"u","more":[1],"optype":4,"topic_msg": "x"}"#).is_none());
        assert!(learned(known).read(&[&known.as_bytes()[..known.len() - 2], b"\xff\"}"].concat()).is_none());
    }

    #[test]
    fn a_number_in_front_must_be_the_one_that_follows() {
        let with = |number: &str| format!(r#"{{"seq":{number},"topic_key":"\u0074","optype":4,"topic_msg":"x"}}"#);
        for first in [0_u64, 1, 8, 95, 999_999_999_999_990] {
            let mut spelling = learned(&with(&first.to_string()));
            for next in first + 1..first + 200 {
                for other in [next - 1, next + 1, next * 10] {
                    assert!(spelling.read(with(&other.to_string()).as_bytes()).is_none());
                }
                let body = with(&next.to_string());
                assert_eq!(TopicRequest::decode::<Json>(body.as_bytes()).unwrap().seq, Some(next));
                assert!(spelling.read(body.as_bytes()).is_some(), "{next}");
            }
        }
        for number in ["", "01", "-1", "1.0", "1e3", " 1", "1 ", "\"1\"", "9999999999999999999"] {
            let message = message(&with(number));
            let Ok(request) = TopicRequest::decode::<Json>(message.body()) else { continue };
            let mut spelling = Spelling::default();
            spelling.learn(&message, &request);
            assert!(spelling.numbers.is_none() && (spelling.before.is_none() || request.seq.is_none()), "{number}");
        }
    }

    #[test]
    fn only_what_ends_with_its_message_in_our_spelling_is_learned() {
        let rows = [
            r#"{"topic_key":"t","optype":4,"topic_msg":"x","more":1}"#,
            r#"{"topic_key":"t","topic_msg":"x","optype":4}"#,
            r#"{"topic_key":"t","optype":4,"topic_msg":"x" }"#,
            r#"{"key":"t","optype":4,"topic_msg":"x"}"#,
            r#"{"topic_key":"t","optype":4,"topic_msg":"x","message":"x"}"#,
            r#"{"topic_key":"t","optype":2}"#,
            r#"{"seq":1,"seq":2,"topic_key":"t","optype":4,"topic_msg":"x"}"#,
            r#"{"seq":1,"topic_key":"t","optype":4,"s\u0065q":2,"topic_msg":"x"}"#,
            r#"{"topic_key":"t","seq":5,"optype":4,"topic_msg":"x"}"#,
        ];
        for body in rows {
            assert!(learned(body).before.is_none(), "{body}");
        }
        assert!(Spelling::default().read(b"{}").is_none());
    }
}
