//! A whole house under faults, and what must hold after each run: a center, providers, callers, a publisher and
//! subscribers; programs are killed, machines switched off, and the network cut, at random. In the end all must find each
//! other again, subscribers must have heard what was published or that they have not, and when all have left, the
//! center's tables must be empty.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use callboard_center::Center;
use callboard_client::{Client, Reconnect};
use callboard_common::{Executed, Heartbeat, Heartbeats};
use callboard_net::Limits;
use callboard_registry::{AvailabilityPolicy, Caller, Provider};
use callboard_server::Router;
use tokio::time::sleep;

use crate::news::News;
use crate::{Host, Sim};

const PROVIDERS: usize = 3;
const CALLERS: usize = 2;
const SUBSCRIBERS: usize = 2;
/// Two faults each.
const ROUNDS: usize = 3;
/// Within so long after the last fault all must be whole again.
const RECOVERY: Duration = Duration::from_secs(12);
/// So many messages at least are published in that time.
const MESSAGES_IN_PEACE: usize = 20;
/// So long a message is on its way at most.
const QUIET: Duration = Duration::from_millis(500);
/// Within so long after all have left the center keeps nothing of them: longer than the grace of a provider.
const LEAVING: Duration = Duration::from_secs(5);

/// What happened in a run, or in several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Calls that were made.
    pub calls: u64,
    /// Calls that ended in an error.
    pub failed: u64,
    /// Messages that were published, and acknowledged.
    pub published: u64,
    /// Messages that subscribers received, all subscribers together.
    pub received: u64,
    /// Times that a subscriber was told that messages are missing.
    pub gaps: u64,
}

impl Report {
    /// Counts another run in.
    pub fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.failed += other.failed;
        self.published += other.published;
        self.received += other.received;
        self.gaps += other.gaps;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, failed, published, received, gaps } = self;
        write!(f, "{calls} calls, {failed} failed; {published} messages, {received} received, {gaps} gaps told")
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

/// The same; `listener` gets what happens at once, so that it has it also where a promise was broken.
///
/// # Panics
/// If a promise was broken.
pub fn run_heard(seed: u64, listener: impl FnMut(String) + Send + 'static) -> Report {
    Sim::run_heard(seed, listener, scenario)
}

/// What the callers of one run saw.
#[derive(Debug, Default)]
struct Ledger {
    calls: AtomicU64,
    failed: AtomicU64,
}

/// The center that runs now, if one does.
type Running = Arc<Mutex<Weak<Center>>>;

async fn scenario(sim: Sim) -> Report {
    let house = House::new(&sim);
    let start = |host: &Host| house.start(host);
    start(&house.stage);
    house.providers.iter().for_each(start);
    let (callers, ledger) = house.start_callers(&sim).await;
    let news = house.start_news(&sim).await;
    let (mortal, all) = (house.mortal(), house.all());
    let fault = |one| fault(&sim, &house.stage, one, &all, &start);
    for _ in 0..ROUNDS {
        sim.sleep(sim.draw_time(Duration::from_secs(2))).await;
        let Some((one, other)) = pick_two(&sim, &mortal) else { continue };
        tokio::join!(fault(one), fault(other));
    }
    sim.note(|| "the last fault is over".to_owned());
    let published = news.acknowledged();
    sim.sleep(RECOVERY).await;
    for caller in &callers {
        check(&sim, caller).await;
    }
    assert!(news.acknowledged() > published + MESSAGES_IN_PEACE, "nothing can be published any more");
    news.end();
    sim.sleep(QUIET).await;
    news.check();
    drop(callers);
    house.leave(&sim).await;
    let mut report =
        Report { calls: ledger.calls.load(Relaxed), failed: ledger.failed.load(Relaxed), ..Report::default() };
    news.count(&mut report);
    report
}

/// Its machines.
struct House {
    stage: Host,
    running: Running,
    providers: Vec<Host>,
    callers: Vec<Host>,
    publisher: Host,
    subscribers: Vec<Host>,
}

impl House {
    fn new(sim: &Sim) -> Self {
        let several = |name: &str, count| (0..count).map(|n| sim.host(&format!("{name} {n}"))).collect();
        Self {
            stage: sim.host("center"),
            running: Arc::default(),
            providers: several("provider", PROVIDERS),
            callers: several("caller", CALLERS),
            publisher: sim.host("publisher"),
            subscribers: several("subscriber", SUBSCRIBERS),
        }
    }

    /// Those whose programs are killed.
    fn mortal(&self) -> Vec<Host> {
        self.providers.iter().chain([&self.stage]).cloned().collect()
    }

    fn all(&self) -> Vec<Host> {
        let others = self.callers.iter().chain(&self.subscribers).chain([&self.publisher]).cloned();
        self.mortal().into_iter().chain(others).collect()
    }

    fn start(&self, host: &Host) {
        let (stage, running) = (self.stage.clone(), Arc::clone(&self.running));
        if host.name() == stage.name() {
            host.start(|host| center(host, running));
        } else {
            host.start(|host| provider(host, stage));
        }
    }

    async fn start_callers(&self, sim: &Sim) -> (Vec<Caller>, Arc<Ledger>) {
        let (mut callers, ledger) = (Vec::new(), Arc::new(Ledger::default()));
        for host in &self.callers {
            let caller = until_done(|| host.caller().reconnect(soon()).connect(self.stage.address(7070))).await;
            callers.push(caller.clone());
            host.start(|_| call_on(caller, Arc::clone(&ledger), sim.clone()));
        }
        (callers, ledger)
    }

    async fn start_news(&self, sim: &Sim) -> Arc<News> {
        let news = News::new(sim, self.subscribers.len());
        for (n, host) in self.subscribers.iter().enumerate() {
            let subscription = News::subscribe(&self.client(host).await).await;
            host.start(|_| Arc::clone(&news).hear_on(n, subscription));
        }
        let client = self.client(&self.publisher).await;
        self.publisher.start(|_| Arc::clone(&news).publish_on(client));
        news
    }

    async fn client(&self, host: &Host) -> Client {
        until_done(|| host.client().reconnect(soon()).connect(self.stage.address(7070))).await
    }

    /// All but the center go: it keeps nothing of them.
    async fn leave(&self, sim: &Sim) {
        self.all().iter().filter(|host| host.name() != self.stage.name()).for_each(Host::leave);
        sim.sleep(LEAVING).await;
        let center = self.running.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        let center = center.unwrap_or_else(|| panic!("the center does not run"));
        let (size, metrics) = (center.registry_size(), center.metrics());
        assert_eq!((size.methods, size.connections), (0, 0), "the registry keeps those who have left");
        assert_eq!(center.subscriber_count(), 0, "topics keep subscribers that have left");
        assert_eq!(metrics.accepted - metrics.closed, 0, "the center keeps connections of those who have left");
        assert_eq!(sim.network().connections(), 0, "connections of those who have left are open");
    }
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

async fn center(host: Host, running: Running) {
    // Who comes and goes all the time is told of at once: faults here come faster than in any minute of a real house.
    let policy = AvailabilityPolicy { flap_changes: usize::MAX, ..AvailabilityPolicy::default() };
    let start = || host.center().availability(policy).limits(limits()).start_over(host.transport());
    let center = until_done(start).await;
    let center = Arc::new(center);
    *running.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&center);
    std::future::pending::<()>().await;
    drop(center);
}

async fn provider(host: Host, stage: Host) {
    let router = Router::new().method("double", |n: u64| Ok(n * 2));
    let server =
        until_done(|| host.server(0).limits(limits()).router(router.clone()).start_over(host.transport())).await;
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
        sim.sleep(sim.draw_time(Duration::from_millis(400))).await;
    }
}

/// One fault of a program or of what lies between it and another one, and its end some time later.
async fn fault(sim: &Sim, stage: &Host, one: &Host, all: &[Host], start: &dyn Fn(&Host)) {
    sim.sleep(sim.draw_time(Duration::from_secs(1))).await;
    let time = sim.draw_time(Duration::from_secs(4));
    let Some(other) = pick(sim, all) else { return };
    match sim.draw(5) {
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
        2 => {
            one.cut(other);
            sim.sleep(time).await;
            one.heal(other);
        }
        3 => {
            one.cut(other);
            one.reset(other);
            sim.sleep(time).await;
            one.heal(other);
        }
        // Between callers and providers there are no heartbeats: only the system's keep-alive, which is not simulated.
        _ => stage.lose(if one.name() == stage.name() { other } else { one }),
    }
}

/// Two that are not the same.
fn pick_two<'a>(sim: &Sim, hosts: &'a [Host]) -> Option<(&'a Host, &'a Host)> {
    let mut order: Vec<_> = hosts.iter().collect();
    let mut take = || {
        let at = usize::try_from(sim.draw(order.len() as u64)).ok()?;
        Some(order.swap_remove(at))
    };
    Some((take()?, take()?))
}

fn pick<'a>(sim: &Sim, hosts: &'a [Host]) -> Option<&'a Host> {
    usize::try_from(sim.draw(hosts.len() as u64)).ok().and_then(|at| hosts.get(at))
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

/// With such heartbeats that a connection is not taken for alive for longer than a run takes.
fn limits() -> Limits {
    let heartbeats = Heartbeats { caller: Heartbeat::from_ms(1000, 3000), ..Heartbeats::default() };
    Limits { heartbeats, ..Limits::default() }
}

fn soon() -> Reconnect {
    Reconnect { longest: Duration::from_secs(1), ..Reconnect::default() }
}
