use std::sync::{Arc, Mutex};
use std::time::Duration;

use callboard_client::{CallError, RetryBudget, RetryPolicy, Together};
use callboard_registry::Caller;
use callboard_server::{Context, Method, MethodError, Router};
use tokio::time::{Instant, sleep, timeout};

use super::ledger::{Ledger, Terms, Told, Totals};
use super::{METHOD, RELAYED, Report};
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
    /// It takes its time, and may end in an error.
    Slow { method: &'static str, takes: Duration, fails: bool },
}

/// Its number, how many µs it takes, and whether it ends in an error.
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
        let quick = self.clone();
        let router = Router::new().method(METHOD, move |call: u64| {
            quick.began(call, None);
            quick.ended(call);
            Ok(2 * call)
        });
        self.with_slow(router, SLOW)
    }

    /// What one provides that listens nowhere.
    pub(super) fn relayed_router(self: &Arc<Self>) -> Router {
        let calls = self.clone();
        let router = Router::new().method_with(RELAYED, move |context: Context, call: SlowCall| {
            let (number, takes, fails) = call;
            calls.began(number, context.deadline());
            calls.sim.take(Duration::from_micros(takes));
            calls.ended(number);
            answer(number, fails)
        });
        self.with_slow(router, RELAYED_SLOW)
    }

    /// With a method that takes its time, alone.
    fn with_slow(self: &Arc<Self>, router: Router, name: &str) -> Router {
        let slow = self.clone();
        let method = Method::new(name).concurrency(1).queue(1);
        router.method_async_with(method, move |context: Context, call: SlowCall| {
            let (calls, (number, takes, fails)) = (slow.clone(), call);
            calls.began(number, context.deadline());
            async move {
                sleep(Duration::from_micros(takes)).await;
                calls.ended(number);
                answer(number, fails)
            }
        })
    }

    /// Calls one after the other, and now and then some at once.
    pub(super) async fn work(&self, desk: &Desk) {
        loop {
            // What becomes of them is in the ledger.
            match self.sim.draw(14) {
                0 => self.burst(desk).await,
                12 => self.burst_in_place(desk).await,
                13 => drop(self.call(desk, Order::in_place(&self.sim)).await),
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

    /// The same at a provider that listens nowhere.
    pub(super) async fn call_relayed(&self, desk: &Desk) -> Result<(), String> {
        let takes = self.sim.draw_time(IN_PLACE);
        self.call(desk, Order { work: Work::Slow { method: RELAYED, takes, fails: false }, ..Order::PLAIN }).await
    }

    /// Makes more calls at once than providers take, which its callers do not all wait for.
    pub(super) async fn burst(&self, desk: &Desk) {
        let mut calls: Together<_> = (0..BURST).map(|_| Box::pin(self.call(desk, Order::slow(&self.sim)))).collect();
        while calls.next().await.is_some() {}
    }

    /// Makes so many at once that they wait for each other where they run in place.
    pub(super) async fn burst_in_place(&self, desk: &Desk) {
        let order = || Order::in_place(&self.sim);
        let mut calls: Together<_> = (0..BURST_IN_PLACE).map(|_| Box::pin(self.call(desk, order()))).collect();
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
        let method = if one_in(sim, 3) { RELAYED_SLOW } else { SLOW };
        let work = Work::Slow { method, takes: TAKES + sim.draw_time(TAKES), fails: one_in(sim, 8) };
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

    /// One that runs in place at a provider that listens nowhere, and others meanwhile wait.
    fn in_place(sim: &Sim) -> Self {
        let work = Work::Slow { method: RELAYED, takes: sim.draw_time(IN_PLACE), fails: one_in(sim, 8) };
        let timeout = one_in(sim, 3).then(|| SHORT + sim.draw_time(SHORT * 2));
        let patience = one_in(sim, 3).then(|| sim.draw_time(SHORT));
        let (is_keyed, is_idempotent) = (one_in(sim, 6), one_in(sim, 4));
        let per_try = one_in(sim, 2).then(|| SHORT + sim.draw_time(SHORT * 2));
        let hedge = (is_idempotent && one_in(sim, 2)).then(|| sim.draw_time(SHORT));
        Self { work, is_idempotent: is_idempotent && !is_keyed, is_keyed, timeout, per_try, hedge, patience }
    }

    fn terms(&self) -> Terms {
        let (fails, is_relayed) = match self.work {
            Work::Quick => (false, false),
            Work::Slow { method, fails, .. } => (fails, method != SLOW),
        };
        Terms { most: if self.is_idempotent { self.policy().tries } else { 1 }, fails, is_relayed }
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
            Work::Slow { method, takes, fails } => {
                let takes = u64::try_from(takes.as_micros()).unwrap_or(u64::MAX);
                caller.call(method, &(number, takes, fails)).await
            }
        }
    }
}

fn answer(number: u64, fails: bool) -> Result<u64, MethodError> {
    if fails { Err(MethodError::text("as it was asked to")) } else { Ok(2 * number) }
}

fn one_in(sim: &Sim, n: u64) -> bool {
    sim.draw(n) == 0
}

/// What all providers provide beside it that listen, for one call at a time.
const SLOW: &str = "double slowly";
/// The same of those that listen nowhere.
const RELAYED_SLOW: &str = "double slowly backstage";
/// Of those that run in place.
const BURST_IN_PLACE: usize = 24;
/// One of them takes so long at most.
const IN_PLACE: Duration = Duration::from_millis(2);
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
