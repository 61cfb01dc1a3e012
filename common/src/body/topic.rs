use std::borrow::Cow;

use bytes::BytesMut;
use serde::Serialize;

use super::{Optype, answer_code, answer_error, is_true, missing, natural, optype, required_text};
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
    /// The message's number in its topic, from 1, as a center pushes it to peers that count. In what others send it
    /// means nothing.
    pub seq: Option<u64>,
    /// Whether a `seq` may be put in front of the body as it is: it begins with its object and has no `seq` yet.
    pub takes_seq: bool,
    /// Whether the body is spelled as we would spell it: then it may be forwarded as it is.
    pub canonical: bool,
}

impl<'a, M> TopicRequest<'a, M> {
    /// An operation without a message.
    pub fn new(topic: impl Into<Cow<'a, str>>, op: TopicOp) -> Self {
        Self { topic: topic.into(), op, message: None, seq: None, takes_seq: true, canonical: true }
    }

    /// A publish.
    pub fn publish(topic: impl Into<Cow<'a, str>>, message: M) -> Self {
        Self { message: Some(message), ..Self::new(topic, TopicOp::Publish) }
    }

    /// The same with its number.
    #[must_use]
    pub fn with_seq(self, seq: u64) -> Self {
        Self { seq: Some(seq), takes_seq: false, ..self }
    }
}

impl<M: Serialize> Encode for TopicRequest<'_, M> {
    fn kind(&self) -> MessageType {
        MessageType::TopicRequest
    }

    fn encode<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        #[derive(Serialize)]
        struct Wire<'a, M> {
            #[serde(skip_serializing_if = "Option::is_none")]
            seq: Option<u64>,
            topic_key: &'a str,
            optype: i64,
            #[serde(skip_serializing_if = "Option::is_none")]
            topic_msg: Option<&'a M>,
        }
        let (optype, topic_msg) = (self.op.to_wire(), self.message.as_ref());
        C::write(&Wire { seq: self.seq, topic_key: &self.topic, optype, topic_msg }, out)
    }
}

impl<'a> Decode<'a> for TopicRequest<'a> {
    fn decode<C: Codec>(body: &'a [u8]) -> Result<Self, BodyError> {
        let [topic_key, key, op, topic_msg, message, seq] =
            C::members(body, ["topic_key", "key", "optype", "topic_msg", "message", "seq"])?;
        let topic = required_text::<C>(topic_key.or(key), "topic_key")?;
        let optype = optype::<C>(op)?;
        let op = TopicOp::from_optype(&optype)?;
        let canonical =
            topic_key.is_some() && matches!(optype, Optype::Number(_)) && (topic_msg.is_some() || message.is_none());
        let message = match op {
            TopicOp::Publish => Some(topic_msg.or(message).ok_or_else(|| missing("topic_msg"))?),
            _ => None,
        };
        let takes_seq = seq.is_none() && body.first() == Some(&b'{');
        Ok(Self { topic, op, message, seq: seq.and_then(natural::<C>), takes_seq, canonical })
    }
}

/// RSP_TOPIC: `{"rcode": int}`, and `error` where it is not 0. A subscribe of a peer that counts is answered with where
/// the topic stands, too.
#[derive(Clone, Debug)]
pub struct TopicAnswer {
    /// How it went.
    pub code: ResultCode,
    /// What a peer that counts is told about its subscription.
    pub subscribed: Option<Subscribed>,
    /// More, where it went wrong.
    pub error: Option<ErrorInfo>,
}

/// One place in the history of a topic: `"epoch": int, "seq": int`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicPosition {
    /// Names this life of the topic: one that is removed and created again has another.
    pub epoch: u64,
    /// The number of the last message up to here; 0 before the first.
    pub seq: u64,
}

/// What a subscribe of a peer that counts did: `"epoch": int, "seq": int, "replayed"?: int, "missed"?: int,
/// "retain"?: true`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribed {
    /// Up to where messages had been published.
    pub at: TopicPosition,
    /// So many of them, the last ones, follow the answer.
    pub replayed: u64,
    /// What was published since the peer left off and does not follow; there exactly if it said where it left off.
    pub missed: Option<Missed>,
    /// Whether the center keeps the topic's last message for those who subscribe later.
    pub retain: bool,
}

/// How many messages a subscriber has missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Missed {
    /// So many; often none.
    Exactly(u64),
    /// Nobody can tell: the topic was created anew meanwhile, or the center gives no numbers. On the wire -1.
    Unknown,
}

impl TopicAnswer {
    /// Done.
    pub const fn ok() -> Self {
        Self { code: ResultCode::Ok, subscribed: None, error: None }
    }
}

impl Subscribed {
    /// The number of the next message, if none is left out.
    pub const fn next(self) -> u64 {
        (self.at.seq + 1).saturating_sub(self.replayed)
    }
}

impl From<Subscribed> for TopicAnswer {
    fn from(subscribed: Subscribed) -> Self {
        Self { subscribed: Some(subscribed), ..Self::ok() }
    }
}

impl From<TopicPosition> for Subscribed {
    fn from(at: TopicPosition) -> Self {
        Self { at, replayed: 0, missed: None, retain: false }
    }
}

impl Encode for TopicAnswer {
    fn kind(&self) -> MessageType {
        MessageType::TopicResponse
    }

    fn encode<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        #[derive(Default, Serialize)]
        struct Wire<'a> {
            rcode: i64,
            #[serde(skip_serializing_if = "Option::is_none")]
            epoch: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            seq: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            replayed: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            missed: Option<i64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            retain: Option<bool>,
            #[serde(skip_serializing_if = "Option::is_none")]
            error: Option<&'a ErrorInfo>,
        }
        let mut wire = Wire { rcode: self.code.to_wire(), error: self.error.as_ref(), ..Wire::default() };
        if let Some(subscribed) = self.subscribed {
            (wire.epoch, wire.seq) = (Some(subscribed.at.epoch), Some(subscribed.at.seq));
            wire.replayed = Some(subscribed.replayed).filter(|count| *count > 0);
            wire.missed = subscribed.missed.map(Missed::to_wire);
            wire.retain = Some(true).filter(|_| subscribed.retain);
        }
        C::write(&wire, out)
    }
}

impl<'a> Decode<'a> for TopicAnswer {
    fn decode<C: Codec>(body: &'a [u8]) -> Result<Self, BodyError> {
        let [rcode, epoch, seq, replayed, missed, retain, error] =
            C::members(body, ["rcode", "epoch", "seq", "replayed", "missed", "retain", "error"])?;
        let at = epoch.and_then(natural::<C>).zip(seq.and_then(natural::<C>));
        let subscribed = at.map(|(epoch, seq)| Subscribed {
            at: TopicPosition { epoch, seq },
            replayed: replayed.and_then(natural::<C>).unwrap_or(0).min(seq),
            missed: missed.map(|count| natural::<C>(count).map_or(Missed::Unknown, Missed::Exactly)),
            retain: is_true::<C>(retain),
        });
        Ok(Self { code: answer_code::<C>(rcode, None)?, subscribed, error: answer_error::<C>(error) })
    }
}

impl Missed {
    fn to_wire(self) -> i64 {
        match self {
            Self::Exactly(count) => i64::try_from(count).unwrap_or(i64::MAX),
            Self::Unknown => -1,
        }
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

    #[test]
    fn a_number_is_written_in_front_and_read_wherever_it_stands() {
        let mut out = BytesMut::new();
        TopicRequest::publish("t", "x").with_seq(7).encode::<Json>(&mut out).unwrap();
        assert_eq!(&out[..], br#"{"seq":7,"topic_key":"t","optype":4,"topic_msg":"x"}"#);
        let rows = [
            (r#"{"seq":7,"topic_key":"t","optype":4,"topic_msg":"x"}"#, Some(7), false),
            (r#"{"topic_key":"t","optype":4,"topic_msg":"x","\u0073eq":8}"#, Some(8), false),
            (r#"{"seq":-1,"topic_key":"t","optype":4,"topic_msg":"x"}"#, None, false),
            (r#"{"seq":"1","topic_key":"t","optype":4,"topic_msg":"x"}"#, None, false),
            (r#"{"topic_key":"t","optype":4,"topic_msg":{"seq":1}}"#, None, true),
            (r#" {"topic_key":"t","optype":4,"topic_msg":"x"}"#, None, false),
        ];
        for (body, seq, takes_seq) in rows {
            let request = TopicRequest::decode::<Json>(body.as_bytes()).unwrap();
            assert_eq!((request.seq, request.takes_seq), (seq, takes_seq), "{body}");
        }
    }

    #[test]
    fn an_answer_says_where_the_topic_stands_and_what_was_missed() {
        let at = TopicPosition { epoch: 3, seq: 12 };
        let rows = [
            (Subscribed::from(at), r#"{"rcode":0,"epoch":3,"seq":12}"#),
            (
                Subscribed { at, replayed: 2, missed: Some(Missed::Exactly(0)), retain: true },
                r#"{"rcode":0,"epoch":3,"seq":12,"replayed":2,"missed":0,"retain":true}"#,
            ),
            (
                Subscribed { at, replayed: 0, missed: Some(Missed::Unknown), retain: false },
                r#"{"rcode":0,"epoch":3,"seq":12,"missed":-1}"#,
            ),
        ];
        for (subscribed, body) in rows {
            let mut out = BytesMut::new();
            TopicAnswer::from(subscribed).encode::<Json>(&mut out).unwrap();
            assert_eq!(&out[..], body.as_bytes());
            assert_eq!(TopicAnswer::decode::<Json>(&out).unwrap().subscribed, Some(subscribed));
        }
        for body in [r#"{"rcode":0}"#, r#"{"rcode":0,"epoch":3}"#, r#"{"rcode":0,"epoch":"3","seq":12}"#] {
            assert_eq!(TopicAnswer::decode::<Json>(body.as_bytes()).unwrap().subscribed, None, "{body}");
        }
        let hostile = br#"{"rcode":0,"epoch":3,"seq":1,"replayed":9,"missed":"x","retain":7}"#;
        let read = TopicAnswer::decode::<Json>(hostile).unwrap().subscribed.unwrap();
        assert_eq!((read.replayed, read.missed, read.retain), (1, Some(Missed::Unknown), false));
    }
}
