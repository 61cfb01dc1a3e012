//! NATS through nats-server with async-nats.
//! server: the responder process of request-reply (one connection), payloads as bytes; `add` is a JSON array.
//! client: rpc | sub | pub | idle
//! --mode deep: subscriptions queue up to 8 million messages in the client; the default of async-nats (65,536) drops
//! what its reader task outruns.
use anyhow::Result;
use bytes::Bytes;
use futures::StreamExt;
use load::{Opt, Publisher, SubShared};

fn main() {
    load::main_with(server, client);
}

async fn connect(opt: &Opt) -> Result<async_nats::Client> {
    let mut o = async_nats::ConnectOptions::new();
    if opt.mode == "deep" {
        o = o.subscription_capacity(8 << 20);
    }
    Ok(o.connect(format!("nats://{}", opt.addr)).await?)
}

async fn server(opt: Opt) -> Result<()> {
    let c = connect(&opt).await?;
    let mut add = c.subscribe("calc.add").await?;
    let mut echo = c.subscribe("calc.echo").await?;
    c.flush().await?;
    load::ready();
    let c2 = c.clone();
    let t = tokio::spawn(async move {
        while let Some(m) = add.next().await {
            let (a, b): (i64, i64) = serde_json::from_slice(&m.payload)?;
            if let Some(r) = m.reply {
                c2.publish(r, serde_json::to_vec(&(a + b))?.into()).await?;
            }
        }
        anyhow::Ok(())
    });
    while let Some(m) = echo.next().await {
        if let Some(r) = m.reply {
            c.publish(r, m.payload).await?;
        }
    }
    t.await?
}

async fn client(opt: Opt) -> Result<()> {
    match opt.job.as_str() {
        "sub" => return sub(opt).await,
        "pub" => {
            let c = connect(&opt).await?;
            return load::publish(&opt, &mut NatsPub(c)).await;
        }
        "idle" => {
            let mut h = b"CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"rust\",\"version\":\"0\",\"protocol\":1}\r\n".to_vec();
            if opt.with_sub {
                h.extend_from_slice(b"SUB some.subject.name 1\r\n");
            }
            h.extend_from_slice(b"PING\r\n");
            return load::idle(&opt, h, true).await;
        }
        _ => {}
    }
    let mut clients = Vec::new();
    for _ in 0..opt.conns {
        let c = connect(&opt).await?;
        let r = c.request("calc.add", Bytes::from_static(b"[1,2]")).await?;
        load::check(&r.payload[..] == b"3")?;
        clients.push(c);
    }
    load::chains!(&opt, clients, tokio::spawn, add, echo, Bytes::from)
}

async fn add(client: &mut async_nats::Client, num1: i64, num2: i64) -> Result<()> {
    let request = serde_json::to_vec(&(num1, num2))?;
    let reply = client.request("calc.add", request.into()).await?;
    load::check(serde_json::from_slice::<i64>(&reply.payload)? == num1 + num2)
}

async fn echo(client: &mut async_nats::Client, text: &Bytes) -> Result<()> {
    let reply = client.request("calc.echo", text.clone()).await?;
    load::check(reply.payload.len() == text.len())
}

async fn sub(opt: Opt) -> Result<()> {
    let sh = SubShared::new(&opt);
    let mut v = Vec::new();
    for _ in 0..opt.subs {
        let c = connect(&opt).await?;
        let s = c.subscribe("bench.topic").await?;
        c.flush().await?;
        v.push((c, s));
    }
    // a flush only says the bytes left; give the server time to take them
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    load::ready();
    let mut keep = Vec::new();
    for (c, mut s) in v {
        keep.push(c);
        let mut m = sh.meter();
        tokio::spawn(async move {
            while let Some(msg) = s.next().await {
                m.on(&msg.payload);
            }
            m.flush();
        });
    }
    sh.finish(&opt).await
}

struct NatsPub(async_nats::Client);

impl Publisher for NatsPub {
    async fn send(&mut self, msg: &[u8]) -> Result<()> {
        self.0.publish("bench.topic", Bytes::copy_from_slice(msg)).await?;
        Ok(())
    }
    async fn flush(&mut self) -> Result<()> {
        self.0.flush().await?;
        Ok(())
    }
}
