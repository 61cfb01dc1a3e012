//! What is encoded is what is decoded: every body, in both codecs, through both protocols, under any id.

use std::fmt::Debug;
use std::net::IpAddr;

use bytes::BytesMut;
use callboard_common::{
    CallMeta, Codec, Decode, Encode, ErrorInfo, Executed, Head, Heartbeat, Heartbeats, Host, Json, LengthValue, Limits,
    ListedHost, Message, MessageType, Protocol, Raw, Refusal, ResultCode, RpcAnswer, RpcError, RpcRequest, RpcResponse,
    ServiceAnswer, ServiceOp, ServiceRequest, SessionAnswer, SessionRequest, TopicAnswer, TopicOp, TopicRequest,
};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use serde_json::{Value, json};

use crate::bencode::Bencode;
use crate::lines::Lines;
use crate::support::{encoded, id, text, value};

type Outcome = Result<(), TestCaseError>;

/// Sends the body through a protocol and hands back the message, whose frame says what it was told to say.
fn carry<C: Codec, B: Encode>(protocol: &impl Protocol, id: &[u8], body: &B) -> Result<Message, TestCaseError> {
    let mut buf = BytesMut::from(&b"what stands in the buffer already"[..]);
    let before = buf.len();
    protocol.encode::<C, B>(Head::new(body.kind(), id), body, &mut buf).unwrap();
    let mut buf = buf.split_off(before);
    prop_assert_eq!(protocol.frame_bytes(&buf), buf.len());
    let message = protocol.decode(&mut buf).unwrap().unwrap();
    prop_assert!(buf.is_empty());
    prop_assert_eq!((message.kind(), message.codec(), message.flags()), (body.kind(), C::ID, 0));
    prop_assert_eq!((message.id(), message.body()), (id, &encoded::<C, B>(body)[..]));
    Ok(message)
}

/// Carries the body through both protocols and both codecs; `$read` gets the bytes that arrived, with `$codec` named.
macro_rules! carry {
    ($id:expr, $body:expr, |$codec:ident, $bytes:ident| $read:expr) => {{
        type Both = (LengthValue, Lines);
        let (frames, lines): Both = (LengthValue::default(), Lines { max_line_bytes: 1 << 20 });
        {
            type $codec = Json;
            for message in [carry::<$codec, _>(&frames, $id, $body)?, carry::<$codec, _>(&lines, $id, $body)?] {
                let $bytes = message.body();
                $read
            }
        }
        {
            type $codec = Bencode;
            for message in [carry::<$codec, _>(&frames, $id, $body)?, carry::<$codec, _>(&lines, $id, $body)?] {
                let $bytes = message.body();
                $read
            }
        }
    }};
}

fn read<C: Codec>(raw: Raw<'_>) -> Value {
    C::read(raw).unwrap()
}

fn same_error(one: Option<&ErrorInfo>, other: Option<&ErrorInfo>) -> Outcome {
    prop_assert_eq!(serde_json::to_value(one).unwrap(), serde_json::to_value(other).unwrap());
    Ok(())
}

fn code() -> impl Strategy<Value = ResultCode> {
    prop_oneof![(0..70_i64), any::<i64>()].prop_map(ResultCode::from_wire)
}

fn error() -> impl Strategy<Value = ErrorInfo> {
    let executed = prop_oneof![Just(Executed::No), Just(Executed::Yes), Just(Executed::Unknown)];
    // Null is how JSON's reader spells "no data".
    let data = prop::option::of(value().prop_filter("null is none", |data| !data.is_null()));
    (text(), executed, any::<Option<i64>>(), data).prop_map(|(message, executed, code, data)| {
        let error = ErrorInfo { executed, code, ..ErrorInfo::not_executed(message) };
        if let Some(data) = data { error.with_data(&data) } else { error }
    })
}

fn host() -> impl Strategy<Value = Host> {
    (any::<IpAddr>(), 1..=u16::MAX).prop_filter_map("unspecified", |(ip, port)| Host::new(ip, port).ok())
}

fn listed_host() -> impl Strategy<Value = ListedHost> {
    let listens = (host(), prop::option::of(text()))
        .prop_map(|(host, name)| ListedHost { instance: name.map(Into::into), ..host.into() });
    let relayed = (text(), prop::option::of(store())).prop_map(|(name, store)| ListedHost {
        host: Host::relayed(&name),
        instance: Some(name.into()),
        store: store.map(Into::into),
    });
    prop_oneof![listens, relayed]
}

fn topic_op() -> impl Strategy<Value = TopicOp> {
    prop::sample::select(vec![TopicOp::Create, TopicOp::Remove, TopicOp::Subscribe, TopicOp::Cancel])
}

fn service_op() -> impl Strategy<Value = ServiceOp> {
    prop::sample::select(vec![
        ServiceOp::Register,
        ServiceOp::Discover,
        ServiceOp::Online,
        ServiceOp::Offline,
        ServiceOp::Withdraw,
    ])
}

fn store() -> impl Strategy<Value = String> {
    text().prop_filter("a name of a store", |name| (1..=256).contains(&name.len()))
}

fn limit() -> impl Strategy<Value = u64> {
    prop_oneof![0..=i64::MAX.unsigned_abs(), Just(u64::MAX)]
}

fn assert_same<T: PartialEq + Debug>(one: T, other: T) -> Outcome {
    prop_assert_eq!(one, other);
    Ok(())
}

proptest! {
    #[test]
    fn any_frame(message in crate::support::message()) {
        let mut buf = BytesMut::from(&message.frame()[..]);
        prop_assert_eq!(LengthValue::default().decode(&mut buf), Ok(Some(message.clone())));
        prop_assert_eq!(message.detach(), message);
    }

    #[test]
    fn rpc_request(id in id(), method in text(), parameters in value(), timeout_ms in any::<Option<u32>>()) {
        let meta = timeout_ms.map(|ms| CallMeta { timeout_ms: Some(ms.into()), ..CallMeta::default() });
        let sent = RpcRequest { method: method.into(), parameters, meta };
        carry!(&id, &sent, |C, bytes| {
            let got = RpcRequest::decode::<C>(bytes).unwrap();
            assert_same((&got.method, &got.meta), (&sent.method, &sent.meta))?;
            assert_same(&read::<C>(got.parameters), &sent.parameters)?;
        });
    }

    #[test]
    fn rpc_answer(id in id(), result in value(), v1 in any::<bool>()) {
        let expected = if v1 && result.is_null() { json!({}) } else { result.clone() };
        carry!(&id, &RpcAnswer { result: &result, v1 }, |C, bytes| {
            let got = RpcResponse::decode::<C>(bytes).unwrap();
            assert_same((got.code, got.result.map(read::<C>)), (ResultCode::Ok, Some(expected.clone())))?;
            prop_assert!(got.error.is_none());
        });
    }

    #[test]
    fn rpc_error(id in id(), code in code(), error in error(), v1 in any::<bool>()) {
        carry!(&id, &RpcError { code, error: &error, v1 }, |C, bytes| {
            let got = RpcResponse::decode::<C>(bytes).unwrap();
            assert_same((got.code, got.result.map(read::<C>)), (code, v1.then(|| json!({}))))?;
            same_error(got.error.as_ref(), Some(&error))?;
        });
    }

    #[test]
    fn rpc_response_passed_on(id in id(), code in code(), result in prop::option::of(value()),
                              error in prop::option::of(error())) {
        let text = result.map(|result| result.to_string());
        let result = text.as_ref().map(|text| Json::check(text.as_bytes()).unwrap());
        let message = carry::<Json, _>(&LengthValue::default(), &id, &RpcResponse { code, result, error: error.clone() })?;
        let got = RpcResponse::decode::<Json>(message.body()).unwrap();
        assert_same((got.code, got.result), (code, result))?;
        same_error(got.error.as_ref(), error.as_ref())?;
    }

    #[test]
    fn topic_request(id in id(), topic in text(), op in topic_op()) {
        let sent = TopicRequest::<Value>::new(topic, op);
        carry!(&id, &sent, |C, bytes| {
            let got = TopicRequest::decode::<C>(bytes).unwrap();
            assert_same((&got.topic, got.op, got.message, got.canonical), (&sent.topic, op, None, true))?;
        });
    }

    #[test]
    fn topic_publish(id in id(), topic in text(), news in value()) {
        let sent = TopicRequest::publish(topic, news);
        carry!(&id, &sent, |C, bytes| {
            let got = TopicRequest::decode::<C>(bytes).unwrap();
            assert_same((&got.topic, got.op, got.canonical), (&sent.topic, TopicOp::Publish, true))?;
            assert_same(got.message.map(read::<C>), sent.message.clone())?;
        });
    }

    #[test]
    fn topic_answer(id in id(), code in code(), error in prop::option::of(error())) {
        carry!(&id, &TopicAnswer { code, subscribed: None, error: error.clone() }, |C, bytes| {
            let got = TopicAnswer::decode::<C>(bytes).unwrap();
            prop_assert_eq!(got.code, code);
            same_error(got.error.as_ref(), error.as_ref())?;
        });
    }

    #[test]
    fn service_request(id in id(), method in text(), op in service_op(), host in host(),
                       relay in any::<bool>(), instance in prop::option::of(text()),
                       store in prop::option::of(store()),
                       revision in prop::option::of(0..u64::MAX / 2), probe in any::<bool>()) {
        let host = (op != ServiceOp::Discover && !relay).then_some(host);
        let (method, instance) = (method.into(), instance.map(Into::into));
        let store = store.filter(|_| relay).map(Into::into);
        let sent = ServiceRequest { method, op, host, relay, instance, store, revision, probe };
        carry!(&id, &sent, |C, bytes| assert_same(&ServiceRequest::decode::<C>(bytes).unwrap(), &sent)?);
    }

    #[test]
    fn service_answer(id in id(), code in code(), op in service_op(), method in prop::option::of(text()),
                      hosts in prop::option::of(prop::collection::vec(listed_host(), 0..6)),
                      revision in prop::option::of(0..u64::MAX / 2),
                      warm_up_ms in prop::option::of(0..u64::MAX / 2),
                      error in prop::option::of(error())) {
        let sent = ServiceAnswer {
            code,
            op: Some(op),
            method: method.map(Into::into),
            hosts: hosts.map(Into::into),
            revision,
            warm_up_ms,
            error,
        };
        carry!(&id, &sent, |C, bytes| {
            let got = ServiceAnswer::decode::<C>(bytes).unwrap();
            assert_same((got.code, got.op), (sent.code, sent.op))?;
            assert_same((&got.method, &got.hosts, got.revision), (&sent.method, &sent.hosts, sent.revision))?;
            assert_same(got.warm_up_ms, sent.warm_up_ms)?;
            same_error(got.error.as_ref(), sent.error.as_ref())?;
        });
    }

    #[test]
    fn session_request(id in id(), version in 2..=i64::MAX, name in text(), instance in text(),
                       store in prop::option::of(store()), features in prop::collection::vec(text(), 0..6)) {
        let (name, instance, store) = (name.into(), instance.into(), store.map(Into::into));
        let features = features.into_iter().map(Into::into).collect();
        let sent = SessionRequest { version, name, instance, store, features, limits: None };
        carry!(&id, &sent, |C, bytes| assert_same(&SessionRequest::decode::<C>(bytes).unwrap(), &sent)?);
    }

    #[test]
    fn session_answer(id in id(), code in code(), version in any::<i64>(), instance in text(),
                      features in prop::collection::vec(text(), 0..6), max_frame_bytes in limit(), in_flight in limit(),
                      beats in prop::option::of(prop::array::uniform4(1..=u64::MAX / 2)),
                      store in prop::option::of(store()), error in prop::option::of(error())) {
        let heartbeats = beats.map(|[a, b, c, d]| Heartbeats {
            caller: Heartbeat::from_ms(a, b),
            provider: Heartbeat::from_ms(c, d),
        });
        let sent = SessionAnswer {
            code,
            version,
            instance: instance.into(),
            store: store.map(Into::into),
            features: features.into_iter().map(Into::into).collect(),
            limits: Limits { max_frame_bytes, in_flight },
            heartbeats,
            error,
        };
        carry!(&id, &sent, |C, bytes| {
            let got = SessionAnswer::decode::<C>(bytes).unwrap();
            assert_same((got.code, got.version, got.limits), (sent.code, sent.version, sent.limits))?;
            assert_same(got.heartbeats, sent.heartbeats)?;
            assert_same((&got.instance, &got.features, &got.store), (&sent.instance, &sent.features, &sent.store))?;
            same_error(got.error.as_ref(), sent.error.as_ref())?;
        });
    }

    #[test]
    fn refusals_read_as_their_kinds_answer(id in id(), code in code(), error in error(), op in service_op()) {
        let refuse = |request| Refusal { code, request, optype: Some(op.to_wire()), error: &error, v1: true };
        carry!(&id, &refuse(MessageType::TopicRequest), |C, bytes| {
            let got = TopicAnswer::decode::<C>(bytes).unwrap();
            prop_assert_eq!(got.code, code);
            same_error(got.error.as_ref(), Some(&error))?;
        });
        carry!(&id, &refuse(MessageType::ServiceRequest), |C, bytes| {
            let got = ServiceAnswer::decode::<C>(bytes).unwrap();
            assert_same((got.code, got.op), (code, Some(op)))?;
            same_error(got.error.as_ref(), Some(&error))?;
        });
        carry!(&id, &refuse(MessageType::SessionRequest), |C, bytes| {
            let got = SessionAnswer::decode::<C>(bytes).unwrap();
            assert_same((got.code, got.version, got.limits), (code, 1, Limits::default()))?;
            same_error(got.error.as_ref(), Some(&error))?;
        });
    }
}
