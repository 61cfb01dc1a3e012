//! The clients that nobody is to harm: pings, discoveries, published messages and calls through the center, each at a fixed
//! rate whatever becomes of the ones before.
//!
//! Newcomers come one after the other, and what they take counts from when they begin.
//!
//! Threads and sockets that block, and no library of ours: what is measured is the center. A latency counts from the moment at
//! which its operation was due, which stands in its id.

use std::io::{BufReader, ErrorKind, Read, Write, stdin};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use callboard_tests::frame;
use serde_json::{Value, json};

use crate::figures::{Figures, KINDS, Kind, PHASES, Sample};
use crate::still::{Still, Watch};

/// Prints a line when it is ready; goes to the next phase with each line of its input, and tells of all at the end of it.
///
/// On the cores that are named somebody looks whether they stand still.
pub(crate) fn run(center: &str, rate: u32, cores: &[usize]) -> Result<()> {
    let clients = Clients::start(center, rate, cores)?;
    println!("ready");
    for line in stdin().lines() {
        let _ = line?;
        clients.shared.phase.fetch_add(1, SeqCst);
    }
    println!("{}", serde_json::to_string(&clients.end()?)?);
    Ok(())
}

struct Clients {
    shared: Arc<Shared>,
    watch: Watch,
    senders: Vec<JoinHandle<()>>,
    readers: Vec<JoinHandle<Vec<Sample>>>,
    streams: Vec<TcpStream>,
}

struct Shared {
    start: Instant,
    phase: AtomicU8,
    stop: AtomicBool,
    /// From here on connections end.
    ends: AtomicBool,
    sent: Counts,
    came: Counts,
    failed: Counts,
    disconnected: Counts,
}

#[derive(Default)]
struct Counts([[AtomicU64; KINDS]; PHASES]);

impl Clients {
    fn start(center: &str, rate: u32, cores: &[usize]) -> Result<Self> {
        let shared = Arc::new(Shared {
            start: Instant::now(),
            phase: AtomicU8::new(0),
            stop: AtomicBool::new(false),
            ends: AtomicBool::new(false),
            sent: Counts::default(),
            came: Counts::default(),
            failed: Counts::default(),
            disconnected: Counts::default(),
        });
        let watch = Watch::start(shared.start, cores);
        let mut clients = Self { shared, watch, senders: Vec::new(), readers: Vec::new(), streams: Vec::new() };
        let instance = clients.provide(center)?;
        for number in 0..PEERS {
            clients.subscribe(center, number)?;
        }
        let call = json!({"method": METHOD, "parameters": {"num1": 1, "num2": 2}, "meta": {"instance": instance}});
        clients.send(center, rate, Kind::Ping, |_| (PING, String::new()))?;
        clients
            .send(center, rate, Kind::Discover, |_| (SERVICE, json!({"method": METHOD, "optype": 1}).to_string()))?;
        clients.send(center, rate, Kind::Publish, |number| {
            (TOPIC, json!({"topic_key": topic(number), "optype": 4, "topic_msg": "x".repeat(64)}).to_string())
        })?;
        clients.send(center, rate, Kind::Call, |_| (RPC | RELAYED, call.to_string()))?;
        clients.come(center, rate / COME_LESS_OFTEN);
        Ok(clients)
    }

    /// A provider that listens nowhere; its instance.
    fn provide(&mut self, center: &str) -> Result<&'static str> {
        let mut peer = Peer::with_session(center, INSTANCE)?;
        peer.ask(SERVICE, &json!({"method": METHOD, "optype": 0, "relay": true}))?;
        self.streams.push(peer.stream.try_clone()?);
        let shared = Arc::clone(&self.shared);
        let answer = br#"{"rcode":0,"result":3}"#;
        self.readers.push(thread::spawn(move || {
            while let Ok((mtype, id, _)) = peer.receive() {
                let answered = match mtype {
                    RPC => peer.send(&frame(RPC + 1, &id, answer)),
                    PING => peer.send(&frame(PING + 1, &id, b"")),
                    _ => Ok(()),
                };
                if answered.is_err() {
                    break;
                }
            }
            shared.end(Kind::Call);
            Vec::new()
        }));
        Ok(INSTANCE)
    }

    fn subscribe(&mut self, center: &str, number: usize) -> Result<()> {
        let mut peer = Peer::with_session(center, "subscriber")?;
        for optype in [0, 2] {
            peer.ask(TOPIC, &json!({"topic_key": topic(number), "optype": optype}))?;
        }
        self.read(peer, Kind::Publish, TOPIC)
    }

    /// Connections that send at this rate, in turn.
    fn send(&mut self, center: &str, rate: u32, kind: Kind, what: impl Fn(usize) -> (u32, String)) -> Result<()> {
        let mut streams = Vec::new();
        for number in 0..PEERS {
            let peer = Peer::with_session(center, "normal")?;
            streams.push((peer.stream.try_clone()?, what(number)));
            // A message is there when its subscriber has it; the publisher's answer only has to be good.
            let counts = if kind == Kind::Publish { u32::MAX } else { (what(number).0 & 0xffff) + 1 };
            self.read(peer, kind, counts)?;
        }
        let shared = Arc::clone(&self.shared);
        let pause = Duration::from_secs(1) / rate;
        // The kinds not all at once.
        let first = pause / 4 * kind as u32;
        self.senders.push(thread::spawn(move || {
            let begin = shared.start.elapsed() + first;
            for (turn, (stream, (mtype, body))) in (0..).zip(streams.iter().cycle()) {
                let due = begin + pause * turn;
                thread::sleep(due.saturating_sub(shared.start.elapsed()));
                if shared.stop.load(SeqCst) {
                    break;
                }
                let phase = shared.phase.load(SeqCst);
                shared.sent.add(phase, kind);
                let id = id(phase, kind, due);
                let mut stream = stream;
                if stream.write_all(&frame(*mtype, &id, body.as_bytes())).is_err() {
                    shared.failed.add(phase, kind);
                }
            }
        }));
        Ok(())
    }

    /// Connects and opens a session, again and again, one at a time and at this rate at most.
    fn come(&mut self, center: &str, rate: u32) {
        let (shared, center) = (Arc::clone(&self.shared), center.to_owned());
        let pause = Duration::from_secs(1) / rate.max(1);
        self.readers.push(thread::spawn(move || {
            let mut samples = Vec::new();
            while !shared.stop.load(SeqCst) {
                let (phase, due) = (shared.phase.load(SeqCst), shared.start.elapsed());
                shared.sent.add(phase, Kind::Connect);
                if Peer::with_session(&center, "newcomer").is_ok() {
                    let took = shared.start.elapsed().saturating_sub(due);
                    samples.push(Sample { phase, kind: Kind::Connect, due, took });
                } else {
                    shared.failed.add(phase, Kind::Connect);
                }
                shared.came.add(phase, Kind::Connect);
                thread::sleep((due + pause).saturating_sub(shared.start.elapsed()));
            }
            samples
        }));
    }

    /// Takes what comes; frames of this type are what was waited for.
    fn read(&mut self, mut peer: Peer, kind: Kind, counts: u32) -> Result<()> {
        self.streams.push(peer.stream.try_clone()?);
        let shared = Arc::clone(&self.shared);
        self.readers.push(thread::spawn(move || {
            let mut samples = Vec::new();
            while let Ok((mtype, id, body)) = peer.receive() {
                if mtype == PING {
                    if peer.send(&frame(PING + 1, &id, b"")).is_err() {
                        break;
                    }
                    continue;
                }
                let Some((phase, due)) = read_id(&id) else { continue };
                // Of an odd kind: an answer.
                if mtype & 1 == 1 && !body.is_empty() && !is_good(&body) {
                    shared.failed.add(phase, kind);
                    if mtype == counts {
                        shared.came.add(phase, kind);
                    }
                } else if mtype == counts {
                    shared.came.add(phase, kind);
                    let took = shared.start.elapsed().saturating_sub(due);
                    samples.push(Sample { phase, kind, due, took });
                }
            }
            shared.end(kind);
            samples
        }));
        Ok(())
    }

    /// Waits for what is under way, but not for ever.
    fn end(self) -> Result<Vec<Figures>> {
        let Self { shared, watch, senders, readers, streams } = self;
        shared.stop.store(true, SeqCst);
        let until = Instant::now() + PATIENCE;
        // One that waits for room in its socket is woken by the end of that.
        while Instant::now() < until && !(senders.iter().all(JoinHandle::is_finished) && shared.is_all_there()) {
            thread::sleep(Duration::from_millis(5));
        }
        shared.ends.store(true, SeqCst);
        for stream in &streams {
            let _ = stream.shutdown(Shutdown::Both);
        }
        for sender in senders {
            sender.join().ok().context("a sender panicked")?;
        }
        let mut samples = Vec::new();
        for reader in readers {
            samples.extend(reader.join().ok().context("a reader panicked")?);
        }
        let stills = watch.end()?;
        Ok((0..PHASES).map(|phase| shared.figures(phase, &samples, &stills)).collect())
    }
}

impl Shared {
    /// A connection ended.
    fn end(&self, kind: Kind) {
        if !self.ends.load(SeqCst) {
            self.disconnected.add(self.phase.load(SeqCst), kind);
        }
    }

    fn is_all_there(&self) -> bool {
        let sum = |counts: &Counts| counts.0.iter().flatten().map(|count| count.load(SeqCst)).sum::<u64>();
        sum(&self.came) >= sum(&self.sent)
    }

    fn figures(&self, phase: usize, samples: &[Sample], stills: &[Still]) -> Figures {
        let sum = |counts: &Counts| -> u64 { Kind::ALL.iter().map(|kind| counts.of(phase, *kind).load(SeqCst)).sum() };
        let samples: Vec<_> = samples.iter().filter(|sample| usize::from(sample.phase) == phase).copied().collect();
        let lost = sum(&self.sent).saturating_sub(sum(&self.came));
        Figures {
            due: sum(&self.sent).saturating_sub(self.sent.of(phase, Kind::Connect).load(SeqCst)),
            errors: sum(&self.failed) + lost,
            disconnects: sum(&self.disconnected),
            ..Figures::of(&samples, stills)
        }
    }
}

impl Counts {
    fn add(&self, phase: u8, kind: Kind) {
        self.of(phase.into(), kind).fetch_add(1, SeqCst);
    }

    #[expect(clippy::indexing_slicing, reason = "there are as many of both")]
    fn of(&self, phase: usize, kind: Kind) -> &AtomicU64 {
        &self.0[phase.min(PHASES - 1)][kind as usize]
    }
}

/// A peer within a session.
struct Peer {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Peer {
    fn with_session(center: &str, instance: &str) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&center.trim_start_matches("tcp://").parse()?, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut peer = Self { reader: BufReader::new(stream.try_clone()?), stream };
        let features = ["ping", "heartbeat", "relay", "revisions", "serves", "cancel"];
        let hello = json!({"version": 2, "name": "normal", "instance": instance, "features": features, "limits": {}});
        peer.ask(SESSION, &hello)?;
        peer.stream.set_read_timeout(None)?;
        Ok(peer)
    }

    /// Waits for the answer, which must be good.
    fn ask(&mut self, kind: u32, body: &Value) -> Result<()> {
        self.send(&frame(kind, b"ask", body.to_string().as_bytes()))?;
        loop {
            let (mtype, id, body) = self.receive()?;
            if mtype == kind + 1 && id == b"ask" {
                ensure!(is_good(&body), "it is refused: {}", String::from_utf8_lossy(&body));
                return Ok(());
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    fn receive(&mut self) -> std::io::Result<(u32, Vec<u8>, Vec<u8>)> {
        let mut header = [0; 12];
        self.reader.read_exact(&mut header)?;
        let word = |at: usize| {
            header.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_be_bytes) as usize
        };
        let rest = word(0).checked_sub(8).filter(|rest| *rest >= word(8)).ok_or(ErrorKind::InvalidData)?;
        let mut id = vec![0; rest];
        self.reader.read_exact(&mut id)?;
        let body = id.split_off(word(8));
        Ok((u32::try_from(word(4)).unwrap_or_default() & 0xffff, id, body))
    }
}

fn id(phase: u8, kind: Kind, due: Duration) -> Vec<u8> {
    let nanos = u64::try_from(due.as_nanos()).unwrap_or(u64::MAX);
    [&[b'n', phase, kind as u8][..], &nanos.to_be_bytes()].concat()
}

fn read_id(id: &[u8]) -> Option<(u8, Duration)> {
    let [b'n', phase, _, nanos @ ..] = id else { return None };
    Some((*phase, Duration::from_nanos(u64::from_be_bytes(nanos.try_into().ok()?))))
}

/// Of the body of an answer.
fn is_good(body: &[u8]) -> bool {
    body.starts_with(b"{\"rcode\":0")
}

fn topic(number: usize) -> String {
    format!("normal/{number}")
}

/// Connections of each kind, so that each event loop has some.
const PEERS: usize = 4;
/// Newcomers come less often than the others say something, by this.
const COME_LESS_OFTEN: u32 = 10;
/// What the provider among them provides.
pub(crate) const METHOD: &str = "normal";
const INSTANCE: &str = "normal-provider";
const RPC: u32 = 0;
const TOPIC: u32 = 2;
const SERVICE: u32 = 4;
const SESSION: u32 = 16;
const PING: u32 = 18;
const RELAYED: u32 = 1 << 26;
/// For what is under way at the end.
const PATIENCE: Duration = Duration::from_secs(10);
