//! Peers that speak the wire by hand and, once they are made, take nothing of the heap: what is counted while they talk
//! is the other side's.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Barrier};
use std::thread;

use callboard_net::Address;
use callboard_tests::frame;

pub(crate) const RPC: u32 = 0;
pub(crate) const TOPIC: u32 = 2;
const SESSION: u32 = 16;

/// One that asks, and knows how many bytes will come back.
#[derive(Debug)]
pub(crate) struct Asker {
    stream: TcpStream,
    room: Vec<u8>,
}

impl Asker {
    pub(crate) fn connect(address: &Address) -> Self {
        let stream = TcpStream::connect(address.to_string().trim_start_matches("tcp://")).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, room: vec![0; 1 << 20] }
    }

    /// The same with a session.
    pub(crate) fn with_session(address: &Address) -> Self {
        let mut this = Self::connect(address);
        let body = br#"{"version":2,"name":"raw","instance":"1","features":["one_way"]}"#;
        assert!(this.ask(SESSION, body).starts_with(br#"{"rcode":0"#));
        this
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Reads so many bytes.
    pub(crate) fn receive(&mut self, bytes: usize) -> &[u8] {
        let room = &mut self.room[..bytes];
        self.stream.read_exact(room).unwrap();
        room
    }

    /// Sends a request and gives the body of its answer, which must be the next frame.
    pub(crate) fn ask(&mut self, kind: u32, body: &[u8]) -> Vec<u8> {
        self.send(&frame(kind, b"ask", body));
        let length = word(self.receive(4), 0);
        self.receive(length)[11..].to_vec()
    }
}

/// Takes one connection on a thread of its own, and answers what comes until its end: each call with 3, all else with OK.
/// After a subscribe it sends `messages` at once, and as many once more when it is given the [`Go`]. Returns its address.
pub(crate) fn answerer(messages: usize, go: Go) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let pushes = frame(TOPIC, b"push", MESSAGE).repeat(messages);
        Answerer { stream, output: Vec::with_capacity(1 << 20), pushes, go }.run();
    });
    address
}

/// Two threads meet here.
pub(crate) type Go = Arc<Barrier>;

/// A small message as it is published.
pub(crate) const MESSAGE: &[u8] =
    br#"{"topic_key":"t","optype":4,"topic_msg":"sixty-four bytes with the name and the header"}"#;
pub(crate) const TEXT: &str = "sixty-four bytes with the name and the header";

struct Answerer {
    stream: TcpStream,
    output: Vec<u8>,
    pushes: Vec<u8>,
    go: Go,
}

impl Answerer {
    fn run(mut self) {
        let mut input = vec![0; 1 << 20];
        let mut filled = 0;
        loop {
            match self.stream.read(&mut input[filled..]) {
                Ok(0) | Err(_) => return,
                Ok(bytes) => filled += bytes,
            }
            let (taken, subscribed) = self.answer_all(&input[..filled]);
            input.copy_within(taken..filled, 0);
            filled -= taken;
            if self.stream.write_all(&self.output).is_err() || (subscribed && self.publish().is_err()) {
                return;
            }
        }
    }

    /// Answers the whole frames; how many bytes they are, and whether one of them subscribes.
    fn answer_all(&mut self, input: &[u8]) -> (usize, bool) {
        self.output.clear();
        let (mut at, mut subscribed) = (0, false);
        while input.len() - at >= 4 && input.len() - at >= 4 + word(input, at) {
            let end = at + 4 + word(input, at);
            let (kind, id_end) = (word(input, at + 4), at + 12 + word(input, at + 8));
            let body: &[u8] = match u32::try_from(kind).unwrap() {
                RPC => br#"{"rcode":0,"result":3}"#,
                SESSION => br#"{"rcode":0,"version":2,"instance":"1","features":[]}"#,
                _ => br#"{"rcode":0}"#,
            };
            let id = &input[at + 12..id_end];
            for word in [8 + id.len() + body.len(), kind + 1, id.len()] {
                self.output.extend_from_slice(&u32::try_from(word).unwrap().to_be_bytes());
            }
            self.output.extend_from_slice(id);
            self.output.extend_from_slice(body);
            subscribed |= input[id_end..end].windows(10).any(|part| part == br#""optype":2"#);
            at = end;
        }
        (at, subscribed)
    }

    fn publish(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.pushes)?;
        self.go.wait();
        self.stream.write_all(&self.pushes)
    }
}

fn word(bytes: &[u8], at: usize) -> usize {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}
