use bytes::{BufMut, BytesMut};
use callboard_common::{
    Decode, GoAway, Json, LengthValue, Message, MessageType, Protocol, RpcRequest, RpcResponse, ServiceAnswer,
    ServiceRequest, SessionAnswer, SessionRequest, TopicAnswer, TopicRequest,
};

/// Each block marked `hex`, without white space and remarks.
fn frames(page: &str) -> impl Iterator<Item = BytesMut> {
    page.split("```hex\n").skip(1).map(|rest| {
        let lines = rest.split("```").next().unwrap().lines();
        let digits: String =
            lines.flat_map(|line| line.split('#').next().unwrap().chars()).filter(|c| *c != ' ').collect();
        let mut frame = BytesMut::new();
        (0..digits.len()).step_by(2).for_each(|at| frame.put_u8(u8::from_str_radix(&digits[at..at + 2], 16).unwrap()));
        frame
    })
}

fn reads(message: &Message) -> bool {
    let body = message.body();
    match message.kind() {
        MessageType::RpcRequest => RpcRequest::decode::<Json>(body).is_ok(),
        MessageType::RpcResponse => RpcResponse::decode::<Json>(body).is_ok(),
        MessageType::TopicRequest => TopicRequest::decode::<Json>(body).is_ok(),
        MessageType::TopicResponse => TopicAnswer::decode::<Json>(body).is_ok(),
        MessageType::ServiceRequest => ServiceRequest::decode::<Json>(body).is_ok(),
        MessageType::ServiceResponse => ServiceAnswer::decode::<Json>(body).is_ok(),
        MessageType::SessionRequest => SessionRequest::decode::<Json>(body).is_ok(),
        MessageType::SessionResponse => SessionAnswer::decode::<Json>(body).is_ok(),
        MessageType::Ping | MessageType::Pong | MessageType::Cancel => body.is_empty(),
        MessageType::GoAway => GoAway::decode::<Json>(body).is_ok_and(|goaway| !goaway.grace.is_zero()),
        MessageType::Unknown(_) => false,
    }
}

#[test]
fn every_example_in_the_protocol_is_one_whole_frame_of_its_kind() {
    let mut count = 0;
    for mut frame in frames(include_str!("../../../docs/protocol.md")) {
        let message = LengthValue::default().decode(&mut frame).unwrap().expect("a whole frame");
        assert!(frame.is_empty() && reads(&message), "{message:?}");
        count += 1;
    }
    assert!(count >= 20, "{count} examples");
}
