//! Calls under idempotency keys to providers that listen nowhere, and keep their answers in a store.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use callboard::{CallError, Caller, Center, Executed, Place, Provider, Router};
use callboard_client::RetryPolicy;
use callboard_server::{AnswerFile, KeptAnswers};
use callboard_tests::{FaultProxy, Weather, within};
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;

use crate::house::{sessions, until};

/// A center, a folder for stores, and how often `pay` was executed in all.
struct House {
    center: Center,
    folder: TempDir,
    executed: Arc<AtomicUsize>,
}

/// A provider of `pay` whose calls end when they are let go.
struct Desk {
    provider: Provider,
    router: Router,
    go: Arc<Semaphore>,
}

impl House {
    async fn start() -> Self {
        let center = Center::builder().listen("127.0.0.1:0").loops(2).start().await.unwrap();
        Self { center, folder: tempfile::tempdir().unwrap(), executed: Arc::default() }
    }

    fn address(&self) -> SocketAddr {
        self.center.address().trim_start_matches("tcp://").parse().unwrap()
    }

    fn store(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// It calls itself so, or as nobody else does.
    async fn desk(&self, store: &str, instance: Option<&str>, center: SocketAddr) -> Desk {
        let (go, executed) = (Arc::new(Semaphore::new(0)), Arc::clone(&self.executed));
        let waits = Arc::clone(&go);
        let router = Router::new().method_async("pay", move |sum: u64| {
            let (number, waits) = (executed.fetch_add(1, SeqCst) as u64, Arc::clone(&waits));
            async move {
                waits.acquire().await?.forget();
                Ok(sum + 100 * number)
            }
        });
        let router = router.kept_answers(KeptAnswers::default().stored_in(self.open(store).await).unwrap());
        let client = sessions();
        let client = instance.into_iter().fold(client, callboard::ClientBuilder::instance);
        let client = client.serves(router.clone()).connect(format!("tcp://{center}")).await.unwrap();
        let provider = Provider::new(client).announce(["pay"], Place::Relay).await.unwrap();
        Desk { provider, router, go }
    }

    /// The one before may have it for a moment.
    async fn open(&self, store: &str) -> AnswerFile {
        let opened = async {
            loop {
                match AnswerFile::open(self.store(store)) {
                    Ok(opened) => return opened,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        within(opened).await
    }

    async fn caller(&self, timeout: Duration) -> Caller {
        Caller::builder().client(sessions()).connect(self.center.address()).await.unwrap().with_timeout(timeout)
    }

    /// A call that was executed by a provider that was killed before its caller heard of it.
    async fn lost_answer(&self, caller: &Caller, instance: Option<&str>) -> JoinHandle<Result<u64, CallError>> {
        let proxy = FaultProxy::start(self.address()).await;
        let desk = self.desk("a", instance, proxy.address()).await;
        let once = caller.with_idempotency_key("order-17");
        let call = tokio::spawn(async move { once.call::<u64>("pay", &5).await });
        until("it runs", || self.executed.load(SeqCst) == 1).await;
        proxy.set(Weather::Silent);
        desk.go.add_permits(1);
        until("its answer is kept", || desk.router.kept_metrics().stored == 1).await;
        assert!(!call.is_finished());
        desk.provider.center().close();
        drop((proxy, desk));
        call
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_successor_of_a_relayed_provider_that_was_killed_gives_the_answer_that_it_kept() {
    // Whatever both call themselves, and whether the first may still be back.
    for (first, second, is_late) in [
        (None, None, false),
        (None, None, true),
        (Some("cash-desk"), Some("cash-desk"), false),
        (Some("cash-desk"), Some("cash-desk"), true),
        (Some("cash-desk"), Some("desk-2"), false),
    ] {
        let row = format!("{first:?} {second:?} {is_late}");
        let (house, executed) = (House::start().await, |house: &House| house.executed.load(SeqCst));
        let caller = house.caller(Duration::from_secs(20)).await;
        let mut notices = caller.notices();
        let call = house.lost_answer(&caller, first).await;
        // It provides the same, and has another store.
        let stranger = house.desk("b", None, house.address()).await;
        stranger.go.add_permits(10);
        while is_late && within(notices.next()).await.unwrap().online {}
        let successor = house.desk("a", second, house.address()).await;
        assert_eq!(within(call).await.unwrap().unwrap(), 5, "{row}");
        assert_eq!((executed(&house), successor.router.kept_metrics().repeated), (1, 1), "{row}");
        // Others go on.
        let other = caller.with_idempotency_key("order-18");
        successor.go.add_permits(1);
        assert_eq!(within(other.call::<u64>("pay", &7)).await.unwrap(), 107, "{row}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_with_another_store_is_not_asked_also_under_the_same_name_and_nobody_knows() {
    for instance in ["cash-desk", "desk-2"] {
        let house = House::start().await;
        let caller = house.caller(Duration::from_secs(4)).await;
        let call = house.lost_answer(&caller, Some("cash-desk")).await;
        let stranger = house.desk("b", Some(instance), house.address()).await;
        stranger.go.add_permits(10);
        let error = within(call).await.unwrap().unwrap_err();
        assert_eq!((error.executed(), house.executed.load(SeqCst)), (Executed::Unknown, 1), "{instance}: {error}");
        // By hand it is another provider's call.
        let once = caller.with_idempotency_key("order-17");
        assert_eq!(within(once.call::<u64>("pay", &5)).await.unwrap(), 105, "{instance}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_a_relayed_provider_does_not_answer_in_time_is_made_again_there_and_executed_once() {
    let house = House::start().await;
    let desk = house.desk("a", None, house.address()).await;
    let policy = RetryPolicy { tries: 1_000, per_try: Some(Duration::from_millis(50)), ..RetryPolicy::default() };
    let caller = house.caller(Duration::from_secs(20)).await.with_retry(policy).with_idempotency_key("order-17");
    let metrics = caller.clone();
    let call = tokio::spawn(async move { caller.call::<u64>("pay", &5).await });
    until("it is made again", || metrics.retry_metrics().retries >= 3).await;
    desk.go.add_permits(1);
    assert_eq!(within(call).await.unwrap().unwrap(), 5);
    assert_eq!(house.executed.load(SeqCst), 1);
}
