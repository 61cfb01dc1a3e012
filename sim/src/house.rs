//! A whole house under faults, and what must hold after each run: a center, providers and callers; programs are killed,
//! machines switched off, and the network cut, at random. In the end all must find each other again.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use callboard_client::{Client, Reconnect};
use callboard_common::Executed;
use callboard_registry::{AvailabilityPolicy, Caller, Provider};
use callboard_server::Router;
use tokio::time::sleep;

use crate::{Host, Sim};

const PROVIDERS: usize = 3;
const CALLERS: usize = 2;
const FAULTS: usize = 5;
/// Within so long after the last fault all must be whole again.
const RECOVERY: Duration = Duration::from_secs(12);

/// What happened in a run, or in several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Calls that were made.
    pub calls: u64,
    /// Calls that ended in an error.
    pub failed: u64,
}

impl Report {
    /// Counts another run in.
    pub fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.failed += other.failed;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} calls, {} failed", self.calls, self.failed)
    }
}

/// Runs the house of one seed.
///
/// # Panics
/// If a promise was broken.
pub fn run(seed: u64) -> Report {
    Sim::run(seed, scenario)
}

/// The same with what happened, step by step.
///
/// # Panics
/// If a promise was broken.
pub fn run_traced(seed: u64) -> (Report, Vec<String>) {
    Sim::run_traced(seed, scenario)
}

/// What the callers of one run saw.
#[derive(Debug, Default)]
struct Ledger {
    calls: AtomicU64,
    failed: AtomicU64,
}

async fn scenario(sim: Sim) -> Report {
    let stage = sim.host("center");
    let providers: Vec<_> = (0..PROVIDERS).map(|n| sim.host(&format!("provider {n}"))).collect();
    let callers: Vec<_> = (0..CALLERS).map(|n| sim.host(&format!("caller {n}"))).collect();
    let start = |host: &Host| {
        let stage = stage.clone();
        if host.name() == stage.name() { host.start(center) } else { host.start(|host| provider(host, stage)) }
    };
    start(&stage);
    providers.iter().for_each(start);
    let ledger = Arc::new(Ledger::default());
    let mut connected = Vec::new();
    for host in &callers {
        let caller = until_done(|| host.caller().reconnect(soon()).connect(stage.address(7070))).await;
        connected.push(caller.clone());
        host.start(|_| call_on(caller, Arc::clone(&ledger), sim.clone()));
    }
    let mut hosts = providers.clone();
    hosts.push(stage.clone());
    for _ in 0..FAULTS {
        sim.sleep(sim.draw_time(Duration::from_secs(2))).await;
        fault(&sim, &hosts, &start).await;
    }
    sim.note(|| "the last fault is over".to_owned());
    sim.sleep(RECOVERY).await;
    for caller in &connected {
        check(&sim, caller).await;
    }
    Report { calls: ledger.calls.load(Relaxed), failed: ledger.failed.load(Relaxed) }
}

/// All providers are known again, and answer.
async fn check(sim: &Sim, caller: &Caller) {
    let known = caller.hosts("double").await;
    sim.note(|| format!("known in the end: {known:?}"));
    assert!(known.is_ok_and(|hosts| hosts.len() == PROVIDERS), "not all providers are known again");
    for n in 0..4 * PROVIDERS as u64 {
        let answer = caller.call::<u64>("double", &n).await;
        assert!(matches!(answer, Ok(twice) if twice == 2 * n), "a call failed in peace: {answer:?}");
    }
}

async fn center(host: Host) {
    // Who comes and goes all the time is told of at once: faults here come faster than in any minute of a real house.
    let policy = AvailabilityPolicy { flap_changes: usize::MAX, ..AvailabilityPolicy::default() };
    let center = until_done(|| host.center().availability(policy).start_over(host.transport())).await;
    std::future::pending::<()>().await;
    drop(center);
}

async fn provider(host: Host, stage: Host) {
    let router = Router::new().method("double", |n: u64| Ok(n * 2));
    let server = until_done(|| host.server(7071).router(router.clone()).start_over(host.transport())).await;
    let client: Client = until_done(|| host.client().reconnect(soon()).connect(stage.address(7070))).await;
    let announce = || Provider::new(client.clone()).announce(router.names(), server.addresses());
    let provider = until_done(announce).await;
    std::future::pending::<()>().await;
    drop(provider);
}

async fn call_on(caller: Caller, ledger: Arc<Ledger>, sim: Sim) {
    for n in 0_u64.. {
        ledger.calls.fetch_add(1, Relaxed);
        match caller.call::<u64>("double", &n).await {
            Ok(twice) => assert_eq!(twice, 2 * n, "the answer to another call"),
            Err(error) => {
                assert!(error.executed() != Executed::Yes, "executed, without its answer: {error}");
                sim.note(|| format!("{n}: {error}"));
                ledger.failed.fetch_add(1, Relaxed);
            }
        }
        sim.sleep(sim.draw_time(Duration::from_millis(100))).await;
    }
}

/// One fault, and its end some time later.
async fn fault(sim: &Sim, hosts: &[Host], start: &dyn Fn(&Host)) {
    let pick = || usize::try_from(sim.draw(hosts.len() as u64)).ok().and_then(|at| hosts.get(at));
    let (Some(one), Some(other)) = (pick(), pick()) else { return };
    let time = sim.draw_time(Duration::from_secs(4));
    match sim.draw(3) {
        0 => {
            one.kill();
            sim.sleep(time).await;
            start(one);
        }
        1 => {
            one.switch_off();
            sim.sleep(time).await;
            one.switch_on();
            start(one);
        }
        _ => {
            one.cut(other);
            sim.sleep(time).await;
            one.heal(other);
        }
    }
}

/// Tries until it works: programs may start before those that they need.
async fn until_done<T, E, F: Future<Output = Result<T, E>>>(mut attempt: impl FnMut() -> F) -> T {
    loop {
        if let Ok(done) = attempt().await {
            return done;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn soon() -> Reconnect {
    Reconnect { longest: Duration::from_secs(1), ..Reconnect::default() }
}
