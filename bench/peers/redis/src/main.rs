//! redis-server PUBLISH/SUBSCRIBE with the redis crate.
//! client --job sub | pub | idle; pub --mode await (one PUBLISH in flight, the
//! reply is awaited) or pipe (64 PUBLISH per pipeline). Paced runs await each.
use anyhow::{Result, bail};
use futures::StreamExt;
use load::{Opt, Publisher, SubShared};
use redis::IntoConnectionInfo;
use redis::aio::MultiplexedConnection;

fn main() {
    load::main_with(|_| async { bail!("start redis-server itself") }, client);
}

fn open(opt: &Opt) -> Result<redis::Client> {
    let i = if opt.transport == "unix" {
        format!("redis+unix://{}", opt.addr).into_connection_info()?
    } else {
        format!("redis://{}", opt.addr).into_connection_info()?
    };
    let tcp = i.tcp_settings().clone().set_nodelay(true);
    Ok(redis::Client::open(i.set_tcp_settings(tcp))?)
}

async fn client(opt: Opt) -> Result<()> {
    match opt.job.as_str() {
        "sub" => sub(opt).await,
        "pub" => {
            let c = open(&opt)?.get_multiplexed_async_connection().await?;
            let batch = if opt.mode == "pipe" && opt.rate == 0 { 64 } else { 1 };
            load::publish(&opt, &mut RedisPub { c, pipe: redis::pipe(), n: 0, batch }).await
        }
        "idle" => {
            let hello: &[u8] =
                if opt.with_sub { b"*2\r\n$9\r\nSUBSCRIBE\r\n$17\r\nsome.subject.name\r\n" } else { b"PING\r\n" };
            load::idle(&opt, hello.to_vec(), true).await
        }
        _ => bail!("no such job"),
    }
}

async fn sub(opt: Opt) -> Result<()> {
    let sh = SubShared::new(&opt);
    let mut v = Vec::new();
    for _ in 0..opt.subs {
        let mut s = open(&opt)?.get_async_pubsub().await?;
        s.subscribe("bench.topic").await?;
        v.push(s);
    }
    load::ready();
    for s in v {
        let mut m = sh.meter();
        tokio::spawn(async move {
            let mut s = s.into_on_message();
            while let Some(msg) = s.next().await {
                m.on(msg.get_payload_bytes());
            }
            m.flush();
        });
    }
    sh.finish(&opt).await
}

struct RedisPub {
    c: MultiplexedConnection,
    pipe: redis::Pipeline,
    n: usize,
    batch: usize,
}

impl Publisher for RedisPub {
    async fn send(&mut self, msg: &[u8]) -> Result<()> {
        if self.batch == 1 {
            redis::cmd("PUBLISH").arg("bench.topic").arg(msg).exec_async(&mut self.c).await?;
            return Ok(());
        }
        self.pipe.cmd("PUBLISH").arg("bench.topic").arg(msg).ignore();
        self.n += 1;
        if self.n == self.batch {
            self.flush().await?;
        }
        Ok(())
    }
    async fn flush(&mut self) -> Result<()> {
        if self.n > 0 {
            self.pipe.exec_async(&mut self.c).await?;
            self.pipe.clear();
            self.n = 0;
        }
        Ok(())
    }
}
