//! Providers that listen nowhere: the center passes calls on to them over their own connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use callboard::{
    AvailabilityPolicy, CallErrorKind, Caller, Center, Client, ClientBuilder, Discovery, Executed, Limits, Method,
    MethodError, Place, Provider, ProviderError, Reconnect, ResultCode, RetryPolicy, Router, Server,
};
use callboard_tests::{RawPeer, within};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_stream::StreamExt;

use crate::house::{sessions, until};

async fn center() -> Center {
    Center::builder().listen("127.0.0.1:0").loops(2).start().await.unwrap()
}

fn serving(router: Router) -> ClientBuilder {
    let soon = Reconnect { longest: Duration::from_millis(20), ..Reconnect::default() };
    sessions().reconnect(soon).serves(router)
}

/// A provider of all methods of a router that listens nowhere.
async fn relayed(center: &Center, router: Router) -> Provider {
    let names = router.names();
    let client = serving(router).connect(center.address()).await.unwrap();
    Provider::new(client).announce(names, Place::Relay).await.unwrap()
}

async fn caller(center: &Center) -> Caller {
    Caller::builder().client(sessions()).connect(center.address()).await.unwrap()
}

/// What a method does to those that watch it.
#[derive(Clone)]
struct Watched {
    begun: Arc<AtomicUsize>,
    inside: Arc<AtomicUsize>,
    go: Arc<Semaphore>,
}

/// Counts the handlers that are there.
struct Inside(Arc<AtomicUsize>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Watched {
    fn new() -> Self {
        Self { begun: Arc::default(), inside: Arc::default(), go: Arc::new(Semaphore::new(0)) }
    }

    fn begun(&self) -> usize {
        self.begun.load(SeqCst)
    }

    fn inside(&self) -> usize {
        self.inside.load(SeqCst)
    }

    fn let_go(&self, calls: usize) {
        self.go.add_permits(calls);
    }

    /// `wait` gives its parameters back when it is let go.
    fn router(&self) -> Router {
        let watched = self.clone();
        Router::new().method_async(Method::new("wait"), move |value: Value| {
            watched.begun.fetch_add(1, SeqCst);
            watched.inside.fetch_add(1, SeqCst);
            let (inside, go) = (Inside(Arc::clone(&watched.inside)), Arc::clone(&watched.go));
            async move {
                let _inside = inside;
                go.acquire().await?.forget();
                Ok(value)
            }
        })
    }
}

fn add() -> Router {
    Router::new()
        .method("add", |(a, b): (i64, i64)| Ok(a + b))
        .method("fails", |(): ()| Err::<(), _>(MethodError::new(7, "the lights are out").with_data(&["stage"])))
        .method("panics", |(): ()| if true { panic!("on purpose") } else { Ok(()) })
}

#[tokio::test]
async fn a_caller_does_not_notice_the_difference() {
    let center = center().await;
    let server = Server::builder().router(add()).loops(1).listen("127.0.0.1:0").start().await.unwrap();
    let direct = Provider::connect(center.address()).await.unwrap();
    let mut told = Vec::new();
    for is_relayed in [true, false] {
        let provider = if is_relayed {
            relayed(&center, add()).await
        } else {
            let direct = Provider::new(direct.center().clone());
            direct.announce(add().names(), server.addresses()).await.unwrap()
        };
        let caller = caller(&center).await;
        let mut calls = Vec::new();
        for number in 0..300_i64 {
            calls.push(caller.start::<i64>("add", &(number, 1)).await.unwrap());
        }
        for (number, call) in (0..).zip(calls) {
            assert_eq!(call.await.unwrap(), number + 1);
        }
        let mut outcomes = Vec::new();
        for (method, parameters) in
            [("add", json!([1, 2])), ("add", json!("x")), ("fails", Value::Null), ("panics", Value::Null)]
        {
            let outcome = caller.call::<Value>(method, &parameters).await;
            outcomes.push(outcome.map_err(|error| {
                let CallErrorKind::Remote { code, app_code, message, data } = error.kind().clone() else {
                    panic!("{error}")
                };
                (code, app_code, message, data.map(|data| data.get().to_owned()), error.executed())
            }));
        }
        told.push(outcomes);
        assert_eq!(center.relayed_calls(), 0);
        provider.withdraw().await.unwrap();
    }
    assert_eq!(told[0], told[1]);
}

#[tokio::test]
async fn its_coming_and_going_is_told_and_who_can_not_call_it_is_not_shown_it() {
    let center = center().await;
    let discovery = Discovery::new(&sessions().connect(center.address()).await.unwrap());
    assert!(discovery.hosts("add").await.unwrap().is_empty());
    let mut notices = discovery.notices();
    let mut v1 = RawPeer::connect(&center.address()).await;
    let mut old = RawPeer::with_session(&center.address(), &["revisions"]).await;
    let provider = relayed(&center, add()).await;
    let came = within(notices.next()).await.unwrap();
    assert!(came.online && came.host.is_relayed() && came.instance.is_some(), "{came:?}");
    assert_eq!(discovery.hosts("add").await.unwrap()[..], [came.host]);
    for peer in [&mut v1, &mut old] {
        let answer = peer.ask(4, r#"{"method":"add","optype":1}"#).await.json();
        assert_eq!((&answer["rcode"], &answer["host"]), (&json!(5), &json!([])), "{answer}");
    }
    provider.withdraw().await.unwrap();
    let went = within(notices.next()).await.unwrap();
    assert_eq!((went.online, went.host, went.instance), (false, came.host, came.instance));
    v1.expect_quiet().await;
    old.expect_quiet().await;
}

#[tokio::test]
async fn a_provider_that_dies_while_it_is_called_leaves_it_unknown_whether_that_ran() {
    let center = center().await;
    let watched = Watched::new();
    let provider = relayed(&center, watched.router()).await;
    let caller = caller(&center).await;
    let call = caller.start::<Value>("wait", &1).await.unwrap();
    until("it runs", || watched.begun() == 1).await;
    provider.center().close();
    let error = within(call).await.unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Disconnected), "{error}");
    assert_eq!(error.executed(), Executed::Unknown, "{error}");
    assert!(error.to_string().contains("its provider has ended"), "{error}");
    // As long as it may come back a call waits for it; then it is refused, and did not run.
    let once = caller.with_timeout(Duration::from_secs(1)).with_retry(RetryPolicy::never());
    let error = once.call::<Value>("wait", &1).await.unwrap_err();
    assert_eq!((error.code(), error.executed()), (Some(ResultCode::Timeout), Executed::No), "{error}");
    assert_eq!(watched.begun(), 1);
}

#[tokio::test]
async fn one_that_comes_back_in_time_is_not_noticed_and_called_over_its_new_connection() {
    let center = center().await;
    let provider = relayed(&center, add()).await;
    let caller = caller(&center).await;
    assert_eq!(caller.call::<i64>("add", &(1, 2)).await.unwrap(), 3);
    let mut notices = caller.notices();
    provider.center().hang_up("a test has ended it");
    let taken_over = || center.registry_metrics().taken_over == 3;
    until("it has registered again", taken_over).await;
    assert_eq!(caller.call::<i64>("add", &(3, 4)).await.unwrap(), 7);
    provider.withdraw().await.unwrap();
    let next = within(notices.next()).await.unwrap();
    assert!(!next.online, "the first that is told is its end: {next:?}");
}

#[tokio::test]
async fn what_a_caller_gives_up_is_dropped_at_the_provider() {
    let center = center().await;
    let watched = Watched::new();
    let _provider = relayed(&center, watched.router()).await;
    let caller = caller(&center).await;
    // Its future is dropped; its deadline passes; its connection ends.
    let call = caller.start::<Value>("wait", &1).await.unwrap();
    until("it runs", || watched.inside() == 1).await;
    drop(call);
    until("it is dropped", || watched.inside() == 0).await;
    let error = caller.with_timeout(Duration::from_millis(100)).call::<Value>("wait", &1).await.unwrap_err();
    // The caller and the center look at the same time.
    let is_late = matches!(error.kind(), CallErrorKind::Timeout) || error.code() == Some(ResultCode::Timeout);
    assert!(is_late && error.executed() == Executed::Unknown, "{error}");
    until("it is dropped", || watched.inside() == 0).await;
    let call = caller.start::<Value>("wait", &1).await.unwrap();
    until("it runs", || watched.inside() == 1).await;
    caller.center().close();
    assert!(within(call).await.is_err());
    until("it is dropped", || watched.inside() == 0).await;
    until("the center has forgotten them", || center.relayed_calls() == 0).await;
}

#[tokio::test]
async fn a_call_whose_caller_can_not_give_it_up_ends_with_its_time() {
    let center = center().await;
    let watched = Watched::new();
    let provider = relayed(&center, watched.router()).await;
    let instance = provider_instance(&center).await;
    let mut peer = RawPeer::with_session(&center.address(), &["relay"]).await;
    let body = json!({"method": "wait", "parameters": 1, "meta": {"timeout_ms": 50, "instance": instance}});
    peer.send(4 << 24, b"mine", &body.to_string()).await;
    let answer = peer.receive().await;
    assert_eq!((answer.mtype, &answer.id[..], answer.rcode()), (1, &b"mine"[..], 16));
    assert_eq!(answer.json()["error"]["executed"], "unknown");
    until("it is dropped", || watched.inside() == 0).await;
    drop(provider);
}

/// Of the one provider of `wait`.
async fn provider_instance(center: &Center) -> String {
    let mut peer = RawPeer::with_session(&center.address(), &["relay", "revisions"]).await;
    let listed = peer.ask(4, r#"{"method":"wait","optype":1}"#).await.json();
    assert_eq!(listed["host"][0]["relay"], true, "{listed}");
    listed["host"][0]["instance"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn past_what_a_provider_permits_calls_are_refused_at_once_and_others_go_on() {
    let center = center().await;
    let watched = Watched::new();
    let router = watched.router();
    // A caller leaves one of them to others.
    let few = Limits { in_flight: 3, ..Limits::default() };
    let client = serving(router.clone()).limits(few).connect(center.address()).await.unwrap();
    let _slow = Provider::new(client).announce(router.names(), Place::Relay).await.unwrap();
    let _other = relayed(&center, add()).await;
    let caller = caller(&center).await;
    let waiting = [caller.start::<Value>("wait", &1).await.unwrap(), caller.start::<Value>("wait", &2).await.unwrap()];
    until("both run", || watched.begun() == 2).await;
    let error = caller.call::<Value>("wait", &3).await.unwrap_err();
    assert_eq!((error.code(), error.executed()), (Some(ResultCode::Overloaded), Executed::No), "{error}");
    assert_eq!(caller.call::<i64>("add", &(1, 2)).await.unwrap(), 3);
    watched.let_go(3);
    for (number, call) in (1..).zip(waiting) {
        assert_eq!(within(call).await.unwrap(), number);
    }
    assert_eq!(caller.call::<Value>("wait", &3).await.unwrap(), 3);
}

#[tokio::test]
async fn a_provider_that_does_not_read_harms_itself_only() {
    let limits = Limits { queue_bytes: 256 << 10, max_frame_bytes: 64 << 10, ..Limits::default() };
    let center = Center::builder().limits(limits).listen("127.0.0.1:0").loops(1).start().await.unwrap();
    let mut stuck = RawPeer::connect(&center.address()).await;
    let hello = json!({"version": 2, "instance": "stuck", "features": ["serves", "relay", "one_way"], "limits": {}});
    assert_eq!(stuck.ask(16, &hello.to_string()).await.rcode(), 0);
    assert_eq!(stuck.ask(4, r#"{"method":"wait","optype":0}"#).await.rcode(), 0);
    let _other = relayed(&center, add()).await;
    let caller = caller(&center).await;
    let large = "x".repeat(32 << 10);
    // What it takes is what the sockets hold and what waits for it; then it is full.
    let (hurried, mut calls) = (caller.with_timeout(Duration::from_secs(2)), Vec::new());
    for _ in 0..800 {
        calls.push(hurried.start::<Value>("wait", &large).await.unwrap());
    }
    for number in 0..50 {
        assert_eq!(caller.call::<i64>("add", &(number, 1)).await.unwrap(), number + 1);
    }
    let mut refused = 0;
    for call in calls {
        let error = within(call).await.unwrap_err();
        if error.code() == Some(ResultCode::Overloaded) {
            assert!(error.executed() == Executed::No && error.to_string().contains("reads too slowly"), "{error}");
            refused += 1;
        } else {
            assert!(matches!(error.kind(), CallErrorKind::Timeout), "{error}");
        }
    }
    assert!(refused > 0, "it is full at last");
}

#[tokio::test]
async fn one_that_can_be_called_directly_is_preferred() {
    let center = center().await;
    let (through, direct) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counting = |count: &Arc<AtomicUsize>| {
        let count = Arc::clone(count);
        Router::new().method("count", move |(): ()| Ok(count.fetch_add(1, SeqCst)))
    };
    let _relayed = relayed(&center, counting(&through)).await;
    let router = counting(&direct);
    let server = Server::builder().router(router.clone()).loops(1).listen("127.0.0.1:0").start().await.unwrap();
    let announced = Provider::connect(center.address()).await.unwrap();
    let announced = announced.announce(router.names(), server.addresses()).await.unwrap();
    let caller = caller(&center).await;
    for _ in 0..20 {
        caller.call::<usize>("count", &()).await.unwrap();
    }
    assert_eq!((through.load(SeqCst), direct.load(SeqCst)), (0, 20));
    callboard::leave(announced, server).await;
    for _ in 0..5 {
        caller.call::<usize>("count", &()).await.unwrap();
    }
    assert_eq!((through.load(SeqCst), direct.load(SeqCst)), (5, 20), "the other one is there when it has gone");
}

#[tokio::test]
async fn several_of_them_share_the_calls() {
    let center = center().await;
    let counts = [(); 3].map(|()| Arc::new(AtomicUsize::new(0)));
    let mut providers = Vec::new();
    for count in &counts {
        let count = Arc::clone(count);
        let router = Router::new().method("count", move |(): ()| Ok(count.fetch_add(1, SeqCst)));
        providers.push(relayed(&center, router).await);
    }
    let caller = caller(&center).await;
    for _ in 0..30 {
        caller.call::<usize>("count", &()).await.unwrap();
    }
    assert_eq!(counts.each_ref().map(|count| count.load(SeqCst)), [10, 10, 10]);
    // One goes without a word: its calls go to the others.
    providers.pop().unwrap().center().close();
    for _ in 0..30 {
        caller.call::<usize>("count", &()).await.unwrap();
    }
    assert_eq!(counts.iter().map(|count| count.load(SeqCst)).sum::<usize>(), 60);
}

#[tokio::test]
async fn one_way_calls_are_passed_on() {
    let center = center().await;
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let router = Router::new().method("count", move |(): ()| Ok(counted.fetch_add(1, SeqCst)));
    let _provider = relayed(&center, router).await;
    let caller = caller(&center).await;
    for _ in 0..10 {
        caller.notify("count", &()).await.unwrap();
    }
    until("all have run", || count.load(SeqCst) == 10).await;
    assert_eq!(center.relayed_calls(), 0);
}

#[tokio::test]
async fn a_provider_that_leaves_answers_what_it_has() {
    let center = center().await;
    let watched = Watched::new();
    let provider = relayed(&center, watched.router()).await;
    let caller = caller(&center).await;
    let call = caller.start::<Value>("wait", &json!("through")).await.unwrap();
    until("it runs", || watched.begun() == 1).await;
    // The connection goes with its last handle, in good order.
    provider.withdraw().await.unwrap();
    watched.let_go(1);
    assert_eq!(within(call).await.unwrap(), "through");
}

#[tokio::test]
async fn with_two_centers_the_other_one_passes_calls_on_when_the_first_has_gone() {
    let (first, second) = (center().await, center().await);
    let list = format!("{},{}", first.address(), second.address());
    let router = add();
    let centers = serving(router.clone()).connect_centers(&list).await.unwrap();
    let _provider = Provider::new(centers).announce(router.names(), Place::Relay).await.unwrap();
    let caller = Caller::builder().client(sessions()).connect(&list).await.unwrap();
    assert_eq!(caller.call::<i64>("add", &(1, 2)).await.unwrap(), 3);
    first.shutdown().await;
    assert_eq!(within(caller.call::<i64>("add", &(3, 4))).await.unwrap(), 7);
}

#[tokio::test]
async fn who_serves_nothing_can_not_be_relayed() {
    // Nobody is on the way back to it.
    let policy = AvailabilityPolicy { warm_up: Duration::ZERO, ..AvailabilityPolicy::default() };
    let center = Center::builder().availability(policy).listen("127.0.0.1:0").loops(1).start().await.unwrap();
    let provider = Provider::connect(center.address()).await.unwrap();
    let error = provider.announce(["add"], Place::Relay).await.unwrap_err();
    assert!(matches!(error, ProviderError::NoRelay { .. }) && error.to_string().contains("serves"), "{error}");
    // Nor is what a client serves called through the center, unless it says so.
    let client = serving(add()).instance("quiet").connect(center.address()).await.unwrap();
    let other = Client::connect(center.address()).await.unwrap();
    let error = other.relayed_to("quiet").call::<i64>("add", &(1, 2)).await.unwrap_err();
    assert_eq!((error.code(), error.executed()), (Some(ResultCode::Unavailable), Executed::No), "{error}");
    drop(client);
}
