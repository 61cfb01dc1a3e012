//! The frames that were captured from an independent program: each decodes at every split point to the id, the kind
//! and the body that the capture names, and its typed body says and writes the same.

use std::fs;
use std::path::Path;

use callboard_common::{
    Decode, Encode, Head, Host, Json, LengthValue, ListedHost, Message, MessageType, Raw, ResultCode, RpcRequest,
    RpcResponse, ServiceAnswer, ServiceOp, ServiceRequest, TopicAnswer, TopicOp, TopicRequest,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::lines::from_hex;
use crate::support::{encoded, receive};

#[derive(Deserialize)]
struct Capture {
    frames: Vec<Golden>,
}

#[derive(Deserialize)]
struct Golden {
    name: String,
    mtype: u16,
    mtype_name: String,
    id: String,
    body: Value,
    frame_hex: String,
}

fn capture() -> Vec<Golden> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/wire-v1.json");
    let capture: Capture = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert!(!capture.frames.is_empty());
    capture.frames
}

#[test]
fn every_frame_decodes_to_its_id_kind_and_body_at_every_split_point() {
    for golden in capture() {
        let frame = from_hex(&golden.frame_hex).unwrap();
        for split in 0..=frame.len() {
            let (messages, error) = receive(&LengthValue::default(), [&frame[..split], &frame[split..]]);
            assert_eq!((messages.len(), error), (1, None), "{} cut at {split}", golden.name);
            check(&golden, &messages[0]);
        }
    }
}

#[test]
fn all_frames_come_out_of_one_stream_a_byte_at_a_time() {
    let capture = capture();
    let stream: Vec<u8> = capture.iter().flat_map(|golden| from_hex(&golden.frame_hex).unwrap()).collect();
    let (messages, error) = receive(&LengthValue::default(), stream.chunks(1));
    assert_eq!((messages.len(), error), (capture.len(), None));
    capture.iter().zip(&messages).for_each(|(golden, message)| check(golden, message));
}

#[test]
fn a_frame_put_together_again_is_the_same_bytes() {
    for golden in capture() {
        let frame = from_hex(&golden.frame_hex).unwrap();
        let (messages, _) = receive(&LengthValue::default(), [&frame[..]]);
        let again = Message::new(Head::new(messages[0].kind(), messages[0].id()), 0, messages[0].body()).unwrap();
        assert_eq!(again.frame(), &frame, "{}", golden.name);
    }
}

fn check(golden: &Golden, message: &Message) {
    let name = &golden.name;
    assert_eq!(message.kind().to_wire(), golden.mtype, "{name}");
    assert_eq!(message.kind().to_string(), golden.mtype_name, "{name}");
    assert_eq!((message.codec(), message.flags()), (0, 0), "{name}");
    assert_eq!(message.id(), golden.id.as_bytes(), "{name}");
    assert_eq!(serde_json::from_slice::<Value>(message.body()).unwrap(), golden.body, "{name}");
    assert_eq!(typed(name, message), golden.body, "{name}: what we would write in its place");
}

/// Reads the typed body, checks its fields, and writes it again.
fn typed(name: &str, message: &Message) -> Value {
    let body = message.body();
    match name {
        "register add" => service_request(body, ServiceOp::Register, Some("127.0.0.1:21080")),
        "discover add" => service_request(body, ServiceOp::Discover, None),
        "online notice (this implementation sends it as kind 0; Callboard sends kind 4)" => {
            assert_eq!(message.kind(), MessageType::RpcRequest);
            service_request(body, ServiceOp::Online, Some("127.0.0.1:21081"))
        }
        "register answer" => service_answer(body, ServiceOp::Register, None, None),
        "discover answer" => service_answer(body, ServiceOp::Discover, Some("add"), Some(&["127.0.0.1:21080"])),
        "call add" => {
            let request = RpcRequest::decode::<Json>(body).unwrap();
            assert_eq!((&*request.method, &request.meta), ("add", &None));
            assert_eq!(parsed(request.parameters), json!({"num1": 0, "num2": 1}));
            written(&request)
        }
        "call answer" => {
            let answer = RpcResponse::decode::<Json>(body).unwrap();
            assert_eq!((answer.code, answer.result.map(parsed)), (ResultCode::Ok, Some(json!(1))));
            assert!(answer.error.is_none());
            written(&answer)
        }
        "create topic" => topic_request(body, TopicOp::Create, None),
        "subscribe" => topic_request(body, TopicOp::Subscribe, None),
        "publish" | "push to subscriber" => topic_request(body, TopicOp::Publish, Some("music\u{ff1a}0")),
        "topic answer" => {
            let answer = TopicAnswer::decode::<Json>(body).unwrap();
            assert_eq!((answer.code, answer.error.is_none()), (ResultCode::Ok, true));
            written(&answer)
        }
        unknown => panic!("the capture has a frame that this test does not know: {unknown}"),
    }
}

fn service_request(body: &[u8], op: ServiceOp, host: Option<&str>) -> Value {
    let request = ServiceRequest::decode::<Json>(body).unwrap();
    let host: Option<Host> = host.map(|host| host.parse().unwrap());
    assert_eq!(request, ServiceRequest { host, ..ServiceRequest::new("add", op) });
    written(&request)
}

fn service_answer(body: &[u8], op: ServiceOp, method: Option<&str>, hosts: Option<&[&str]>) -> Value {
    let answer = ServiceAnswer::decode::<Json>(body).unwrap();
    let listed = |host: &&str| ListedHost::from(host.parse::<Host>().unwrap());
    let hosts: Option<Vec<ListedHost>> = hosts.map(|hosts| hosts.iter().map(listed).collect());
    assert_eq!((answer.code, answer.op, answer.method.as_deref()), (ResultCode::Ok, Some(op), method));
    assert_eq!(answer.hosts, hosts.map(Into::into));
    assert!(answer.error.is_none());
    written(&answer)
}

fn topic_request(body: &[u8], op: TopicOp, text: Option<&str>) -> Value {
    let request = TopicRequest::decode::<Json>(body).unwrap();
    assert_eq!((&*request.topic, request.op, request.canonical), ("music", op, true));
    assert_eq!(request.message.map(parsed), text.map(Value::from));
    written(&request)
}

fn parsed(value: Raw<'_>) -> Value {
    serde_json::from_slice(value.bytes()).unwrap()
}

fn written<B: Encode>(body: &B) -> Value {
    serde_json::from_slice(&encoded::<Json, _>(body)).unwrap()
}
