//! What a peer sends never makes a decoder allocate more than the bytes that were received and a constant.
//!
//! A binary of its own, since it counts what the allocator hands out.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::{BufMut, BytesMut};
use callboard_common::{
    Decode, Json, LengthValue, Protocol, RpcRequest, RpcResponse, ServiceAnswer, ServiceRequest, SessionAnswer,
    SessionRequest, TopicAnswer, TopicRequest,
};
use proptest::prelude::*;

/// What any one step may take whatever the peer sent: error texts, a short list of features.
const CONSTANT_BYTES: usize = 20 << 10;

struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    let live = LIVE.get() + bytes;
    LIVE.set(live);
    PEAK.set(PEAK.get().max(live));
}

#[expect(unsafe_code, reason = "an allocator can't be written without it; every call goes on to the system's")]
// SAFETY: all four keep the contract of `GlobalAlloc`, since the system's allocator does; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // The old block lives until the new one is filled.
        count(bytes.cast_signed());
        // SAFETY: the caller's promise is passed on.
        let block = unsafe { System.realloc(block, layout, bytes) };
        count(-layout.size().cast_signed());
        block
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that were allocated at once on this thread while `f` ran, beyond those that were before.
fn peak<T>(f: impl FnOnce() -> T) -> usize {
    let before = LIVE.get();
    PEAK.set(before);
    let made = f();
    let peak = PEAK.get() - before;
    drop(made);
    peak.max(0).cast_unsigned()
}

fn peaks_of_every_body(body: &[u8]) -> [(&'static str, usize); 8] {
    [
        ("RpcRequest", peak(|| RpcRequest::decode::<Json>(body))),
        ("RpcResponse", peak(|| RpcResponse::decode::<Json>(body))),
        ("TopicRequest", peak(|| TopicRequest::decode::<Json>(body))),
        ("TopicAnswer", peak(|| TopicAnswer::decode::<Json>(body))),
        ("ServiceRequest", peak(|| ServiceRequest::decode::<Json>(body))),
        ("ServiceAnswer", peak(|| ServiceAnswer::decode::<Json>(body))),
        ("SessionRequest", peak(|| SessionRequest::decode::<Json>(body))),
        ("SessionAnswer", peak(|| SessionAnswer::decode::<Json>(body))),
    ]
}

fn frame(length: u32, mtype: u32, id_bytes: u32, rest: &[u8]) -> BytesMut {
    let mut frame = BytesMut::new();
    for word in [length, mtype, id_bytes] {
        frame.put_u32(word);
    }
    frame.extend_from_slice(rest);
    frame
}

#[test]
fn the_counter_counts() {
    assert_eq!(peak(|| vec![0_u8; 12_345]), 12_345);
    let doubled = peak(|| {
        let mut bytes = Vec::<u8>::with_capacity(100);
        bytes.resize(150, 0);
        bytes
    });
    assert!((250..=300).contains(&doubled), "{doubled}");
    assert_eq!(peak(|| ()), 0);
}

#[test]
fn a_length_field_allocates_nothing() {
    for length in [0, 7, 100, 1 << 20, (16 << 20) - 4, (16 << 20) - 3, u32::MAX] {
        for id_bytes in [0, 255, 256, u32::MAX] {
            let mut buf = frame(length, 0, id_bytes, b"{}");
            assert_eq!(peak(|| LengthValue::default().decode(&mut buf)), 0, "length {length}, id of {id_bytes}");
        }
    }
}

#[test]
fn a_whole_frame_is_not_copied() {
    let body = vec![b' '; 1 << 20];
    let mut buf = frame(8 + (1 << 20), 0, 0, &body);
    assert!(peak(|| LengthValue::default().decode(&mut buf)) < 256, "the bytes stay where they are");
}

/// Bodies of 32 KiB, each made to grow as much as it can where it is read.
#[test]
fn no_body_grows_when_it_is_read() {
    let big = |text: &str| text.repeat((32 << 10) / text.len());
    let list = |item: &str| format!("[{}{item}]", big(&format!("{item},")));
    let escaped = [format!("\"{}\"", big("\\n")), format!("\"{}\"", big("\\u0041")), format!("\"x\\n{}\"", big("y"))];
    let mut values = vec![
        list("\"\""),
        list("\"\\n\""),
        list("0"),
        list("{}"),
        list("[]"),
        list(r#"{"ip":"::1","port":1}"#),
        list(r#"{"ip":"\u0031.1.1.1","port":1}"#),
        format!("\"{}\"", big("x")),
        big("9"),
        format!("0.{}", big("1")),
        format!("{{{}\"\":0}}", big("\"\\n\":0,")),
        format!("{{\"message\":{0},\"executed\":{0},\"code\":{0}}}", escaped[0]),
        format!("{{\"message\":{0},\"data\":{0}}}", escaped[2]),
        format!("{{\"message\":1,\"data\":{}}}", list("0")),
        format!("{{\"ip\":{0},\"port\":{0}}}", escaped[1]),
        format!("{{\"max_frame_bytes\":{0},\"in_flight\":{0}}}", escaped[1]),
        format!("{{\"timeout_ms\":{}}}", escaped[1]),
    ];
    values.extend(escaped);
    let names = [
        "method",
        "parameters",
        "meta",
        "rcode",
        "result",
        "error",
        "topic_key",
        "key",
        "optype",
        "topic_msg",
        "message",
        "host",
        "version",
        "name",
        "instance",
        "features",
        "limits",
        "no name of ours",
    ];
    let right = r#""method":"m","rcode":0,"topic_key":"t","optype":1,"version":2"#;
    for value in &values {
        for name in names {
            let body = format!("{{{right},\"{name}\":{value}}}");
            for (kind, peak) in peaks_of_every_body(body.as_bytes()) {
                let start: String = value.chars().take(20).collect();
                assert!(peak <= body.len() + CONSTANT_BYTES, "{kind}: {name} is {start}..., {peak} of {}", body.len());
            }
        }
        for (kind, peak) in peaks_of_every_body(value.as_bytes()) {
            assert!(peak <= value.len() + CONSTANT_BYTES, "{kind} of a bare value: {peak} of {}", value.len());
        }
    }
}

proptest! {
    #[test]
    fn random_streams(
        stream in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..400),
            (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(a, b, c)| frame(a, b, c, b"{}").to_vec()),
            (0..60_u32, any::<u32>(), 0..40_u32, prop::collection::vec(any::<u8>(), 0..400))
                .prop_map(|(length, mtype, id_bytes, rest)| frame(length, mtype, id_bytes, &rest).to_vec()),
        ],
        read_bytes in 1..50_usize,
    ) {
        let protocol = LengthValue::default();
        let mut buf = BytesMut::with_capacity(stream.len());
        for read in stream.chunks(read_bytes) {
            buf.extend_from_slice(read);
            let mut decoded = Ok(None);
            // A message is a view: what it takes is the handle that it shares with the buffer.
            prop_assert!(peak(|| decoded = protocol.decode(&mut buf)) < 256);
            let Ok(decoded) = decoded else { break };
            for (kind, peak) in decoded.iter().flat_map(|message| peaks_of_every_body(message.body())) {
                prop_assert!(peak <= stream.len() + CONSTANT_BYTES, "{}: {}", kind, peak);
            }
        }
    }

    #[test]
    fn random_bodies(body in "[\\[\\]{}\",:\\\\u0-9a-z ]{0,200}") {
        for (kind, peak) in peaks_of_every_body(body.as_bytes()) {
            prop_assert!(peak <= body.len() + CONSTANT_BYTES, "{}: {}", kind, peak);
        }
    }
}
