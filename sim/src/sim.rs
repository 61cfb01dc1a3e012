use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::time::{Instant, sleep};

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
}

/// What happened, if anybody wants to know.
#[derive(Debug)]
pub(crate) struct Trace {
    wanted: bool,
    lines: Mutex<Vec<String>>,
}

impl Sim {
    /// Runs a scenario to its end.
    ///
    /// # Panics
    /// If a runtime can't be made, or within another one.
    pub fn run<F: Future>(seed: u64, scenario: impl FnOnce(Self) -> F) -> F::Output {
        Self::run_with(seed, false, scenario).0
    }

    /// The same with what [`note`](Self::note) was told, each line with its time in ms.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    pub fn run_traced<F: Future>(seed: u64, scenario: impl FnOnce(Self) -> F) -> (F::Output, Vec<String>) {
        Self::run_with(seed, true, scenario)
    }

    fn run_with<F: Future>(seed: u64, wanted: bool, scenario: impl FnOnce(Self) -> F) -> (F::Output, Vec<String>) {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.unwrap_or_else(|why| panic!("no runtime for a simulation: {why}"));
        let trace = Arc::new(Trace { wanted, lines: Mutex::default() });
        let outcome = runtime.block_on(async {
            let mut random = fastrand::Rng::with_seed(seed);
            let network = Network::new(random.u64(..));
            let random = Arc::new(Mutex::new(random));
            let sim = Self { network, random, trace: Arc::clone(&trace), began: Instant::now() };
            scenario(sim).await
        });
        // Tasks of the programs end here, before the trace is read.
        drop(runtime);
        let lines = std::mem::take(&mut *trace.lines());
        (outcome, lines)
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
    pub async fn sleep(&self, time: Duration) {
        sleep(time).await;
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
        if self.trace.wanted {
            let line = format!("{:>10.3} {}", self.elapsed().as_secs_f64() * 1e3, what());
            self.trace.lines().push(line);
        }
    }

    fn random(&self) -> MutexGuard<'_, fastrand::Rng> {
        self.random.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trace {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
