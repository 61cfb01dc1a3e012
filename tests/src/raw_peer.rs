use std::future::Future;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A frame as it stands on the wire.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// All of `MType`: kind, codec and flags.
    pub mtype: u32,
    /// The id.
    pub id: Vec<u8>,
    /// The body.
    pub body: Vec<u8>,
}

impl Frame {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a body is JSON")
    }

    /// The answer's code.
    pub fn rcode(&self) -> i64 {
        self.json()["rcode"].as_i64().expect("an answer has an rcode")
    }
}

/// The bytes of a frame.
pub fn frame(mtype: u32, id: &[u8], body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(8 + id.len() + body.len()).unwrap();
    let id_bytes = u32::try_from(id.len()).unwrap();
    [&length.to_be_bytes(), &mtype.to_be_bytes(), &id_bytes.to_be_bytes(), id, body].concat()
}

/// Fails the test if the future takes longer than any loaded machine would.
pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it took longer than 20 s")
}

/// A peer that speaks the wire by hand.
#[derive(Debug)]
pub struct RawPeer {
    /// The socket, for what the methods don't do.
    pub stream: TcpStream,
    next_id: u32,
}

impl From<TcpStream> for RawPeer {
    fn from(stream: TcpStream) -> Self {
        Self { stream, next_id: 0 }
    }
}

impl RawPeer {
    /// Connects to `tcp://host:port` or `host:port`.
    pub async fn connect(address: impl ToString) -> Self {
        let address = address.to_string();
        let address = address.trim_start_matches("tcp://");
        let stream = within(TcpStream::connect(address)).await.expect("it listens");
        stream.set_nodelay(true).unwrap();
        stream.into()
    }

    /// Connects and opens a session with these features.
    pub async fn with_session(address: impl ToString, features: &[&str]) -> Self {
        let mut peer = Self::connect(address).await;
        let body = serde_json::json!({"version": 2, "name": "raw", "instance": "1", "features": features});
        let answer = peer.ask(16, &body.to_string()).await;
        assert_eq!((answer.mtype, answer.rcode()), (17, 0), "{answer:?}");
        peer
    }

    /// Sends bytes as they are.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        within(self.stream.write_all(bytes)).await.expect("the peer takes them");
    }

    /// Sends one frame.
    pub async fn send(&mut self, mtype: u32, id: &[u8], body: &str) {
        self.send_bytes(&frame(mtype, id, body.as_bytes())).await;
    }

    /// The next frame.
    pub async fn receive(&mut self) -> Frame {
        within(self.try_receive()).await.expect("a frame comes")
    }

    /// The next frame; `None` at the end of the stream.
    pub async fn try_receive(&mut self) -> Option<Frame> {
        let length = self.stream.read_u32().await.ok()? as usize;
        let mut rest = vec![0; length];
        self.stream.read_exact(&mut rest).await.ok()?;
        let word = |at: usize| u32::from_be_bytes(rest[at..at + 4].try_into().unwrap());
        let body_at = 8 + word(4) as usize;
        Some(Frame { mtype: word(0), id: rest[8..body_at].to_vec(), body: rest[body_at..].to_vec() })
    }

    /// Sends a request and takes its answer, which must be the next frame.
    pub async fn ask(&mut self, kind: u32, body: &str) -> Frame {
        self.next_id += 1;
        let id = format!("raw-{}", self.next_id).into_bytes();
        self.send(kind, &id, body).await;
        let answer = self.receive().await;
        assert_eq!((answer.mtype, &answer.id), (kind + 1, &id), "{answer:?}");
        answer
    }

    /// That the peer closes, and sends nothing before that.
    pub async fn expect_end(&mut self) {
        let next = within(self.try_receive()).await;
        assert_eq!(next, None, "it was to close");
    }

    /// That the connection lives and nothing else was sent meanwhile: a question with a known answer comes back next.
    pub async fn expect_quiet(&mut self) {
        let answer = self.ask(2, r#"{"topic_key":"quiet","optype":3}"#).await;
        assert!(answer.json()["rcode"].is_i64(), "{answer:?}");
    }
}
