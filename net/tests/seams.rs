//! The seams of the reactor hold: another transport, and another protocol, under the same driver and handlers.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use callboard_common::{
    Codec, Connection, Dispatcher, Encode, EncodeError, Handler, Head, LengthValue, Message, MessageType, Protocol,
    ProtocolError, TopicAnswer, TopicOp, TopicRequest,
};
use callboard_net::{Address, Conn, Memory, Settings, Sockets, Transport, connect_with, serve_with};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// A frame a line: `kind id body`, with hex for id and body.
#[derive(Clone, Copy, Debug)]
struct Lines;

const MAX_LINE: usize = 4096;

impl Protocol for Lines {
    fn decode(&self, buf: &mut BytesMut) -> Result<Option<Message>, ProtocolError> {
        let Some(end) = buf.iter().position(|byte| *byte == b'\n') else {
            let too_large = ProtocolError::TooLarge { frame_bytes: buf.len(), max_frame_bytes: MAX_LINE };
            return if buf.len() > MAX_LINE { Err(too_large) } else { Ok(None) };
        };
        let line = String::from_utf8(buf.split_to(end + 1).to_vec()).unwrap();
        let parts: Vec<&str> = line.trim_end_matches('\n').split(' ').collect();
        let mut inner = BytesMut::new();
        let (id, body) = (unhex(parts[1]), unhex(parts[2]));
        inner.put_u32(u32::try_from(8 + id.len() + body.len()).unwrap());
        inner.put_u32(parts[0].parse().unwrap());
        inner.put_u32(u32::try_from(id.len()).unwrap());
        inner.extend_from_slice(&id);
        inner.extend_from_slice(&body);
        LengthValue::default().decode(&mut inner)
    }

    fn encode<C: Codec, B: Encode>(&self, head: Head<'_>, body: &B, out: &mut BytesMut) -> Result<(), EncodeError> {
        let mut plain = BytesMut::new();
        body.encode::<C>(&mut plain)?;
        out.extend_from_slice(format!("{} {} {}\n", head.kind.to_wire(), hex(head.id), hex(&plain)).as_bytes());
        Ok(())
    }

    fn frame_bytes(&self, buf: &[u8]) -> usize {
        buf.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1)
    }

    fn peek<'a>(&self, _buf: &'a [u8]) -> Option<(MessageType, &'a [u8])> {
        None
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from_digit(digit.into(), 16).unwrap()).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// Answers every topic operation.
struct Agree;

impl<C: Connection> Handler<C> for Agree {
    fn handle(&self, conn: &C, message: Message) {
        conn.answer(message.id(), &TopicAnswer::ok()).unwrap();
    }
}

/// Hands on every answer.
struct Tell(UnboundedSender<Vec<u8>>);

impl<C: Connection> Handler<C> for Tell {
    fn handle(&self, _conn: &C, message: Message) {
        self.0.send(message.id().to_vec()).unwrap();
    }
}

async fn ask_and_hear<P: Protocol>(conn: &Conn<P>, answers: &mut UnboundedReceiver<Vec<u8>>) {
    let request: TopicRequest<'_, ()> = TopicRequest::new("t", TopicOp::Create);
    for number in 0..100_u32 {
        conn.request(Head::new(MessageType::TopicRequest, &number.to_be_bytes()), &request).unwrap();
    }
    for number in 0..100_u32 {
        let answer = tokio::time::timeout(Duration::from_secs(20), answers.recv()).await.unwrap().unwrap();
        assert_eq!(answer, number.to_be_bytes());
    }
}

async fn round_trip<T: Transport, P: Protocol + Copy>(transport: T, protocol: P, address: &str) {
    let addresses = [address.parse::<Address>().unwrap()];
    let served = Arc::new(Dispatcher::new().on_topic(Agree));
    let serving = serve_with(transport.clone(), protocol, &addresses, Settings::default(), served).await.unwrap();
    let (tell, mut answers) = unbounded_channel();
    let asking = Arc::new(Dispatcher::new().on_response(Tell(tell)));
    let limits = Settings::default().limits;
    let conn = connect_with(transport, protocol, &serving.addresses()[0], &limits, asking).await.unwrap();
    ask_and_hear(&conn, &mut answers).await;
    serving.shutdown(Duration::from_secs(1)).await;
    tokio::time::timeout(Duration::from_secs(20), conn.closed()).await.unwrap();
}

#[tokio::test]
async fn frames_pass_over_sockets() {
    round_trip(Sockets::default(), LengthValue::default(), "127.0.0.1:0").await;
}

#[tokio::test]
async fn frames_pass_over_pipes_in_memory_however_narrow() {
    round_trip(Memory::new(5), LengthValue::default(), "stage:1").await;
}

#[tokio::test]
async fn lines_pass_over_sockets() {
    round_trip(Sockets::default(), Lines, "[::1]:0").await;
}

#[tokio::test]
async fn lines_pass_over_pipes() {
    round_trip(Memory::new(64), Lines, "stage:2").await;
}

#[tokio::test]
async fn an_address_in_memory_is_taken_once() {
    let (memory, address) = (Memory::new(64), "stage:3".parse::<Address>().unwrap());
    let bound = memory.bind(&address).await.unwrap();
    assert!(memory.clone().bind(&address).await.is_err());
    drop(bound);
    assert!(memory.bind(&address).await.is_ok());
    assert!(memory.connect(&"nobody:1".parse().unwrap()).await.is_err());
}
