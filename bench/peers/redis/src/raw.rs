use anyhow::{Result, bail};
use load::{Opt, Publisher, SubMeter, SubShared};
use std::io::Write as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SUBSCRIBE: &[u8] = b"*2\r\n$9\r\nSUBSCRIBE\r\n$11\r\nbench.topic\r\n";
const SUBSCRIBED: &[u8] = b"*3\r\n$9\r\nsubscribe\r\n$11\r\nbench.topic\r\n:1\r\n";
const MESSAGE: &[u8] = b"*3\r\n$7\r\nmessage\r\n$11\r\nbench.topic\r\n$";

/// Handle complete messages at the start of `b`; returns bytes used.
fn parse(b: &[u8], m: &mut SubMeter) -> Result<usize> {
    let mut at = 0;
    loop {
        let r = &b[at..];
        if r.len() < MESSAGE.len() {
            return Ok(at);
        }
        if !r.starts_with(MESSAGE) {
            bail!("unexpected reply");
        }
        let r = &r[MESSAGE.len()..];
        let Some(n) = r.iter().position(|c| *c == b'\r') else { return Ok(at) };
        let size: usize = std::str::from_utf8(&r[..n])?.parse()?;
        let body = n + 2;
        if r.len() < body + size + 2 {
            return Ok(at);
        }
        m.on(&r[body..body + size]);
        at += MESSAGE.len() + body + size + 2;
    }
}

pub async fn sub(opt: Opt) -> Result<()> {
    let sh = SubShared::new(&opt);
    let mut v = Vec::new();
    for _ in 0..opt.subs {
        let mut s = TcpStream::connect(&opt.addr).await?;
        s.set_nodelay(true)?;
        s.write_all(SUBSCRIBE).await?;
        let mut r = vec![0u8; SUBSCRIBED.len()];
        s.read_exact(&mut r).await?;
        load::check(r == SUBSCRIBED)?;
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
                let Ok(at) = parse(&buf[..have], &mut m) else { break };
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
    queued: usize,
    flying: usize,
    batch: usize,
}

impl RawPub {
    /// Read replies until at most `n` publishes are unanswered.
    async fn settle(&mut self, n: usize) -> Result<()> {
        let mut b = [0u8; 4096];
        while self.flying > n {
            let k = self.s.read(&mut b).await?;
            if k == 0 {
                bail!("closed");
            }
            self.flying -= b[..k].iter().filter(|c| **c == b'\n').count();
        }
        Ok(())
    }
    async fn push(&mut self) -> Result<()> {
        self.s.write_all(&self.buf).await?;
        self.buf.clear();
        self.flying += std::mem::take(&mut self.queued);
        self.settle(192).await
    }
}

impl Publisher for RawPub {
    async fn send(&mut self, msg: &[u8]) -> Result<()> {
        write!(self.buf, "*3\r\n$7\r\nPUBLISH\r\n$11\r\nbench.topic\r\n${}\r\n", msg.len())?;
        self.buf.extend_from_slice(msg);
        self.buf.extend_from_slice(b"\r\n");
        self.queued += 1;
        if self.queued >= self.batch {
            self.push().await?;
        }
        Ok(())
    }
    async fn flush(&mut self) -> Result<()> {
        self.push().await?;
        self.settle(0).await
    }
}

pub async fn publ(opt: Opt) -> Result<()> {
    let s = TcpStream::connect(&opt.addr).await?;
    s.set_nodelay(true)?;
    let batch = if opt.rate > 0 { 1 } else { 64 };
    load::publish(&opt, &mut RawPub { s, buf: Vec::new(), queued: 0, flying: 0, batch }).await
}
