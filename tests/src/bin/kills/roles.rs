//! What runs in a process of its own.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use callboard_center::Center;
use callboard_client::{Client, RetryBudget, RetryPolicy};
use callboard_net::Address;
use callboard_registry::{Caller, Place, Provider};
use callboard_server::{AnswerFile, KeptAnswers, Router, Server};
use clap::Subcommand;
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin, stdin};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::calls::{Orders, make_calls};
use crate::ledger::Ledger;
use crate::part::PATIENCE;
use crate::plan::Way;
use crate::work::{self, Work};

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Role {
    /// Prints its port when it listens, says how many calls it passes on when asked, leaves when its input ends
    Center { address: String, tcp: String },
    /// Prints its port when it is announced; lets its calls go when told to, says how many it has when asked
    Provider {
        center: String,
        ledger: PathBuf,
        /// How many calls may run at once
        concurrency: usize,
        /// How long its answers are
        bytes: usize,
        #[arg(long)]
        way: Way,
        #[arg(long)]
        port: u16,
        /// Where it keeps its answers
        #[arg(long)]
        store: Option<PathBuf>,
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
        #[arg(long)]
        way: Way,
        /// Connect to both providers first
        #[arg(long)]
        warm: bool,
        /// Call as if the method were idempotent, which it is not, and under no key
        #[arg(long)]
        careless: bool,
    },
}

impl Role {
    pub(crate) async fn run(self) -> Result<()> {
        match self {
            Self::Center { address, tcp } => center(address, tcp).await?,
            Self::Provider { center, ledger, concurrency, bytes, way, port, store } => {
                let (go, let_go) = watch::channel(false);
                let work = Work { ledger: Ledger::open(&ledger)?.into(), let_go, bytes };
                let mut router = work::router(work, way, concurrency);
                if let Some(store) = store {
                    router = router.kept_answers(KeptAnswers::default().stored_in(AnswerFile::open(store)?)?);
                }
                match way {
                    way if way.is_relayed() => provide_relayed(&center, router, &go).await?,
                    _ => provide(&center, router, port, &go).await?,
                }
            }
            Self::Caller { center, ledger, name, calls, bytes, way, warm, careless } => {
                let ledger = Ledger::open(&ledger)?;
                let caller = caller(way, &center).await?;
                if warm {
                    timeout(PATIENCE, reach_both(&caller)).await.context("the providers are not reached")??;
                }
                println!("ready");
                let mut lines = lines();
                lines.next_line().await?;
                // Under a key it would be executed once all the same.
                let is_keyed = way.is_keyed() && !careless;
                let caller = if careless { caller.idempotent() } else { caller };
                make_calls(Orders { caller, ledger: ledger.into(), name, calls, bytes, is_keyed }, lines).await?;
            }
        }
        // A thread that still reads the input would be waited for.
        std::process::exit(0)
    }
}

async fn center(address: String, tcp: String) -> Result<()> {
    let center = Center::builder().listen(address).listen(tcp).loops(1).start().await?;
    println!("{}", port(center.addresses())?);
    let mut lines = lines();
    while lines.next_line().await?.is_some() {
        println!("{}", center.relayed_calls());
    }
    center.shutdown().await;
    Ok(())
}

async fn provide(center: &str, router: Router, port_or_any: u16, go: &watch::Sender<bool>) -> Result<()> {
    let names = router.names();
    let listens = format!("127.0.0.1:{port_or_any}");
    let server = Server::builder().router(router).loops(1).listen(listens).start().await?;
    let provider = Provider::connect(center).await?.announce(names, server.addresses()).await?;
    println!("{}", port(server.addresses())?);
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

/// It listens nowhere.
async fn provide_relayed(center: &str, router: Router, go: &watch::Sender<bool>) -> Result<()> {
    let client = sessions().serves(router.clone()).connect(center).await?;
    let provider = Provider::new(client).announce(router.names(), Place::Relay).await?;
    println!("0");
    let mut lines = lines();
    while lines.next_line().await?.is_some() {
        go.send_replace(true);
    }
    let _ = provider.withdraw().await;
    Ok(())
}

async fn caller(way: Way, center: &str) -> Result<Caller> {
    let often = RetryBudget { percent: 1_000, reserve: 1_000, most: 10_000 };
    let builder = Caller::builder().client(sessions()).timeout(CALL_TIMEOUT);
    Ok(match way {
        way if way.is_keyed() => {
            let per_try = if way.is_relayed() { PER_RELAYED_TRY } else { PER_TRY };
            let retry = RetryPolicy { tries: 100, per_try: Some(per_try), ..RetryPolicy::default() };
            builder.retry_budget(often).retry(retry).connect(center).await?
        }
        Way::Hedged => builder.retry_budget(often).hedge(HEDGE).connect(center).await?.idempotent(),
        _ => builder.connect(center).await?,
    })
}

/// So that a connection to each is open.
async fn reach_both(caller: &Caller) -> Result<()> {
    while caller.hosts(work::WORK).await?.len() < 2 {
        sleep(Duration::from_millis(1)).await;
    }
    // A hedge would go to the other one.
    let caller = caller.with_hedge(PATIENCE);
    let first: u32 = caller.call(work::WARM, &()).await?;
    while caller.call::<u32>(work::WARM, &()).await? == first {}
    Ok(())
}

/// A busy machine may be slow to grant them; without one there are no keys, and nothing is relayed.
fn sessions() -> callboard_client::ClientBuilder {
    Client::builder().session_timeout(Duration::from_secs(5))
}

fn port(addresses: &[Address]) -> Result<u16> {
    let port = addresses.iter().find_map(Address::to_socket_addr).context("it listens at a port")?;
    Ok(port.port())
}

pub(crate) fn lines() -> Lines<BufReader<Stdin>> {
    BufReader::new(stdin()).lines()
}

/// To a provider: its calls may end. To a caller: it may call.
pub(crate) const GO: &str = "go";
/// To a caller: give up every other call.
pub(crate) const DROP: &str = "drop";
/// To a provider or center: say how many calls wait for their answers.
pub(crate) const LOOK: &str = "look";
/// Longer than any call waits here that is answered at all.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Less than calls wait here.
const PER_TRY: Duration = Duration::from_millis(100);
/// A center counts tries under way, and with short ones some are always between two: it would never have all calls at once.
const PER_RELAYED_TRY: Duration = Duration::from_secs(1);
const HEDGE: Duration = Duration::from_millis(50);
