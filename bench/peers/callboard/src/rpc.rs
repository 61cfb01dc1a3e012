//! Calls, `--conns` by `--outstanding`, each awaited before the next of its chain.
//!
//! --mode
//!   (none)      `Client::call`
//!   then        `Client::call_then`: the callback of a call makes the next one
//!   blocking    `blocking::Client`, a thread for each call outstanding
//!   caller      `Caller`: discovery at the center, a pooled connection to the provider
//!   methods=N   `add` in turn by each of its N names; the server must have them too
//!   idle=N      beside N connections that only hold a session
use std::sync::Arc;

use anyhow::Result;
use callboard::Client;
use load::Opt;

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
    let names: Arc<[String]> = (0..methods.max(1)).map(add_name).collect();
    let caller =
        |(index, client): (usize, Client)| Named { client, names: Arc::clone(&names), first: index * opt.outstanding };
    let clients = connect(opt).await?.into_iter().enumerate().map(caller);
    load::chains!(opt, clients, tokio::spawn, add, echo)
}

/// A client, and the names that its calls go by in turn; each chain begins with another.
#[derive(Clone)]
struct Named {
    client: Client,
    names: Arc<[String]>,
    first: usize,
}

async fn add(caller: &mut Named, num1: i64, num2: i64) -> Result<()> {
    let at = caller.first + (num1 + num2) as usize;
    let name = &caller.names[at % caller.names.len()];
    let sum: i64 = caller.client.call(name, &Add { num1, num2 }).await?;
    load::check(sum == num1 + num2)
}

async fn echo(caller: &mut Named, text: &str) -> Result<()> {
    let back: String = caller.client.call("echo", &Echo { text: text.into() }).await?;
    load::check(back.len() == text.len())
}
