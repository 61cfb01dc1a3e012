//! Reads may cut a stream anywhere, and whatever bytes come, nothing panics.

use callboard_common::{
    Codec, Decode, Json, LengthValue, Protocol, RpcRequest, RpcResponse, ServiceAnswer, ServiceRequest, SessionAnswer,
    SessionRequest, TopicAnswer, TopicRequest,
};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::lines::{Lines, to_hex};
use crate::support::{cut, cuts, message, raw_frame, receive, value};

const LINES: Lines = Lines { max_line_bytes: 1 << 20 };

fn read_every_body(body: &[u8]) {
    let _ = RpcRequest::decode::<Json>(body).map(|request| Json::shape(request.parameters));
    let _ = RpcResponse::decode::<Json>(body).map(|answer| answer.result.map(Json::shape));
    let _ = TopicRequest::decode::<Json>(body).map(|request| request.message.map(Json::shape));
    let _ = TopicAnswer::decode::<Json>(body);
    let _ = ServiceRequest::decode::<Json>(body);
    let _ = ServiceAnswer::decode::<Json>(body);
    let _ = SessionRequest::decode::<Json>(body);
    let _ = SessionAnswer::decode::<Json>(body);
}

/// Texts that look like bodies of ours, with the odd wrong byte.
fn near_body() -> impl Strategy<Value = Vec<u8>> {
    let name = prop::sample::select(vec![
        "method",
        "parameters",
        "meta",
        "timeout_ms",
        "rcode",
        "result",
        "error",
        "topic_key",
        "key",
        "optype",
        "topic_msg",
        "message",
        "host",
        "ip",
        "port",
        "version",
        "name",
        "features",
        "limits",
        "executed",
        "data",
    ]);
    let value = prop_oneof![value().prop_map(|value| value.to_string()), "[0-9a-z\"\\\\{}\\[\\],:. -]{0,6}"];
    let member = (name, value).prop_map(|(name, value)| format!("\"{name}\":{value}"));
    (prop::collection::vec(member, 0..8), prop::option::of((any::<Index>(), any::<u8>()))).prop_map(
        |(members, mutation)| {
            let mut body = format!("{{{}}}", members.join(",")).into_bytes();
            if let Some((at, byte)) = mutation {
                let at = at.index(body.len());
                body[at] = byte;
            }
            body
        },
    )
}

proptest! {
    #[test]
    fn any_cut_gives_the_same_messages(messages in prop::collection::vec(message(), 0..8), at in cuts()) {
        let stream: Vec<u8> = messages.iter().flat_map(|message| message.frame().to_vec()).collect();
        prop_assert_eq!(receive(&LengthValue::default(), cut(&stream, &at)), (messages, None));
    }

    #[test]
    fn any_cut_gives_the_same_messages_in_lines(messages in prop::collection::vec(message(), 0..8), at in cuts()) {
        let line = |m: &callboard_common::Message| {
            let words = [m.kind().to_wire(), m.flags().into(), m.codec().into()].map(|word| word.to_string());
            format!("{} {} {}\n", words.join(" "), to_hex(m.id()), to_hex(m.body()))
        };
        let stream: String = messages.iter().map(line).collect();
        prop_assert_eq!(receive(&LINES, cut(stream.as_bytes(), &at)), (messages, None));
    }

    #[test]
    fn any_cut_of_random_bytes_gives_the_same(
        stream in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            (0..60_u32, any::<u32>(), 0..40_u32, prop::collection::vec(any::<u8>(), 0..200))
                .prop_map(|(length, mtype, id_bytes, rest)| raw_frame(length, mtype, id_bytes, &rest)),
        ],
        at in cuts(),
    ) {
        let protocol = LengthValue::new(4096);
        let whole = receive(&protocol, [&stream[..]]);
        prop_assert_eq!(&receive(&protocol, cut(&stream, &at)), &whole);
        prop_assert_eq!(&receive(&protocol, stream.chunks(1)), &whole);
        whole.0.iter().for_each(|message| read_every_body(message.body()));
        receive(&LINES, cut(&stream, &at));
        protocol.frame_bytes(&stream);
        protocol.peek(&stream);
        LINES.peek(&stream);
    }

    #[test]
    fn random_bodies_never_panic(body in prop_oneof![prop::collection::vec(any::<u8>(), 0..200), near_body()]) {
        read_every_body(&body);
    }
}
