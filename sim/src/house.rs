//! A whole house under faults, and what must hold after each run: a center, providers, callers, a watcher, a publisher and
//! subscribers; any of them is killed, switched off, stopped, started again, or cut off from others, at random.
//!
//! Within 5 s of the last fault all must know each other again. Every call is executed once at most, and not where its
//! caller was told so; who is told to be online listens; subscribers have heard what was published or that they have not;
//! and when all have left, nothing is kept of them.

mod calls;
mod faults;
mod news;
mod programs;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use callboard_center::Center;
use callboard_registry::Caller;
use tokio::time::{Instant, timeout_at};

use self::calls::Calls;
use self::news::News;
use self::programs::Role;
use self::watch::Watch;
use crate::sim::lock;
use crate::{Host, Sim};

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
    /// How long after the last fault all knew each other again; of several runs the longest.
    pub recovery: Duration,
}

impl Report {
    /// Counts another run in.
    pub fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.failed += other.failed;
        self.published += other.published;
        self.received += other.received;
        self.gaps += other.gaps;
        self.recovery = self.recovery.max(other.recovery);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, failed, published, received, gaps, recovery } = self;
        write!(f, "{calls} calls, {failed} failed; {published} messages, {received} received, {gaps} gaps told; ")?;
        write!(f, "whole again within {:.1} s", recovery.as_secs_f64())
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

async fn scenario(sim: Sim) -> Report {
    let house = House::new(&sim);
    house.members.iter().for_each(|member| house.start(member));
    for _ in 0..ROUNDS {
        faults::round(&house).await;
    }
    sim.note(|| "the last fault is over".to_owned());
    let recovery = house.recover().await;
    sim.note(|| format!("all know each other again after {recovery:?}"));
    // By then connections that were lost are noticed too.
    sim.sleep(RECOVERY.saturating_sub(recovery)).await;
    house.check_calls().await;
    house.news.end();
    sim.sleep(QUIET).await;
    house.news.check();
    house.leave().await;
    house.calls.check();
    let mut report = Report { recovery, ..Report::default() };
    house.calls.count(&mut report);
    house.news.count(&mut report);
    report
}

/// Its machines, and what is known of them.
struct House {
    sim: Sim,
    /// The center is the first.
    members: Vec<Member>,
    /// The one that runs now, if one does.
    center: Mutex<Weak<Center>>,
    /// Where providers serve that have signed in, by their places.
    providing: Mutex<BTreeMap<usize, String>>,
    callers: Mutex<BTreeMap<(Role, usize), Caller>>,
    calls: Arc<Calls>,
    news: News,
    watch: Watch,
    next_port: AtomicU16,
}

/// A machine and what runs on it.
struct Member {
    role: Role,
    /// Among those of this role.
    place: usize,
    host: Host,
}

impl House {
    fn new(sim: &Sim) -> Arc<Self> {
        let mut members = Vec::new();
        for (role, count) in MEMBERS {
            for place in 0..count {
                let host = sim.host(&format!("{} {place}", role.name()));
                members.push(Member { role, place, host });
            }
        }
        Arc::new(Self {
            sim: sim.clone(),
            members,
            center: Mutex::default(),
            providing: Mutex::default(),
            callers: Mutex::default(),
            calls: Arc::new(Calls::new(sim)),
            news: News::new(sim),
            watch: Watch::new(sim),
            next_port: AtomicU16::new(8000),
        })
    }

    fn start(self: &Arc<Self>, member: &Member) {
        let (house, role, place) = (Arc::clone(self), member.role, member.place);
        member.host.start(|host| programs::run(house, role, place, host));
    }

    /// Its programs end.
    fn forget(&self, member: &Member) {
        match member.role {
            Role::Provider => drop(lock(&self.providing).remove(&member.place)),
            Role::Caller | Role::Watcher => {
                let caller = lock(&self.callers).remove(&(member.role, member.place));
                drop(caller);
            }
            Role::Subscriber => self.news.ends(member.place),
            Role::Center | Role::Publisher => {}
        }
    }

    fn center_address(&self) -> String {
        self.members.first().map(|center| center.host.address(7070)).unwrap_or_default()
    }

    /// No two runs of a provider have the same.
    fn next_port(&self) -> u16 {
        self.next_port.fetch_add(1, Relaxed)
    }

    fn count(&self, role: Role) -> usize {
        self.members.iter().filter(|member| member.role == role).count()
    }

    /// Waits until all know each other again.
    async fn recover(&self) -> Duration {
        let (began, next) = (Instant::now(), self.news.next());
        loop {
            let Some(lacks) = self.lacks(next, began + RECOVERY).await else { return began.elapsed() };
            assert!(began.elapsed() < RECOVERY, "{RECOVERY:?} after the last fault {lacks}");
            self.sim.sleep(Duration::from_millis(20)).await;
        }
    }

    /// What is not yet as it must be in the end, if anything. Of messages from `next` on one must have been heard.
    async fn lacks(&self, next: u64, deadline: Instant) -> Option<String> {
        let providing: BTreeSet<_> = lock(&self.providing).values().cloned().collect();
        if providing.len() < self.count(Role::Provider) {
            return Some(format!("not all providers have signed in: {providing:?}"));
        }
        let callers: Vec<_> = lock(&self.callers).iter().map(|(who, caller)| (*who, caller.clone())).collect();
        if callers.len() < self.count(Role::Caller) + self.count(Role::Watcher) {
            return Some("not all callers have found the center".to_owned());
        }
        for ((role, place), caller) in callers {
            let known = timeout_at(deadline, caller.hosts(METHOD)).await;
            let known = known.ok().and_then(Result::ok).unwrap_or_default();
            let known: BTreeSet<_> = known.iter().map(ToString::to_string).collect();
            if known != providing {
                return Some(format!("{} {place} knows {known:?} in place of {providing:?}", role.name()));
            }
        }
        let online = self.watch.online();
        if online != providing {
            return Some(format!("{online:?} are online by what was told, in place of {providing:?}"));
        }
        let heard = self.news.subscribers_that_heard(next);
        let expected = self.count(Role::Subscriber);
        (heard < expected).then(|| format!("{heard} of {expected} subscribers have heard what was published since"))
    }

    /// In peace every call is answered.
    async fn check_calls(&self) {
        let callers: Vec<_> = lock(&self.callers).values().cloned().collect();
        for caller in callers {
            for _ in 0..4 * self.count(Role::Provider) {
                if let Err(error) = self.calls.call(&caller).await {
                    panic!("a call failed in peace: {error}");
                }
            }
        }
    }

    /// All but the center go: nothing is kept of them.
    async fn leave(&self) {
        lock(&self.callers).clear();
        self.members.iter().skip(1).for_each(|member| member.host.leave());
        // One that was lost before it opened a session has no heartbeats, and keep-alive takes longer than a run.
        self.sim.network().keep_alive();
        self.sim.sleep(LEAVING).await;
        let center = lock(&self.center).upgrade().unwrap_or_else(|| panic!("the center does not run"));
        let (size, metrics) = (center.registry_size(), center.metrics());
        assert_eq!((size.methods, size.connections), (0, 0), "the registry keeps those who have left");
        assert_eq!(center.subscriber_count(), 0, "topics keep subscribers that have left");
        assert_eq!(metrics.accepted - metrics.closed, 0, "the center keeps connections of those who have left");
        assert_eq!(self.sim.network().connections(), 0, "connections of those who have left are open");
        for member in self.members.iter().skip(1) {
            assert_eq!(member.host.tasks(), 0, "tasks go on for {} though it has left", member.host.name());
        }
    }
}

/// How many of each.
const MEMBERS: [(Role, usize); 6] = [
    (Role::Center, 1),
    (Role::Provider, 3),
    (Role::Caller, 2),
    (Role::Watcher, 1),
    (Role::Publisher, 1),
    (Role::Subscriber, 2),
];
/// What all providers provide.
const METHOD: &str = "double";
/// Two faults each.
const ROUNDS: usize = 3;
/// Within so long after the last fault all must know each other again.
const RECOVERY: Duration = Duration::from_secs(5);
/// So long a message is on its way at most.
const QUIET: Duration = Duration::from_millis(500);
/// Within so long after all have left nothing is kept of them: as long as a call may take whose caller has gone.
const LEAVING: Duration = Duration::from_secs(6);
