//! Calls the other way: a provider or a center calls methods that the client at the other end of the connection offers.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use callboard::{
    Caller, Center, Client, ClientBuilder, Executed, Feature, Method, MethodError, Peer, PeerErrorKind, Provider,
    Router, Server, SessionMode,
};
use callboard_tests::{RawPeer, within};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::house::until;

/// A server whose `hand_over` gives the test the peer that called it, and whose `ask` calls the caller's `double`.
struct House {
    server: Server,
    peers: Arc<Mutex<Vec<Peer>>>,
}

impl House {
    async fn new() -> Self {
        let peers = Arc::<Mutex<Vec<Peer>>>::default();
        let kept = Arc::clone(&peers);
        let router = asking(Router::new()).method_with("hand_over", move |context, (): ()| {
            kept.lock().unwrap().push(context.caller());
            Ok(())
        });
        let server = Server::builder().router(router).loops(1).listen("127.0.0.1:0").start().await.unwrap();
        Self { server, peers }
    }

    fn address(&self) -> String {
        self.server.addresses()[0].to_string()
    }

    /// The peer that stands for this client.
    async fn peer_of(&self, client: &Client) -> Peer {
        client.call::<()>("hand_over", &()).await.unwrap();
        self.peers.lock().unwrap().pop().unwrap()
    }
}

/// `ask` gives what the caller's `double` makes of a number.
fn asking(router: Router) -> Router {
    router.method_async_with("ask", |context, number: i64| async move {
        Ok(context.caller().call::<i64>("double", &number).await?)
    })
}

fn doubling() -> Router {
    Router::new().method("double", |number: i64| Ok(number * 2))
}

fn serving(router: Router) -> ClientBuilder {
    Client::builder().session(SessionMode::Require).serves(router)
}

#[tokio::test]
async fn a_method_calls_its_caller_while_it_runs() {
    let house = House::new().await;
    let client = serving(doubling()).connect(house.address()).await.unwrap();
    assert!(client.knows(Feature::Serves));
    assert_eq!(client.call::<i64>("ask", &21).await.unwrap(), 42);
    // In both directions at once, under the same ids.
    let calls: Vec<_> = {
        let mut calls = Vec::new();
        for number in 0..200_i64 {
            calls.push((number, client.start::<i64>("ask", &number).await.unwrap()));
        }
        calls
    };
    for (number, call) in calls {
        assert_eq!(call.await.unwrap(), number * 2);
    }
}

#[tokio::test]
async fn a_center_and_a_caller_that_discovers_are_no_different() {
    let center = Center::builder().loops(1).router(asking(Router::new())).listen("127.0.0.1:0").start().await.unwrap();
    let client = serving(doubling()).connect(center.address()).await.unwrap();
    assert_eq!(client.call::<i64>("ask", &4).await.unwrap(), 8);
    let house = House::new().await;
    let announced = Provider::connect(center.address()).await.unwrap();
    let _provider = announced.announce(["ask"], house.server.addresses()).await.unwrap();
    let caller = Caller::builder().client(serving(doubling())).connect(center.address()).await.unwrap();
    assert_eq!(caller.call::<i64>("ask", &5).await.unwrap(), 10);
}

#[tokio::test]
async fn the_way_back_outlives_the_method_and_ends_with_the_connection() {
    let house = House::new().await;
    let client = serving(doubling()).connect(house.address()).await.unwrap();
    let peer = house.peer_of(&client).await;
    assert!(peer.serves() && peer.instance().is_some_and(|instance| !instance.is_empty()));
    assert_eq!(peer.call::<i64>("double", &3).await.unwrap(), 6);
    client.close();
    until("the server has seen the end", || house.server.connections() == 0).await;
    let error = peer.call::<i64>("double", &3).await.unwrap_err();
    assert!(matches!(error.kind(), PeerErrorKind::Disconnected) && error.executed() == Executed::No, "{error}");
}

#[tokio::test]
async fn a_client_that_dies_while_it_is_called_leaves_it_unknown_whether_that_ran() {
    let house = House::new().await;
    let (entered, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let client = serving(waiting(&entered, &go)).connect(house.address()).await.unwrap();
    let peer = house.peer_of(&client).await;
    let call = tokio::spawn({
        let peer = peer.clone();
        async move { peer.call::<()>("wait", &()).await }
    });
    until("it runs", || entered.load(SeqCst) == 1).await;
    client.close();
    let error = within(call).await.unwrap().unwrap_err();
    assert!(matches!(error.kind(), PeerErrorKind::Disconnected), "{error}");
    assert_eq!(error.executed(), Executed::Unknown, "{error}");
}

/// `wait` ends when it is let go, or is dropped.
fn waiting(entered: &Arc<AtomicUsize>, go: &Arc<Semaphore>) -> Router {
    let (entered, go) = (Arc::clone(entered), Arc::clone(go));
    Router::new().method_async(Method::new("wait").concurrency(1).queue(0), move |(): ()| {
        let (entered, go) = (Arc::clone(&entered), Arc::clone(&go));
        async move {
            let _inside = Inside::new(entered);
            go.acquire().await?.forget();
            Ok(())
        }
    })
}

/// Counts the futures that are there.
struct Inside(Arc<AtomicUsize>);

impl Inside {
    fn new(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, SeqCst);
        Self(count)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[tokio::test]
async fn all_that_holds_for_the_methods_of_a_server_holds_for_those_of_a_client() {
    let house = House::new().await;
    let (entered, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let router = waiting(&entered, &go)
        .method("panics", |(): ()| if true { panic!("on purpose") } else { Ok(()) })
        .method("fails", |(): ()| Err::<(), _>(MethodError::new(7, "no")));
    let client = serving(router).connect(house.address()).await.unwrap();
    let peer = house.peer_of(&client).await;
    let told = |error: callboard::PeerError| (error.code().map(callboard::ResultCode::to_wire), error.executed());
    assert_eq!(told(peer.call::<()>("panics", &()).await.unwrap_err()), (Some(8), Executed::Yes));
    assert_eq!(told(peer.call::<()>("fails", &()).await.unwrap_err()), (Some(64), Executed::Yes));
    assert_eq!(told(peer.call::<()>("nothing", &()).await.unwrap_err()), (Some(5), Executed::No));
    assert_eq!(told(peer.call::<()>("wait", &[1]).await.unwrap_err()), (Some(4), Executed::No));
    // Its deadline, and with it the handler's end; then its bounds.
    let hurried = peer.with_timeout(Duration::from_millis(50));
    let error = hurried.call::<()>("wait", &()).await.unwrap_err();
    assert!(matches!(error.kind(), PeerErrorKind::Timeout) && error.executed() == Executed::Unknown, "{error}");
    until("it is dropped", || entered.load(SeqCst) == 0).await;
    let first = tokio::spawn({
        let peer = peer.clone();
        async move { peer.call::<()>("wait", &()).await }
    });
    until("it runs", || entered.load(SeqCst) == 1).await;
    assert_eq!(told(peer.call::<()>("wait", &()).await.unwrap_err()), (Some(17), Executed::No));
    go.add_permits(1);
    within(first).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_call_whose_caller_gives_up_its_own_is_given_up_in_turn() {
    let house = House::new().await;
    let entered = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&entered);
    let router = Router::new().method_async("double", move |_number: i64| {
        let inside = Inside::new(Arc::clone(&counted));
        async move {
            let _inside = inside;
            std::future::pending::<Result<i64, MethodError>>().await
        }
    });
    let client = serving(router).connect(house.address()).await.unwrap();
    let call = client.start::<i64>("ask", &1).await.unwrap();
    until("it runs", || entered.load(SeqCst) == 1).await;
    drop(call);
    until("the client's method is dropped too", || entered.load(SeqCst) == 0).await;
}

#[tokio::test]
async fn who_offers_nothing_is_not_called() {
    let house = House::new().await;
    let plain = Client::connect(house.address()).await.unwrap();
    assert!(!plain.knows(Feature::Serves));
    let v1 = serving(doubling()).session(SessionMode::Off).connect(house.address()).await.unwrap();
    for client in [plain, v1] {
        let peer = house.peer_of(&client).await;
        let error = peer.call::<i64>("double", &1).await.unwrap_err();
        assert!(matches!(error.kind(), PeerErrorKind::NotServing) && error.executed() == Executed::No, "{error}");
    }
}

#[tokio::test]
async fn methods_that_a_client_serves_have_no_way_back_but_their_client() {
    let house = House::new().await;
    let router = Router::new().method_with("double", |context, number: i64| {
        // The server is called as ever, over the client.
        assert!(!context.caller().serves());
        Ok(number * 2)
    });
    let client = serving(router).connect(house.address()).await.unwrap();
    assert_eq!(client.call::<i64>("ask", &2).await.unwrap(), 4);
}

#[tokio::test]
async fn a_client_that_closes_answers_what_it_was_asked_first() {
    let house = House::new().await;
    let (entered, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let client = serving(waiting(&entered, &go)).connect(house.address()).await.unwrap();
    let peer = house.peer_of(&client).await;
    let call = tokio::spawn(async move { peer.call::<()>("wait", &()).await });
    until("it runs", || entered.load(SeqCst) == 1).await;
    // The last handle goes, and with it the connection, in good order.
    drop(client);
    go.add_permits(1);
    within(call).await.unwrap().unwrap();
}

#[tokio::test]
async fn it_goes_over_the_wire_as_the_page_says() {
    let house = House::new().await;
    let mut peer = RawPeer::connect(&house.address()).await;
    let hello = json!({"version": 2, "name": "raw", "instance": "i-1", "features": ["serves", "cancel"],
        "limits": {"max_frame_bytes": 1024, "in_flight": 2}});
    let granted = peer.ask(16, &hello.to_string()).await.json();
    assert_eq!(granted["features"], json!(["cancel", "serves"]));
    peer.ask(0, r#"{"method":"hand_over"}"#).await;
    let back = house.peers.lock().unwrap().pop().unwrap();
    let calls: Vec<_> = (0..3)
        .map(|number| {
            let back = back.clone();
            tokio::spawn(async move { back.call::<Value>("double", &number).await })
        })
        .collect();
    let asked = [peer.receive().await, peer.receive().await];
    assert_eq!(
        asked.each_ref().map(|frame| (frame.mtype, frame.json()["method"].clone())),
        [0, 0].map(|mtype| (mtype, json!("double")))
    );
    for frame in asked.iter().rev() {
        let answer = json!({"rcode": 0, "result": frame.json()["parameters"]});
        peer.send(1, &frame.id, &answer.to_string()).await;
    }
    let mut results = Vec::new();
    for call in calls {
        results.push(call.await.unwrap().map_err(|error| error.executed()));
    }
    assert_eq!(results.iter().filter(|result| **result == Err(Executed::No)).count(), 1, "past its limit: {results:?}");
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 2);
    let giving_up = back.with_timeout(Duration::from_millis(20)).call::<Value>("double", &1).await.unwrap_err();
    assert!(matches!(giving_up.kind(), PeerErrorKind::Timeout), "{giving_up}");
    let (call, cancel) = (peer.receive().await, peer.receive().await);
    assert_eq!((call.mtype, cancel.mtype, &cancel.id, cancel.body.len()), (0, 20, &call.id, 0));
    // Too large for it.
    let large = back.call::<Value>("double", &"x".repeat(1024)).await.unwrap_err();
    assert!(matches!(large.kind(), PeerErrorKind::Encode), "{large}");
}
