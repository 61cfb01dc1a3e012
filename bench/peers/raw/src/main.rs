//! The limit of the machine: length-prefixed frames over tokio sockets.
//! --mode each   server writes every reply with its own write call
//! --mode batch  server writes all replies of one read with one write call
//! --mode json   like batch, but frames carry JSON-RPC 2.0 through serde_json
//! --mode hub    pub/sub: every publisher frame goes to every subscriber socket,
//!               what one read brought is written once per subscriber
//! --mode hub-each  the same with one write call per frame and subscriber
use anyhow::{bail, Result};
use load::{Meter, Opt, Publisher, SubShared};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

const RBUF: usize = 256 * 1024;

fn main() {
    load::main_with(server, client);
}

/// Offsets of the complete frames in `b`; returns the bytes they cover.
fn frames(b: &[u8], mut f: impl FnMut(&[u8]) -> Result<()>) -> Result<usize> {
    let mut at = 0;
    while b.len() - at >= 4 {
        let n = u32::from_be_bytes(b[at..at + 4].try_into().unwrap()) as usize;
        if n > 16 << 20 {
            bail!("frame too long");
        }
        if b.len() - at < 4 + n {
            break;
        }
        f(&b[at..at + 4 + n])?;
        at += 4 + n;
    }
    Ok(at)
}

fn put_frame(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let n = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&n.to_be_bytes());
}

// ------------------------------------------------------------------ server

async fn server(opt: Opt) -> Result<()> {
    if opt.mode.starts_with("hub") {
        return hub(opt).await;
    }
    if opt.transport == "unix" {
        let _ = std::fs::remove_file(&opt.addr);
        let l = UnixListener::bind(&opt.addr)?;
        load::ready();
        loop {
            let (s, _) = l.accept().await?;
            tokio::spawn(serve(s, opt.mode.clone()));
        }
    }
    let l = TcpListener::bind(&opt.addr).await?;
    load::ready();
    loop {
        let (s, _) = l.accept().await?;
        s.set_nodelay(true)?;
        tokio::spawn(serve(s, opt.mode.clone()));
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(s: S, mode: String) {
    let r = match mode.as_str() {
        "each" => serve_each(s).await,
        "json" => serve_json(s).await,
        _ => serve_batch(s).await,
    };
    if let Err(e) = r {
        let _ = e;
    }
}

async fn serve_each<S: AsyncRead + AsyncWrite + Unpin>(mut s: S) -> Result<()> {
    let mut buf = vec![0u8; RBUF];
    let mut have = 0;
    loop {
        let n = s.read(&mut buf[have..]).await?;
        if n == 0 {
            return Ok(());
        }
        have += n;
        let mut at = 0;
        while have - at >= 4 {
            let n = u32::from_be_bytes(buf[at..at + 4].try_into().unwrap()) as usize;
            if have - at < 4 + n {
                break;
            }
            s.write_all(&buf[at..at + 4 + n]).await?;
            at += 4 + n;
        }
        buf.copy_within(at..have, 0);
        have -= at;
    }
}

async fn serve_batch<S: AsyncRead + AsyncWrite + Unpin>(mut s: S) -> Result<()> {
    let mut buf = vec![0u8; RBUF];
    let mut have = 0;
    loop {
        let n = s.read(&mut buf[have..]).await?;
        if n == 0 {
            return Ok(());
        }
        have += n;
        let at = frames(&buf[..have], |_| Ok(()))?;
        s.write_all(&buf[..at]).await?;
        buf.copy_within(at..have, 0);
        have -= at;
    }
}

#[derive(Deserialize)]
struct Req<'a> {
    #[serde(borrow)]
    jsonrpc: &'a str,
    id: u64,
    #[serde(borrow)]
    method: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    params: &'a RawValue,
}

#[derive(Serialize)]
struct Resp<R> {
    jsonrpc: &'static str,
    id: u64,
    result: R,
}

#[derive(Deserialize, Serialize)]
struct AddParams {
    num1: i64,
    num2: i64,
}

#[derive(Deserialize, Serialize)]
struct EchoParams<'a> {
    #[serde(borrow)]
    text: std::borrow::Cow<'a, str>,
}

type Handler = Box<dyn Fn(u64, &str, &mut Vec<u8>) -> Result<()> + Send + Sync>;

fn table() -> HashMap<&'static str, Handler> {
    let mut t: HashMap<&'static str, Handler> = HashMap::new();
    t.insert(
        "add",
        Box::new(|id, p, out| {
            let p: AddParams = serde_json::from_str(p)?;
            serde_json::to_writer(out, &Resp { jsonrpc: "2.0", id, result: p.num1 + p.num2 })?;
            Ok(())
        }),
    );
    t.insert(
        "echo",
        Box::new(|id, p, out| {
            let p: EchoParams = serde_json::from_str(p)?;
            serde_json::to_writer(out, &Resp { jsonrpc: "2.0", id, result: p.text })?;
            Ok(())
        }),
    );
    t
}

async fn serve_json<S: AsyncRead + AsyncWrite + Unpin>(mut s: S) -> Result<()> {
    let t = table();
    let mut buf = vec![0u8; RBUF];
    let mut out = Vec::with_capacity(RBUF);
    let mut have = 0;
    loop {
        let n = s.read(&mut buf[have..]).await?;
        if n == 0 {
            return Ok(());
        }
        have += n;
        let at = frames(&buf[..have], |f| {
            let r: Req = serde_json::from_slice(&f[4..])?;
            if r.jsonrpc != "2.0" {
                bail!("not 2.0");
            }
            let Some(h) = t.get(r.method.as_ref()) else { bail!("no method") };
            let mut res = Ok(());
            put_frame(&mut out, |o| res = h(r.id, r.params.get(), o));
            res
        })?;
        if !out.is_empty() {
            s.write_all(&out).await?;
            out.clear();
        }
        buf.copy_within(at..have, 0);
        have -= at;
    }
}

// ------------------------------------------------------------------ client

async fn client(opt: Opt) -> Result<()> {
    match opt.job.as_str() {
        "sub" => return sub(opt).await,
        "pub" => return publ(opt).await,
        "idle" => return load::idle(&opt, vec![], false).await,
        _ => {}
    }
    let mut tasks = Vec::new();
    if opt.transport == "unix" {
        let mut v = Vec::new();
        for _ in 0..opt.conns {
            v.push(UnixStream::connect(&opt.addr).await?);
        }
        let m = Meter::start(&opt);
        for s in v {
            tasks.push(tokio::spawn(conn(s, opt.clone(), m.clone())));
        }
        return done(tasks, m, opt).await;
    }
    let mut v = Vec::new();
    for _ in 0..opt.conns {
        let s = TcpStream::connect(&opt.addr).await?;
        s.set_nodelay(true)?;
        v.push(s);
    }
    let m = Meter::start(&opt);
    for s in v {
        tasks.push(tokio::spawn(conn(s, opt.clone(), m.clone())));
    }
    done(tasks, m, opt).await
}

async fn done(t: Vec<tokio::task::JoinHandle<Result<()>>>, m: Arc<Meter>, opt: Opt) -> Result<()> {
    for t in t {
        if let Err(e) = t.await? {
            m.error(e);
        }
    }
    m.finish(&opt)
}

/// What one request looks like on the wire, and whether a reply is right.
struct Codec {
    json: bool,
    fixed: Vec<u8>,
    text: String,
}

#[derive(Serialize)]
struct CReq<'a, P> {
    jsonrpc: &'static str,
    id: u64,
    method: &'a str,
    params: P,
}

#[derive(Deserialize)]
struct CResp<'a> {
    id: u64,
    #[serde(borrow)]
    result: &'a RawValue,
}

impl Codec {
    fn new(opt: &Opt) -> Codec {
        let n = load::echo_size(&opt.method);
        let text = load::payload(n);
        let mut fixed = Vec::new();
        put_frame(&mut fixed, |o| {
            if n == 0 {
                o.extend_from_slice(&20i64.to_be_bytes());
                o.extend_from_slice(&22i64.to_be_bytes());
            } else {
                o.extend_from_slice(text.as_bytes());
            }
        });
        Codec { json: opt.mode == "json", fixed, text }
    }

    fn put(&self, id: u64, out: &mut Vec<u8>) {
        if !self.json {
            out.extend_from_slice(&self.fixed);
        } else if self.text.is_empty() {
            let r = CReq { jsonrpc: "2.0", id, method: "add", params: AddParams { num1: id as i64, num2: 22 } };
            put_frame(out, |o| serde_json::to_writer(o, &r).unwrap());
        } else {
            let p = EchoParams { text: self.text.as_str().into() };
            let r = CReq { jsonrpc: "2.0", id, method: "echo", params: p };
            put_frame(out, |o| serde_json::to_writer(o, &r).unwrap());
        }
    }

    fn check(&self, id: u64, f: &[u8]) -> Result<()> {
        if !self.json {
            return load::check(f.len() == self.fixed.len());
        }
        let r: CResp = serde_json::from_slice(&f[4..])?;
        load::check(r.id == id)?;
        if self.text.is_empty() {
            let v: i64 = serde_json::from_str(r.result.get())?;
            load::check(v == id as i64 + 22)
        } else {
            let v: std::borrow::Cow<str> = serde_json::from_str(r.result.get())?;
            load::check(v.len() == self.text.len())
        }
    }
}

/// One connection with `outstanding` requests in flight, full duplex.
async fn conn<S: AsyncRead + AsyncWrite>(s: S, opt: Opt, m: Arc<Meter>) -> Result<()> {
    let c = Codec::new(&opt);
    let (mut rd, mut wr) = tokio::io::split(s);
    let mut buf = vec![0u8; RBUF];
    let (mut have, mut sent, mut next) = (0, 0, 0u64);
    let mut out = Vec::new();
    let mut q = VecDeque::new();
    let now = Instant::now();
    for _ in 0..opt.outstanding {
        c.put(next, &mut out);
        q.push_back((next, now));
        next += 1;
    }
    loop {
        tokio::select! { biased;
            w = wr.write(&out[sent..]), if sent < out.len() => {
                sent += w?;
                if sent == out.len() {
                    out.clear();
                    sent = 0;
                }
            }
            r = rd.read(&mut buf[have..]) => {
                let n = r?;
                if n == 0 {
                    bail!("server closed");
                }
                have += n;
                let now = Instant::now();
                let mut more = true;
                let at = frames(&buf[..have], |f| {
                    let Some((id, t0)) = q.pop_front() else { bail!("unexpected reply") };
                    c.check(id, f)?;
                    more &= m.rec(t0, now);
                    c.put(next, &mut out);
                    q.push_back((next, now));
                    next += 1;
                    Ok(())
                })?;
                if !more {
                    return Ok(());
                }
                buf.copy_within(at..have, 0);
                have -= at;
            }
        }
    }
}

// ------------------------------------------------------------------ pub/sub

type Subs = Arc<Mutex<Vec<tokio::net::tcp::OwnedWriteHalf>>>;

async fn hub(opt: Opt) -> Result<()> {
    let subs: Subs = Arc::default();
    let sock = tokio::net::TcpSocket::new_v4()?;
    sock.set_reuseaddr(true)?;
    if opt.mode == "hub-each" {
        // else the publisher's kernel buffers hold minutes of this mode's work
        sock.set_recv_buffer_size(32 * 1024)?;
    }
    sock.bind(opt.addr.parse()?)?;
    let l = sock.listen(1024)?;
    load::ready();
    loop {
        let (mut s, _) = l.accept().await?;
        s.set_nodelay(true)?;
        let mut role = [0u8];
        s.read_exact(&mut role).await?;
        if role[0] == b'S' {
            s.write_all(b"K").await?;
            let (rd, wr) = s.into_split();
            std::mem::forget(rd);
            subs.lock().unwrap().push(wr);
            continue;
        }
        let each = opt.mode == "hub-each";
        let mut out = std::mem::take(&mut *subs.lock().unwrap());
        tokio::spawn(async move {
            let mut buf = vec![0u8; 64 * 1024];
            let mut have = 0;
            loop {
                let n = s.read(&mut buf[have..]).await?;
                if n == 0 {
                    return anyhow::Ok(());
                }
                have += n;
                let mut at = 0;
                if each {
                    while have - at >= 4 {
                        let n = u32::from_be_bytes(buf[at..at + 4].try_into().unwrap()) as usize;
                        if have - at < 4 + n {
                            break;
                        }
                        for o in &mut out {
                            o.write_all(&buf[at..at + 4 + n]).await?;
                        }
                        at += 4 + n;
                    }
                } else {
                    at = frames(&buf[..have], |_| Ok(()))?;
                    for o in &mut out {
                        o.write_all(&buf[..at]).await?;
                    }
                }
                buf.copy_within(at..have, 0);
                have -= at;
            }
        });
    }
}

async fn sub(opt: Opt) -> Result<()> {
    let sh = SubShared::new(&opt);
    let mut v = Vec::new();
    for _ in 0..opt.subs {
        let mut s = TcpStream::connect(&opt.addr).await?;
        s.set_nodelay(true)?;
        s.write_all(b"S").await?;
        let mut k = [0u8];
        s.read_exact(&mut k).await?;
        v.push(s);
    }
    load::ready();
    for mut s in v {
        let mut m = sh.meter();
        tokio::spawn(async move {
            let mut buf = vec![0u8; 64 * 1024];
            let mut have = 0;
            while let Ok(n) = s.read(&mut buf[have..]).await {
                if n == 0 {
                    break;
                }
                have += n;
                let at = frames(&buf[..have], |f| {
                    m.on(&f[4..]);
                    Ok(())
                });
                let Ok(at) = at else { break };
                buf.copy_within(at..have, 0);
                have -= at;
            }
            m.flush();
        });
    }
    sh.finish(&opt).await
}

struct RawPub {
    s: TcpStream,
    buf: Vec<u8>,
    limit: usize,
}

impl Publisher for RawPub {
    async fn send(&mut self, msg: &[u8]) -> Result<()> {
        put_frame(&mut self.buf, |o| o.extend_from_slice(msg));
        if self.buf.len() >= self.limit {
            self.flush().await?;
        }
        Ok(())
    }
    async fn flush(&mut self) -> Result<()> {
        self.s.write_all(&self.buf).await?;
        self.buf.clear();
        Ok(())
    }
}

async fn publ(opt: Opt) -> Result<()> {
    let sock = tokio::net::TcpSocket::new_v4()?;
    if opt.mode == "hub-each" {
        sock.set_send_buffer_size(32 * 1024)?;
    }
    let mut s = sock.connect(opt.addr.parse()?).await?;
    s.set_nodelay(true)?;
    s.write_all(b"P").await?;
    // paced mode: one write per message; full speed: buffered
    let limit = if opt.rate > 0 || opt.mode == "hub-each" { 1 } else { 32 * 1024 };
    load::publish(&opt, &mut RawPub { s, buf: Vec::new(), limit }).await
}
