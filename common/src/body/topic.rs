use std::borrow::Cow;

use bytes::BytesMut;
use serde::Serialize;

use super::{Optype, answer_code, answer_error, missing, optype, required_text};
use crate::{BodyError, Codec, Decode, Encode, EncodeError, ErrorInfo, MessageType, Raw, ResultCode};

/// What a REQ_TOPIC asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TopicOp {
    /// 0: make the topic; one that exists stays as it is.
    Create,
    /// 1: end the topic and all its subscriptions.
    Remove,
    /// 2: send me what is published.
    Subscribe,
    /// 3: no longer.
    Cancel,
    /// 4: send this to the subscribers; from a center, a message for the subscriber.
    Publish,
}

impl TopicOp {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Create, "TOPIC_CREATE"),
        (Self::Remove, "TOPIC_REMOVE"),
        (Self::Subscribe, "TOPIC_SUBSCRIBE"),
        (Self::Cancel, "TOPIC_CANCEL"),
        (Self::Publish, "TOPIC_PUBLISH"),
    ];

    /// The wire number.
    pub const fn to_wire(self) -> i64 {
        self as i64
    }

    fn from_optype(optype: &Optype<'_>) -> Result<Self, BodyError> {
        optype.find(&Self::ALL, Self::to_wire)
    }
}

/// REQ_TOPIC: `{"topic_key": string, "optype": 0..=4, "topic_msg": any (publish only)}`.
///
/// Read also as `key` and `message`, and with the optype's name; written always in the long form with the number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicRequest<'a, M = Raw<'a>> {
    /// The topic.
    pub topic: Cow<'a, str>,
    /// What is asked for.
    pub op: TopicOp,
    /// What is published; there exactly with [`TopicOp::Publish`].
    pub message: Option<M>,
    /// Whether the body is spelled as we would spell it: then it may be forwarded as it is.
    pub canonical: bool,
}

impl<'a, M> TopicRequest<'a, M> {
    /// An operation without a message.
    pub fn new(topic: impl Into<Cow<'a, str>>, op: TopicOp) -> Self {
        Self { topic: topic.into(), op, message: None, canonical: true }
    }

    /// A publish.
    pub fn publish(topic: impl Into<Cow<'a, str>>, message: M) -> Self {
        Self { topic: topic.into(), op: TopicOp::Publish, message: Some(message), canonical: true }
    }
}

impl<M: Serialize> Encode for TopicRequest<'_, M> {
    fn kind(&self) -> MessageType {
        MessageType::TopicRequest
    }

    fn encode<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        #[derive(Serialize)]
        struct Wire<'a, M> {
            topic_key: &'a str,
            optype: i64,
            #[serde(skip_serializing_if = "Option::is_none")]
            topic_msg: Option<&'a M>,
        }
        C::write(&Wire { topic_key: &self.topic, optype: self.op.to_wire(), topic_msg: self.message.as_ref() }, out)
    }
}

impl<'a> Decode<'a> for TopicRequest<'a> {
    fn decode<C: Codec>(body: &'a [u8]) -> Result<Self, BodyError> {
        let [topic_key, key, op, topic_msg, message] =
            C::members(body, ["topic_key", "key", "optype", "topic_msg", "message"])?;
        let topic = required_text::<C>(topic_key.or(key), "topic_key")?;
        let optype = optype::<C>(op)?;
        let op = TopicOp::from_optype(&optype)?;
        let canonical =
            topic_key.is_some() && matches!(optype, Optype::Number(_)) && (topic_msg.is_some() || message.is_none());
        let message = match op {
            TopicOp::Publish => Some(topic_msg.or(message).ok_or_else(|| missing("topic_msg"))?),
            _ => None,
        };
        Ok(Self { topic, op, message, canonical })
    }
}

/// RSP_TOPIC: `{"rcode": int}`, and `error` where it is not 0.
#[derive(Clone, Debug)]
pub struct TopicAnswer {
    /// How it went.
    pub code: ResultCode,
    /// More, where it went wrong.
    pub error: Option<ErrorInfo>,
}

impl TopicAnswer {
    /// Done.
    pub const fn ok() -> Self {
        Self { code: ResultCode::Ok, error: None }
    }
}

impl Encode for TopicAnswer {
    fn kind(&self) -> MessageType {
        MessageType::TopicResponse
    }

    fn encode<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        #[derive(Serialize)]
        struct Wire<'a> {
            rcode: i64,
            #[serde(skip_serializing_if = "Option::is_none")]
            error: Option<&'a ErrorInfo>,
        }
        C::write(&Wire { rcode: self.code.to_wire(), error: self.error.as_ref() }, out)
    }
}

impl<'a> Decode<'a> for TopicAnswer {
    fn decode<C: Codec>(body: &'a [u8]) -> Result<Self, BodyError> {
        let [rcode, error] = C::members(body, ["rcode", "error"])?;
        Ok(Self { code: answer_code::<C>(rcode, None)?, error: answer_error::<C>(error) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Json;

    #[test]
    fn what_is_accepted_and_how_it_is_spelled() {
        let rows: [(&str, TopicOp, bool); 7] = [
            (r#"{"topic_key":"t","optype":4,"topic_msg":"x"}"#, TopicOp::Publish, true),
            (
                r#"{"topic_key":"t","key":"u","optype":4,"topic_msg":"x","message":"y","more":1}"#,
                TopicOp::Publish,
                true,
            ),
            (r#"{"key":"t","optype":4,"topic_msg":"x"}"#, TopicOp::Publish, false),
            (r#"{"topic_key":"t","optype":4,"message":"x"}"#, TopicOp::Publish, false),
            (r#"{"topic_key":"t","optype":"TOPIC_PUBLISH","topic_msg":"x"}"#, TopicOp::Publish, false),
            (r#"{"topic_key":"t","optype":0}"#, TopicOp::Create, true),
            (r#"{"key":"t","optype":"TOPIC_CANCEL"}"#, TopicOp::Cancel, false),
        ];
        for (body, op, canonical) in rows {
            let request = TopicRequest::decode::<Json>(body.as_bytes()).unwrap();
            assert_eq!((&*request.topic, request.op, request.canonical), ("t", op, canonical), "{body}");
            let expected = (op == TopicOp::Publish).then_some(&b"\"x\""[..]);
            assert_eq!(request.message.map(Raw::bytes), expected, "{body}");
        }
    }

    #[test]
    fn what_is_refused_and_with_which_code() {
        use ResultCode::{InvalidMessage, InvalidOptype, ParseFailed};
        let rows = [
            (r#"{"optype":0}"#, InvalidMessage),
            (r#"{"topic_key":1,"optype":0}"#, InvalidMessage),
            (r#"{"topic_key":1,"key":"t","optype":0}"#, InvalidMessage),
            (r#"{"topic_key":"t"}"#, InvalidMessage),
            (r#"{"topic_key":"t","optype":4}"#, InvalidMessage),
            (r#"{"topic_key":"t","optype":0.0}"#, InvalidMessage),
            (r#"{"topic_key":"t","optype":null}"#, InvalidMessage),
            (r#"{"topic_key":"t","optype":[0]}"#, InvalidMessage),
            (r#"{"topic_key":"t","optype":5}"#, InvalidOptype),
            (r#"{"topic_key":"t","optype":-1}"#, InvalidOptype),
            (r#"{"topic_key":"t","optype":18446744073709551616}"#, InvalidOptype),
            (r#"{"topic_key":"t","optype":"create"}"#, InvalidOptype),
            (r#"{"topic_key":"t","optype":"SERVICE_REGISTRY"}"#, InvalidOptype),
            (r#"["t",4,"x"]"#, InvalidMessage),
            (r#"{"topic_key":"t","optype":0"#, ParseFailed),
        ];
        for (body, code) in rows {
            assert_eq!(TopicRequest::decode::<Json>(body.as_bytes()).unwrap_err().code, code, "{body}");
        }
    }

    #[test]
    fn null_is_a_message() {
        let request = TopicRequest::decode::<Json>(br#"{"topic_key":"t","optype":4,"topic_msg":null}"#).unwrap();
        assert_eq!(request.message.map(Raw::bytes), Some(&b"null"[..]));
    }
}
