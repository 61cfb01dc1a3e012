use anyhow::{Result, bail};
use load::{Opt, Publisher, SubMeter, SubShared};
use std::io::Write as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CONNECT: &[u8] =
    b"CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"rust\",\"version\":\"0\",\"protocol\":1}\r\n";

fn line(b: &[u8]) -> Option<usize> {
    b.windows(2).position(|w| w == b"\r\n")
}

/// Handle complete operations at the start of `b`; returns bytes used.
fn parse(b: &[u8], m: &mut SubMeter, pongs: &mut usize, pings: &mut usize) -> Result<usize> {
    let mut at = 0;
    while let Some(n) = line(&b[at..]) {
        let l = &b[at..at + n];
        if l.starts_with(b"MSG ") {
            let size = l.rsplit(|c| *c == b' ').next().unwrap();
            let size: usize = std::str::from_utf8(size)?.parse()?;
            let body = at + n + 2;
            if b.len() < body + size + 2 {
                break;
            }
            m.on(&b[body..body + size]);
            at = body + size + 2;
            continue;
        }
        match l {
            b"PONG" => *pongs += 1,
            b"PING" => *pings += 1,
            _ if l.starts_with(b"INFO") || l == b"+OK" => {}
            _ => bail!("{}", String::from_utf8_lossy(l)),
        }
        at += n + 2;
    }
    Ok(at)
}

async fn pump(s: &mut TcpStream, buf: &mut [u8], have: &mut usize, m: &mut SubMeter) -> Result<usize> {
    let n = s.read(&mut buf[*have..]).await?;
    if n == 0 {
        bail!("closed");
    }
    *have += n;
    let (mut pongs, mut pings) = (0, 0);
    let at = parse(&buf[..*have], m, &mut pongs, &mut pings)?;
    buf.copy_within(at..*have, 0);
    *have -= at;
    if pings > 0 {
        s.write_all(b"PONG\r\n").await?;
    }
    Ok(pongs)
}

pub async fn sub(opt: Opt) -> Result<()> {
    let sh = SubShared::new(&opt);
    let mut v = Vec::new();
    for _ in 0..opt.subs {
        let mut s = TcpStream::connect(&opt.addr).await?;
        s.set_nodelay(true)?;
        s.write_all(CONNECT).await?;
        s.write_all(b"SUB bench.topic 1\r\nPING\r\n").await?;
        let mut m = sh.meter();
        let mut buf = vec![0u8; 64 * 1024];
        let mut have = 0;
        while pump(&mut s, &mut buf, &mut have, &mut m).await? == 0 {}
        v.push((s, buf, have, m));
    }
    load::ready();
    for (mut s, mut buf, mut have, mut m) in v {
        tokio::spawn(async move {
            while pump(&mut s, &mut buf, &mut have, &mut m).await.is_ok() {}
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
        write!(self.buf, "PUB bench.topic {}\r\n", msg.len())?;
        self.buf.extend_from_slice(msg);
        self.buf.extend_from_slice(b"\r\n");
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

pub async fn publ(opt: Opt) -> Result<()> {
    let mut s = TcpStream::connect(&opt.addr).await?;
    s.set_nodelay(true)?;
    s.write_all(CONNECT).await?;
    let limit = if opt.rate > 0 { 1 } else { 32 * 1024 };
    load::publish(&opt, &mut RawPub { s, buf: Vec::new(), limit }).await
}
