//! Calls whose callers have gone, as the provider's handlers see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use callboard::{Caller, Center, Client, Method, Provider, Router, Server, Stopped};
use callboard_tests::{RawPeer, frame, within};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::house::until;

/// What became of the calls of a method.
#[derive(Clone, Default)]
struct Ledger {
    begun: Arc<AtomicUsize>,
    finished: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
}

/// Counts a handler's future that is dropped before its end.
struct Handling {
    ledger: Ledger,
    has_finished: bool,
}

impl Drop for Handling {
    fn drop(&mut self) {
        let count = if self.has_finished { &self.ledger.finished } else { &self.ledger.dropped };
        count.fetch_add(1, SeqCst);
    }
}

/// A server of `wait` and `firm`, which end when they are let go; the latter must finish.
struct House {
    server: Server,
    wait: Ledger,
    firm: Ledger,
    go: Arc<Semaphore>,
}

impl House {
    async fn new() -> Self {
        Self::with_grace(Duration::from_mins(1)).await
    }

    async fn with_grace(grace: Duration) -> Self {
        let (wait, firm, go) = (Ledger::default(), Ledger::default(), Arc::new(Semaphore::new(0)));
        let router = wait.method(Router::new(), Method::new("wait"), &go);
        let router = firm.method(router, Method::new("firm").must_finish(), &go);
        let server =
            Server::builder().router(router).loops(1).grace(grace).listen("127.0.0.1:0").start().await.unwrap();
        Self { server, wait, firm, go }
    }

    fn address(&self) -> String {
        self.server.addresses()[0].to_string()
    }

    async fn client(&self) -> Client {
        Client::connect(self.address()).await.unwrap()
    }

    /// That so many calls of `wait` are dropped and none was let end.
    async fn expect_dropped(&self, calls: usize) {
        let what = "they are dropped";
        until(what, || self.wait.dropped.load(SeqCst) == calls && self.server.in_flight() == 0).await;
        assert_eq!((self.wait.finished.load(SeqCst), self.server.metrics().cancelled), (0, calls as u64));
    }
}

impl Ledger {
    fn method(&self, router: Router, method: Method, go: &Arc<Semaphore>) -> Router {
        let (ledger, go) = (self.clone(), Arc::clone(go));
        router.method_async(method, move |value: Value| {
            let (handling, go) = (Handling { ledger: ledger.clone(), has_finished: false }, Arc::clone(&go));
            ledger.begun.fetch_add(1, SeqCst);
            async move {
                let mut handling = handling;
                go.acquire().await?.forget();
                handling.has_finished = true;
                Ok(value)
            }
        })
    }

    async fn has_begun(&self, calls: usize) {
        until("they have begun", || self.begun.load(SeqCst) == calls).await;
    }
}

/// Its connection breaks.
fn reset(peer: RawPeer) {
    socket2::SockRef::from(&peer.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(peer);
}

#[tokio::test]
async fn a_call_that_its_caller_drops_is_dropped_at_its_provider_too() {
    let house = House::new().await;
    let client = house.client().await;
    let timeout = tokio::time::timeout(Duration::from_millis(200), client.call::<Value>("wait", &()));
    assert!(timeout.await.is_err());
    let kept = client.start::<Value>("wait", &()).await.unwrap();
    house.wait.has_begun(2).await;
    drop(kept);
    house.expect_dropped(2).await;
    house.go.add_permits(1);
    assert_eq!(client.call::<i64>("wait", &7).await.unwrap(), 7, "others are not");
}

#[tokio::test]
async fn a_call_whose_time_is_over_is_dropped_at_its_provider_though_nobody_polls_it() {
    let house = House::new().await;
    let client = house.client().await.with_timeout(Duration::from_millis(200));
    let kept = client.start::<Value>("wait", &()).await.unwrap();
    client.call_then::<Value>("wait", &(), |outcome| assert!(outcome.is_err())).unwrap();
    house.wait.has_begun(2).await;
    house.expect_dropped(2).await;
    assert!(kept.await.is_err());
}

#[tokio::test]
async fn a_call_that_must_finish_does_so_though_its_caller_has_dropped_it() {
    let house = House::new().await;
    let client = house.client().await;
    drop({
        let kept = client.start::<Value>("firm", &()).await.unwrap();
        house.firm.has_begun(1).await;
        kept
    });
    // What comes after it shows that its end has come too.
    drop(client.start::<Value>("wait", &()).await.unwrap());
    house.wait.has_begun(1).await;
    until("the other is dropped", || house.wait.dropped.load(SeqCst) == 1).await;
    assert_eq!(house.firm.dropped.load(SeqCst), 0);
    house.go.add_permits(1);
    until("it has finished", || house.firm.finished.load(SeqCst) == 1).await;
    until("it is answered", || house.server.in_flight() == 0).await;
}

#[tokio::test]
async fn a_connection_that_ends_takes_all_its_calls_along_but_for_those_that_must_finish() {
    let house = House::new().await;
    let client = house.client().await;
    let mut calls = Vec::new();
    for method in ["wait", "firm", "wait", "wait"] {
        calls.push(client.start::<Value>(method, &()).await.unwrap());
    }
    client.notify("wait", &()).await.unwrap();
    house.wait.has_begun(4).await;
    house.firm.has_begun(1).await;
    client.close();
    until("they are dropped", || house.wait.dropped.load(SeqCst) == 3).await;
    house.go.add_permits(2);
    let finished = || house.firm.finished.load(SeqCst) + house.wait.finished.load(SeqCst);
    until("what nobody waits for anyway, and what must finish, has finished", || finished() == 2).await;
    assert_eq!((house.wait.dropped.load(SeqCst), house.firm.dropped.load(SeqCst)), (3, 0));
}

#[tokio::test]
async fn a_v1_caller_that_sends_no_more_is_answered_and_one_whose_connection_breaks_is_not_waited_for() {
    let house = House::new().await;
    let (mut patient, mut broken) = (RawPeer::connect(house.address()).await, RawPeer::connect(house.address()).await);
    for peer in [&mut patient, &mut broken] {
        peer.send(0, b"1", r#"{"method":"wait","parameters":{}}"#).await;
    }
    house.wait.has_begun(2).await;
    tokio::io::AsyncWriteExt::shutdown(&mut patient.stream).await.unwrap();
    reset(broken);
    until("it is dropped", || house.wait.dropped.load(SeqCst) == 1).await;
    house.go.add_permits(1);
    let answer = patient.receive().await;
    assert_eq!((answer.mtype, answer.json()), (1, json!({"rcode": 0, "result": {}})));
    patient.expect_end().await;
}

#[tokio::test]
async fn a_caller_with_a_session_that_sends_no_more_has_given_its_calls_up() {
    let house = House::new().await;
    let mut peer = RawPeer::with_session(house.address(), &["cancel"]).await;
    peer.send(0, b"1", r#"{"method":"wait"}"#).await;
    house.wait.has_begun(1).await;
    tokio::io::AsyncWriteExt::shutdown(&mut peer.stream).await.unwrap();
    peer.expect_end().await;
    house.expect_dropped(1).await;
}

#[tokio::test]
async fn a_caller_who_discovers_gives_its_calls_up_too() {
    let house = House::new().await;
    let center = Center::builder().listen("127.0.0.1:0").loops(1).start().await.unwrap();
    let provider = Provider::connect(center.address()).await.unwrap();
    let _provider = provider.announce(["wait"], house.server.addresses()).await.unwrap();
    let caller = Caller::connect(center.address()).await.unwrap();
    let awaited = tokio::spawn({
        let caller = caller.clone();
        async move { caller.call::<Value>("wait", &()).await }
    });
    let kept = caller.start::<Value>("wait", &()).await.unwrap();
    house.wait.has_begun(2).await;
    awaited.abort();
    drop(kept);
    house.expect_dropped(2).await;
}

#[tokio::test]
async fn a_call_given_up_while_its_provider_leaves_is_not_waited_for() {
    let house = House::new().await;
    let mut peer = RawPeer::with_session(house.address(), &["cancel", "goaway"]).await;
    for id in ["1", "2"] {
        peer.send(0, id.as_bytes(), r#"{"method":"wait","parameters":null}"#).await;
    }
    house.wait.has_begun(2).await;
    let House { server, wait, go, .. } = house;
    let stopped = tokio::spawn(server.shutdown());
    assert_eq!(peer.receive().await.mtype, 21);
    peer.send(20, b"1", "").await;
    until("it is dropped", || wait.dropped.load(SeqCst) == 1).await;
    go.add_permits(1);
    let answer = peer.receive().await;
    assert_eq!((answer.mtype, &answer.id[..], answer.rcode()), (1, &b"2"[..], 0));
    drop(peer);
    let stopped = within(stopped).await.unwrap();
    assert_eq!(stopped, Stopped { finished: 1, given_up: 1, cut: 0 });
    assert_eq!(wait.dropped.load(SeqCst), 1);
}

/// A house in which a call of `firm` goes on though its connection has ended.
async fn with_one_that_goes_on(grace: Duration) -> House {
    let house = House::with_grace(grace).await;
    let mut peer = RawPeer::connect(house.address()).await;
    peer.send(0, b"1", r#"{"method":"firm","parameters":null}"#).await;
    house.firm.has_begun(1).await;
    reset(peer);
    until("the connection has ended", || house.server.connections() == 0).await;
    assert_eq!(house.server.in_flight(), 1, "what goes on without its connection counts");
    house
}

#[tokio::test]
async fn a_provider_that_leaves_waits_for_a_call_that_must_finish_though_its_connection_has_ended() {
    let House { server, firm, go, .. } = with_one_that_goes_on(Duration::from_mins(1)).await;
    let stopping = tokio::spawn(server.shutdown());
    // It would be over by then if it did not wait: nobody is connected.
    let mut stopping = Box::pin(stopping);
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut stopping).await.is_err());
    go.add_permits(1);
    assert_eq!(within(stopping).await.unwrap(), Stopped { finished: 1, given_up: 0, cut: 0 });
    assert_eq!((firm.finished.load(SeqCst), firm.dropped.load(SeqCst)), (1, 0));
}

#[tokio::test]
async fn one_that_outlasts_the_grace_is_cut_and_counted_so() {
    let House { server, firm, .. } = with_one_that_goes_on(Duration::from_millis(50)).await;
    assert_eq!(within(server.shutdown()).await, Stopped { finished: 0, given_up: 0, cut: 1 });
    assert_eq!((firm.finished.load(SeqCst), firm.dropped.load(SeqCst)), (0, 1));
}

#[tokio::test]
async fn calls_of_a_connection_that_breaks_while_its_provider_leaves_are_given_up_and_neither_finished_nor_cut() {
    let House { server, wait, firm, go } = House::new().await;
    let mut peer = RawPeer::connect(server.addresses()[0].to_string()).await;
    for (id, method) in [(b"1", "wait"), (b"2", "wait"), (b"3", "firm")] {
        peer.send(0, id, &json!({"method": method, "parameters": null}).to_string()).await;
    }
    wait.has_begun(2).await;
    firm.has_begun(1).await;
    let stopping = tokio::spawn(server.shutdown());
    // Once it leaves, a call is refused.
    let refused = loop {
        peer.send(0, b"r", r#"{"method":"none"}"#).await;
        let answer = peer.receive().await;
        if answer.rcode() == 22 {
            break answer;
        }
    };
    assert_eq!(refused.json()["error"]["executed"], "no");
    reset(peer);
    until("they are dropped", || wait.dropped.load(SeqCst) == 2).await;
    go.add_permits(1);
    assert_eq!(within(stopping).await.unwrap(), Stopped { finished: 1, given_up: 2, cut: 0 });
}

#[tokio::test]
async fn who_gives_a_call_up_may_make_another_at_once_at_the_bound_on_those_in_flight() {
    let (wait, go) = (Ledger::default(), Arc::new(Semaphore::new(0)));
    let router = wait.method(Router::new(), Method::new("wait"), &go);
    let server = Server::builder().router(router).loops(1).in_flight(1).listen("127.0.0.1:0").start().await.unwrap();
    let mut peer = RawPeer::with_session(server.addresses()[0].to_string(), &["cancel"]).await;
    // In one write, so that the first is not yet dropped when the second comes.
    let call = |id| frame(0, id, br#"{"method":"wait","parameters":null}"#);
    let all = [call(b"1"), frame(20, b"1", b""), call(b"2"), call(b"3")].concat();
    tokio::io::AsyncWriteExt::write_all(&mut peer.stream, &all).await.unwrap();
    let refused = peer.receive().await;
    assert_eq!((&refused.id[..], refused.rcode()), (&b"3"[..], 17), "two are too many");
    go.add_permits(1);
    let answer = peer.receive().await;
    assert_eq!((&answer.id[..], answer.rcode()), (&b"2"[..], 0));
    until("the first is dropped", || wait.dropped.load(SeqCst) == 1).await;
    assert_eq!(server.in_flight(), 0);
}
