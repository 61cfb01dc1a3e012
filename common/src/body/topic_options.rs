use std::borrow::Cow;

use bytes::BytesMut;
use serde::Serialize;

use super::{natural, wrong_type};
use crate::{BodyError, Codec, Decode, Encode, EncodeError, MessageType, Raw, TopicOp, TopicPosition};

/// An operation on a topic with what peers that count (feature `seq`) may add to it. Written in the form of a
/// [`TopicRequest`](crate::TopicRequest) with more keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicOperation<'a> {
    /// The topic.
    pub topic: Cow<'a, str>,
    /// A create or a subscribe.
    pub op: TopicOp,
    /// What is added.
    pub options: TopicOptions,
}

/// What a create or a subscribe of a peer that counts may say: `{"epoch": int, "after": int, "retain": bool,
/// "policy": string, "max_bytes": int}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopicOptions {
    /// Subscribe: the last message that the peer has had (`epoch` and `after`, both or none). It gets what was
    /// published since, as far as the center still has it.
    pub after: Option<TopicPosition>,
    /// Create: the center keeps the last message for those who subscribe later. Subscribe: whether to get the last
    /// message at once; if nothing is said, the topic decides.
    pub retain: Option<bool>,
    /// Subscribe: what is left out if the peer can't keep up. A later subscribe replaces it.
    pub policy: Option<SlowPolicy>,
    /// Subscribe: how many bytes may wait at the center until that policy decides; not for `hold`.
    pub max_bytes: Option<u64>,
}

/// What becomes of messages that come faster than a subscriber takes them.
///
/// In the order of how much is asked of others for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SlowPolicy {
    /// The subscriber is cut off; nobody waits for it. On the wire `disconnect`.
    Disconnect,
    /// It gets the last message only, `latest`.
    Latest,
    /// What comes is left out until there is room, `drop_newest`.
    DropNewest,
    /// What has waited for longest is left out, `drop_oldest`.
    DropOldest,
    /// Publishers wait for it, as long as it makes progress; past its bound it is cut off. `hold`, the default.
    #[default]
    Hold,
}

impl SlowPolicy {
    const ALL: [Self; 5] = [Self::Hold, Self::Disconnect, Self::DropOldest, Self::DropNewest, Self::Latest];

    /// The name, as the wire has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Disconnect => "disconnect",
            Self::DropOldest => "drop_oldest",
            Self::DropNewest => "drop_newest",
            Self::Latest => "latest",
        }
    }
}

impl Encode for TopicOperation<'_> {
    fn kind(&self) -> MessageType {
        MessageType::TopicRequest
    }

    fn encode<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        #[derive(Serialize)]
        struct Wire<'a> {
            topic_key: &'a str,
            optype: i64,
            #[serde(skip_serializing_if = "Option::is_none")]
            epoch: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            after: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            retain: Option<bool>,
            #[serde(skip_serializing_if = "Option::is_none")]
            policy: Option<&'static str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            max_bytes: Option<u64>,
        }
        let TopicOptions { after, retain, policy, max_bytes } = self.options;
        let (epoch, after) = after.map(|at| (at.epoch, at.seq)).unzip();
        let (optype, policy) = (self.op.to_wire(), policy.map(SlowPolicy::name));
        C::write(&Wire { topic_key: &self.topic, optype, epoch, after, retain, policy, max_bytes }, out)
    }
}

impl<'a> Decode<'a> for TopicOptions {
    fn decode<C: Codec>(body: &'a [u8]) -> Result<Self, BodyError> {
        let [epoch, after, retain, policy, max_bytes] =
            C::members(body, ["epoch", "after", "retain", "policy", "max_bytes"])?;
        let epoch = number::<C>("epoch", epoch)?;
        let after = epoch.zip(number::<C>("after", after)?).map(|(epoch, seq)| TopicPosition { epoch, seq });
        let (retain, max_bytes) = (switch::<C>("retain", retain)?, number::<C>("max_bytes", max_bytes)?);
        Ok(Self { after, retain, policy: policy.map(read_policy::<C>).transpose()?, max_bytes })
    }
}

fn number<C: Codec>(key: &str, value: Option<Raw<'_>>) -> Result<Option<u64>, BodyError> {
    let read = |value| natural::<C>(value).ok_or_else(|| wrong_type::<C>(key, "an integer of 0 or more", value));
    value.map(read).transpose()
}

fn read_policy<C: Codec>(value: Raw<'_>) -> Result<SlowPolicy, BodyError> {
    let name = C::text(value);
    let known = SlowPolicy::ALL.into_iter().find(|policy| name.as_deref() == Some(policy.name()));
    known.ok_or_else(|| {
        wrong_type::<C>("policy", r#""hold", "disconnect", "drop_oldest", "drop_newest" or "latest""#, value)
    })
}

fn switch<C: Codec>(key: &str, value: Option<Raw<'_>>) -> Result<Option<bool>, BodyError> {
    let read = |value| C::read(value).map_err(|_| wrong_type::<C>(key, "true or false", value));
    value.map(read).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Json, ResultCode, TopicRequest};

    #[test]
    fn what_is_added_is_read_as_it_was_written_and_changes_nothing_else() {
        let after = Some(TopicPosition { epoch: 5, seq: 6 });
        let rows = [
            (TopicOptions::default(), r#"{"topic_key":"t","optype":2}"#),
            (TopicOptions { after, ..TopicOptions::default() }, r#"{"topic_key":"t","optype":2,"epoch":5,"after":6}"#),
            (
                TopicOptions { retain: Some(false), ..TopicOptions::default() },
                r#"{"topic_key":"t","optype":2,"retain":false}"#,
            ),
            (
                TopicOptions { policy: Some(SlowPolicy::DropOldest), max_bytes: Some(9), ..TopicOptions::default() },
                r#"{"topic_key":"t","optype":2,"policy":"drop_oldest","max_bytes":9}"#,
            ),
        ];
        for (options, body) in rows {
            let mut out = BytesMut::new();
            TopicOperation { topic: "t".into(), op: TopicOp::Subscribe, options }.encode::<Json>(&mut out).unwrap();
            assert_eq!(&out[..], body.as_bytes());
            assert_eq!(TopicOptions::decode::<Json>(&out).unwrap(), options);
            let plain = TopicRequest::new("t", TopicOp::Subscribe);
            assert_eq!(TopicRequest::decode::<Json>(&out).unwrap(), plain);
        }
    }

    #[test]
    fn half_a_position_is_none_and_another_type_is_refused() {
        for body in [r#"{"epoch":5}"#, r#"{"after":6}"#] {
            assert_eq!(TopicOptions::decode::<Json>(body.as_bytes()).unwrap(), TopicOptions::default(), "{body}");
        }
        for body in [r#"{"epoch":"5"}"#, r#"{"after":-1}"#, r#"{"after":1.0}"#, r#"{"retain":1}"#, r#"{"policy":"x"}"#]
        {
            let error = TopicOptions::decode::<Json>(body.as_bytes()).unwrap_err();
            assert_eq!(error.code, ResultCode::InvalidMessage, "{body}");
        }
    }
}
