//! Registering, discovering and being told, by hand.

use callboard_tests::RawPeer;
use serde_json::{Value, json};

use crate::house::{address, center};

fn register(method: &str, port: u16) -> String {
    json!({"method": method, "optype": 0, "host": host(port)}).to_string()
}

fn host(port: u16) -> Value {
    json!({"ip": "127.0.0.1", "port": port})
}

fn notice(method: &str, optype: u8, port: u16) -> Value {
    json!({"method": method, "optype": optype, "host": host(port)})
}

async fn discover(peer: &mut RawPeer, method: &str) -> Value {
    peer.ask(4, &json!({"method": method, "optype": 1}).to_string()).await.json()
}

#[tokio::test]
async fn watchers_are_told_of_the_first_registration_and_of_the_last_end() {
    let center = center().await;
    let mut watcher = RawPeer::connect(address(&center)).await;
    let answer = discover(&mut watcher, "add").await;
    assert_eq!(
        (&answer["rcode"], &answer["optype"], &answer["method"], &answer["host"]),
        (&json!(5), &json!(1), &json!("add"), &json!([]))
    );

    let mut one = RawPeer::connect(address(&center)).await;
    let mut two = RawPeer::connect(address(&center)).await;
    assert_eq!(one.ask(4, &register("add", 7001)).await.json(), json!({"rcode": 0, "optype": 0}));
    let online = watcher.receive().await;
    assert_eq!((online.mtype, online.json()), (4, notice("add", 2, 7001)));
    // The same again, from there and from another connection, is the same entry.
    assert_eq!(one.ask(4, &register("add", 7001)).await.rcode(), 0);
    assert_eq!(two.ask(4, &register("add", 7001)).await.rcode(), 0);
    assert_eq!(two.ask(4, &register("add", 7002)).await.rcode(), 0);
    assert_eq!(watcher.receive().await.json(), notice("add", 2, 7002));
    let answer = discover(&mut watcher, "add").await;
    assert_eq!(answer, json!({"rcode": 0, "optype": 1, "method": "add", "host": [host(7001), host(7002)]}));

    drop(one);
    drop(two);
    let mut gone = [watcher.receive().await.json(), watcher.receive().await.json()];
    gone.sort_by_key(|notice| notice["host"]["port"].as_u64());
    assert_eq!(gone, [notice("add", 3, 7001), notice("add", 3, 7002)]);
    watcher.expect_quiet().await;
}

#[tokio::test]
async fn one_of_a_providers_methods_can_be_withdrawn() {
    let center = center().await;
    let mut watcher = RawPeer::connect(address(&center)).await;
    let mut provider = RawPeer::with_session(address(&center), &["withdraw"]).await;
    for method in ["add", "sub"] {
        assert_eq!(provider.ask(4, &register(method, 7003)).await.rcode(), 0);
        assert_eq!(discover(&mut watcher, method).await["rcode"], 0);
    }
    let answer = provider.ask(4, r#"{"method":"add","optype":4}"#).await.json();
    assert_eq!(answer, json!({"rcode": 0, "optype": 4}));
    assert_eq!(watcher.receive().await.json(), notice("add", 3, 7003));
    assert_eq!(discover(&mut watcher, "sub").await["host"], json!([host(7003)]));
    assert_eq!(discover(&mut watcher, "add").await["rcode"], 5);
}

#[tokio::test]
async fn a_connection_with_every_role_ends_in_all_of_them() {
    let center = center().await;
    let mut all = RawPeer::connect(address(&center)).await;
    let mut other = RawPeer::connect(address(&center)).await;
    assert_eq!(discover(&mut all, "add").await["rcode"], 5);
    all.send(4, b"register", &register("add", 7004)).await;
    let (first, second) = (all.receive().await, all.receive().await);
    let answers = [first, second].map(|frame| (frame.mtype, frame.json()["optype"].clone()));
    assert!(answers.contains(&(5, json!(0))) && answers.contains(&(4, json!(2))), "{answers:?}");
    assert_eq!(all.ask(2, r#"{"topic_key":"t","optype":0}"#).await.rcode(), 0);
    assert_eq!(all.ask(2, r#"{"topic_key":"t","optype":2}"#).await.rcode(), 0);
    assert_eq!(discover(&mut other, "add").await["rcode"], 0);
    drop(all);
    assert_eq!(other.receive().await.json(), notice("add", 3, 7004));
    assert_eq!(other.ask(2, r#"{"topic_key":"t","optype":4,"topic_msg":"x"}"#).await.rcode(), 0);
    // The host can come again, and its own connection, a watcher too, hears of it.
    other.send(4, b"again", &register("add", 7004)).await;
    let mut both = [other.receive().await, other.receive().await];
    both.sort_by_key(|frame| frame.mtype);
    assert_eq!(both[0].json(), notice("add", 2, 7004));
    assert_eq!(both[1].rcode(), 0);
}

#[tokio::test]
async fn names_per_connection_and_name_bytes_are_bounded() {
    let center = center().await;
    let mut peer = RawPeer::connect(address(&center)).await;
    for number in 0..10_000 {
        let body = json!({"method": format!("m{number}"), "optype": 1}).to_string();
        peer.send(4, b"id", &body).await;
    }
    for _ in 0..10_000 {
        assert_eq!(peer.receive().await.rcode(), 5);
    }
    let answer = discover(&mut peer, "one more").await;
    assert_eq!((&answer["rcode"], &answer["error"]["executed"]), (&json!(17), &json!("no")), "{answer}");
    assert_eq!(discover(&mut peer, "m1").await["rcode"], 5, "a name that is watched already is no new one");
    let long = "n".repeat(4097);
    assert_eq!(discover(&mut peer, &long).await["rcode"], 21);
    assert_eq!(peer.ask(2, &json!({"topic_key": long, "optype": 0}).to_string()).await.rcode(), 21);
}

#[tokio::test]
async fn registrations_of_one_connection_are_bounded() {
    let center = center().await;
    let mut peer = RawPeer::connect(address(&center)).await;
    for number in 0..10_000 {
        peer.send(4, b"id", &register(&format!("m{number}"), 7005)).await;
    }
    for _ in 0..10_000 {
        assert_eq!(peer.receive().await.rcode(), 0);
    }
    let answer = peer.ask(4, &register("one more", 7005)).await.json();
    assert_eq!((&answer["rcode"], &answer["optype"]), (&json!(17), &json!(0)), "{answer}");
    assert_eq!(answer["error"]["data"], json!({"limit": "registered_per_connection", "bound": 10_000}));
    assert_eq!(peer.ask(4, &register("m1", 7005)).await.rcode(), 0, "one that is there is no new one");
}
