//! Calls, `--conns` by `--outstanding`, each awaited before the next of its chain.
//!
//! --mode
//!   (none)      `Client::call`
//!   then        `Client::call_then`: the callback of a call makes the next one
//!   blocking    `blocking::Client`, a thread for each call outstanding
//!   caller      `Caller`: discovery at the center, a pooled connection to the provider
//!   methods=N   `add` in turn by each of its N names; the server must have them too
//!   idle=N      beside N connections that only hold a session
use anyhow::Result;
use callboard::Client;
use load::{Meter, Opt, closed_loop};

use crate::mode::Mode;
use crate::server::{Add, Echo, add_name};
use crate::{address, idle, styles};

pub async fn run(opt: Opt) -> Result<()> {
    let mode = Mode::of(&opt);
    let _beside = idle::open(&opt, mode.value("idle", 0)?).await?;
    if mode.has("then") {
        styles::then(&opt).await
    } else if mode.has("blocking") {
        styles::blocking(&opt)
    } else if mode.has("caller") {
        styles::caller(&opt).await
    } else {
        calls(&opt, mode.value("methods", 1)?).await
    }
}

/// Connected clients, each of which has made one call.
pub async fn connect(opt: &Opt) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for _ in 0..opt.conns {
        let client = Client::connect(&address(opt)).await?;
        let sum: i64 = client.call("add", &Add { num1: 1, num2: 2 }).await?;
        load::check(sum == 3)?;
        clients.push(client);
    }
    Ok(clients)
}

async fn calls(opt: &Opt, methods: usize) -> Result<()> {
    let clients = connect(opt).await?;
    let meter = Meter::start(opt);
    let size = load::echo_size(&opt.method);
    let names: Vec<String> = (0..methods.max(1)).map(add_name).collect();
    let mut tasks = Vec::new();
    for (chain, client) in (0..).zip(clients.iter().flat_map(|client| vec![client; opt.outstanding])) {
        let (client, meter, names) = (client.clone(), meter.clone(), names.clone());
        tasks.push(tokio::spawn(async move {
            if size == 0 {
                let mut i = chain;
                closed_loop!(&meter, {
                    i += 1;
                    add(&client, &names[i % names.len()], i as i64, chain as i64).await
                })
            } else {
                let text = load::payload(size);
                closed_loop!(&meter, echo(&client, &text).await)
            }
        }));
    }
    for task in tasks {
        task.await?;
    }
    meter.finish(opt)
}

async fn add(client: &Client, method: &str, num1: i64, num2: i64) -> Result<()> {
    let sum: i64 = client.call(method, &Add { num1, num2 }).await?;
    load::check(sum == num1 + num2)
}

async fn echo(client: &Client, text: &str) -> Result<()> {
    let back: String = client.call("echo", &Echo { text: text.into() }).await?;
    load::check(back.len() == text.len())
}
