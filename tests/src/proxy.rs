use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;

/// Stands between a client and what it connects to, and does to their connections what a bad network does. It ends with
/// all of them when it is dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    acts: broadcast::Sender<Act>,
    accepting: JoinHandle<()>,
}

/// How things stand, for the connections that there are and those to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// All is passed on.
    Fair,
    /// Each piece is passed on so much later, and holds up those behind it.
    Slow(Duration),
    /// Nothing comes through, and neither side is told, of an end either. A connection of which something was lost in this
    /// way stays lost when the weather changes: to each side the other one is silent.
    Silent,
    /// New connections are ended at once; those that there are go on.
    Closed,
}

/// Which side something happens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Towards {
    /// The one that has connected.
    Client,
    /// The one that it wanted to connect to.
    Server,
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Cut,
    HalfClose(Towards),
    Garbage(Towards),
}

impl FaultProxy {
    /// Listens on a port of its own of 127.0.0.1, and connects to `target` for each who comes.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (weather, acts) = (watch::Sender::new(Weather::Fair), broadcast::Sender::new(64));
        let accepting = tokio::spawn(accept(listener, target, weather.clone(), acts.clone()));
        Self { address, weather, acts, accepting }
    }

    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on it is so.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Ends all connections that there are, with a reset.
    pub fn cut(&self) {
        self.act(Act::Cut);
    }

    /// Tells one side of each connection that the other one has nothing more to say, though it may have.
    pub fn half_close(&self, towards: Towards) {
        self.act(Act::HalfClose(towards));
    }

    /// Sends one side of each connection what is no frame.
    pub fn garbage(&self, towards: Towards) {
        self.act(Act::Garbage(towards));
    }

    fn act(&self, act: Act) {
        let _ = self.acts.send(act); // perhaps there is no connection
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    weather: watch::Sender<Weather>,
    acts: broadcast::Sender<Act>,
) {
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        if *weather.borrow() == Weather::Closed {
            reset(&client);
            continue;
        }
        let (weather, heard) = (weather.subscribe(), [acts.subscribe(), acts.subscribe()]);
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(target).await else { return reset(&client) };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let [out, back] = heard;
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            let out = Pump { towards: Towards::Server, weather: weather.clone(), acts: out, is_lost: false };
            let back = Pump { towards: Towards::Client, weather, acts: back, is_lost: false };
            tokio::join!(out.run(from_client, to_server), back.run(from_server, to_client));
        });
    }
}

/// One direction of a connection.
struct Pump {
    towards: Towards,
    weather: watch::Receiver<Weather>,
    acts: broadcast::Receiver<Act>,
    /// Something was lost: nothing more comes through.
    is_lost: bool,
}

impl Pump {
    async fn run(mut self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut piece = vec![0; 64 << 10];
        let mut has_ended = false;
        loop {
            tokio::select! {
                biased;
                act = self.acts.recv() => match act {
                    Ok(Act::HalfClose(side)) if side == self.towards => {
                        self.is_lost = true;
                        let _ = to.shutdown().await;
                    }
                    Ok(Act::Garbage(side)) if side == self.towards => {
                        let _ = to.write_all(GARBAGE).await;
                    }
                    Ok(Act::HalfClose(_) | Act::Garbage(_)) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Ok(Act::Cut) | Err(broadcast::error::RecvError::Closed) => return reset(to.as_ref()),
                },
                read = from.read(&mut piece), if !has_ended => {
                    has_ended = !self.pass(piece.get(..read.unwrap_or(0)).unwrap_or_default(), &mut to).await;
                    if has_ended && !self.is_lost {
                        return;
                    }
                }
            }
        }
    }

    /// Passes on one piece, as the weather is; `false` at the end, which is an empty one.
    async fn pass(&mut self, piece: &[u8], to: &mut OwnedWriteHalf) -> bool {
        let weather = *self.weather.borrow();
        self.is_lost |= weather == Weather::Silent;
        if self.is_lost {
            return !piece.is_empty();
        }
        if let Weather::Slow(time) = weather {
            tokio::time::sleep(time).await;
        }
        if piece.is_empty() {
            let _ = to.shutdown().await;
            return false;
        }
        to.write_all(piece).await.is_ok()
    }
}

/// What is dropped now is reset.
fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// No frame begins like this.
const GARBAGE: &[u8] = &[0xff; 64];
