//! The captured frames of an independent program, replayed against our center and provider.

use callboard_tests::{Frame, RawPeer, frame};
use serde_json::Value;

use crate::house::{address, center};

struct Captured {
    name: String,
    bytes: Vec<u8>,
    body: Value,
}

fn captured() -> Vec<Captured> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/wire-v1.json");
    let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let read = |row: &Value| {
        let hex = row["frame_hex"].as_str().unwrap();
        let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
        Captured { name: row["name"].as_str().unwrap().to_owned(), bytes: bytes.collect(), body: row["body"].clone() }
    };
    file["frames"].as_array().unwrap().iter().map(read).collect()
}

fn named<'a>(all: &'a [Captured], name: &str) -> &'a Captured {
    all.iter().find(|captured| captured.name.starts_with(name)).unwrap()
}

/// Sends a captured request; the answer must have the captured answer's kind, id, keys, codes and types.
async fn replay(peer: &mut RawPeer, all: &[Captured], request: &str, answer: &str) -> Frame {
    let (request, expected) = (named(all, request), named(all, answer));
    peer.send_bytes(&request.bytes).await;
    let got = peer.receive().await;
    assert_eq!(got.mtype.to_be_bytes(), expected.bytes[4..8], "{}", expected.name);
    assert_eq!(got.id, request.bytes[12..48], "the id is echoed");
    assert_eq!(got.json(), expected.body, "{}", expected.name);
    got
}

#[tokio::test]
async fn a_center_and_provider_answer_each_captured_request_as_the_captured_program_did() {
    let center = center().await;
    let all = captured();
    let mut provider = RawPeer::connect(address(&center)).await;
    let mut caller = RawPeer::connect(address(&center)).await;
    replay(&mut provider, &all, "register add", "register answer").await;
    replay(&mut caller, &all, "discover add", "discover answer").await;
    replay(&mut caller, &all, "call add", "call answer").await;

    // The notice goes as kind 4, with the captured body and a fresh id.
    let mut second = RawPeer::connect(address(&center)).await;
    let notice = named(&all, "online notice");
    let register = notice.body.to_string().replace("\"optype\":2", "\"optype\":0");
    assert_eq!(second.ask(4, &register).await.rcode(), 0);
    let got = caller.receive().await;
    assert_eq!((got.mtype, got.json()), (4, notice.body.clone()));
    assert!(!got.id.is_empty());
}

#[tokio::test]
async fn captured_topic_requests_are_answered_and_the_captured_publish_is_pushed_byte_for_byte() {
    let center = center().await;
    let all = captured();
    let mut subscriber = RawPeer::connect(address(&center)).await;
    let mut publisher = RawPeer::connect(address(&center)).await;
    replay(&mut publisher, &all, "create topic", "topic answer").await;
    // The capture holds one topic answer; its body is that of every topic operation.
    replay(&mut subscriber, &all, "subscribe", "topic answer").await;
    replay(&mut publisher, &all, "publish", "topic answer").await;
    let pushed = subscriber.receive().await;
    assert_eq!(frame(pushed.mtype, &pushed.id, &pushed.body), named(&all, "push to subscriber").bytes);
}
