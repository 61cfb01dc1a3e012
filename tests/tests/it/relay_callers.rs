//! Calls back to those who have called through a center.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use callboard::{
    Caller, Center, Executed, MethodError, Peer, PeerErrorKind, Place, Provider, ResultCode, RetryPolicy, Router,
};
use callboard_tests::{RawPeer, within};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::house::{sessions, until};

/// A provider that listens nowhere, whose `ask` gives what the caller's `double` makes of a number and whose `hand_over` gives
/// the test the peer that called it.
struct House {
    center: Center,
    _provider: Provider,
    peers: Arc<Mutex<Vec<Peer>>>,
}

impl House {
    async fn new() -> Self {
        let center = Center::builder().listen("127.0.0.1:0").loops(2).start().await.unwrap();
        let peers = Arc::<Mutex<Vec<Peer>>>::default();
        let kept = Arc::clone(&peers);
        let router = Router::new()
            .method_async_with("ask", async |context, number: i64| {
                Ok(context.caller().call::<i64>("double", &number).await?)
            })
            .method_with("hand_over", move |context, (): ()| {
                kept.lock().unwrap().push(context.caller());
                Ok(())
            });
        let names = router.names();
        let client = sessions().serves(router).connect(center.address()).await.unwrap();
        let provider = Provider::new(client).announce(names, Place::Relay).await.unwrap();
        Self { center, _provider: provider, peers }
    }

    async fn caller(&self, router: Router) -> Caller {
        let caller = Caller::builder().client(sessions().serves(router)).retry(RetryPolicy::never());
        caller.connect(self.center.address()).await.unwrap()
    }

    /// The peer that stands for this caller.
    async fn peer_of(&self, caller: &Caller) -> Peer {
        within(caller.call::<()>("hand_over", &())).await.unwrap();
        self.peers.lock().unwrap().pop().unwrap()
    }
}

fn doubling() -> Router {
    Router::new().method("double", |number: i64| Ok(number * 2))
}

#[tokio::test]
async fn a_provider_behind_a_center_calls_its_caller_while_it_runs_and_afterwards() {
    let house = House::new().await;
    let (one, other) = (house.caller(doubling()).await, house.caller(doubling_negative()).await);
    let mut calls = Vec::new();
    for number in 0..200_i64 {
        calls.push((one.start::<i64>("ask", &number).await.unwrap(), number * 2));
        calls.push((other.start::<i64>("ask", &number).await.unwrap(), number * -2));
    }
    for (call, expected) in calls {
        assert_eq!(within(call).await.unwrap(), expected);
    }
    let peers = [house.peer_of(&one).await, house.peer_of(&other).await];
    assert!(peers.iter().all(Peer::serves));
    for (peer, expected) in peers.iter().zip([6, -6]) {
        assert_eq!(within(peer.call::<i64>("double", &3)).await.unwrap(), expected);
    }
    assert_eq!(house.center.relayed_calls(), 0);
}

fn doubling_negative() -> Router {
    Router::new().method("double", |number: i64| Ok(number * -2))
}

#[tokio::test]
async fn what_a_caller_behind_a_center_answers_is_told_as_of_one_that_is_called_directly() {
    let house = House::new().await;
    let (entered, noted, go) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default(), Semaphore::new(0));
    let (enters, counted, go) = (Arc::clone(&entered), Arc::clone(&noted), Arc::new(go));
    let router = Router::new()
        .method("fails", |(): ()| Err::<(), _>(MethodError::new(7, "no")))
        .method("note", move |(): ()| {
            counted.fetch_add(1, SeqCst);
            Ok(())
        })
        .method_with("calls", |context, (): ()| Ok(context.caller().serves()))
        .method_async("wait", move |(): ()| {
            let inside = Inside::new(&enters);
            let go = Arc::clone(&go);
            async move {
                let _inside = inside;
                go.acquire().await?.forget();
                Ok(())
            }
        });
    let caller = house.caller(router).await;
    let peer = house.peer_of(&caller).await;
    let told = |error: callboard::PeerError| (error.code().map(ResultCode::to_wire), error.executed());
    assert_eq!(told(peer.call::<()>("fails", &()).await.unwrap_err()), (Some(64), Executed::Yes));
    assert_eq!(told(peer.call::<()>("nothing", &()).await.unwrap_err()), (Some(5), Executed::No));
    assert!(!peer.call::<bool>("calls", &()).await.unwrap(), "it calls the provider as ever");
    peer.notify("note", &()).unwrap();
    until("it is noted", || noted.load(SeqCst) == 1).await;
    // Its deadline, and with it the handler's end.
    let hurried = peer.with_timeout(Duration::from_millis(50));
    let error = hurried.call::<()>("wait", &()).await.unwrap_err();
    assert!(error.executed() == Executed::Unknown, "{error}");
    until("it is dropped", || entered.load(SeqCst) == 0).await;
    let waits = tokio::spawn({
        let peer = peer.clone();
        async move { peer.call::<()>("wait", &()).await }
    });
    until("it runs", || entered.load(SeqCst) == 1).await;
    // The connection ends, as does what waits.
    caller.center().close();
    let error = within(waits).await.unwrap().unwrap_err();
    assert!(matches!(error.kind(), PeerErrorKind::Disconnected) && error.executed() == Executed::Unknown, "{error}");
    let error = within(peer.call::<()>("note", &())).await.unwrap_err();
    assert!(matches!(error.kind(), PeerErrorKind::Disconnected) && error.executed() == Executed::No, "{error}");
    assert_eq!(house.center.relayed_calls(), 0);
}

/// Counts the futures that are there.
struct Inside(Arc<AtomicUsize>);

impl Inside {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[tokio::test]
async fn callers_that_do_not_answer_when_they_are_called_back_leave_calls_back_to_others() {
    let house = House::new().await;
    let honest = house.caller(doubling()).await;
    assert_eq!(within(honest.call::<i64>("ask", &1)).await.unwrap(), 2);
    let mut deaf = Vec::new();
    for _ in 0..3 {
        let features = ["relay", "revisions", "cancel", "serves", "one_way"];
        let mut peer = RawPeer::with_session(&house.center.address(), &features).await;
        let listed = peer.ask(4, r#"{"method":"ask","optype":1}"#).await.json();
        let meta = json!({"instance": listed["host"][0]["instance"]});
        let call = json!({"method": "ask", "parameters": 0, "meta": meta}).to_string();
        // As many as may wait over the provider's connection, one way: nobody waits for these.
        for _ in 0..1024 {
            peer.send(RELAY | 1 << 24, b"", &call).await;
        }
        assert_eq!(peer.receive().await.mtype, 0, "it is called back");
        deaf.push(peer);
        for number in 0..5 {
            assert_eq!(within(honest.call::<i64>("ask", &number)).await.unwrap(), number * 2);
        }
    }
}

#[tokio::test]
async fn who_offers_nothing_is_not_called_through_a_center_either() {
    let house = House::new().await;
    let caller = Caller::builder().client(sessions()).connect(house.center.address()).await.unwrap();
    let peer = house.peer_of(&caller).await;
    assert!(!peer.serves());
    let error = peer.call::<i64>("double", &1).await.unwrap_err();
    assert!(matches!(error.kind(), PeerErrorKind::NotServing) && error.executed() == Executed::No, "{error}");
}

#[tokio::test]
async fn it_goes_over_the_wire_as_the_page_says_from_the_provider_to_its_caller() {
    let center = Center::builder().listen("127.0.0.1:0").loops(1).start().await.unwrap();
    let hello = |instance: &str| {
        let features = ["one_way", "cancel", "serves", "relay", "callers"];
        json!({"version": 2, "instance": instance, "features": features, "limits": {}}).to_string()
    };
    let mut peers = Vec::new();
    for instance in ["i-1", "i-2"] {
        let mut peer = RawPeer::connect(center.address()).await;
        let granted = peer.ask(16, &hello(instance)).await.json();
        assert_eq!(granted["features"], json!(["one_way", "cancel", "serves", "relay", "callers"]), "{granted}");
        peers.push(peer);
    }
    let [provider, caller] = &mut peers[..] else { unreachable!() };
    assert_eq!(provider.ask(4, r#"{"method":"add","optype":0,"relay":true}"#).await.rcode(), 0);
    let call = r#"{"method":"add","parameters":1,"meta":{"instance":"i-1"}}"#;
    caller.send(RELAY, b"9", call).await;
    let passed = provider.receive().await;
    let (number, tag) = passed.id.split_at(17);
    assert_eq!((number[0], tag[0], tag.len(), &passed.body[..]), (b'r', b'+', 17, call.as_bytes()));
    caller.send(RELAY | 1 << 24, b"", call).await;
    let one_way = provider.receive().await;
    assert!(one_way.mtype == 1 << 24 && one_way.id.ends_with(tag), "{one_way:?}");
    let tag = std::str::from_utf8(&tag[1..]).unwrap();
    let back = json!({"method": "tell", "parameters": 0.5, "meta": {"timeout_ms": 5000, "caller": tag}}).to_string();
    provider.send(RELAY, b"b1", &back).await;
    let told = caller.receive().await;
    assert_eq!((told.mtype, &told.body[..]), (0, back.as_bytes()));
    caller.send(1, &told.id, r#"{"rcode":0,"result":null}"#).await;
    let answer = provider.receive().await;
    assert_eq!((answer.mtype, &answer.id[..], answer.json()), (1, &b"b1"[..], json!({"rcode": 0, "result": null})));
    let nobody = json!({"method": "tell", "meta": {"caller": "00000000000000a7"}});
    provider.send(RELAY, b"b2", &nobody.to_string()).await;
    let refused: Value = provider.receive().await.json();
    assert_eq!((&refused["rcode"], &refused["error"]["executed"]), (&json!(3), &json!("no")), "{refused}");
}

const RELAY: u32 = 4 << 24;
