//! Connections that hold a session and no more, as a client's are between calls.
use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use callboard::common::{Encode, Head, Json, LengthValue, Protocol, SessionRequest, TopicOp, TopicRequest};
use callboard::{Client, Feature, Features, Topics};
use load::Opt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::address;

pub async fn run(opt: Opt) -> Result<()> {
    let mut hello = session()?;
    if opt.with_sub {
        Topics::new(&Client::connect(&address(&opt)).await?).create(TOPIC).await?;
        hello.extend(frame(b"2", &TopicRequest::<()>::new(TOPIC, TopicOp::Subscribe))?);
    }
    load::idle(&opt, hello, true).await
}

/// `count` connections to the server, each with its session open.
pub async fn open(opt: &Opt, count: usize) -> Result<Vec<TcpStream>> {
    open_from(opt, count, "127.0.0.1").await
}

/// The same from another address of this machine: each has ports of its own.
pub async fn open_from(opt: &Opt, count: usize, source: &str) -> Result<Vec<TcpStream>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let (hello, to) = (session()?, opt.addr.parse().context("idle connections are held over TCP")?);
    let from = SocketAddr::new(source.parse().context("not an address to connect from")?, 0);
    let mut held = Vec::with_capacity(count);
    while held.len() < count {
        let mut set = JoinSet::new();
        for _ in 0..AT_ONCE.min(count - held.len()) {
            let hello = hello.clone();
            set.spawn(async move { connect(from, to, &hello).await });
        }
        while let Some(connected) = set.join_next().await {
            held.push(connected??);
        }
    }
    Ok(held)
}

async fn connect(from: SocketAddr, to: SocketAddr, hello: &[u8]) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(from)?;
    let mut stream = socket.connect(to).await?;
    stream.write_all(hello).await?;
    let mut answer = [0; 1024];
    if stream.read(&mut answer).await? == 0 {
        bail!("closed in place of a session");
    }
    Ok(stream)
}

/// How many of the connections the server has closed.
pub fn lost(held: &[TcpStream]) -> usize {
    held.iter().filter(|stream| matches!(stream.try_read(&mut [0; 64]), Ok(0))).count()
}

/// The first frame of a client.
fn session() -> Result<Vec<u8>> {
    let features = Features::ALL.without(Feature::Serves).names().map(Into::into).collect();
    let instance = "6f1f9cf0-1d52-4a53-bd8e-3c5a6a1f7d11".into();
    frame(b"1", &SessionRequest { version: 2, name: "callboard".into(), instance, store: None, features, limits: None })
}

/// The bytes of a frame.
pub fn frame(id: &[u8], body: &impl Encode) -> Result<Vec<u8>> {
    let mut out = BytesMut::new();
    LengthValue::default().encode::<Json, _>(Head::new(body.kind(), id), body, &mut out)?;
    Ok(out.to_vec())
}

const TOPIC: &str = "some.topic.name";
/// Connections that are opened at the same time.
const AT_ONCE: usize = 64;
