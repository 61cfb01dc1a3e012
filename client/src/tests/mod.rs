//! The client against a peer of a few lines that says whatever a test wants.

mod blocking;
mod bounds;
mod calls;
mod cancel;
mod centers;
mod dialing;
mod executed;
mod inboxes;
mod keys;
mod leaving;
mod liveness;
mod reconnects;
mod retries;
mod sessions;

use std::time::Duration;

use bytes::BytesMut;
use callboard_common::{Codec, Encode, EncodeError, Head, Json, LengthValue, Message, MessageType, Protocol};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::{Client, ClientBuilder, Reconnect, SessionMode};

/// So long a test waits for what must happen, however loaded the machine is.
const GENEROUS: Duration = Duration::from_secs(30);

/// A listening peer.
struct Peer(TcpListener);

/// One connection, as the peer has it.
struct Line {
    stream: TcpStream,
    buf: BytesMut,
}

impl Peer {
    async fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn address(&self) -> String {
        self.0.local_addr().unwrap().to_string()
    }

    async fn accept(&self) -> Line {
        let (stream, _) = timeout(GENEROUS, self.0.accept()).await.unwrap().unwrap();
        stream.set_nodelay(true).unwrap();
        Line { stream, buf: BytesMut::new() }
    }

    /// A v1 client and its line.
    async fn v1(&self) -> (Client, Line) {
        self.client(v1()).await
    }

    async fn client(&self, builder: ClientBuilder) -> (Client, Line) {
        let (client, line) = tokio::join!(builder.connect(self.address()), self.accept());
        (client.unwrap(), line)
    }

    /// A client with a session that permits so many calls at once, and its line.
    async fn session(&self, limits: Value) -> (Client, Line) {
        self.session_of(&["one_way", "ping"], limits).await
    }

    /// The same with a session that knows these features.
    async fn session_of(&self, features: &[&str], limits: Value) -> (Client, Line) {
        let builder = once().timeout(GENEROUS).session(SessionMode::Require).session_timeout(GENEROUS);
        let (client, line) = tokio::join!(builder.connect(self.address()), async {
            let mut line = self.accept().await;
            line.open_session_of(features, limits).await;
            line
        });
        (client.unwrap(), line)
    }
}

/// The settings of most tests: no session, a deadline that no test meets, and one connection.
fn v1() -> ClientBuilder {
    once().timeout(GENEROUS).session(SessionMode::Off)
}

/// A connection that is lost is not made again.
fn once() -> ClientBuilder {
    Client::builder().reconnect(Reconnect::never())
}

impl Line {
    /// The next message; `None` when the client has closed.
    async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = LengthValue::default().decode(&mut self.buf).unwrap() {
                return Some(message);
            }
            let read = timeout(GENEROUS, self.stream.read_buf(&mut self.buf)).await.expect("the client says nothing");
            if read.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    async fn call(&mut self) -> Message {
        let message = self.next().await.expect("the client has closed");
        assert_eq!(message.kind(), MessageType::RpcRequest);
        message
    }

    async fn send(&mut self, kind: MessageType, id: &[u8], body: &str) {
        self.write(&frame(kind, id, body)).await;
    }

    async fn answer(&mut self, request: &Message, body: &str) {
        self.send(request.kind().answer(), request.id(), body).await;
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Answers every call with its own parameters, until the client closes.
    async fn echo(mut self) {
        while let Some(request) = self.next().await {
            let params = params(&request);
            self.answer(&request, &json!({"rcode": 0, "result": params}).to_string()).await;
        }
    }

    /// The same for one that is to send nothing else.
    async fn echo_calls_only(mut self) {
        while let Some(request) = self.next().await {
            assert_eq!(request.kind(), MessageType::RpcRequest);
            let params = params(&request);
            self.answer(&request, &json!({"rcode": 0, "result": params}).to_string()).await;
        }
    }

    async fn open_session(&mut self, limits: Value) {
        self.open_session_of(&["one_way", "ping"], limits).await;
    }

    async fn open_session_of(&mut self, features: &[&str], limits: Value) {
        self.open_session_as("i", features, limits).await;
    }

    async fn open_session_as(&mut self, instance: &str, features: &[&str], limits: Value) {
        let opening = self.next().await.unwrap();
        assert_eq!(opening.kind(), MessageType::SessionRequest);
        let body = json!({"rcode": 0, "version": 2, "instance": instance, "features": features, "limits": limits});
        self.answer(&opening, &body.to_string()).await;
    }

    /// The same of a peer that keeps its answers under keys in a store.
    async fn open_session_with(&mut self, instance: &str, features: &[&str], store: Value) {
        let opening = self.next().await.unwrap();
        let body = json!({"rcode": 0, "version": 2, "instance": instance, "features": features, "store": store});
        self.answer(&opening, &body.to_string()).await;
    }
}

fn frame(kind: MessageType, id: &[u8], body: &str) -> BytesMut {
    let mut frame = BytesMut::new();
    LengthValue::default().encode::<Json, _>(Head::new(kind, id), &Text(kind, body), &mut frame).unwrap();
    frame
}

fn params(request: &Message) -> Value {
    let [params] = Json::members(request.body(), ["parameters"]).unwrap();
    Json::read(params.unwrap()).unwrap()
}

/// A body as it stands.
struct Text<'a>(MessageType, &'a str);

impl Encode for Text<'_> {
    fn kind(&self) -> MessageType {
        self.0
    }

    fn encode<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        out.extend_from_slice(self.1.as_bytes());
        Ok(())
    }
}

/// A REQ_SERVICE of a layer above.
fn discovery(method: &str) -> callboard_common::ServiceRequest<'_> {
    callboard_common::ServiceRequest::new(method, callboard_common::ServiceOp::Discover)
}
