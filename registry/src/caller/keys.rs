//! Calls under idempotency keys, with several providers.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use callboard_client::RetryBudget;
use callboard_common::{Executed, ResultCode};
use callboard_server::{AnswerStore, Change, KeptAnswers, Router, Server, StoreError, StoredCall};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout};

use super::tests::ANY;
use super::*;
use crate::Provider;
use crate::testing::{Center, LONG, host_of};

/// A provider of `pay`, which counts its runs, tells of each, and waits to be let go on.
struct Payee {
    server: Server,
    runs: Arc<AtomicUsize>,
    began: Arc<Notify>,
    go: Arc<Semaphore>,
}

impl Payee {
    async fn start() -> Self {
        Self::start_at(ANY, |router| router).await
    }

    async fn start_with(store: &'static str, listen: &str) -> Self {
        let kept = KeptAnswers::default().stored_in(Named(store)).unwrap();
        Self::start_at(listen, |router| router.kept_answers(kept)).await
    }

    async fn start_at(listen: &str, settings: impl FnOnce(Router) -> Router) -> Self {
        let (runs, began, go) = (Arc::<AtomicUsize>::default(), Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
        let (count, begins, waits) = (Arc::clone(&runs), Arc::clone(&began), Arc::clone(&go));
        let router = Router::new().method_async("pay", move |sum: u64| {
            count.fetch_add(1, SeqCst);
            begins.notify_one();
            let waits = Arc::clone(&waits);
            async move {
                waits.acquire().await?.forget();
                Ok(sum)
            }
        });
        let builder = Server::builder().router(settings(router)).loops(1).grace(Duration::ZERO);
        let server = builder.listen(listen).start().await.unwrap();
        Self { server, runs, began, go }
    }

    fn runs(&self) -> usize {
        self.runs.load(SeqCst)
    }
}

/// A store of this name, which forgets all: where a call is made again there, it runs again.
#[derive(Debug)]
struct Named(&'static str);

impl AnswerStore for Named {
    fn id(&self) -> &str {
        self.0
    }

    fn load(&mut self) -> Result<Vec<StoredCall>, StoreError> {
        Ok(Vec::new())
    }

    fn write(&mut self, _: &[Change]) -> Result<(), StoreError> {
        Ok(())
    }
}

async fn announce(center: &Center, payee: &Payee) -> Provider {
    center.announce("pay", host_of(&payee.server)).await
}

/// Makes a call again at once, each time after so long, and as often as it takes.
async fn stubborn(center: &Center, per_try: Option<Duration>) -> Caller {
    let policy = RetryPolicy { tries: 10_000, per_try, first: Duration::ZERO, longest: Duration::from_millis(5) };
    let budget = RetryBudget { reserve: 10_000, ..RetryBudget::default() };
    let builder = Caller::builder().timeout(LONG).connect_timeout(LONG).retry(policy).retry_budget(budget);
    builder.connect(center.address()).await.unwrap()
}

#[tokio::test]
async fn a_call_that_is_not_answered_in_time_is_made_again_where_it_was_and_executed_once() {
    let center = Center::start().await;
    let payees = [Payee::start().await, Payee::start().await];
    let _announced = [announce(&center, &payees[0]).await, announce(&center, &payees[1]).await];
    let caller = stubborn(&center, Some(Duration::from_millis(50))).await;
    // Nor is it hedged, or made again elsewhere, since its method would bear it.
    let once = caller.with_idempotency_key("k").idempotent().with_hedge(Duration::from_millis(1));
    let call = tokio::spawn(async move { once.call::<u64>("pay", &12).await });
    let repeats = async {
        while caller.retry_metrics().retries < 5 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, repeats).await.unwrap();
    assert_eq!(payees[0].runs() + payees[1].runs(), 1);
    for payee in &payees {
        payee.go.add_permits(10);
    }
    assert_eq!(timeout(LONG, call).await.unwrap().unwrap().unwrap(), 12);
    assert_eq!(payees[0].runs() + payees[1].runs(), 1);
}

#[tokio::test]
async fn a_call_whose_provider_dies_goes_to_no_other_one_and_nobody_knows() {
    let center = Center::start().await;
    let payees = [Payee::start().await, Payee::start().await];
    let announced = [announce(&center, &payees[0]).await, announce(&center, &payees[1]).await];
    let caller =
        stubborn(&center, None).await.with_retry(RetryPolicy { first: Duration::ZERO, ..RetryPolicy::default() });
    let once = caller.with_idempotency_key("k");
    let call = tokio::spawn(async move { once.call::<u64>("pay", &12).await });
    let [first, second] = payees;
    let (dying, living) = tokio::select! {
        () = first.began.notified() => (first, second),
        () = second.began.notified() => (second, first),
    };
    living.go.add_permits(10);
    dying.server.shutdown().await;
    let error = timeout(LONG, call).await.unwrap().unwrap().unwrap_err();
    assert_eq!((error.executed(), living.runs()), (Executed::Unknown, 0), "{error}");
    let text = error.to_string();
    assert!(text.contains("who would is gone") && text.contains("executed: unknown"), "{text}");
    // Another key is another call.
    assert_eq!(caller.with_idempotency_key("other").call::<u64>("pay", &3).await.unwrap(), 3);
    drop(announced);
}

#[tokio::test]
async fn the_same_key_with_other_parameters_is_refused_and_a_repeat_by_hand_is_answered() {
    let center = Center::start().await;
    let payee = Payee::start().await;
    let _announced = announce(&center, &payee).await;
    payee.go.add_permits(10);
    let once = stubborn(&center, None).await.with_idempotency_key("k");
    for _ in 0..2 {
        assert_eq!(once.call::<u64>("pay", &12).await.unwrap(), 12);
    }
    let error = once.call::<u64>("pay", &13).await.unwrap_err();
    assert_eq!(
        (error.code(), error.executed(), error.tries()),
        (Some(ResultCode::Conflict), Executed::No, 1),
        "{error}"
    );
    assert_eq!(payee.runs(), 1);
}

/// A call that was lost with its provider of store "a".
async fn lost_call(center: &Center, caller: &Caller) -> (tokio::task::JoinHandle<Result<u64, CallError>>, String) {
    let payee = Payee::start_with("a", ANY).await;
    let announced = announce(center, &payee).await;
    let once = caller.with_idempotency_key("k");
    let call = tokio::spawn(async move { once.call::<u64>("pay", &12).await });
    timeout(LONG, payee.began.notified()).await.unwrap();
    let address = payee.server.addresses()[0].to_string();
    payee.server.shutdown().await;
    drop(announced);
    (call, address)
}

#[tokio::test]
async fn a_call_whose_provider_dies_is_made_again_at_its_successor_with_the_same_store_wherever_that_is() {
    for is_elsewhere in [false, true] {
        let center = Center::start().await;
        let caller = stubborn(&center, None).await.with_retry(RetryPolicy::default());
        let (call, address) = lost_call(&center, &caller).await;
        // One that has another store comes first, but for another address.
        let stranger = Payee::start_with("b", ANY).await;
        let _stranger = announce(&center, &stranger).await;
        // The successor takes its time, and is there before it is announced.
        let successor = Payee::start_with("a", if is_elsewhere { ANY } else { &address }).await;
        successor.go.add_permits(1);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!call.is_finished());
        let _successor = announce(&center, &successor).await;
        assert_eq!(timeout(LONG, call).await.unwrap().unwrap().unwrap(), 12);
        assert_eq!((successor.runs(), stranger.runs()), (1, 0), "it knows nothing of the first run");
    }
}

#[tokio::test]
async fn a_call_whose_provider_is_followed_by_one_with_another_store_is_not_made_again_and_nobody_knows() {
    for store in ["b", ""] {
        let center = Center::start().await;
        let caller = stubborn(&center, None).await.with_retry(RetryPolicy::default());
        let (call, address) = lost_call(&center, &caller).await;
        let stranger = match store {
            "" => Payee::start_at(&address, |router| router).await,
            store => Payee::start_with(store, &address).await,
        };
        let _stranger = announce(&center, &stranger).await;
        let error = timeout(LONG, call).await.unwrap().unwrap().unwrap_err();
        assert_eq!((error.executed(), stranger.runs()), (Executed::Unknown, 0), "{error}");
        assert!(error.to_string().contains("another one is there now, which does not know its key"), "{error}");
    }
}

#[tokio::test]
async fn who_has_a_store_and_does_not_come_back_is_waited_for_until_the_deadline() {
    let center = Center::start().await;
    let caller = stubborn(&center, None).await.with_timeout(Duration::from_secs(2));
    let (began, (call, _)) = (Instant::now(), lost_call(&center, &caller).await);
    let error = timeout(LONG, call).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.executed(), Executed::Unknown, "{error}");
    assert!(began.elapsed() > Duration::from_secs(1), "{:?}", began.elapsed());
}
