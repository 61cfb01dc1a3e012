//! Each seam has a second implementation, and what goes in at one side comes out at the other.

use bytes::BytesMut;
use callboard_common::{
    BodyFilter, Codec, Decode, Encode, EncodeError, Head, Json, LengthValue, Message, MessageType, Plain, Protocol,
    ProtocolError, RpcRequest, TopicRequest,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::bencode::Bencode;
use crate::lines::Lines;
use crate::runs::{FLAG_COMPRESSED, Runs};
use crate::support::{cut, cuts, message, raw_frame, receive};

const MAX: usize = 4096;

fn filtered() -> LengthValue<Runs> {
    LengthValue::with_filter(MAX, Runs)
}

#[test]
fn a_body_in_another_codec() {
    let call = RpcRequest { method: "add".into(), parameters: json!({"num1": 1, "num2": -2.5}), meta: None };
    let mut buf = BytesMut::new();
    let head = Head::new(MessageType::RpcRequest, b"7");
    LengthValue::default().encode::<Bencode, _>(head, &call, &mut buf).unwrap();
    let message = LengthValue::default().decode(&mut buf).unwrap().unwrap();
    assert_eq!(message.body(), b"d6:method3:add10:parametersd4:num1i1;4:num2r-2.5;ee");
    assert_eq!(message.codec(), 200);
    let read = RpcRequest::decode::<Bencode>(message.body()).unwrap();
    assert_eq!((&*read.method, read.parameters.bytes()), ("add", &b"d4:num1i1;4:num2r-2.5;e"[..]));
    assert!(RpcRequest::decode::<Json>(message.body()).is_err());
}

#[test]
fn what_is_absent_is_empty_in_its_own_codec() {
    let read = RpcRequest::decode::<Bencode>(b"d6:method3:adde").unwrap();
    assert_eq!(read.parameters.bytes(), b"de");
}

#[test]
fn a_value_of_one_codec_is_no_value_of_another() {
    let request = RpcRequest::decode::<Bencode>(b"d6:method3:add10:parametersi1;e").unwrap();
    let written = LengthValue::default()
        .encode::<Json, _>(Head::new(MessageType::RpcRequest, b""), &request, &mut { BytesMut::new() });
    assert!(matches!(written, Err(EncodeError::Value(_))), "{written:?}");
}

#[test]
fn a_line_carries_a_frame() {
    let lines = Lines { max_line_bytes: 64 };
    let mut buf = BytesMut::new();
    let head = Head::new(MessageType::TopicResponse, b"7");
    lines.encode::<Json, _>(head, &callboard_common::TopicAnswer::ok(), &mut buf).unwrap();
    assert_eq!(&buf[..], b"3 0 0 37 7b2272636f6465223a307d\n");
    assert_eq!(lines.decode(&mut buf), Ok(Some(Message::new(head, 0, br#"{"rcode":0}"#).unwrap())));
    let long = TopicRequest::publish("t", "x".repeat(64));
    assert!(lines.encode::<Json, _>(head, &long, &mut buf).is_err());
    for bad in [&b"3 0 0 37\n"[..], b"\n", b"3 0 0 3 7b\n", b"65536 0 0 37 7b\n", &[b'x'; 65]] {
        assert!(lines.decode(&mut BytesMut::from(bad)).is_err());
    }
}

#[test]
fn a_filter_sets_its_flag_only_where_it_did_something() {
    for (text, flags) in
        [("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", FLAG_COMPRESSED), ("ab", 0)]
    {
        let mut buf = BytesMut::new();
        let head = Head::new(MessageType::TopicRequest, b"7");
        filtered().encode::<Json, _>(head, &TopicRequest::publish("t", text), &mut buf).unwrap();
        let on_the_wire = LengthValue::default().decode(&mut buf.clone()).unwrap().unwrap();
        assert_eq!((on_the_wire.flags(), on_the_wire.id()), (flags, &b"7"[..]));
        let message = filtered().decode(&mut buf).unwrap().unwrap();
        assert_eq!(message.flags(), 0);
        let read = TopicRequest::decode::<Json>(message.body()).unwrap();
        assert_eq!(Json::text(read.message.unwrap()).unwrap(), text);
    }
}

#[test]
fn a_filter_refuses_what_would_grow_over_the_bound_and_what_is_not_its_form() {
    let compressed = u32::from(FLAG_COMPRESSED) << 24;
    let bomb = raw_frame(8 + 40, compressed, 0, &[255; 40]);
    let expected = ProtocolError::TooLarge { frame_bytes: 12 + 20 * 255, max_frame_bytes: MAX };
    assert_eq!(filtered().decode(&mut BytesMut::from(&bomb[..])), Err(expected));
    let half = raw_frame(8 + 3, compressed, 0, b"\x01xx");
    let error = filtered().decode(&mut BytesMut::from(&half[..])).unwrap_err();
    assert_eq!(error, ProtocolError::Filter { reason: "half a run" });
}

proptest! {
    #[test]
    fn any_frame_goes_through_the_filter_and_comes_back(
        messages in prop::collection::vec(message().prop_filter("our flag", |m| m.flags() & FLAG_COMPRESSED == 0), 0..5),
        at in cuts(),
    ) {
        let mut stream = BytesMut::new();
        for message in &messages {
            let mut body = BytesMut::from(message.body());
            let flags = Runs.outgoing(message.flags(), &mut body, 0).unwrap();
            prop_assert!(body.len() <= message.body().len());
            let head = Head { kind: message.kind(), flags, id: message.id() };
            stream.extend_from_slice(Message::new(head, message.codec(), &body).unwrap().frame());
        }
        prop_assert_eq!(receive(&filtered(), cut(&stream, &at)), (messages, None));
    }

    #[test]
    fn random_runs_never_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let head = Head { kind: MessageType::RpcRequest, flags: FLAG_COMPRESSED, id: b"7" };
        let message = Message::new(head, 0, &body).unwrap();
        prop_assert_eq!(Plain.incoming(message.clone(), MAX), Ok(message.clone()));
        if let Ok(message) = Runs.incoming(message, MAX) {
            prop_assert!(message.frame().len() <= MAX);
        }
    }

    #[test]
    fn both_codecs_say_the_same_of_one_value(value in crate::support::value()) {
        fn told<C: Codec>(value: &Value) -> (String, Option<String>, Option<usize>, Value) {
            let body = TopicRequest::publish("t", value);
            let mut out = BytesMut::new();
            body.encode::<C>(&mut out).unwrap();
            let raw = TopicRequest::decode::<C>(&out).unwrap().message.unwrap();
            let text = C::text(raw).map(std::borrow::Cow::into_owned);
            (C::shape(raw).to_string(), text, C::items(raw).map(Iterator::count), C::read(raw).unwrap())
        }
        prop_assert_eq!(told::<Json>(&value), told::<Bencode>(&value));
    }
}
