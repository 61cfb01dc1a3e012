//! Providers that stay while all others come and go: one that listens and one that does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Result, ensure};
use callboard_registry::{Place, Provider};
use callboard_server::{KeptAnswers, KeptMetrics, Router, Server};
use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::churn::sessions;

/// What both provide, each under names of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Direct,
    Relayed,
}

pub(crate) struct Steady {
    server: Server,
    direct: (Provider, Watched),
    relayed: (Provider, Watched),
}

/// A router and what goes on in it.
struct Watched {
    router: Router,
    inside: Arc<AtomicUsize>,
}

/// Counts a call until it is dropped.
struct Inside(Arc<AtomicUsize>);

/// What both hold, and what they have counted of calls under keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct AtProviders {
    /// Calls that wait for their answers.
    pub(crate) in_flight: u64,
    /// Calls that nobody waits for and that run all the same.
    pub(crate) never_ending: u64,
    /// Calls under keys that run.
    pub(crate) keyed: u64,
    /// Answers that are remembered.
    pub(crate) remembered: u64,
    /// Those that were, since the beginning.
    pub(crate) stored: u64,
    pub(crate) repeated: u64,
    pub(crate) conflicts: u64,
    pub(crate) evicted: u64,
    pub(crate) expired: u64,
}

impl Way {
    pub(crate) const fn steady(self) -> &'static str {
        if matches!(self, Self::Direct) { "steady" } else { "steady-relayed" }
    }

    /// Gives the number of its run.
    pub(crate) const fn count(self) -> &'static str {
        if matches!(self, Self::Direct) { "count" } else { "count-relayed" }
    }

    pub(crate) const fn never_ends(self) -> &'static str {
        if matches!(self, Self::Direct) { "never-ends" } else { "never-ends-relayed" }
    }
}

impl Steady {
    pub(crate) async fn start(center: &str) -> Result<Self> {
        let (direct, relayed) = (Watched::new(Way::Direct), Watched::new(Way::Relayed));
        let server = Server::builder().router(direct.router.clone()).loops(1).listen("127.0.0.1:0").start().await?;
        let provider = Provider::connect(center).await?;
        let direct = (provider.announce(direct.router.names(), server.addresses()).await?, direct);
        let client = sessions().serves(relayed.router.clone()).connect(center).await?;
        let relayed = (Provider::new(client).announce(relayed.router.names(), Place::Relay).await?, relayed);
        Ok(Self { server, direct, relayed })
    }

    /// Leaves when all that was remembered is forgotten and nothing runs, or after so long that it never will be; gives what
    /// is left then.
    pub(crate) async fn stop(self) -> Result<AtProviders> {
        let until = Instant::now() + PATIENCE;
        while self.left().is_something() && Instant::now() < until {
            sleep(Duration::from_millis(100)).await;
        }
        let left = self.left();
        let gone = left.remembered + left.evicted + left.expired;
        ensure!(left.stored == gone, "what was stored is not what became of it: {left:?}");
        let Self { server, direct: (direct, _), relayed: (relayed, _) } = self;
        direct.withdraw().await?;
        relayed.withdraw().await?;
        server.shutdown().await;
        Ok(left)
    }

    fn left(&self) -> AtProviders {
        let (direct, relayed) = (&self.direct.1, &self.relayed.1);
        let kept = [direct.router.kept_metrics(), relayed.router.kept_metrics()];
        let sum = |of: fn(&KeptMetrics) -> u64| kept.iter().map(of).sum();
        AtProviders {
            in_flight: self.server.in_flight() as u64,
            never_ending: (direct.inside.load(Relaxed) + relayed.inside.load(Relaxed)) as u64,
            keyed: sum(|kept| kept.running),
            remembered: sum(|kept| kept.remembered),
            stored: sum(|kept| kept.stored),
            repeated: sum(|kept| kept.repeated),
            conflicts: sum(|kept| kept.conflicts),
            evicted: sum(|kept| kept.evicted),
            expired: sum(|kept| kept.expired),
        }
    }
}

impl Watched {
    fn new(way: Way) -> Self {
        let (runs, inside) = (AtomicU64::new(0), Arc::<AtomicUsize>::default());
        let watched = Arc::clone(&inside);
        let router = Router::new()
            .method(way.steady(), |value: Value| Ok(value))
            .method(way.count(), move |_: Value| Ok(runs.fetch_add(1, Relaxed)))
            .method_async(way.never_ends(), move |(): ()| {
                let inside = Inside::new(&watched);
                async move {
                    std::future::pending::<()>().await;
                    drop(inside);
                    Ok(())
                }
            })
            .kept_answers(KeptAnswers::default().answers(KEPT).age(KEPT_FOR));
        Self { router, inside }
    }
}

impl Inside {
    fn new(inside: &Arc<AtomicUsize>) -> Self {
        inside.fetch_add(1, Relaxed);
        Self(Arc::clone(inside))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl AtProviders {
    pub(crate) fn is_something(&self) -> bool {
        (self.in_flight, self.never_ending, self.keyed, self.remembered) != (0, 0, 0, 0)
    }
}

/// Few and for moments, so that many are forgotten for either reason.
const KEPT: usize = 200;
const KEPT_FOR: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_mins(1);
