use std::any::Any;
use std::fmt;
use std::panic::resume_unwind;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::task::{Context, Waker};
use std::time::Duration;

use callboard_net::TaskGroup;
use tokio::runtime::Builder;
use tokio::time::{Instant, advance, sleep};

use crate::{Host, Network};

/// One run: hosts, the network between them, and a clock that jumps to the next thing that happens.
///
/// All runs on one thread. What is drawn (delays, partial writes, ends, the faults of a scenario) comes from the seed, so
/// the same seed gives the same run, step by step. Programs under it must keep to tokio's time, and spawn no threads.
#[derive(Clone, Debug)]
pub struct Sim {
    network: Network,
    random: Arc<Mutex<fastrand::Rng>>,
    trace: Arc<Trace>,
    began: Instant,
    failure: Arc<Mutex<Option<Failure>>>,
    groups: Arc<Mutex<Vec<HostGroup>>>,
}

/// What a program panicked with.
type Failure = Box<dyn Any + Send>;

/// The tasks of a host, by its name.
type HostGroup = (Arc<str>, TaskGroup);

/// Who wants to know what happens, if anybody does.
pub(crate) struct Trace(Option<Mutex<Listener>>);

type Listener = Box<dyn FnMut(String) + Send>;

impl Sim {
    /// Runs a scenario to its end.
    ///
    /// # Panics
    /// If a runtime can't be made, or within another one.
    pub fn run<F: Future>(seed: u64, scenario: impl FnOnce(Self) -> F) -> F::Output {
        Self::run_with(seed, None, scenario)
    }

    /// The same; `listener` gets what [`note`](Self::note) is told at once, each line with its time in ms. So it has them
    /// also where the scenario panics.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    pub fn run_heard<F: Future>(
        seed: u64,
        listener: impl FnMut(String) + Send + 'static,
        scenario: impl FnOnce(Self) -> F,
    ) -> F::Output {
        Self::run_with(seed, Some(Box::new(listener)), scenario)
    }

    /// The same with all lines.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    pub fn run_traced<F: Future>(seed: u64, scenario: impl FnOnce(Self) -> F) -> (F::Output, Vec<String>) {
        let (sender, lines) = mpsc::channel();
        // All lines are wanted, and the receiver lives longer.
        let outcome = Self::run_heard(seed, move |line| drop(sender.send(line)), scenario);
        (outcome, lines.try_iter().collect())
    }

    fn run_with<F: Future>(seed: u64, listener: Option<Listener>, scenario: impl FnOnce(Self) -> F) -> F::Output {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.unwrap_or_else(|why| panic!("no runtime for a simulation: {why}"));
        let trace = Arc::new(Trace(listener.map(Mutex::new)));
        runtime.block_on(async {
            let mut random = fastrand::Rng::with_seed(seed);
            let network = Network::new(random.u64(..));
            let random = Arc::new(Mutex::new(random));
            let (failure, groups) = (Arc::default(), Arc::default());
            let sim = Self { network, random, trace, began: Instant::now(), failure, groups };
            let outcome = scenario(sim.clone()).await;
            sim.check();
            outcome
        })
    }

    /// A machine of the network, with nothing on it yet.
    pub fn host(&self, name: &str) -> Host {
        Host::new(self.clone(), name)
    }

    /// What lies between the hosts.
    pub const fn network(&self) -> &Network {
        &self.network
    }

    /// Lets time pass.
    ///
    /// # Panics
    /// If a program has panicked, as all of the run then does.
    pub async fn sleep(&self, time: Duration) {
        sleep(time).await;
        self.check();
    }

    /// Ends the run with this, at the next [`sleep`](Self::sleep) of the scenario or at its end. For programs in a place
    /// where a panic of theirs is caught, as in a method's handler.
    pub fn fail(&self, why: impl Into<String>) {
        self.failed(Box::new(why.into()));
    }

    /// Lets this much time pass at once, as where the whole machine was suspended: what was to happen in it happens late,
    /// and all together.
    pub async fn jump(&self, time: Duration) {
        self.note(|| format!("the clock jumps by {time:?}"));
        advance(time).await;
    }

    /// Takes the thread for so long, as a method does that runs in place: nothing else happens meanwhile.
    pub fn take(&self, time: Duration) {
        let mut passing = pin!(advance(time));
        // The clock moves as it is first looked at; after that it would only let others run, which is not to be.
        let _ = passing.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }

    /// The first counts.
    pub(crate) fn failed(&self, why: Failure) {
        lock(&self.failure).get_or_insert(why);
    }

    /// Its panics are those of the run.
    pub(crate) fn watch(&self, host: &Arc<str>, group: &TaskGroup) {
        lock(&self.groups).push((Arc::clone(host), group.clone()));
    }

    fn check(&self) {
        let failure = lock(&self.failure).take();
        if let Some(why) = failure {
            resume_unwind(why);
        }
        let panicked =
            lock(&self.groups).iter().find(|(_, group)| group.has_panicked()).map(|(host, _)| Arc::clone(host));
        assert!(panicked.is_none(), "a task on {} panicked; it says above why", panicked.unwrap_or_default());
    }

    /// How much time has passed.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// A number below this, drawn from the seed.
    ///
    /// # Panics
    /// If `below` is 0.
    pub fn draw(&self, below: u64) -> u64 {
        self.random().u64(..below)
    }

    /// A time below this, drawn from the seed.
    pub fn draw_time(&self, below: Duration) -> Duration {
        below.mul_f64(self.random().f64())
    }

    /// Says what happened.
    pub fn note(&self, what: impl FnOnce() -> String) {
        if let Some(listener) = &self.trace.0 {
            let line = format!("{:>10.3} {}", self.elapsed().as_secs_f64() * 1e3, what());
            lock(listener)(line);
        }
    }

    fn random(&self) -> MutexGuard<'_, fastrand::Rng> {
        lock(&self.random)
    }
}

pub(crate) fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Trace").field(&self.0.is_some()).finish()
    }
}
