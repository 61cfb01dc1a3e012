//! etcd as a registry. client --job registry --method
//!   register   lease grant (30 s) and put under it: one operation
//!   get        linearizable get
//! --job sub | pub: `--subs` watchers, each on its own connection; one put at a time, `--rate` puts a second; latency
//! from before the put to each event
use anyhow::{Result, bail};
use etcd_client::{Client, PutOptions, WatchOptions};
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
    for i in 0..KEPT {
        let o = PutOptions::new().with_lease(shared);
        first.put(format!("/services/calc/{i}"), entry(i, 0), Some(o)).await?;
    }
    for _ in 0..opt.conns {
        let mut c = connect(&opt).await?;
        c.get("/services/calc/1", None).await?;
        clients.push(c);
    }
    let meter = Meter::start(&opt);
    let mut chains = Vec::new();
    let callers = clients.iter().flat_map(|client| std::iter::repeat_n(client, opt.outstanding));
    for (chain, client) in (0_i64..).zip(callers) {
        let (mut client, meter, register) = (client.clone(), meter.clone(), opt.method == "register");
        chains.push(tokio::spawn(async move {
            let mut i = 0;
            closed_loop!(&meter, {
                i += 1;
                if register { enter(&mut client, i, chain).await } else { look_up(&mut client, i + chain).await }
            });
        }));
    }
    for chain in chains {
        chain.await?;
    }
    meter.finish(&opt)
}

async fn look_up(client: &mut Client, i: i64) -> Result<()> {
    let found = client.get(format!("/services/calc/{}", i % KEPT), None).await?;
    load::check(matches!(found.kvs(), [entry] if entry.value().len() == 128))
}

async fn enter(client: &mut Client, i: i64, chain: i64) -> Result<()> {
    let lease = client.lease_grant(30, None).await?.id();
    let options = PutOptions::new().with_lease(lease);
    client.put(format!("/services/calc/{chain}-{}", i % KEPT), entry(i, chain), Some(options)).await?;
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

/// Entries that there are to look up, and that each registering chain keeps.
const KEPT: i64 = 100;

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
