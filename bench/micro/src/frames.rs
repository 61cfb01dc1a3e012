//! Bytes to messages and values, and back.

use std::borrow::Cow;
use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use callboard::common::{
    CallMeta, Decode, Encode, Head, Json, LengthValue, MessageType, Protocol, RpcAnswer, RpcRequest, RpcResponse,
    TopicRequest,
};

use crate::{CALL, ID, Operation, PAIR, Run, TEXT};

pub(crate) const OPERATIONS: &[Operation] = &[
    Operation::new("decode: one frame", 10_000, decode_one),
    Operation::new("decode: 64 KiB of small frames", 50, decode_many),
    Operation::new("decode: the body of a call", 10_000, read_call),
    Operation::new("decode: the body of an answer", 10_000, read_answer),
    Operation::new("encode: a call", 10_000, || encode(call())),
    Operation::new("encode: an answer", 10_000, || encode(RpcAnswer { result: &3, v1: false })),
    Operation::new("encode: a topic's message", 10_000, || encode(TopicRequest::publish("news", TEXT))),
    Operation::new("encode: an answer of 64 KiB of text", 50, || encode(text_answer("curtain up, "))),
    Operation::new("encode: an answer of 64 KiB of JSON in a text", 50, || {
        encode(text_answer(r#"{"act":1,"name":"x"}"#))
    }),
];

fn call() -> RpcRequest<'static, crate::Pair> {
    let meta = Some(CallMeta { timeout_ms: Some(5000), ..CallMeta::default() });
    RpcRequest { method: Cow::Borrowed("add"), parameters: PAIR, meta }
}

/// An answer that repeats a part up to 64 KiB.
fn text_answer(part: &str) -> RpcAnswer<'static, String> {
    RpcAnswer { result: Box::leak(Box::new(part.repeat(65_536 / part.len()))), v1: false }
}

fn call_frame() -> Bytes {
    let mut frame = BytesMut::new();
    LengthValue::default().encode::<Json, _>(Head::new(MessageType::RpcRequest, ID), &call(), &mut frame).unwrap();
    frame.freeze()
}

fn decode_one() -> Run {
    let (protocol, frame, mut input) = (LengthValue::default(), call_frame(), BytesMut::new());
    Box::new(move || {
        input.extend_from_slice(&frame);
        black_box(protocol.decode(&mut input).unwrap());
    })
}

fn decode_many() -> Run {
    let (protocol, mut input) = (LengthValue::default(), BytesMut::new());
    let frames = call_frame().repeat(65_536 / call_frame().len());
    Box::new(move || {
        input.extend_from_slice(&frames);
        while let Some(message) = protocol.decode(&mut input).unwrap() {
            black_box(message);
        }
    })
}

fn read_call() -> Run {
    Box::new(|| drop(black_box(RpcRequest::decode::<Json>(black_box(CALL)).unwrap())))
}

fn read_answer() -> Run {
    let body = br#"{"rcode":0,"result":3}"#;
    Box::new(|| drop(black_box(RpcResponse::decode::<Json>(black_box(body)).unwrap())))
}

/// A whole frame, into a buffer that is used again.
fn encode<B: Encode + 'static>(body: B) -> Run {
    let (protocol, mut out) = (LengthValue::default(), BytesMut::new());
    Box::new(move || {
        out.clear();
        protocol.encode::<Json, _>(Head::new(body.kind(), ID), black_box(&body), &mut out).unwrap();
        black_box(&out);
    })
}
