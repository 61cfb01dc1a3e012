//! A whole house under faults, and what must hold after each run: a center (in one house of three two or three of them, of
//! which all others know), providers, of which one listens nowhere, callers, a watcher, a publisher and subscribers; any of them is killed, switched off,
//! stopped, started again, or cut off from others, at random.
//!
//! Within 5 s of the last fault all must know each other again. What a caller is told of whether its call was executed is
//! true; no call is executed twice that may not be, none after its deadline or when its caller has given it up, and repeats
//! stay within their budget; who is told to be online listens; subscribers have heard what was published or that they have not;
//! and when all have left, nothing is kept of them.

mod accounts;
mod calls;
mod checks;
mod faults;
mod ledger;
mod news;
mod programs;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use callboard_center::Center;

use self::calls::{Calls, Desk};
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
    /// Of these, those whose callers were told that they were not executed.
    pub said_not_executed: u64,
    /// Of these, those whose callers were told that nobody knows whether they were executed.
    pub said_unknown: u64,
    /// Calls whose callers did not wait for their ends.
    pub given_up: u64,
    /// Calls that were executed more than once, as they were allowed to.
    pub again: u64,
    /// Messages that were published, and acknowledged.
    pub published: u64,
    /// Messages that subscribers received, all subscribers together.
    pub received: u64,
    /// Times that a subscriber was told that messages are missing.
    pub gaps: u64,
    /// Messages that came to a subscriber again, from another center, and were not given to it.
    pub repeats: u64,
    /// How long after the last fault all knew each other again; of several runs the longest.
    pub recovery: Duration,
}

impl Report {
    /// Counts another run in.
    pub fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.failed += other.failed;
        self.said_not_executed += other.said_not_executed;
        self.said_unknown += other.said_unknown;
        self.given_up += other.given_up;
        self.again += other.again;
        self.published += other.published;
        self.received += other.received;
        self.gaps += other.gaps;
        self.repeats += other.repeats;
        self.recovery = self.recovery.max(other.recovery);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, failed, said_not_executed, said_unknown, given_up, again, .. } = self;
        let Self { published, received, gaps, repeats, recovery, .. } = self;
        write!(f, "{calls} calls, {failed} failed (not executed: {said_not_executed}, perhaps: {said_unknown}), ")?;
        write!(f, "{given_up} given up, {again} executed again; ")?;
        write!(f, "{published} messages, {received} received, {gaps} gaps told, ")?;
        write!(f, "{repeats} repeats left out; whole again within {:.1} s", recovery.as_secs_f64())
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
    house.news.is_peace();
    house.calls.is_peace();
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
    /// The centers are the first.
    members: Vec<Member>,
    /// Those that run now, by their places.
    centers: Mutex<BTreeMap<usize, Weak<Center>>>,
    /// Where providers serve that have signed in, by their places.
    providing: Mutex<BTreeMap<usize, String>>,
    /// What those are called that have signed in and listen nowhere.
    relayed: Mutex<BTreeMap<usize, String>>,
    callers: Mutex<BTreeMap<(Role, usize), Desk>>,
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

impl Member {
    /// Who has something to do before it ends does it, others just end.
    fn ask_to_end(&self) {
        match self.role {
            Role::Center | Role::Provider | Role::Relayed => self.host.ask_to_end(),
            _ => self.host.leave(),
        }
    }
}

impl House {
    fn new(sim: &Sim) -> Arc<Self> {
        let centers = if sim.draw(3) == 0 { 2 + usize::from(sim.draw(2) == 0) } else { 1 };
        let mut members = Vec::new();
        for (role, count) in [(Role::Center, centers)].into_iter().chain(MEMBERS) {
            for place in 0..count {
                let host = sim.host(&format!("{} {place}", role.name()));
                members.push(Member { role, place, host });
            }
        }
        Arc::new(Self {
            sim: sim.clone(),
            members,
            centers: Mutex::default(),
            providing: Mutex::default(),
            relayed: Mutex::default(),
            callers: Mutex::default(),
            calls: Arc::new(Calls::new(sim)),
            news: News::new(sim, centers),
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
            Role::Relayed => drop(lock(&self.relayed).remove(&member.place)),
            Role::Caller | Role::Watcher => {
                let caller = lock(&self.callers).remove(&(member.role, member.place));
                drop(caller);
            }
            Role::Subscriber => self.news.ends(member.place),
            Role::Center | Role::Publisher => {}
        }
    }

    /// All centers, as a program is told of them: not all programs begin with the same one.
    fn center_list(&self) -> String {
        let mut addresses: Vec<_> = self.of(Role::Center).map(|center| center.host.address(7070)).collect();
        if addresses.len() > 1 {
            let first = usize::try_from(self.sim.draw(addresses.len() as u64)).unwrap_or(0);
            addresses.rotate_left(first);
        }
        addresses.join(",")
    }

    /// No two runs of a provider have the same.
    fn next_port(&self) -> u16 {
        self.next_port.fetch_add(1, Relaxed)
    }

    fn of(&self, role: Role) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(move |member| member.role == role)
    }

    fn count(&self, role: Role) -> usize {
        self.of(role).count()
    }

    /// The centers that run now.
    fn running_centers(&self) -> Vec<Arc<Center>> {
        lock(&self.centers).values().filter_map(Weak::upgrade).collect()
    }
}

/// How many of each there are beside centers.
const MEMBERS: [(Role, usize); 6] = [
    (Role::Provider, 3),
    (Role::Relayed, 1),
    (Role::Caller, 2),
    (Role::Watcher, 1),
    (Role::Publisher, 1),
    (Role::Subscriber, 2),
];
/// What all providers provide that listen.
const METHOD: &str = "double";
/// What those provide that listen nowhere. It runs in place, and takes as long as it is told.
const RELAYED: &str = "double backstage";
/// Two faults each.
const ROUNDS: usize = 3;
/// Within so long after the last fault all must know each other again.
const RECOVERY: Duration = Duration::from_secs(5);
/// So long a message is on its way at most.
const QUIET: Duration = Duration::from_millis(500);
