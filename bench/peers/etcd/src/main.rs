//! etcd as a registry. client --job registry --method
//!   register   lease grant (30 s) and put under it: one operation
//!   put        put of one's own entry under one's own lease (an update)
//!   heartbeat  lease keep-alive and its answer, a stream per client task
//!   get        linearizable get (default)    get-local  serializable get
//!   watch      --subs watchers, each on its own connection; one put at a time,
//!              --rate puts/s; latency from before the put to each event
use anyhow::{Result, bail};
use etcd_client::{Client, GetOptions, PutOptions, WatchOptions};
use load::{Meter, Opt, Publisher, SubShared, closed_loop};

fn main() {
    load::main_with(|_| async { bail!("start etcd itself") }, client);
}

async fn connect(opt: &Opt) -> Result<Client> {
    Ok(Client::connect([opt.addr.clone()], None).await?)
}

/// What a registry entry looks like, about 128 bytes.
fn entry(i: i64, k: i64) -> Vec<u8> {
    let mut v = format!("{{\"service\":\"calc\",\"addr\":\"127.0.0.1:{k}\",\"instance\":{i},\"meta\":\"").into_bytes();
    v.resize(126, b'x');
    v.extend_from_slice(b"\"}");
    v
}

async fn client(opt: Opt) -> Result<()> {
    match opt.job.as_str() {
        "sub" => return watchers(opt).await,
        "pub" => {
            let c = connect(&opt).await?;
            return load::publish(&opt, &mut EtcdPub(c)).await;
        }
        _ => {}
    }
    let mut clients = Vec::new();
    let mut first = connect(&opt).await?;
    let shared = first.lease_grant(120, None).await?.id();
    for i in 0..100i64 {
        let o = PutOptions::new().with_lease(shared);
        first.put(format!("/services/calc/{i}"), entry(i, 0), Some(o)).await?;
    }
    for _ in 0..opt.conns {
        let mut c = connect(&opt).await?;
        c.get("/services/calc/1", None).await?;
        clients.push(c);
    }
    let mut tasks = Vec::new();
    let mut ready = Vec::new();
    for (n, c) in clients.into_iter().enumerate() {
        for k in 0..opt.outstanding as i64 {
            let mut c = c.clone();
            let k = k + (n as i64) * 1000;
            let lease = c.lease_grant(120, None).await?.id();
            ready.push((c, k, lease));
        }
    }
    let m = Meter::start(&opt);
    for (mut c, k, lease) in ready {
        let m = m.clone();
        let method = opt.method.clone();
        tasks.push(tokio::spawn(async move {
            let mut i = 0i64;
            match method.as_str() {
                "register" => closed_loop!(&m, {
                    i += 1;
                    register(&mut c, i, k).await
                }),
                "put" => closed_loop!(&m, {
                    i += 1;
                    let o = PutOptions::new().with_lease(lease);
                    match c.put(format!("/services/calc/{k}"), entry(i, k), Some(o)).await {
                        Ok(_) => Ok(()),
                        Err(e) => Err(e.into()),
                    }
                }),
                "heartbeat" => {
                    let (mut keep, mut answers) = match c.lease_keep_alive(lease).await {
                        Ok(x) => x,
                        Err(e) => return m.error(e),
                    };
                    closed_loop!(&m, {
                        match keep.keep_alive().await {
                            Ok(()) => match answers.message().await {
                                Ok(Some(r)) => load::check(r.ttl() > 0),
                                Ok(None) => Err(anyhow::anyhow!("stream ended")),
                                Err(e) => Err(e.into()),
                            },
                            Err(e) => Err(e.into()),
                        }
                    })
                }
                _ => closed_loop!(&m, {
                    i += 1;
                    let o = (method == "get-local").then(|| GetOptions::new().with_serializable());
                    match c.get(format!("/services/calc/{}", (i + k) % 100), o).await {
                        Ok(r) => load::check(r.kvs().len() == 1 && r.kvs()[0].value().len() == 128),
                        Err(e) => Err(e.into()),
                    }
                }),
            }
        }));
    }
    for t in tasks {
        t.await?;
    }
    m.finish(&opt)
}

async fn register(c: &mut Client, i: i64, k: i64) -> Result<()> {
    let l = c.lease_grant(30, None).await?.id();
    let o = PutOptions::new().with_lease(l);
    c.put(format!("/services/calc/{k}-{}", i % 100), entry(i, k), Some(o)).await?;
    Ok(())
}

async fn watchers(opt: Opt) -> Result<()> {
    let sh = SubShared::new(&opt);
    let mut v = Vec::new();
    for _ in 0..opt.subs {
        let mut c = connect(&opt).await?;
        let mut s = c.watch("/bench/", Some(WatchOptions::new().with_prefix())).await?;
        let r = s.message().await?;
        load::check(r.is_some_and(|r| r.created()))?;
        v.push((c, s));
    }
    load::ready();
    for (c, mut s) in v {
        let mut m = sh.meter();
        tokio::spawn(async move {
            while let Ok(Some(r)) = s.message().await {
                for e in r.events() {
                    if let Some(kv) = e.kv() {
                        m.on(kv.value());
                    }
                }
            }
            m.flush();
            drop(c);
        });
    }
    sh.finish(&opt).await
}

struct EtcdPub(Client);

impl Publisher for EtcdPub {
    async fn send(&mut self, msg: &[u8]) -> Result<()> {
        self.0.put("/bench/key", msg, None).await?;
        Ok(())
    }
    async fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}
