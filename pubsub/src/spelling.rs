use bytes::Bytes;
use callboard_common::{Json, Message, Raw, TopicOp, TopicRequest};

/// How one peer spells its publishes to one topic. Of a body that is spelled as one before, only the message is read.
///
/// What stands before the message says all else: a body with the same bytes there, whose message is one valid value and
/// is followed by nothing but the end of the body, means the same.
#[derive(Debug, Default)]
pub(crate) struct Spelling {
    before: Option<Bytes>,
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
        self.before = before(message, request);
    }

    /// The message of a body that is spelled like that.
    pub(crate) fn read<'b>(&self, body: &'b [u8]) -> Option<Value<'b>> {
        let text = body.strip_prefix(&**self.before.as_ref()?)?.strip_suffix(b"}")?;
        if Json::is_plain_string(text) {
            return Some(Value { raw: Raw::new(text), is_plain: true });
        }
        Json::check_member(text).ok().map(|raw| Value { raw, is_plain: false })
    }
}

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
    fn only_what_ends_with_its_message_in_our_spelling_is_learned() {
        let rows = [
            r#"{"topic_key":"t","optype":4,"topic_msg":"x","more":1}"#,
            r#"{"topic_key":"t","topic_msg":"x","optype":4}"#,
            r#"{"topic_key":"t","optype":4,"topic_msg":"x" }"#,
            r#"{"key":"t","optype":4,"topic_msg":"x"}"#,
            r#"{"topic_key":"t","optype":4,"topic_msg":"x","message":"x"}"#,
            r#"{"topic_key":"t","optype":2}"#,
        ];
        for body in rows {
            assert!(learned(body).before.is_none(), "{body}");
        }
        assert!(Spelling::default().read(b"{}").is_none());
    }
}
