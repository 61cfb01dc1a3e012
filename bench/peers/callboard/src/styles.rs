//! The other ways to call: by callback, from blocking threads, and through discovery.
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use callboard::{CallError, Caller, Client, blocking};
use load::{Meter, Opt};
use tokio::sync::mpsc;

use crate::address;
use crate::rpc::connect;
use crate::server::{Add, Echo};

/// Chains of calls whose callback makes the next one.
pub async fn then(opt: &Opt) -> Result<()> {
    let clients = connect(opt).await?;
    let meter = Meter::start(opt);
    // Ends when the last chain has dropped its sender.
    let (running, mut ended) = mpsc::channel::<()>(1);
    for client in clients {
        for num2 in 0..opt.outstanding as i64 {
            let (client, meter, running) = (client.clone(), meter.clone(), running.clone());
            Arc::new(Chain { client, meter, num2, _running: running }).next(0);
        }
    }
    drop(running);
    ended.recv().await;
    meter.finish(opt)
}

struct Chain {
    client: Client,
    meter: Arc<Meter>,
    num2: i64,
    _running: mpsc::Sender<()>,
}

impl Chain {
    /// A chain ends with its first error, which the meter then tells.
    fn next(self: Arc<Self>, num1: i64) {
        let (chain, begun) = (Arc::clone(&self), Instant::now());
        let sent =
            self.client.call_then(
                "add",
                &Add { num1, num2: self.num2 },
                move |sum: Result<i64, CallError>| match sum {
                    Ok(sum) if sum == num1 + chain.num2 => {
                        if chain.meter.rec(begun, Instant::now()) {
                            chain.next(num1 + 1);
                        }
                    }
                    Ok(_) => chain.meter.error("wrong answer"),
                    Err(error) => chain.meter.error(error),
                },
            );
        if let Err(error) = sent {
            self.meter.error(error);
        }
    }
}

/// Threads that wait for each call, `--outstanding` of them a connection.
pub fn blocking(opt: &Opt) -> Result<()> {
    // On a thread of its own, since this one belongs to a runtime.
    std::thread::scope(|scope| scope.spawn(|| blocking_threads(opt)).join()).map_err(|_| anyhow::anyhow!("panicked"))?
}

fn blocking_threads(opt: &Opt) -> Result<()> {
    let clients: Vec<_> =
        (0..opt.conns).map(|_| blocking::Client::connect(address(opt))).collect::<Result<_, CallError>>()?;
    let meter = Meter::start(opt);
    std::thread::scope(|scope| {
        for client in &clients {
            for num2 in 0..opt.outstanding as i64 {
                let meter = &meter;
                scope.spawn(move || blocking_calls(client, meter, num2));
            }
        }
    });
    meter.finish(opt)
}

fn blocking_calls(client: &blocking::Client, meter: &Meter, num2: i64) {
    for num1 in 0.. {
        let begun = Instant::now();
        match client.call::<i64>("add", &Add { num1, num2 }) {
            Ok(sum) if sum == num1 + num2 => {}
            Ok(_) => return meter.error("wrong answer"),
            Err(error) => return meter.error(error),
        }
        if !meter.rec(begun, Instant::now()) {
            return;
        }
    }
}

/// Callers, `--conns` of them, each with its own connections.
pub async fn caller(opt: &Opt) -> Result<()> {
    let mut callers = Vec::new();
    for _ in 0..opt.conns {
        let mut caller = Caller::connect(address(opt)).await?;
        add(&mut caller, 1, 2).await?;
        callers.push(caller);
    }
    load::chains!(opt, callers, tokio::spawn, add, echo)
}

async fn add(caller: &mut Caller, num1: i64, num2: i64) -> Result<()> {
    let sum: i64 = caller.call("add", &Add { num1, num2 }).await?;
    load::check(sum == num1 + num2)
}

async fn echo(caller: &mut Caller, text: &str) -> Result<()> {
    let back: String = caller.call("echo", &Echo { text: text.into() }).await?;
    load::check(back.len() == text.len())
}
