//! The registry of a center under a closed loop, `--conns` by `--outstanding`.
//!
//! --method
//!   register   one operation enters a method at a host that is not entered yet: a request and its answer. Each task
//!              keeps 100 entries, so with each it also takes back its oldest, by a request that is not answered.
//!   discover   one operation asks the center for the hosts of a method, and reads its answer. Nothing is cached: the
//!              request goes out each time. The methods are 100, each at one host.
//! --mode
//!   provider    register through `Provider`, one made and dropped for each entry
//!   methods=N   discover N methods that somebody else has registered as `crowd/provide.rs` does; each connection asks
//!               for 10,000 of them at most, which is what a center lets it watch
use std::collections::VecDeque;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use callboard::common::{Decode, Json, ServiceAnswer, ServiceOp, ServiceRequest};
use callboard::{Client, Host, Provider, ResultCode};
use load::{Meter, Opt, closed_loop};
use tokio::task::JoinHandle;

use crate::address;
use crate::mode::Mode;

pub async fn run(opt: Opt) -> Result<()> {
    let mut clients = Vec::new();
    for _ in 0..opt.conns {
        clients.push(Client::connect(&address(&opt)).await?);
    }
    match opt.method.as_str() {
        "register" => register(&opt, &clients).await,
        "discover" => discover(&opt, &clients).await,
        method => bail!("no such method: {method}"),
    }
}

/// The name of the `index`th method of a full registry.
pub fn method_name(index: usize) -> String {
    format!("calc.method-{index}")
}

/// Any host: the center does not connect to it.
pub fn some_host(index: usize) -> Result<Host> {
    let ip = [10, 1 + (index >> 16) as u8, (index >> 8) as u8, index as u8];
    Ok(Host::new(ip.into(), 7000)?)
}

async fn register(opt: &Opt, clients: &[Client]) -> Result<()> {
    let by_provider = Mode::of(opt).has("provider");
    let meter = Meter::start(opt);
    let mut tasks = Vec::new();
    for (task, client) in clients.iter().flat_map(|client| vec![client; opt.outstanding]).enumerate() {
        let (client, meter) = (client.clone(), meter.clone());
        let host = some_host(task)?;
        tasks.push(tokio::spawn(async move {
            let (mut i, mut kept) = (0, VecDeque::new());
            if by_provider {
                closed_loop!(&meter, {
                    i += 1;
                    announce(&client, task, i, host, &mut kept).await
                });
            } else {
                closed_loop!(&meter, {
                    i += 1;
                    enter(&client, task, i, host).await
                });
            }
            // Not dropped while others still call: so many withdrawals at once close the connection.
            kept
        }));
    }
    finish(opt, &meter, tasks).await
}

/// Enters the task's `i`th method, and takes back the one that was entered `KEPT` before it.
async fn enter(client: &Client, task: usize, i: usize, host: Host) -> Result<()> {
    if i > KEPT {
        let method = format!("calc.{task}-{}", i - KEPT);
        let oldest = ServiceRequest::new(method, ServiceOp::Withdraw).at(host);
        client.send_one_way("withdrawal", &oldest).await?;
    }
    let method = format!("calc.{task}-{i}");
    let entry = ServiceRequest::new(method, ServiceOp::Register).at(host);
    let answer = client.exchange("registration", &entry).await?;
    load::check(ServiceAnswer::decode::<Json>(answer.body())?.code == ResultCode::Ok)
}

/// The same through the type that users have for it; dropping a provider takes its entry back.
async fn announce(client: &Client, task: usize, i: usize, host: Host, kept: &mut VecDeque<Provider>) -> Result<()> {
    if kept.len() == KEPT {
        kept.pop_front();
    }
    let method = format!("calc.{task}-{i}");
    kept.push_back(Provider::new(client.clone()).announce([method], host).await?);
    Ok(())
}

async fn discover(opt: &Opt, clients: &[Client]) -> Result<()> {
    let methods = Mode::of(opt).value("methods", 0)?;
    let _provider = if methods == 0 { Some(provide(opt).await?) } else { None };
    let names: Arc<[String]> = (0..methods.max(KEPT)).map(method_name).collect();
    let meter = Meter::start(opt);
    let mut tasks = Vec::new();
    for (n, client) in clients.iter().enumerate() {
        for k in 0..opt.outstanding {
            let (client, meter, names) = (client.clone(), meter.clone(), names.clone());
            tasks.push(tokio::spawn(async move {
                let (first, count) = (n * WATCHED, names.len().min(WATCHED));
                let mut i = k * 17;
                closed_loop!(&meter, {
                    i += 1;
                    look_up(&client, &names[(first + i % count) % names.len()]).await
                })
            }));
        }
    }
    finish(opt, &meter, tasks).await
}

async fn provide(opt: &Opt) -> Result<Provider> {
    let provider = Provider::connect(address(opt)).await?;
    Ok(provider.announce((0..KEPT).map(method_name), some_host(0)?).await?)
}

async fn look_up(client: &Client, method: &str) -> Result<()> {
    let request = ServiceRequest::new(method, ServiceOp::Discover);
    let message = client.exchange("discovery", &request).await?;
    let answer = ServiceAnswer::decode::<Json>(message.body())?;
    load::check(answer.hosts.context("no hosts")?.iter().count() == 1)
}

async fn finish<T>(opt: &Opt, meter: &Meter, tasks: Vec<JoinHandle<T>>) -> Result<()> {
    let mut kept = Vec::new();
    for task in tasks {
        kept.push(task.await?);
    }
    meter.finish(opt)
}

/// Entries that each registering task keeps, and methods that are discovered by default.
const KEPT: usize = 100;
/// Methods that one connection asks for: what a center lets it watch by default.
const WATCHED: usize = 10_000;
