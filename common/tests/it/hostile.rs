//! Rows of the contract's section 5 that the decoder, the bodies and the dispatcher answer; the rest is a matter of
//! sockets.

use bytes::BytesMut;
use callboard_common::{
    BodyError, Connection, Decode, Dispatcher, Event, Features, Handler, Json, LengthValue, Limits, Message,
    MessageType, Protocol, ProtocolError, Recorder, ResultCode, RpcRequest, ServiceRequest, Session, SessionRequest,
    TopicRequest,
};
use serde_json::{Value, json};

use crate::support::raw_frame;

const MAX: usize = 1 << 20;

/// `name`, the frame, the length from which on it must be refused, the error.
fn bad_headers() -> Vec<(&'static str, Vec<u8>, usize, ProtocolError)> {
    let too_large = |frame_bytes| ProtocolError::TooLarge { frame_bytes, max_frame_bytes: MAX };
    let bad_id = |id_bytes, length| ProtocolError::BadIdLength { id_bytes, length };
    let word = |number: usize| u32::try_from(number).unwrap();
    let mut rows = vec![
        ("over the bound by one", raw_frame(word(MAX + 1), 0, 0, b"{}"), 4, too_large(MAX + 1)),
        ("2 GiB", raw_frame(1 << 31, 0, 0, b"{}"), 4, too_large(1 << 31)),
        ("4 GiB", raw_frame(u32::MAX, 0, 0, b"{}"), 4, too_large(u32::MAX as usize)),
        ("text", b"GET / HTTP/1.1\r\n\r\n".to_vec(), 4, too_large(0x4745_5420)),
        ("id longer than the frame", raw_frame(8, 0, 1, b"i"), 12, bad_id(1, 8)),
        ("id longer than the rest", raw_frame(10, 0, 3, b"abc"), 12, bad_id(3, 10)),
        ("id of 256 bytes", raw_frame(8 + 256, 0, 256, &[b'i'; 256]), 12, bad_id(256, 264)),
        ("id of 4 GiB", raw_frame(100, 0, u32::MAX, &[b'i'; 92]), 12, bad_id(u32::MAX as usize, 100)),
    ];
    for length in 0..8 {
        let frame = raw_frame(length, 0, 0, b"");
        rows.push(("below its own header", frame, 4, ProtocolError::TooShort { length: length as usize }));
    }
    rows
}

#[test]
fn bad_headers_are_refused_as_soon_as_they_show_at_every_split_point() {
    let protocol = LengthValue::new(MAX);
    for (name, frame, shows_at, expected) in bad_headers() {
        for split in 0..=frame.len() {
            let mut buf = BytesMut::from(&frame[..split]);
            let first = protocol.decode(&mut buf);
            if split < shows_at {
                assert_eq!(first, Ok(None), "{name}, {split} bytes");
            } else {
                assert_eq!(first, Err(expected.clone()), "{name}, {split} bytes");
            }
            buf.extend_from_slice(&frame[split..]);
            assert_eq!(protocol.decode(&mut buf), Err(expected.clone()), "{name}, cut at {split}");
            assert_eq!(buf, frame, "{name}: the buffer is left as it was");
        }
    }
}

#[test]
fn the_frames_before_a_bad_header_come_out() {
    let good = raw_frame(8 + 1 + 2, 0, 1, b"i{}");
    for (name, bad, ..) in bad_headers() {
        let stream = [&good[..], &good, &bad].concat();
        for split in 0..=stream.len() {
            let reads = [&stream[..split], &stream[split..]];
            let (messages, error) = crate::support::receive(&LengthValue::new(MAX), reads);
            assert_eq!(messages.len(), 2, "{name}, cut at {split}");
            assert!(error.is_some(), "{name}, cut at {split}");
        }
    }
}

#[test]
fn the_largest_of_everything_is_let_through() {
    let protocol = LengthValue::new(MAX);
    let length = u32::try_from(MAX - 4).unwrap();
    for id_bytes in [0, 255] {
        let frame = raw_frame(length, u32::MAX, id_bytes, &vec![b'x'; MAX - 12]);
        let message = protocol.decode(&mut BytesMut::from(&frame[..])).unwrap().unwrap();
        assert_eq!((message.id().len(), message.frame().len()), (id_bytes as usize, MAX));
        assert_eq!((message.kind(), message.codec(), message.flags()), (MessageType::Unknown(0xffff), 255, 255));
    }
    let all_id = raw_frame(8 + 255, 0, 255, &[b'i'; 255]);
    let message = protocol.decode(&mut BytesMut::from(&all_id[..])).unwrap().unwrap();
    assert_eq!((message.id().len(), message.body()), (255, &b""[..]));
}

#[test]
fn half_a_frame_is_no_message() {
    let frame = raw_frame(8 + 1 + 2, 0, 1, b"i{}");
    for bytes in 0..frame.len() {
        let mut buf = BytesMut::from(&frame[..bytes]);
        assert_eq!(LengthValue::new(MAX).decode(&mut buf), Ok(None));
        assert_eq!(buf, &frame[..bytes]);
    }
}

/// Every kind that takes a body from a peer, with a body of its own that is right.
const BODIES: [(u32, &str); 4] = [
    (0, r#""method":"add","parameters":{}"#),
    (2, r#""topic_key":"t","optype":4,"topic_msg":1"#),
    (4, r#""method":"add","optype":1"#),
    (16, r#""version":2"#),
];

fn refusal(kind: u32, body: &[u8]) -> Option<BodyError> {
    match kind {
        0 => RpcRequest::decode::<Json>(body).err(),
        2 => TopicRequest::decode::<Json>(body).err(),
        4 => ServiceRequest::decode::<Json>(body).err(),
        _ => SessionRequest::decode::<Json>(body).err(),
    }
}

fn code(kind: u32, body: impl AsRef<[u8]>) -> ResultCode {
    refusal(kind, body.as_ref()).map_or(ResultCode::Ok, |error| error.code)
}

#[test]
fn nesting_counts_everywhere_in_a_body() {
    for (kind, right) in BODIES {
        for name in ["parameters", "topic_msg", "host", "features", "nobody asked for this"] {
            let nested = |depth: usize| format!("{{{right},\"{name}\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
            assert_ne!(code(kind, nested(127)), ResultCode::ParseFailed, "kind {kind}, {name}: 128 deep in all");
            assert_eq!(code(kind, nested(128)), ResultCode::ParseFailed, "kind {kind}, {name}: 129 deep in all");
            assert_eq!(code(kind, nested(100_000)), ResultCode::ParseFailed, "kind {kind}, {name}: no stack for it");
        }
    }
}

#[test]
fn the_document_is_judged_before_its_shape_and_its_shape_before_the_optype() {
    for (kind, right) in BODIES {
        assert_eq!(code(kind, format!("{{{right}}}")), ResultCode::Ok, "kind {kind}");
        assert_eq!(code(kind, format!(" \t\r\n{{ {right} }}\n ")), ResultCode::Ok, "kind {kind}: white space");
        let not_documents = [
            String::new(),
            " ".into(),
            "{".into(),
            format!("{{{right}}}}}"),
            format!("{{{right},}}"),
            format!("{{{right},\"x\":tru}}"),
            format!("{{{right},\"x\":\"\\x\"}}"),
            format!("{{{right},\"x\":\"\\ud800\"}}"),
            format!("{{{right},\"x\":\"\n\"}}"),
            format!("{{{right},\"x\":01}}"),
            format!("\u{feff}{{{right}}}"),
            "[1,".into(),
        ];
        for text in not_documents {
            assert_eq!(code(kind, &text), ResultCode::ParseFailed, "kind {kind}: {text}");
        }
        let not_utf8 = [format!("{{{right},\"x\":\"").as_bytes(), b"\xff\"}"].concat();
        assert_eq!(code(kind, not_utf8), ResultCode::ParseFailed, "kind {kind}: not UTF-8");
        for text in ["null", "1", "\"x\"", "[]", "[\"t\",4,\"x\"]", "{}"] {
            assert_eq!(code(kind, text), ResultCode::InvalidMessage, "kind {kind}: {text}");
        }
    }
    for kind in [2, 4] {
        assert_eq!(code(kind, r#"{"optype":99,"x":"#), ResultCode::ParseFailed);
        assert_eq!(code(kind, r#"{"optype":99}"#), ResultCode::InvalidMessage);
        assert_eq!(code(kind, r#"{"optype":99,"topic_key":"t","method":"m"}"#), ResultCode::InvalidOptype);
    }
}

/// A handler that leaves requests be.
struct Quiet;

impl Handler<Recorder> for Quiet {
    fn handle(&self, _conn: &Recorder, _message: Message) {}
}

/// What a dispatcher with all slots filled answers by itself: kind, id and body, or nothing.
fn dispatch(conn: &Recorder, mtype: u32) -> Option<(u16, Vec<u8>, Value)> {
    let house = Dispatcher::new().on_rpc(Quiet).on_topic(Quiet).on_service(Quiet).on_session(Quiet);
    house.handle(conn, conn.message(mtype, b"the id", b""));
    let sent = conn.take();
    assert!(sent.len() <= 1);
    sent.first().map(|sent| {
        let body = if sent.0.body().is_empty() { Value::Null } else { serde_json::from_slice(sent.0.body()).unwrap() };
        (sent.0.kind().to_wire(), sent.0.id().to_vec(), body)
    })
}

/// What a session's opening is answered with, and whether the session is open then.
fn open_session(house: &impl Handler<Recorder>, conn: &Recorder, mtype: u32, body: &[u8]) -> bool {
    house.handle(conn, conn.message(mtype, b"s", body));
    conn.session().is_some()
}

/// Opens every session that it is asked to open.
struct Open;

impl Handler<Recorder> for Open {
    fn handle(&self, conn: &Recorder, message: Message) {
        if SessionRequest::decode::<Json>(message.body()).is_ok() {
            let (name, instance) = Default::default();
            conn.open_session(Session {
                name,
                instance,
                store: None,
                features: Features::ALL,
                limits: Limits::default(),
                heartbeats: None,
                serving: None,
            });
        }
    }
}

#[test]
fn a_session_is_opened_by_the_first_frame_or_never() {
    let house = Dispatcher::new().on_rpc(Quiet).on_session(Open);
    let right = br#"{"version":2}"#;
    assert!(open_session(&house, &Recorder::new(1), 16, right));
    for (mtype, body) in [(0, &b"{}"[..]), (1, b"{}"), (16, b"{}"), (16, b"{"), (16 | 1 << 16, right), (99, b"")] {
        let conn = Recorder::new(1);
        assert!(!open_session(&house, &conn, mtype, body), "{mtype}");
        assert!(!open_session(&house, &conn, 16, right), "{mtype} came first");
    }
}

fn session_peer(features: Features) -> Recorder {
    let session = Session {
        name: "p".into(),
        instance: "i".into(),
        store: None,
        features,
        limits: Limits::default(),
        heartbeats: None,
        serving: None,
    };
    Recorder::with_session(1, session)
}

#[test]
fn unknown_even_kinds_are_answered_and_the_connection_lives() {
    for kind in [6_u16, 8, 14, 22, 24, 254, 0xfffe] {
        let conn = Recorder::new(1);
        let (answer, id, body) = dispatch(&conn, u32::from(kind)).unwrap();
        assert_eq!((answer, &id[..], &body["rcode"]), (kind + 1, &b"the id"[..], &json!(2)));
        assert_eq!((conn.close_reason(), conn.events()), (None, vec![Event::Refused]));
    }
}

#[test]
fn what_nobody_asked_for_is_ignored_and_counted() {
    for kind in [1_u32, 3, 5, 7, 9, 17, 18, 19, 20, 23, 255, 0xffff] {
        let conn = Recorder::new(1);
        assert_eq!(dispatch(&conn, kind), None, "kind {kind}");
        assert_eq!((conn.close_reason(), conn.events()), (None, vec![Event::Ignored]), "kind {kind}");
    }
}

#[test]
fn a_codec_or_a_flag_that_was_not_negotiated_is_refused() {
    let one_way = 1 << 24;
    for mtype in [1 << 16, 3 << 16, 200 << 16, one_way, one_way << 1, one_way << 7, one_way | 1 << 16] {
        for kind in [0, 2, 4, 16] {
            for conn in [Recorder::new(1), session_peer(Features::default())] {
                let (answer, id, body) = dispatch(&conn, mtype | kind).unwrap();
                assert_eq!((u32::from(answer), &id[..], &body["rcode"]), (kind + 1, &b"the id"[..], &json!(2)));
                assert_eq!(conn.close_reason(), None);
            }
        }
    }
}

#[test]
fn who_negotiated_one_way_requests_is_not_answered_when_one_is_refused() {
    let conn = session_peer(Features::ALL);
    assert_eq!(dispatch(&conn, 6 | 1 << 24), None);
    assert_eq!(conn.events(), [Event::Refused]);
}
