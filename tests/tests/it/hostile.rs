//! Each row of the table of hostile and broken input, over a real socket. After each, the center serves another peer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use callboard_center::Center;
use callboard_net::Limits;
use callboard_tests::{RawPeer, frame, within};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;

use crate::house::{address, center, center_with, router, until};

async fn serves_others(center: &Center) {
    let mut other = RawPeer::connect(address(center)).await;
    let answer = other.ask(0, r#"{"method":"add","parameters":{"num1":1,"num2":2}}"#).await;
    assert_eq!(answer.json(), serde_json::json!({"rcode": 0, "result": 3}));
}

#[tokio::test]
async fn a_bad_length_closes_at_header_time() {
    let center = center().await;
    let rows: [(&str, Vec<u8>); 6] = [
        ("length 0", vec![0, 0, 0, 0]),
        ("length 7", vec![0, 0, 0, 7]),
        ("id longer than the frame", [8_u32, 0, 1].map(u32::to_be_bytes).concat()),
        ("id of 256 bytes", [1000_u32, 0, 256].map(u32::to_be_bytes).concat()),
        ("id of 4 GiB", [1000_u32, 0, u32::MAX].map(u32::to_be_bytes).concat()),
        ("text", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
    ];
    for (name, bytes) in &rows {
        let mut peer = RawPeer::connect(address(&center)).await;
        peer.send_bytes(bytes).await;
        assert_eq!(within(peer.try_receive()).await, None, "{name}");
    }
    until("all are counted", || center.metrics().protocol_errors == rows.len() as u64).await;
    serves_others(&center).await;
}

#[tokio::test]
async fn a_bad_frame_closes_but_the_frames_before_it_are_answered() {
    let center = center().await;
    let mut peer = RawPeer::connect(address(&center)).await;
    let good = frame(0, b"good", br#"{"method":"add","parameters":{"num1":1,"num2":2}}"#);
    peer.send_bytes(&[&good[..], &[0, 0, 0, 1]].concat()).await;
    let answer = peer.receive().await;
    assert_eq!((answer.id.as_slice(), answer.rcode()), (&b"good"[..], 0));
    peer.expect_end().await;
}

#[tokio::test]
async fn a_frame_over_the_bound_closes_at_header_time_and_takes_no_memory() {
    let center = center().await;
    for length in [(16 << 20) + 1, 17 << 20, u32::MAX] {
        let mut peer = RawPeer::connect(address(&center)).await;
        peer.send_bytes(&u32::to_be_bytes(length)).await;
        peer.expect_end().await;
    }
    assert_eq!(center.metrics().partial_bytes, 0);
    serves_others(&center).await;
}

#[tokio::test]
async fn a_frame_at_the_bound_is_served() {
    let center = center_with(Limits { max_frame_bytes: 4096, queue_bytes: 8192, ..Limits::default() }).await;
    let mut peer = RawPeer::connect(address(&center)).await;
    let body = |pad: usize| format!(r#"{{"method":"nothing","parameters":{{}}{}}}"#, " ".repeat(pad));
    let pad = 4096 - 8 - 2 - body(0).len();
    peer.send(0, b"id", &body(pad)).await;
    assert_eq!(peer.receive().await.rcode(), 0);
    peer.send_bytes(&frame(0, b"id", body(pad + 1).as_bytes())[..4]).await;
    peer.expect_end().await;
}

#[tokio::test]
async fn a_session_peer_is_told_too_large_before_the_close() {
    let center = center().await;
    let mut header = [40_u32 << 20, 2, 3].map(u32::to_be_bytes).concat();
    header.extend_from_slice(b"big");
    for at_once in [true, false] {
        let mut peer = RawPeer::with_session(address(&center), &[]).await;
        let pieces = if at_once { header.len() } else { 1 };
        for piece in header.chunks(pieces) {
            peer.send_bytes(piece).await;
        }
        let answer = peer.receive().await;
        assert_eq!((answer.mtype, answer.id.as_slice(), answer.rcode()), (3, &b"big"[..], 21), "{answer:?}");
        peer.expect_end().await;
    }
    // One that sends all of it before it reads is still told: what comes is thrown away, not reset.
    let mut peer = RawPeer::with_session(address(&center), &[]).await;
    peer.send_bytes(&header).await;
    for _ in 0..40 {
        peer.send_bytes(&vec![b' '; 1 << 20]).await;
    }
    assert_eq!(peer.receive().await.rcode(), 21);
    serves_others(&center).await;
}

#[tokio::test]
async fn an_unknown_even_kind_is_invalid_and_the_connection_lives() {
    let center = center().await;
    let mut peer = RawPeer::connect(address(&center)).await;
    for kind in [6, 14, 22, 0xfffe] {
        let answer = peer.ask(kind, "{}").await;
        assert_eq!(answer.rcode(), 2);
        assert_eq!(answer.json()["error"]["executed"], "no");
    }
    peer.expect_quiet().await;
}

#[tokio::test]
async fn what_nobody_awaits_is_ignored_and_counted() {
    let center = center().await;
    let mut peer = RawPeer::connect(address(&center)).await;
    let kinds = [1, 3, 5, 7, 17, 0xffff, 18, 19, 20, 21];
    for kind in kinds {
        peer.send(kind, b"id", r#"{"rcode":0}"#).await;
    }
    peer.expect_quiet().await;
    assert_eq!(center.metrics().ignored, kinds.len() as u64);
}

#[tokio::test]
async fn a_codec_or_flag_that_was_not_negotiated_is_invalid() {
    let center = center().await;
    let mut v1 = RawPeer::connect(address(&center)).await;
    let mut session = RawPeer::with_session(address(&center), &["one_way"]).await;
    let add = r#"{"method":"add","parameters":{"num1":1,"num2":2}}"#;
    for (in_session, high) in [(false, 1 << 16), (false, 1 << 24), (false, 1 << 31), (true, 1 << 25)] {
        let peer = if in_session { &mut session } else { &mut v1 };
        peer.send(high, b"id", add).await;
        let answer = peer.receive().await;
        assert_eq!((answer.mtype, answer.rcode()), (1, 2), "{high:x}");
    }
    session.send(1 << 24, b"one-way", add).await;
    session.expect_quiet().await;
}

#[tokio::test]
async fn a_body_that_is_no_document_is_parse_failed() {
    let center = center().await;
    let mut peer = RawPeer::connect(address(&center)).await;
    let deep = format!(r#"{{"method":"echo","parameters":{}{}}}"#, "[".repeat(128), "]".repeat(128));
    let bodies: [&[u8]; 10] = [
        b"",
        b"{",
        b"{\"method\":\"add\",}",
        b"{\"method\":\"add\"} x",
        b"{\"method\":\"\xff\"}",
        b"{\"method\":\"\\x\"}",
        b"{\"method\":\"\\ud800\"}",
        b"{\"method\":\"add\",\"extra\":[1,}",
        b"not json",
        deep.as_bytes(),
    ];
    for kind in [0, 2, 4, 16] {
        for body in bodies {
            peer.send_bytes(&frame(kind, b"id", body)).await;
            let answer = peer.receive().await;
            let text = String::from_utf8_lossy(body).into_owned();
            assert_eq!((answer.mtype, answer.id.as_slice(), answer.rcode()), (kind + 1, &b"id"[..], 1), "{text}");
            assert_eq!(answer.json()["error"]["executed"], "no");
            if kind == 0 {
                assert_eq!(answer.json()["result"], serde_json::json!({}));
            }
            if kind == 4 {
                assert_eq!(answer.json()["optype"], 4);
            }
        }
    }
    peer.expect_quiet().await;
}

#[tokio::test]
async fn nesting_deeper_than_128_anywhere_is_parse_failed_and_128_is_served() {
    let center = center().await;
    let mut peer = RawPeer::connect(address(&center)).await;
    assert_eq!(peer.ask(2, r#"{"topic_key":"t","optype":0}"#).await.rcode(), 0);
    let nested = |n: usize| [r#"{"a":"#.repeat(n), "1".to_owned(), "}".repeat(n)].concat();
    for (depth, code) in [(127, 0), (128, 1), (100_000, 1)] {
        let call = format!(r#"{{"method":"nothing","parameters":{}}}"#, nested(depth));
        assert_eq!(peer.ask(0, &call).await.rcode(), code, "params, {depth} and the envelope");
        let publish = format!(r#"{{"topic_key":"t","optype":4,"topic_msg":{}}}"#, nested(depth));
        assert_eq!(peer.ask(2, &publish).await.rcode(), code, "a message that is only forwarded");
        let unknown = format!(r#"{{"method":"none","optype":1,"more":{}}}"#, nested(depth));
        assert_eq!(peer.ask(4, &unknown).await.rcode(), if code == 0 { 5 } else { 1 }, "a key that nobody reads");
    }
}

#[tokio::test]
async fn a_document_of_the_wrong_shape_is_invalid() {
    let center = center().await;
    let mut peer = RawPeer::connect(address(&center)).await;
    let rows: [(u32, &[&str]); 4] = [
        (0, &["[]", "1", "null", "\"x\"", "{}", r#"{"method":1}"#, r#"{"parameters":{}}"#]),
        (
            2,
            &[
                r#"["t",4,"x"]"#,
                "{}",
                r#"{"topic_key":"t"}"#,
                r#"{"topic_key":1,"optype":0}"#,
                r#"{"topic_key":"t","optype":4}"#,
            ],
        ),
        (
            4,
            &[
                "[]",
                "{}",
                r#"{"method":"m"}"#,
                r#"{"method":"m","optype":0}"#,
                r#"{"method":"m","optype":0,"host":{"ip":"localhost","port":1}}"#,
            ],
        ),
        (16, &["[]", "{}", r#"{"version":"2"}"#]),
    ];
    for (kind, bodies) in rows {
        for body in bodies {
            assert_eq!(peer.ask(kind, body).await.rcode(), 2, "{body}");
        }
    }
    peer.expect_quiet().await;
}

#[tokio::test]
async fn an_optype_out_of_range_is_invalid_optype() {
    let center = center().await;
    let mut peer = RawPeer::connect(address(&center)).await;
    for optype in ["5", "-1", "99999999999999999999", "\"TOPIC_SHOUT\"", "\"SERVICE_REGISTRY\""] {
        assert_eq!(peer.ask(2, &format!(r#"{{"topic_key":"t","optype":{optype}}}"#)).await.rcode(), 6, "{optype}");
    }
    let host = r#""host":{"ip":"127.0.0.1","port":1}"#;
    for (optype, repeated) in [("2", 2), ("3", 3), ("\"SERVICE_ONLINE\"", 2), ("4", 4), ("5", 4), ("\"x\"", 4)] {
        let answer = peer.ask(4, &format!(r#"{{"method":"m","optype":{optype},{host}}}"#)).await;
        assert_eq!((answer.rcode(), answer.json()["optype"].as_i64()), (6, Some(repeated)), "{optype}");
    }
    peer.expect_quiet().await;
}

#[tokio::test]
async fn half_a_frame_then_silence_is_closed_and_an_idle_peer_is_not() {
    let center = center_with(Limits { frame_silence: Duration::from_millis(200), ..Limits::default() }).await;
    let mut idle = RawPeer::connect(address(&center)).await;
    let mut half = RawPeer::connect(address(&center)).await;
    half.send_bytes(&frame(0, b"id", b"{}")[..13]).await;
    half.expect_end().await;
    assert_eq!(center.metrics().frame_timeouts, 1);
    idle.expect_quiet().await;
}

#[tokio::test]
async fn half_a_frame_then_a_trickle_is_closed() {
    let limits =
        Limits { frame_silence: Duration::from_millis(300), frame_bytes_per_second: 1 << 20, ..Limits::default() };
    let center = center_with(limits).await;
    let mut peer = RawPeer::connect(address(&center)).await;
    let bytes = frame(0, b"id", &[b' '; 4096]);
    let start = Instant::now();
    // A byte each 20 ms is never silent for long, and would take 80 s.
    for byte in &bytes {
        if peer.stream.write_all(std::slice::from_ref(byte)).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        if center.metrics().frame_timeouts == 1 {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "it trickles on");
    }
    until("it is counted", || center.metrics().frame_timeouts == 1).await;
    serves_others(&center).await;
}

#[tokio::test]
async fn half_a_frame_then_fin_is_closed_and_no_handler_saw_it() {
    let center = center().await;
    let mut peer = RawPeer::connect(address(&center)).await;
    let bytes = frame(2, b"id", br#"{"topic_key":"half","optype":0}"#);
    peer.send_bytes(&bytes[..bytes.len() - 1]).await;
    peer.stream.shutdown().await.unwrap();
    peer.expect_end().await;
    let mut other = RawPeer::connect(address(&center)).await;
    assert_eq!(other.ask(2, r#"{"topic_key":"half","optype":2}"#).await.rcode(), 7);
}

#[tokio::test]
async fn a_fin_after_whole_requests_still_gets_their_answers() {
    let center = center().await;
    let mut peer = RawPeer::connect(address(&center)).await;
    let call = frame(0, b"last", br#"{"method":"async_echo","parameters":{"a":1}}"#);
    peer.send_bytes(&call).await;
    peer.stream.shutdown().await.unwrap();
    let answer = peer.receive().await;
    assert_eq!(answer.json()["result"], serde_json::json!({"a": 1}));
    peer.expect_end().await;
}

#[tokio::test]
async fn a_v1_peer_with_too_many_in_flight_is_not_read_until_some_are_answered() {
    let gate = Arc::new(Semaphore::new(0));
    let opens = Arc::clone(&gate);
    let router = router().method_async("gate", move |_: Value| {
        let opens = Arc::clone(&opens);
        async move {
            opens.acquire().await?.forget();
            Ok(())
        }
    });
    let limits = Limits { in_flight: 4, ..Limits::default() };
    let center = Center::builder().listen("127.0.0.1:0").limits(limits).router(router).start().await.unwrap();
    let mut peer = RawPeer::connect(address(&center)).await;
    for _ in 0..4 {
        peer.send(0, b"gate", r#"{"method":"gate"}"#).await;
    }
    peer.send(0, b"late", r#"{"method":"add","parameters":{"num1":1,"num2":2}}"#).await;
    serves_others(&center).await;
    gate.add_permits(1);
    // Had it been read before, its answer, which is ready at once, would come first.
    assert_eq!(peer.receive().await.id, b"gate");
    assert_eq!(peer.receive().await.id, b"late");
    gate.add_permits(3);
    for _ in 0..3 {
        assert_eq!(peer.receive().await.id, b"gate");
    }
}

#[tokio::test]
async fn a_session_peer_with_too_many_in_flight_is_told_and_read_on() {
    let center = center_with(Limits { in_flight: 4, ..Limits::default() }).await;
    let mut peer = RawPeer::with_session(address(&center), &["ping"]).await;
    for _ in 0..4 {
        peer.send(0, b"never", r#"{"method":"never"}"#).await;
    }
    let answer = peer.ask(0, r#"{"method":"never"}"#).await.json();
    assert_eq!((answer["rcode"].as_i64(), answer["error"]["executed"].as_str()), (Some(17), Some("no")));
    assert!(answer["error"]["data"].to_string().contains("in_flight"), "{answer}");
    peer.send(18, b"still there?", "").await;
    assert_eq!(peer.receive().await.mtype, 19);
}

#[tokio::test]
async fn a_session_is_opened_by_the_first_frame_and_once() {
    let center = center().await;
    let open = r#"{"version":2,"name":"raw","instance":"1","features":["one_way","telepathy"],"extra":0}"#;
    let mut late = RawPeer::connect(address(&center)).await;
    late.expect_quiet().await;
    assert_eq!(late.ask(16, open).await.rcode(), 2);
    let mut twice = RawPeer::connect(address(&center)).await;
    let answer = twice.ask(16, open).await.json();
    assert_eq!(answer["rcode"], 0);
    assert_eq!(answer["version"], 2);
    assert_eq!(answer["features"], serde_json::json!(["one_way"]));
    assert!(answer["instance"].as_str().is_some_and(|instance| !instance.is_empty()));
    assert!(answer["limits"]["in_flight"].is_u64() && answer["limits"]["max_frame_bytes"].is_u64());
    assert_eq!(twice.ask(16, open).await.rcode(), 2);
    twice.expect_quiet().await;
}
