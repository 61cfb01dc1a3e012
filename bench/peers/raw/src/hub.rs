//! A topic over bare sockets: a hub, its subscribers and its publisher.
use std::mem::take;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use load::{Opt, Publisher, SubMeter, SubShared};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::frames::{Inbox, body, put};

type Subscribers = Arc<Mutex<Vec<TcpStream>>>;

pub async fn run(opt: &Opt) -> Result<()> {
    let subscribers = Subscribers::default();
    let listener = TcpListener::bind(&opt.addr).await?;
    load::ready();
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let list = || subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        if stream.read_u8().await? == SUBSCRIBER {
            stream.write_u8(TAKEN).await?;
            list().push(stream);
        } else {
            let all = take(&mut *list());
            tokio::spawn(forward(stream, all));
        }
    }
}

async fn forward(mut publisher: TcpStream, mut subscribers: Vec<TcpStream>) -> Result<()> {
    let mut inbox = Inbox::new(ROOM);
    loop {
        let read = publisher.read(inbox.room()).await?;
        if read == 0 {
            return Ok(());
        }
        inbox.filled(read);
        let taken = inbox.frames(|_| Ok(()))?;
        for subscriber in &mut subscribers {
            subscriber.write_all(inbox.front(taken)).await?;
        }
        inbox.take(taken);
    }
}

pub async fn subscribe(opt: &Opt) -> Result<()> {
    let shared = SubShared::new(opt);
    let mut streams = Vec::new();
    for _ in 0..opt.subs {
        let mut stream = TcpStream::connect(&opt.addr).await?;
        stream.set_nodelay(true)?;
        stream.write_u8(SUBSCRIBER).await?;
        load::check(stream.read_u8().await? == TAKEN)?;
        streams.push(stream);
    }
    load::ready();
    for stream in streams {
        tokio::spawn(receive(stream, shared.meter()));
    }
    shared.finish(opt).await
}

async fn receive(mut stream: TcpStream, mut meter: SubMeter) -> Result<()> {
    let mut inbox = Inbox::new(ROOM);
    loop {
        let read = stream.read(inbox.room()).await?;
        if read == 0 {
            meter.flush();
            return Ok(());
        }
        inbox.filled(read);
        let taken = inbox.frames(|frame| {
            meter.on(body(frame));
            Ok(())
        })?;
        inbox.take(taken);
    }
}

pub async fn publish(opt: &Opt) -> Result<()> {
    let mut stream = TcpStream::connect(&opt.addr).await?;
    stream.set_nodelay(true)?;
    stream.write_u8(PUBLISHER).await?;
    // At a fixed rate each message is written at once.
    let most = if opt.rate > 0 { 1 } else { BATCH };
    load::publish(opt, &mut Batching { stream, out: Vec::new(), most }).await
}

struct Batching {
    stream: TcpStream,
    out: Vec<u8>,
    most: usize,
}

impl Publisher for Batching {
    async fn send(&mut self, message: &[u8]) -> Result<()> {
        put(&mut self.out, |out| {
            out.extend_from_slice(message);
            Ok(())
        })?;
        if self.out.len() >= self.most { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<()> {
        self.stream.write_all(&self.out).await?;
        self.out.clear();
        Ok(())
    }
}

const SUBSCRIBER: u8 = b'S';
const PUBLISHER: u8 = b'P';
const TAKEN: u8 = b'K';
const ROOM: usize = 64 * 1024;
const BATCH: usize = 32 * 1024;
