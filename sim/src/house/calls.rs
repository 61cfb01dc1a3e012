use std::sync::{Arc, Mutex};
use std::time::Duration;

use callboard_client::{CallError, RetryBudget, RetryPolicy, Together};
use callboard_registry::Caller;
use callboard_server::{Context, Method, MethodError, Router};
use tokio::time::{Instant, sleep, timeout};

use super::ledger::{Ledger, Terms, Told, Totals};
use super::{METHOD, Report};
use crate::Sim;
use crate::sim::lock;

/// All calls of a run: what their callers were told, and what the providers did.
#[derive(Debug)]
pub(super) struct Calls {
    sim: Sim,
    ledger: Mutex<Ledger>,
}

/// A caller and its account.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    pub(super) caller: Caller,
    account: usize,
}

/// A call that is to be made, and how.
#[derive(Clone, Copy, Debug)]
struct Order {
    work: Work,
    is_idempotent: bool,
    /// It has a key of its own, under which it may be made again and is executed once.
    is_keyed: bool,
    timeout: Option<Duration>,
    per_try: Option<Duration>,
    hedge: Option<Duration>,
    /// For so long its caller wants it.
    patience: Option<Duration>,
}

/// What its handler does.
#[derive(Clone, Copy, Debug)]
enum Work {
    /// It answers in place.
    Quick,
    /// It takes its time, alone, and may end in an error.
    Slow { takes: Duration, fails: bool },
}

/// Its number, how many ms it takes, and whether it ends in an error.
type SlowCall = (u64, u64, bool);

impl Calls {
    pub(super) fn new(sim: &Sim) -> Self {
        Self { sim: sim.clone(), ledger: Mutex::default() }
    }

    /// A caller that began then, with this budget.
    pub(super) fn desk(&self, caller: Caller, budget: RetryBudget, since: Instant) -> Desk {
        Desk { caller, account: lock(&self.ledger).account(budget, since) }
    }

    /// What a provider provides.
    pub(super) fn router(self: &Arc<Self>) -> Router {
        let (quick, slow) = (self.clone(), self.clone());
        Router::new()
            .method(METHOD, move |call: u64| {
                quick.began(call, None);
                quick.ended(call);
                Ok(2 * call)
            })
            .method_async_with(Method::new(SLOW).concurrency(1).queue(1), move |context: Context, call: SlowCall| {
                let (calls, (number, takes, fails)) = (slow.clone(), call);
                calls.began(number, context.deadline());
                async move {
                    sleep(Duration::from_millis(takes)).await;
                    calls.ended(number);
                    if fails { Err(MethodError::text("as it was asked to")) } else { Ok(2 * number) }
                }
            })
    }

    /// Calls one after the other, and now and then some at once.
    pub(super) async fn work(&self, desk: &Desk) {
        loop {
            // What becomes of them is in the ledger.
            match self.sim.draw(12) {
                0 => self.burst(desk).await,
                1..4 => drop(self.call(desk, Order::repeatable(&self.sim)).await),
                4..6 => drop(self.call(desk, Order::keyed(&self.sim)).await),
                _ => drop(self.call(desk, Order::PLAIN).await),
            }
            sleep(self.sim.draw_time(BETWEEN_CALLS)).await;
        }
    }

    /// Makes one call, and says why it was not answered.
    pub(super) async fn call_once(&self, desk: &Desk) -> Result<(), String> {
        self.call(desk, Order::PLAIN).await
    }

    /// Makes more calls at once than providers take, which its callers do not all wait for.
    pub(super) async fn burst(&self, desk: &Desk) {
        let mut calls: Together<_> = (0..BURST).map(|_| Box::pin(self.call(desk, Order::slow(&self.sim)))).collect();
        while calls.next().await.is_some() {}
    }

    /// Calls from now on meet no fault.
    pub(super) fn is_peace(&self) {
        lock(&self.ledger).is_peace();
    }

    /// What was said not to be executed was not.
    ///
    /// # Panics
    /// If it was.
    pub(super) fn check(&self) {
        lock(&self.ledger).check().unwrap_or_else(|why| panic!("{why}"));
    }

    pub(super) fn count(&self, report: &mut Report) {
        let Totals { made, failed, said_not_executed, said_unknown, given_up, again } = lock(&self.ledger).totals();
        report.calls += made;
        report.failed += failed;
        report.said_not_executed += said_not_executed;
        report.said_unknown += said_unknown;
        report.given_up += given_up;
        report.again += again;
    }

    async fn call(&self, desk: &Desk, order: Order) -> Result<(), String> {
        let number = lock(&self.ledger).open(desk.account, order.terms());
        let caller = order.caller(&desk.caller, number);
        let outcome = match order.patience {
            None => Some(order.make(&caller, number).await),
            Some(patience) => timeout(patience, order.make(&caller, number)).await.ok(),
        };
        let told = match &outcome {
            Some(Ok(twice)) => {
                assert_eq!(*twice, 2 * number, "call {number} got the answer to another call");
                Told::Answer
            }
            Some(Err(error)) => Told::Error { executed: error.executed(), tries: error.tries() },
            None => Told::Nothing,
        };
        let said = match outcome {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(error.to_string()),
            None => Err("its caller did not wait".to_owned()),
        };
        if let Err(why) = &said {
            self.sim.note(|| format!("call {number}: {why}"));
        }
        let metrics = caller.retry_metrics();
        let is_true = lock(&self.ledger).tell(number, told, metrics.retries + metrics.hedges, Instant::now());
        is_true.unwrap_or_else(|why| panic!("{why}: {said:?}"));
        said
    }

    /// A provider begins a call.
    fn began(&self, call: u64, deadline: Option<Instant>) {
        let may = lock(&self.ledger).begin(call, deadline, Instant::now());
        may.unwrap_or_else(|why| self.sim.fail(why));
    }

    fn ended(&self, call: u64) {
        let may = lock(&self.ledger).end(call);
        may.unwrap_or_else(|why| self.sim.fail(why));
    }
}

impl Order {
    /// A quick call as a caller makes it who says nothing else.
    const PLAIN: Self = Self {
        work: Work::Quick,
        is_idempotent: false,
        is_keyed: false,
        timeout: None,
        per_try: None,
        hedge: None,
        patience: None,
    };

    /// A quick one that may be executed again.
    fn repeatable(sim: &Sim) -> Self {
        let per_try = one_in(sim, 2).then(|| PER_TRY + sim.draw_time(PER_TRY));
        let hedge = one_in(sim, 2).then(|| sim.draw_time(PER_TRY));
        Self { is_idempotent: true, per_try, hedge, ..Self::PLAIN }
    }

    /// A quick one that is made again and executed once.
    fn keyed(sim: &Sim) -> Self {
        Self { is_keyed: true, per_try: Some(PER_TRY + sim.draw_time(PER_TRY)), ..Self::PLAIN }
    }

    /// One of which nobody can tell what becomes of it.
    fn slow(sim: &Sim) -> Self {
        let work = Work::Slow { takes: TAKES + sim.draw_time(TAKES), fails: one_in(sim, 8) };
        let timeout = one_in(sim, 2).then(|| SHORT + sim.draw_time(TAKES * 3));
        let patience = one_in(sim, 4).then(|| SHORT + sim.draw_time(TAKES));
        let order = Self { work, timeout, patience, ..Self::PLAIN };
        if !one_in(sim, 4) {
            let is_keyed = one_in(sim, 3);
            return Self { is_keyed, per_try: is_keyed.then(|| SHORT + sim.draw_time(TAKES * 3)), ..order };
        }
        let (per_try, hedge) = (one_in(sim, 2), one_in(sim, 2));
        let per_try = per_try.then(|| SHORT + sim.draw_time(TAKES * 3));
        Self { is_idempotent: true, per_try, hedge: hedge.then(|| SHORT + sim.draw_time(TAKES)), ..order }
    }

    fn terms(&self) -> Terms {
        let fails = matches!(self.work, Work::Slow { fails: true, .. });
        Terms { most: if self.is_idempotent { self.policy().tries } else { 1 }, fails }
    }

    fn policy(&self) -> RetryPolicy {
        RetryPolicy { per_try: self.per_try, ..RetryPolicy::default() }
    }

    fn caller(&self, caller: &Caller, number: u64) -> Caller {
        let caller = caller.with_retry(self.policy());
        let caller = if self.is_keyed { caller.with_idempotency_key(format!("call {number}")) } else { caller };
        let caller = if self.is_idempotent { caller.idempotent() } else { caller };
        let caller = self.hedge.map_or_else(|| caller.clone(), |delay| caller.with_hedge(delay));
        self.timeout.map_or_else(|| caller.clone(), |timeout| caller.with_timeout(timeout))
    }

    async fn make(&self, caller: &Caller, number: u64) -> Result<u64, CallError> {
        match self.work {
            Work::Quick => caller.call(METHOD, &number).await,
            Work::Slow { takes, fails } => {
                let takes = u64::try_from(takes.as_millis()).unwrap_or(u64::MAX);
                caller.call(SLOW, &(number, takes, fails)).await
            }
        }
    }
}

fn one_in(sim: &Sim, n: u64) -> bool {
    sim.draw(n) == 0
}

/// What all providers provide beside it, for one call at a time.
const SLOW: &str = "double slowly";
/// How many of them a caller makes at once.
const BURST: usize = 6;
/// One of them takes so long, and up to twice as long.
const TAKES: Duration = Duration::from_millis(100);
/// For one that is to be given up while another runs.
const SHORT: Duration = Duration::from_millis(20);
/// Far longer than a quick call takes where nothing stands still; at most twice as long.
const PER_TRY: Duration = Duration::from_millis(300);
/// At most.
const BETWEEN_CALLS: Duration = Duration::from_millis(400);
