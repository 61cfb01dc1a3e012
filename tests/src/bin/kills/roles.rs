//! What runs in a process of its own.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use callboard_center::Center;
use callboard_common::Executed;
use callboard_net::Address;
use callboard_registry::{Caller, Provider};
use callboard_server::{Method, MethodError, Router, Server};
use clap::Subcommand;
use serde::de::IgnoredAny;
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin, stdin};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::ledger::{Entry, Ledger, Told};
use crate::part::PATIENCE;

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Role {
    /// Prints a line when it listens; leaves when its input ends
    Center { address: String },
    /// Prints its port when it is announced; lets its calls go when told to, says how many it has when asked
    Provider {
        center: String,
        ledger: PathBuf,
        /// How many calls may run at once
        concurrency: usize,
        /// How long its answers are
        bytes: usize,
    },
    /// Prints a line when it is ready, calls when it gets one, and ends when all calls have
    Caller {
        center: String,
        ledger: PathBuf,
        /// The calls' names begin with it
        name: String,
        calls: usize,
        /// How long their parameters are
        bytes: usize,
        /// Connect to both providers first
        #[arg(long)]
        warm: bool,
        /// Call as if the method were idempotent, which it is not
        #[arg(long)]
        careless: bool,
    },
}

impl Role {
    pub(crate) async fn run(self) -> Result<()> {
        match self {
            Self::Center { address } => center(address).await?,
            Self::Provider { center, ledger, concurrency, bytes } => {
                provide(&center, Ledger::open(&ledger)?, concurrency, bytes).await?;
            }
            Self::Caller { center, ledger, name, calls, bytes, warm, careless } => {
                let ledger = Ledger::open(&ledger)?;
                let caller = Caller::connect(&center).await?.with_timeout(CALL_TIMEOUT);
                if warm {
                    timeout(PATIENCE, reach_both(&caller)).await.context("the providers are not reached")??;
                }
                println!("ready");
                lines().next_line().await?;
                let caller = if careless { caller.idempotent() } else { caller };
                make_calls(caller, ledger, &name, calls, bytes).await?;
            }
        }
        // A thread that still reads the input would be waited for.
        std::process::exit(0)
    }
}

async fn center(address: String) -> Result<()> {
    let center = Center::builder().listen(address).loops(1).start().await?;
    println!("{}", center.address());
    let mut lines = lines();
    while lines.next_line().await?.is_some() {}
    center.shutdown().await;
    Ok(())
}

async fn provide(center: &str, ledger: Ledger, concurrency: usize, bytes: usize) -> Result<()> {
    let (go, let_go) = watch::channel(false);
    let work = Method::new(WORK).concurrency(concurrency);
    let router =
        Router::new().method(WARM, |(): ()| Ok(std::process::id())).method_async(work, work_of(ledger, let_go, bytes));
    let names = router.names();
    let server = Server::builder().router(router).loops(1).listen("127.0.0.1:0").start().await?;
    let provider = Provider::connect(center).await?.announce(names, server.addresses()).await?;
    let address = server.addresses().first().and_then(Address::to_socket_addr).context("it listens")?;
    println!("{}", address.port());
    let mut lines = lines();
    while let Some(line) = lines.next_line().await? {
        match line.as_str() {
            GO => drop(go.send_replace(true)),
            _ => println!("{}", server.in_flight()),
        }
    }
    let _ = provider.withdraw().await; // perhaps the center was killed
    server.shutdown().await;
    Ok(())
}

/// The handler: it notes that it has begun, waits until calls may end, notes that it has done its work, and answers.
fn work_of(
    ledger: Ledger,
    let_go: watch::Receiver<bool>,
    bytes: usize,
) -> impl Fn((String, IgnoredAny)) -> Answer + Send + Sync + 'static {
    let (ledger, padding): (_, Arc<str>) = (Arc::new(ledger), "x".repeat(bytes).into());
    move |(call, _)| {
        let (ledger, padding, mut let_go) = (Arc::clone(&ledger), Arc::clone(&padding), let_go.clone());
        let began = ledger.write(&Entry::Began(call.clone()));
        Box::pin(async move {
            began?;
            let_go.wait_for(|go| *go).await?;
            ledger.write(&Entry::Ended(call.clone()))?;
            Ok((call, padding.to_string()))
        })
    }
}

/// Makes all calls at once, and notes what it was told of each.
async fn make_calls(caller: Caller, ledger: Ledger, name: &str, calls: usize, bytes: usize) -> Result<()> {
    let (ledger, padding): (_, Arc<str>) = (Arc::new(ledger), "x".repeat(bytes).into());
    let mut all = JoinSet::new();
    for number in 0..calls {
        let (caller, ledger, padding) = (caller.clone(), Arc::clone(&ledger), Arc::clone(&padding));
        let call = format!("{name}{number}");
        all.spawn(async move {
            ledger.write(&Entry::Made(call.clone()))?;
            let answer = caller.call::<(String, IgnoredAny)>(WORK, &(&call, &*padding)).await;
            let told = match answer {
                Ok((answered, _)) if answered == call => Told::Ok,
                Ok(_) => Told::Another,
                Err(error) => match error.executed() {
                    Executed::Yes => Told::Yes,
                    Executed::No => Told::No,
                    Executed::Unknown => Told::Unknown,
                },
            };
            anyhow::Ok(ledger.write(&Entry::Told(call, told))?)
        });
    }
    while let Some(ended) = all.join_next().await {
        ended??;
    }
    Ok(())
}

/// So that a connection to each is open.
async fn reach_both(caller: &Caller) -> Result<()> {
    while caller.hosts(WORK).await?.len() < 2 {
        sleep(Duration::from_millis(1)).await;
    }
    let first: u32 = caller.call(WARM, &()).await?;
    while caller.call::<u32>(WARM, &()).await? == first {}
    Ok(())
}

type Answer = Pin<Box<dyn Future<Output = Result<(String, String), MethodError>> + Send>>;

fn lines() -> Lines<BufReader<Stdin>> {
    BufReader::new(stdin()).lines()
}

const WORK: &str = "work";
const WARM: &str = "warm";
/// To a provider: its calls may end.
pub(crate) const GO: &str = "go";
/// Longer than any call waits here that is answered at all.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
