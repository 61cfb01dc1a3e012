//! Calls that are made again, by other providers where there are any.

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use callboard_client::RetryBudget;
use callboard_common::{Connection, Dispatcher, Executed, Message, ResultCode};
use callboard_net::{Conn, Serving, Settings, serve};
use callboard_server::{MethodError, Router, Server};
use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::tests::{ANY, Answering, RawAnswer, blackhole};
use super::*;
use crate::testing::{Center, LONG, host_of, serve_who};

const FULL: &str = r#"{"rcode":17,"error":{"message":"full","executed":"no"}}"#;
const DRAINING: &str = r#"{"rcode":22,"error":{"message":"draining","executed":"no"}}"#;
const WRONG: &str = r#"{"rcode":4,"error":{"message":"wrong","executed":"no"}}"#;

/// A provider that answers each call so, or not at all, and counts them.
struct Stub {
    serving: Serving,
    calls: Arc<AtomicUsize>,
}

impl Stub {
    async fn start(answer: Option<&'static str>) -> Self {
        Self::with(move |_| answer).await
    }

    /// One that answers each call so, by its number from 0.
    async fn with(answer: impl Fn(usize) -> Option<&'static str> + Send + Sync + 'static) -> Self {
        let calls = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&calls);
        let take = move |conn: &Conn, message: &Message| {
            if let Some(answer) = answer(count.fetch_add(1, SeqCst)) {
                let body = RawValue::from_string(answer.to_owned()).unwrap();
                let _ = conn.answer(message.id(), &RawAnswer(body));
            }
        };
        let handler = Arc::new(Dispatcher::new().on_rpc(Answering(take)));
        let settings = Settings { loops: 1, ..Settings::default() };
        Self { serving: serve(&[ANY.parse().unwrap()], settings, handler).await.unwrap(), calls }
    }

    fn host(&self) -> Host {
        self.serving.addresses()[0].to_socket_addr().unwrap().try_into().unwrap()
    }

    fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }
}

/// A provider whose one method is asked for ever, which says when it begins and when it is dropped.
struct Endless {
    server: Server,
    began: Arc<Notify>,
    dropped: Arc<Notify>,
}

struct TellsItsEnd(Arc<Notify>);

impl Drop for TellsItsEnd {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Endless {
    async fn start() -> Self {
        let (began, dropped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (begins, ends) = (Arc::clone(&began), Arc::clone(&dropped));
        let router = Router::new().method_async("who", move |(): ()| {
            let (begins, end) = (Arc::clone(&begins), TellsItsEnd(Arc::clone(&ends)));
            async move {
                let _end = end;
                begins.notify_one();
                pending::<()>().await;
                Ok::<_, MethodError>("nobody")
            }
        });
        let server = Server::builder().router(router).loops(1).listen(ANY).start().await.unwrap();
        Self { server, began, dropped }
    }
}

/// Makes its calls again at once, so that no test waits.
async fn eager(center: &Center) -> Caller {
    let policy = RetryPolicy { first: Duration::ZERO, ..RetryPolicy::default() };
    Caller::builder().timeout(LONG).connect_timeout(LONG).retry(policy).connect(center.address()).await.unwrap()
}

async fn who(caller: &Caller) -> Result<String, CallError> {
    timeout(LONG, caller.call("who", &())).await.unwrap()
}

fn counts(caller: &Caller) -> [u64; 4] {
    let RetryMetrics { passed_on, retries, hedges, budget_refused, .. } = caller.retry_metrics();
    [passed_on, retries, hedges, budget_refused]
}

#[tokio::test]
async fn what_an_overloaded_provider_refuses_goes_to_another_and_by_and_by_to_all_again() {
    let center = Center::start().await;
    let (full, free) = (Stub::start(Some(FULL)).await, serve_who("free", ANY).await);
    let _both = center.announce("who", vec![full.host(), host_of(&free)]).await;
    let caller = eager(&center).await;
    assert_eq!(who(&caller).await.unwrap(), "free");
    assert_eq!((full.calls(), counts(&caller)), (1, [0, 1, 0, 0]));

    let full_too = Stub::start(Some(FULL)).await;
    let _only = center.announce("whose", vec![full.host(), full_too.host()]).await;
    let error = caller.call::<String>("whose", &()).await.unwrap_err();
    assert_eq!((error.code(), error.executed(), error.tries()), (Some(ResultCode::Overloaded), Executed::No, 3));
    assert!(full.calls() >= 2 && full_too.calls() >= 1, "both before either is asked again");
    assert_eq!(full.calls() + full_too.calls(), 4);
    let error = caller.with_retry(RetryPolicy::never()).call::<String>("whose", &()).await.unwrap_err();
    assert_eq!((error.code(), error.tries()), (Some(ResultCode::Overloaded), 1));
}

#[tokio::test]
async fn one_that_had_been_overloaded_is_asked_again_before_one_that_does_not_answer() {
    let center = Center::start().await;
    let flaky = Stub::with(|call| Some(if call == 1 { FULL } else { r#"{"rcode":0,"result":"flaky"}"# })).await;
    let (hole, _listener, _waiting) = blackhole().await;
    let _both = center.announce("who", vec![hole, flaky.host()]).await;
    let share = Duration::from_secs(3);
    let caller = eager(&center).await.with_timeout(2 * share);
    assert_eq!(who(&caller).await.unwrap(), "flaky");
    assert!(caller.inner.pool.is_doubtful(hole));
    let began = std::time::Instant::now();
    assert_eq!(who(&caller).await.unwrap(), "flaky");
    assert!(began.elapsed() < share, "no time was lost on the other one");
    assert_eq!((flaky.calls(), counts(&caller)), (3, [0, 1, 0, 0]));
}

#[tokio::test]
async fn where_nobody_can_be_reached_it_is_tried_again_after_a_pause() {
    let center = Center::start().await;
    let server = serve_who("a", ANY).await;
    let host = host_of(&server);
    let _provider = center.announce("who", host).await;
    server.shutdown().await;
    let caller = eager(&center).await;
    let error = who(&caller).await.unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Unavailable) && error.executed() == Executed::No, "{error}");
    assert_eq!((error.tries(), counts(&caller)), (3, [0, 2, 0, 0]));
    assert!(error.to_string().contains("refused"), "{error}");
    let longer = RetryPolicy { tries: 1000, first: Duration::from_millis(1), ..RetryPolicy::default() };
    let longer = caller.with_retry(RetryPolicy { longest: Duration::from_millis(50), ..longer });
    let back = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        serve_who("back", &host.to_string()).await
    };
    let (answer, _back) = tokio::join!(who(&longer), back);
    assert_eq!(answer.unwrap(), "back");
}

#[tokio::test]
async fn a_call_whose_provider_dies_is_told_as_it_is_and_made_again_elsewhere_only_if_it_is_idempotent() {
    let center = Center::start().await;
    let dying = Endless::start().await;
    let alive = serve_who("alive", ANY).await;
    let (began, host) = (Arc::clone(&dying.began), host_of(&dying.server));
    let _both = center.announce("who", vec![host, host_of(&alive)]).await;
    let caller = eager(&center).await;
    let idempotent = caller.idempotent();
    let calls = async { tokio::join!(who(&caller), who(&caller)) };
    let ((first, second), ()) = tokio::join!(calls, async {
        began.notified().await;
        caller.inner.pool.client(host).await.unwrap().hang_up("it dies");
    });
    let error = [first, second].into_iter().find_map(Result::err).unwrap();
    assert!(matches!(error.kind(), CallErrorKind::Disconnected), "{error}");
    assert_eq!((error.executed(), error.tries()), (Executed::Unknown, 1));
    // Each provider is asked first once.
    let calls = async { tokio::join!(who(&idempotent), who(&idempotent)) };
    let (answers, ()) = tokio::join!(calls, async {
        began.notified().await;
        caller.inner.pool.client(host).await.unwrap().hang_up("it dies");
    });
    assert_eq!((answers.0.unwrap(), answers.1.unwrap()), ("alive".to_owned(), "alive".to_owned()));
    assert_eq!(counts(&caller), [0, 1, 0, 0]);
}

#[tokio::test]
async fn what_is_told_at_the_end_holds_over_all_tries() {
    let center = Center::start().await;
    let (silent, full) = (Stub::start(None).await, Stub::start(Some(FULL)).await);
    // The balancer begins with the first.
    let _both = center.announce("who", vec![silent.host(), full.host()]).await;
    let caller = eager(&center).await.idempotent();
    let policy = RetryPolicy { tries: 2, per_try: Some(Duration::from_secs(1)), ..caller.retry };
    let error = who(&caller.with_retry(policy)).await.unwrap_err();
    assert_eq!((silent.calls(), full.calls()), (1, 1));
    assert_eq!((error.code(), error.tries()), (Some(ResultCode::Overloaded), 2), "{error}");
    assert_eq!(error.executed(), Executed::Unknown, "the first try may have been executed: {error}");
}

/// Whatever all providers do, what is sent in vain stays within the budget.
#[tokio::test]
async fn in_a_total_outage_retries_stay_within_their_budget() {
    const CALLS: u64 = 300;
    for (answer, goes_on_at_once) in [(FULL, 0), (DRAINING, CALLS)] {
        let began = std::time::Instant::now();
        let center = Center::start().await;
        let mut providers = Vec::new();
        for _ in 0..4 {
            providers.push(Stub::start(Some(answer)).await);
        }
        let _all = center.announce("who", providers.iter().map(Stub::host).collect::<Vec<_>>()).await;
        let caller = eager(&center).await;
        for _ in 0..CALLS {
            let error = who(&caller).await.unwrap_err();
            assert_eq!(error.executed(), Executed::No, "{error}");
        }
        let metrics = caller.retry_metrics();
        let asked: usize = providers.iter().map(Stub::calls).sum();
        let budget = CALLS / 5 + u64::from(RetryBudget::default().reserve) + began.elapsed().as_secs() + 1;
        let asked = u64::try_from(asked).unwrap();
        assert!(asked <= CALLS + goes_on_at_once + budget, "{answer}: {asked} {metrics:?}");
        assert!(metrics.budget_refused > 0 && asked > CALLS, "{answer}: {asked} {metrics:?}");
    }
}

#[tokio::test]
async fn a_hedge_takes_the_first_answer_and_gives_the_other_call_up() {
    let center = Center::start().await;
    let (slow, quick) = (Endless::start().await, serve_who("quick", ANY).await);
    let _both = center.announce("who", vec![host_of(&slow.server), host_of(&quick)]).await;
    let delay = Duration::from_millis(1);
    let caller = eager(&center).await.with_hedge(delay).idempotent();
    assert_eq!(who(&caller).await.unwrap(), "quick");
    timeout(LONG, slow.dropped.notified()).await.unwrap();
    assert_eq!(counts(&caller), [0, 0, 1, 0]);
    let once = caller.with_retry(RetryPolicy::never()).with_timeout(Duration::from_millis(300));
    assert_eq!(who(&once).await.unwrap(), "quick", "its turn is that of the quick one");
    let error = who(&once).await.unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Timeout), "a policy of one try permits no hedge: {error}");
    assert_eq!((error.executed(), error.tries(), counts(&caller)), (Executed::Unknown, 1, [0, 0, 1, 0]));
}

#[tokio::test]
async fn only_idempotent_calls_are_hedged_and_only_where_there_is_somebody_else() {
    let center = Center::start().await;
    let (silent, other) = (Stub::start(None).await, Stub::start(None).await);
    let _both = center.announce("who", vec![silent.host(), other.host()]).await;
    let _alone = center.announce("whose", silent.host()).await;
    let caller = eager(&center).await.with_hedge(Duration::from_millis(1)).with_timeout(Duration::from_millis(300));
    let error = who(&caller).await.unwrap_err();
    assert_eq!((error.executed(), error.tries()), (Executed::Unknown, 1), "{error}");
    let error = caller.idempotent().call::<()>("whose", &()).await.unwrap_err();
    assert_eq!((error.executed(), error.tries()), (Executed::Unknown, 1), "{error}");
    assert_eq!((silent.calls() + other.calls(), counts(&caller)), (2, [0, 0, 0, 0]));
}

#[tokio::test]
async fn hedges_come_out_of_the_budget() {
    let center = Center::start().await;
    let (slow, quick) = (Endless::start().await, serve_who("quick", ANY).await);
    let _both = center.announce("who", vec![host_of(&slow.server), host_of(&quick)]).await;
    let budget = RetryBudget { percent: 0, reserve: 0, most: 0 };
    let caller = Caller::builder().hedge(Duration::from_millis(1)).retry_budget(budget).timeout(LONG);
    let caller = caller.connect(center.address()).await.unwrap().idempotent();
    let error = who(&caller.with_timeout(Duration::from_millis(300))).await.unwrap_err();
    assert_eq!((error.executed(), counts(&caller)), (Executed::Unknown, [0, 0, 0, 1]), "{error}");
}

#[tokio::test]
async fn an_error_beside_a_try_that_goes_on_does_not_say_that_nothing_was_executed() {
    let center = Center::start().await;
    let (silent, wrong, full) =
        (Stub::start(None).await, Stub::start(Some(WRONG)).await, Stub::start(Some(FULL)).await);
    let _both = center.announce("who", vec![silent.host(), wrong.host()]).await;
    let _others = center.announce("whose", vec![silent.host(), full.host()]).await;
    let caller = eager(&center).await.with_hedge(Duration::from_millis(1)).idempotent();
    let error = who(&caller).await.unwrap_err();
    assert_eq!((error.code(), error.tries()), (Some(ResultCode::InvalidParams), 2), "{error}");
    assert_eq!(error.executed(), Executed::Unknown, "the silent one may have executed it: {error}");
    // Where the second refuses it, the first is waited for.
    let short = caller.with_timeout(Duration::from_millis(300));
    let error = short.call::<()>("whose", &()).await.unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Timeout) && full.calls() == 1, "{error}");
    assert_eq!((error.executed(), error.tries()), (Executed::Unknown, 2), "{error}");
}
