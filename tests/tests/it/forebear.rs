//! Faults that the C++ program had from which the protocol comes, each a test by its name.

use std::sync::Arc;
use std::time::Duration;

use callboard_center::Center;
use callboard_client::{CallErrorKind, Client, Reconnect};
use callboard_net::Limits;
use callboard_pubsub::{Subscription, Topics};
use callboard_registry::{AvailabilityPolicy, Caller, Provider, TableSize};
use callboard_server::{Router, Server};
use callboard_tests::{RawPeer, within};
use serde_json::{Value, json};
use tokio_stream::StreamExt;

use crate::house::{address, center, center_with, until};
use crate::slow::narrow;

fn soon() -> Reconnect {
    Reconnect { longest: Duration::from_millis(20), ..Reconnect::default() }
}

async fn client(address: impl ToString) -> Client {
    Client::builder().timeout(Duration::from_secs(20)).reconnect(soon()).connect(address.to_string()).await.unwrap()
}

async fn serve(router: Router) -> Server {
    Server::builder().router(router).loops(1).listen("127.0.0.1:0").start().await.unwrap()
}

fn two_methods() -> Router {
    Router::new().method("one", |(): ()| Ok(1)).method("two", |(): ()| Ok(2))
}

#[tokio::test]
async fn a_wait_does_not_hang_when_its_connection_dies() {
    let center = center().await;
    let client = client(address(&center)).await;
    let waiting = client.start::<Value>("never", &()).await.unwrap();
    // Answered on the same connection, so the call before it has been read.
    client.call::<Value>("echo", &1).await.unwrap();
    drop(center);
    let error = within(waiting).await.unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Disconnected), "{error}");
}

#[tokio::test]
async fn a_host_that_is_not_the_first_is_removed_and_the_others_stay() {
    let center = center().await;
    let mut watcher = RawPeer::connect(address(&center)).await;
    let mut providers = Vec::new();
    for port in 7001..=7004 {
        let mut provider = RawPeer::connect(address(&center)).await;
        let host = json!({"ip": "127.0.0.1", "port": port});
        provider.ask(4, &json!({"method": "m", "optype": 0, "host": host}).to_string()).await;
        providers.push(provider);
    }
    let discover = r#"{"method":"m","optype":1}"#;
    let ports = |answer: Value| -> Vec<u64> {
        answer["host"].as_array().unwrap().iter().map(|host| host["port"].as_u64().unwrap()).collect()
    };
    assert_eq!(ports(watcher.ask(4, discover).await.json()), [7001, 7002, 7003, 7004]);
    // The third, then the last, then the first of those that are left.
    for (at, gone, left) in [(2, 7003, vec![7001, 7002, 7004]), (2, 7004, vec![7001, 7002]), (0, 7001, vec![7002])] {
        drop(providers.remove(at));
        assert_eq!(watcher.receive().await.json()["host"]["port"], gone);
        assert_eq!(ports(watcher.ask(4, discover).await.json()), left);
    }
}

#[tokio::test]
async fn a_connection_closes_well_in_each_subset_of_its_roles() {
    // A call that is never answered keeps a half-closed connection for so long.
    let center = center_with(Limits { half_closed: Duration::from_millis(20), ..Limits::default() }).await;
    for roles in 0..16_u8 {
        let has = |role: u8| roles & (1 << role) != 0;
        let mut peer = RawPeer::connect(address(&center)).await;
        if has(0) {
            let host = json!({"ip": "127.0.0.1", "port": 7001});
            peer.ask(4, &json!({"method": "m", "optype": 0, "host": host}).to_string()).await;
        }
        if has(1) {
            peer.ask(4, r#"{"method":"other","optype":1}"#).await;
        }
        if has(2) {
            peer.ask(2, r#"{"topic_key":"t","optype":0}"#).await;
            peer.ask(2, r#"{"topic_key":"t","optype":2}"#).await;
        }
        if has(3) {
            peer.send(0, b"1", r#"{"method":"never","parameters":{}}"#).await;
        }
        drop(peer);
        let empty = || {
            let is_nobody = center.subscriber_count() == 0 && center.metrics().connections == 0;
            is_nobody && center.registry_size() == TableSize::default()
        };
        until("it is in no table any more", empty).await;
    }
    let mut peer = RawPeer::connect(address(&center)).await;
    assert_eq!(peer.ask(0, r#"{"method":"echo","parameters":{}}"#).await.rcode(), 0);
}

#[tokio::test]
async fn a_stalled_watcher_does_not_grow_the_centers_memory() {
    const BOUND: usize = 256 << 10;
    let limits = Limits { max_frame_bytes: 64 << 10, queue_bytes: BOUND, ..Limits::default() };
    let center = Center::builder().listen("tcp://127.0.0.1:0").limits(limits);
    let center = center.availability(AvailabilityPolicy::trusting()).start().await.unwrap();
    let mut watcher = narrow(&address(&center)).await;
    assert_eq!(watcher.ask(4, r#"{"method":"m","optype":1}"#).await.rcode(), 5);
    let mut provider = RawPeer::with_session(address(&center), &["withdraw"]).await;
    let register = json!({"method": "m", "optype": 0, "host": {"ip": "127.0.0.1", "port": 7001}}).to_string();
    let mut most = 0;
    while center.metrics().slow_readers == 0 {
        for _ in 0..100 {
            provider.ask(4, &register).await;
            provider.ask(4, r#"{"method":"m","optype":4}"#).await;
        }
        most = most.max(center.metrics().queued_bytes);
        assert!(most <= BOUND as u64, "{most} bytes wait");
    }
    assert!(most > 0, "the kernel has taken all");
    let is_free = || center.metrics().connections == 1 && center.metrics().queued_bytes == 0;
    until("it is gone, and what it held is free", is_free).await;
    provider.expect_quiet().await;
}

#[tokio::test]
async fn a_call_from_within_a_callback_is_answered() {
    let center = center().await;
    let client = client(address(&center)).await;
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let again = client.clone();
    client
        .call_then::<i64>("echo", &1, move |first| {
            let told = told.clone();
            again.call_then::<i64>("echo", &(first.unwrap() + 1), move |second| told.send(second).unwrap()).unwrap();
        })
        .unwrap();
    assert_eq!(within(heard.recv()).await.unwrap().unwrap(), 2);
}

#[tokio::test]
async fn an_offline_of_one_method_leaves_its_siblings_connection_alone() {
    let center = center().await;
    let server = serve(two_methods()).await;
    let provider = Provider::new(client(address(&center)).await);
    let provider = provider.announce(["one", "two"], server.addresses()).await.unwrap();
    let caller = Caller::connect(center.address()).await.unwrap();
    assert_eq!(caller.call::<i64>("one", &()).await.unwrap(), 1);
    assert_eq!(caller.call::<i64>("two", &()).await.unwrap(), 2);
    let mut notices = caller.notices();
    provider.withdraw_method("one").await.unwrap();
    let offline = within(notices.next()).await.unwrap();
    assert!(!offline.online && &*offline.method == "one", "{offline}");
    let accepted = server.metrics().accepted;
    assert_eq!(caller.call::<i64>("two", &()).await.unwrap(), 2);
    assert_eq!(server.metrics().accepted, accepted, "over the connection that there was");
}

#[tokio::test]
async fn all_is_registered_again_after_the_centers_restart() {
    // A Unix socket's path is not taken by others while the center is away.
    let folder = tempfile::tempdir().unwrap();
    let path = format!("unix://{}", folder.path().join("center").display());
    let start = async || Center::builder().listen(&path).loops(1).start().await.unwrap();
    let center = start().await;
    let server = serve(two_methods()).await;
    let addresses = server.addresses().to_vec();
    let _provider = Provider::new(client(&path).await).announce(["one"], addresses).await.unwrap();
    center.shutdown().await;
    let _center = start().await;
    let caller = Caller::connect(&path).await.unwrap();
    caller.wait_for_provider("one", Duration::from_secs(20)).await.unwrap();
    assert_eq!(caller.call::<i64>("one", &()).await.unwrap(), 1);
}

#[tokio::test]
async fn a_subscriber_that_is_gone_is_in_no_list_any_more() {
    let center = center().await;
    let publisher = Arc::new(client(address(&center)).await);
    let topics = Topics::new(&publisher);
    topics.create("t").await.unwrap();
    for _ in 0..3 {
        let reader = client(address(&center)).await;
        let mut news = Subscription::open(&reader, "t").await.unwrap();
        topics.publish("t", "x").await.unwrap();
        assert_eq!(within(news.next()).await.unwrap().unwrap().text(), "x");
    }
    topics.publish("t", "to nobody").await.unwrap();
    assert_eq!(center.metrics().slow_readers, 0);
}
