//! What callers do.

use std::sync::Arc;

use anyhow::Result;
use callboard_client::CallError;
use callboard_common::Executed;
use callboard_registry::Caller;
use serde::de::IgnoredAny;
use tokio::io::{BufReader, Lines, Stdin};
use tokio::task::{AbortHandle, JoinSet};

use crate::ledger::{Entry, Ledger, Told};
use crate::roles::DROP;
use crate::work::WORK;

/// Which calls to make at once.
pub(crate) struct Orders {
    pub(crate) caller: Caller,
    pub(crate) ledger: Arc<Ledger>,
    /// Their names begin with it.
    pub(crate) name: String,
    pub(crate) calls: usize,
    /// How long their parameters are.
    pub(crate) bytes: usize,
    /// Each under a key of its own.
    pub(crate) is_keyed: bool,
}

/// Makes them all, notes what it was told of each, and gives up every other one when it is told to. Prints
/// how many tries there were beside the first ones.
pub(crate) async fn make_calls(orders: Orders, mut lines: Lines<BufReader<Stdin>>) -> Result<()> {
    let (mut all, mut some, padding) = (JoinSet::new(), Vec::new(), Arc::<str>::from("x".repeat(orders.bytes)));
    for number in 0..orders.calls {
        let (call, ledger, padding) =
            (format!("{}{number}", orders.name), Arc::clone(&orders.ledger), Arc::clone(&padding));
        let caller = if orders.is_keyed { orders.caller.with_idempotency_key(&call) } else { orders.caller.clone() };
        let name = call.clone();
        let handle = all.spawn(async move {
            ledger.write(&Entry::Made(call.clone()))?;
            let answer = caller.call::<(String, IgnoredAny)>(WORK, &(&call, &*padding)).await;
            let told = told(&call, answer);
            anyhow::Ok(ledger.write(&Entry::Told(call, told))?)
        });
        if number % 2 == 1 {
            some.push((name, handle));
        }
    }
    let ledger = Arc::clone(&orders.ledger);
    let gives_up = tokio::spawn(async move {
        while let Some(line) = lines.next_line().await? {
            if line == DROP {
                give_up(&ledger, &some)?;
            }
        }
        anyhow::Ok(())
    });
    while let Some(ended) = all.join_next().await {
        match ended {
            Err(gone) if gone.is_cancelled() => {}
            ended => ended??,
        }
    }
    gives_up.abort();
    let metrics = orders.caller.retry_metrics();
    println!("{}", metrics.retries + metrics.hedges);
    Ok(())
}

/// What has ended has, and was told.
fn give_up(ledger: &Ledger, calls: &[(String, AbortHandle)]) -> Result<()> {
    for (call, handle) in calls {
        ledger.write(&Entry::GivenUp(call.clone()))?;
        handle.abort();
    }
    Ok(())
}

fn told(call: &str, answer: Result<(String, IgnoredAny), CallError>) -> Told {
    match answer {
        Ok((answered, _)) if answered == call => Told::Ok,
        Ok(_) => Told::Another,
        Err(error) => match error.executed() {
            Executed::Yes => Told::Yes,
            Executed::No => Told::No,
            Executed::Unknown => Told::Unknown,
        },
    }
}
