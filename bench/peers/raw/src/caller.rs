//! The calling side: connections, each with so many requests in flight.
use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use load::{Meter, Opt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::frames::{Inbox, body, put};
use crate::json::{Add, Answer, Echo, Request, VERSION};
use crate::server::ROOM;

pub async fn run(opt: Opt) -> Result<()> {
    if opt.transport == "unix" {
        let mut streams = Vec::new();
        for _ in 0..opt.conns {
            streams.push(UnixStream::connect(&opt.addr).await?);
        }
        return load(streams, opt).await;
    }
    let mut streams = Vec::new();
    for _ in 0..opt.conns {
        let stream = TcpStream::connect(&opt.addr).await?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    load(streams, opt).await
}

async fn load<S: AsyncRead + AsyncWrite + Send + 'static>(streams: Vec<S>, opt: Opt) -> Result<()> {
    let meter = Meter::start(&opt);
    let tasks: Vec<_> =
        streams.into_iter().map(|stream| tokio::spawn(connection(stream, opt.clone(), Arc::clone(&meter)))).collect();
    for task in tasks {
        if let Err(error) = task.await? {
            meter.error(error);
        }
    }
    meter.finish(&opt)
}

/// Full duplex: reading never waits for writing.
async fn connection<S: AsyncRead + AsyncWrite>(stream: S, opt: Opt, meter: Arc<Meter>) -> Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut inbox = Inbox::new(ROOM);
    let mut calls = Calls::new(&opt)?;
    let begun = Instant::now();
    for _ in 0..opt.outstanding {
        calls.next(begun)?;
    }
    loop {
        tokio::select! { biased;
            written = writer.write(calls.unsent()), if !calls.unsent().is_empty() => calls.sent(written?),
            read = reader.read(inbox.room()) => {
                let read = read?;
                if read == 0 {
                    bail!("closed by the server");
                }
                inbox.filled(read);
                let now = Instant::now();
                let mut more = true;
                let taken = inbox.frames(|frame| {
                    more &= meter.rec(calls.answered(frame)?, now);
                    calls.next(now)
                })?;
                if !more {
                    return Ok(());
                }
                inbox.take(taken);
            }
        }
    }
}

/// The calls of one connection: what is to be sent, and what is in flight.
struct Calls {
    codec: Codec,
    out: Vec<u8>,
    sent: usize,
    in_flight: VecDeque<(u64, Instant)>,
    next_id: u64,
}

impl Calls {
    fn new(opt: &Opt) -> Result<Self> {
        Ok(Self { codec: Codec::new(opt)?, out: Vec::new(), sent: 0, in_flight: VecDeque::new(), next_id: 0 })
    }

    fn next(&mut self, now: Instant) -> Result<()> {
        self.codec.put(self.next_id, &mut self.out)?;
        self.in_flight.push_back((self.next_id, now));
        self.next_id += 1;
        Ok(())
    }

    /// Checks the answer to the oldest call, and returns when that was made.
    fn answered(&mut self, frame: &[u8]) -> Result<Instant> {
        let (id, begun) = self.in_flight.pop_front().context("an answer to no call")?;
        self.codec.check(id, frame)?;
        Ok(begun)
    }

    fn unsent(&self) -> &[u8] {
        self.out.get(self.sent..).unwrap_or_default()
    }

    fn sent(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
    }
}

/// What a request looks like on the wire, and whether an answer is right.
struct Codec {
    json: bool,
    fixed: Vec<u8>,
    text: String,
}

impl Codec {
    fn new(opt: &Opt) -> Result<Self> {
        let text = load::payload(load::echo_size(&opt.method));
        let mut fixed = Vec::new();
        put(&mut fixed, |out| {
            let numbers = [20_i64.to_be_bytes(), 22_i64.to_be_bytes()];
            out.extend_from_slice(if text.is_empty() { numbers.as_flattened() } else { text.as_bytes() });
            Ok(())
        })?;
        Ok(Self { json: opt.mode == "json", fixed, text })
    }

    fn put(&self, id: u64, out: &mut Vec<u8>) -> Result<()> {
        if !self.json {
            out.extend_from_slice(&self.fixed);
            return Ok(());
        }
        if self.text.is_empty() {
            let params = Add { num1: i64::try_from(id)?, num2: 22 };
            let request = Request { jsonrpc: VERSION, id, method: "add", params };
            return put(out, |out| Ok(serde_json::to_writer(out, &request)?));
        }
        let params = Echo { text: self.text.as_str().into() };
        let request = Request { jsonrpc: VERSION, id, method: "echo", params };
        put(out, |out| Ok(serde_json::to_writer(out, &request)?))
    }

    fn check(&self, id: u64, frame: &[u8]) -> Result<()> {
        if !self.json {
            return load::check(frame.len() == self.fixed.len());
        }
        let answer: Answer<'_> = serde_json::from_slice(body(frame))?;
        load::check(answer.id == id)?;
        if self.text.is_empty() {
            let sum: i64 = serde_json::from_str(answer.result.get())?;
            return load::check(sum == i64::try_from(id)? + 22);
        }
        let text: Cow<'_, str> = serde_json::from_str(answer.result.get())?;
        load::check(text.len() == self.text.len())
    }
}
