//! The attacks, and the process that makes one.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use callboard_tests::frame;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest, stdin};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio::time::sleep;

use crate::frames::{self, Names};
use crate::normal::METHOD;

/// What all connections of an attack do, each again with a new connection when it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Attack {
    /// Half of a small frame, held
    HalfFrames,
    /// All but the end of a frame of 16 MiB, held
    LargeHalves,
    /// A length of 4 GiB, or one of 16 MiB and nothing behind it
    HugeLengths,
    /// Pings, answers unread
    UnreadPings,
    /// Discoveries, answers unread
    UnreadDiscoveries,
    /// Publish to a topic to which all are subscribed, and read nothing
    UnreadMessages,
    /// Pings as fast as they are answered
    Pings,
    /// A few pings at a time, and the next ones when these are answered: no more than normal clients may do
    FewPings,
    /// Discoveries
    Discoveries,
    /// Messages, each to a topic of its own with one subscriber
    Messages,
    /// Calls through the center, to a provider of the attackers' own
    Calls,
    /// Calls through the center, all under one id, to a provider that does not answer
    ReusedIds,
    /// Create topics and subscribe to them without end
    Subscriptions,
    /// Subscribe to the same topics and cancel that, over and over
    Resubscriptions,
    /// Register methods without end
    Registrations,
    /// Discover methods that are not there, without end
    Watches,
    /// Names of 10 MB, of topics and methods
    LongNames,
    /// Connect, open a session, and reset
    Connects,
    /// Random bytes
    Garbage,
    /// One publisher at full speed, with one subscriber
    FloodTo1,
    /// One publisher at full speed, with 64 subscribers
    FloodTo64,
}

/// What attackers have done, and what became of it.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Done {
    /// Connections that were made.
    pub(crate) opened: u64,
    /// Connections that the center has ended.
    pub(crate) closed: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_read: u64,
}

impl Attack {
    /// How many connections it has where it is told to have so many.
    pub(crate) fn connections(self, wanted: usize) -> usize {
        match self {
            Self::FloodTo1 => 2,
            Self::FloodTo64 => 65,
            _ => wanted,
        }
    }
}

/// Prints a line when all connections are made, attacks from the first line of its input to the end of it, and tells what was
/// done.
pub(crate) async fn run(center: &str, attack: Attack, connections: usize) -> Result<()> {
    callboard_net::raise_open_files()?;
    let swarm = Rc::new(Swarm {
        center: center.trim_start_matches("tcp://").parse()?,
        attack,
        done: Cell::default(),
        goes: watch::Sender::new(false),
        sink: RefCell::new(vec![0; 256 << 10]),
        frames: frames::of(attack, METHOD),
    });
    let (tasks, mut lines) = (LocalSet::new(), BufReader::new(stdin()).lines());
    let attacked = async {
        for number in 0..attack.connections(connections) {
            // One after the other, so that none is refused since too many come at once.
            let stream = swarm.connect().await?;
            let swarm = Rc::clone(&swarm);
            tokio::task::spawn_local(async move {
                let _ = swarm.goes.subscribe().wait_for(|goes| *goes).await;
                swarm.live(stream, number).await;
                loop {
                    match swarm.connect().await {
                        Ok(stream) => swarm.live(stream, number).await,
                        Err(_) => sleep(PAUSE).await,
                    }
                }
            });
        }
        println!("ready");
        while lines.next_line().await?.is_some() {
            swarm.goes.send_replace(true);
        }
        Ok::<_, io::Error>(())
    };
    tasks.run_until(attacked).await?;
    println!("{}", serde_json::to_string(&swarm.done.get())?);
    // A thread that still reads the input would be waited for.
    std::process::exit(0)
}

struct Swarm {
    center: SocketAddr,
    attack: Attack,
    done: Cell<Done>,
    /// Whether the attack has begun.
    goes: watch::Sender<bool>,
    /// What is read goes there.
    sink: RefCell<Vec<u8>>,
    /// What each connection sends over and over, after its first frames.
    frames: Vec<u8>,
}

impl Swarm {
    /// The attackers' buffers are small, since here they lie in the center's machine: all of its connections share what the
    /// kernel has for TCP.
    async fn connect(&self) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.set_send_buffer_size(SOCKET_BYTES)?;
        socket.set_recv_buffer_size(SOCKET_BYTES)?;
        socket.connect(self.center).await
    }

    /// One connection, until it ends.
    async fn live(&self, mut stream: TcpStream, number: usize) {
        self.count(|done| done.opened += 1);
        let _ = stream.set_nodelay(true);
        // Any error is an end of the connection.
        if self.attack(&mut stream, number).await.is_err() {
            self.count(|done| done.closed += 1);
        }
    }

    async fn attack(&self, stream: &mut TcpStream, number: usize) -> io::Result<()> {
        match self.attack {
            Attack::HalfFrames | Attack::LargeHalves => {
                self.send(stream, &self.frames).await?;
                self.read_to_end(stream).await
            }
            Attack::HugeLengths => {
                let length = if number.is_multiple_of(2) { u32::MAX } else { 16 << 20 };
                self.send(stream, &[&length.to_be_bytes()[..], &[0; 8]].concat()).await?;
                self.read_to_end(stream).await
            }
            Attack::UnreadPings => {
                self.open_session(stream, number, false).await?;
                self.pump(stream, &self.frames, false).await
            }
            Attack::UnreadDiscoveries => self.pump(stream, &self.frames, false).await,
            Attack::UnreadMessages => {
                self.send(stream, &frames::topic("attacked", 0)).await?;
                self.send(stream, &frames::topic("attacked", 2)).await?;
                self.pump(stream, &self.frames, false).await
            }
            Attack::Pings => {
                self.open_session(stream, number, false).await?;
                self.pump(stream, &self.frames, true).await
            }
            Attack::FewPings => {
                self.open_session(stream, number, false).await?;
                let mut answers = vec![0; self.frames.len()];
                loop {
                    self.send(stream, &self.frames).await?;
                    // Each is as long as what it answers.
                    stream.read_exact(&mut answers).await?;
                    self.count(|done| done.bytes_read += answers.len() as u64);
                }
            }
            Attack::Discoveries | Attack::Resubscriptions | Attack::LongNames | Attack::Garbage => {
                if self.attack == Attack::Resubscriptions && number == 0 {
                    self.send(stream, &frames::creates()).await?;
                }
                self.pump(stream, &self.frames, true).await
            }
            Attack::Messages => {
                let name = format!("attacked/{number}");
                self.send(stream, &frames::topic(&name, 0)).await?;
                self.send(stream, &frames::topic(&name, 2)).await?;
                let message = json!({"topic_key": name, "optype": 4, "topic_msg": "x".repeat(64)}).to_string();
                self.pump(stream, &frame(2, b"m", message.as_bytes()).repeat(64), true).await
            }
            Attack::Calls | Attack::ReusedIds => {
                self.open_session(stream, number, number == 0).await?;
                if number == 0 {
                    self.send(stream, &frames::register_relayed("attacked")).await?;
                    return self.provide(stream).await;
                }
                self.pump(stream, &self.frames, true).await
            }
            Attack::Subscriptions | Attack::Registrations | Attack::Watches => {
                let mut names = Names::new(self.attack, number);
                loop {
                    let some = names.next_frames();
                    self.exchange(stream, &some).await?;
                }
            }
            Attack::Connects => {
                self.open_session(stream, number, false).await?;
                // Resets, since what is sent last is not read by the center.
                socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO))
            }
            Attack::FloodTo1 | Attack::FloodTo64 => {
                self.send(stream, &frames::topic("attacked", 0)).await?;
                if number == 0 {
                    return self.pump(stream, &self.frames, true).await;
                }
                self.send(stream, &frames::topic("attacked", 2)).await?;
                self.read_to_end(stream).await
            }
        }
    }

    async fn open_session(&self, stream: &mut TcpStream, number: usize, serves: bool) -> io::Result<()> {
        self.send(stream, &frames::session(number, serves)).await?;
        let length = stream.read_u32().await?;
        let mut rest = vec![0; length.min(1 << 16) as usize];
        stream.read_exact(&mut rest).await?;
        Ok(())
    }

    /// Answers calls, or never does.
    async fn provide(&self, stream: &mut TcpStream) -> io::Result<()> {
        let mut came = Vec::new();
        let mut answers = Vec::new();
        loop {
            came.reserve(64 << 10);
            let read = stream.read_buf(&mut came).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.count(|done| done.bytes_read += read as u64);
            let taken = frames::answer_calls(&came, &mut answers);
            came.drain(..taken);
            if self.attack == Attack::Calls {
                self.send(stream, &answers).await?;
            }
            answers.clear();
        }
    }

    /// Sends this over and over, and reads and forgets what comes, or does not read.
    async fn pump(&self, stream: &mut TcpStream, what: &[u8], reads: bool) -> io::Result<()> {
        let interest = if reads { Interest::READABLE | Interest::WRITABLE } else { Interest::WRITABLE };
        let mut at = 0;
        loop {
            let can = stream.ready(interest).await?;
            if can.is_writable() {
                at = (at + self.try_send(stream, what.get(at..).unwrap_or_default())?) % what.len();
            }
            if can.is_readable() {
                self.try_read(stream)?;
            }
        }
    }

    /// Sends this once, and reads what comes meanwhile.
    async fn exchange(&self, stream: &TcpStream, what: &[u8]) -> io::Result<()> {
        let mut at = 0;
        while at < what.len() {
            let can = stream.ready(Interest::READABLE | Interest::WRITABLE).await?;
            if can.is_writable() {
                at += self.try_send(stream, what.get(at..).unwrap_or_default())?;
            }
            if can.is_readable() {
                self.try_read(stream)?;
            }
        }
        Ok(())
    }

    fn try_send(&self, stream: &TcpStream, what: &[u8]) -> io::Result<usize> {
        match stream.try_write(what) {
            Ok(sent) => {
                self.count(|done| done.bytes_sent += sent as u64);
                Ok(sent)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(e) => Err(e),
        }
    }

    fn try_read(&self, stream: &TcpStream) -> io::Result<()> {
        match stream.try_read(&mut self.sink.borrow_mut()) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                self.count(|done| done.bytes_read += read as u64);
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(e) => Err(e),
        }
    }

    async fn send(&self, stream: &mut TcpStream, what: &[u8]) -> io::Result<()> {
        stream.write_all(what).await?;
        self.count(|done| done.bytes_sent += what.len() as u64);
        Ok(())
    }

    async fn read_to_end(&self, stream: &TcpStream) -> io::Result<()> {
        loop {
            stream.readable().await?;
            self.try_read(stream)?;
        }
    }

    fn count(&self, what: impl FnOnce(&mut Done)) {
        let mut done = self.done.get();
        what(&mut done);
        self.done.set(done);
    }
}

const SOCKET_BYTES: u32 = 64 << 10;
/// Where the center can't be connected to.
const PAUSE: Duration = Duration::from_millis(10);
