//! Registering, discovering and being told, by hand.

use std::time::{Duration, Instant};

use callboard_center::Center;
use callboard_common::{Heartbeat, Heartbeats};
use callboard_net::Limits;
use callboard_registry::AvailabilityPolicy;
use callboard_tests::RawPeer;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::house::{address, center, until};

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
    let (_server, port) = listener().await;
    let mut watcher = RawPeer::connect(address(&center)).await;
    let mut provider = RawPeer::with_session(address(&center), &["withdraw"]).await;
    for method in ["add", "sub"] {
        assert_eq!(provider.ask(4, &register(method, port)).await.rcode(), 0);
        assert_eq!(discover(&mut watcher, method).await["rcode"], 0);
    }
    let answer = provider.ask(4, r#"{"method":"add","optype":4}"#).await.json();
    assert_eq!(answer, json!({"rcode": 0, "optype": 4}));
    assert_eq!(watcher.receive().await.json(), notice("add", 3, port));
    assert_eq!(discover(&mut watcher, "sub").await["host"], json!([host(port)]));
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

/// Somebody who listens, and accepts as far as the system does it for him.
async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

async fn center_that(policy: AvailabilityPolicy) -> Center {
    Center::builder().listen("tcp://127.0.0.1:0").availability(policy).start().await.unwrap()
}

/// A connection of the run that is called so.
async fn run_of(center: &Center, instance: &str) -> RawPeer {
    let mut peer = RawPeer::connect(address(center)).await;
    let body = json!({"version": 2, "instance": instance, "features": ["revisions", "withdraw"]});
    assert_eq!(peer.ask(16, &body.to_string()).await.rcode(), 0);
    peer
}

/// One who watches `add`, and a run that provides it at the port.
async fn watcher_and_provider(center: &Center, port: u16) -> (RawPeer, RawPeer) {
    let mut watcher = RawPeer::connect(address(center)).await;
    assert_eq!(discover(&mut watcher, "add").await["rcode"], 5);
    let mut provider = run_of(center, "a").await;
    assert_eq!(provider.ask(4, &register("add", port)).await.rcode(), 0);
    assert_eq!(watcher.receive().await.json(), notice("add", 2, port));
    (watcher, provider)
}

#[tokio::test]
async fn who_registers_before_it_listens_is_refused_and_told_why() {
    let center = center().await;
    let mut watcher = RawPeer::connect(address(&center)).await;
    discover(&mut watcher, "add").await;
    let (listening, port) = listener().await;
    drop(listening);
    let mut provider = run_of(&center, "a").await;
    let answer = provider.ask(4, &register("add", port)).await.json();
    let message = format!(
        "\"add\" was not registered: the center can't reach 127.0.0.1:{port} (Connection refused (os error 111)); \
         listen there first, or name a host that the center can reach"
    );
    assert_eq!(answer, json!({"rcode": 22, "optype": 0, "error": {"message": message, "executed": "no"}}));
    watcher.expect_quiet().await;
    assert_eq!(center.registry_metrics().unreached, 1);

    let _listening = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    assert_eq!(provider.ask(4, &register("add", port)).await.rcode(), 0);
    assert_eq!(watcher.receive().await.json(), notice("add", 2, port));
}

#[tokio::test]
async fn a_center_that_does_not_probe_takes_providers_at_their_word() {
    let center = center_that(AvailabilityPolicy { probe: false, ..AvailabilityPolicy::default() }).await;
    let (listening, port) = listener().await;
    drop(listening);
    watcher_and_provider(&center, port).await;
}

#[tokio::test]
async fn a_killed_provider_whose_port_refuses_is_offline_at_once() {
    let long = AvailabilityPolicy { provider_grace: Duration::from_mins(10), ..AvailabilityPolicy::default() };
    let center = center_that(long).await;
    let (server, port) = listener().await;
    let (mut watcher, provider) = watcher_and_provider(&center, port).await;
    drop(server);
    let began = Instant::now();
    drop(provider);
    assert_eq!(watcher.receive().await.json(), notice("add", 3, port));
    let took = began.elapsed();
    println!("told offline after {took:?}");
    assert!(
        took < Duration::from_secs(2),
        "{took:?}, where 50 ms are promised on a machine that has nothing else to do"
    );
}

#[tokio::test]
async fn a_killed_provider_whose_port_accepts_is_offline_after_the_grace() {
    let grace = Duration::from_millis(300);
    let center = center_that(AvailabilityPolicy { provider_grace: grace, ..AvailabilityPolicy::default() }).await;
    let (_server, port) = listener().await;
    let (mut watcher, provider) = watcher_and_provider(&center, port).await;
    let began = Instant::now();
    drop(provider);
    assert_eq!(watcher.receive().await.json(), notice("add", 3, port));
    assert!(began.elapsed() >= grace, "{:?}", began.elapsed());
}

/// A center that listens to providers so closely, and gives them ten minutes to come back; one of them, and a watcher.
async fn one_who_owes_signs_of_life(provider: Heartbeat) -> (Center, RawPeer, RawPeer, u16, TcpListener) {
    let heartbeats = Heartbeats { provider, ..Heartbeats::default() };
    let long = AvailabilityPolicy { provider_grace: Duration::from_mins(10), ..AvailabilityPolicy::default() };
    let center = Center::builder().listen("tcp://127.0.0.1:0").availability(long);
    let center = center.limits(Limits { heartbeats, ..Limits::default() }).start().await.unwrap();
    let (server, port) = listener().await; // as the system of a program that was stopped accepts for it
    let mut watcher = RawPeer::connect(address(&center)).await;
    assert_eq!(discover(&mut watcher, "add").await["rcode"], 5);
    let mut provider = RawPeer::with_session(address(&center), &["heartbeat"]).await;
    provider.ask(4, &register("add", port)).await;
    assert_eq!(watcher.receive().await.json(), notice("add", 2, port));
    (center, watcher, provider, port, server)
}

#[tokio::test]
async fn a_provider_that_falls_silent_is_offline_without_a_grace() {
    let (center, mut watcher, _provider, port, _server) = one_who_owes_signs_of_life(Heartbeat::from_ms(20, 200)).await;
    assert_eq!(watcher.receive().await.json(), notice("add", 3, port));
    assert_eq!(center.metrics().peers_dead, 1);
}

/// As one does to whom no packet comes any more: it gives up on the center, and its own end does come.
#[tokio::test]
async fn a_provider_that_owes_signs_of_life_and_ends_is_offline_when_it_would_have_been() {
    let (_center, mut watcher, mut provider, port, _server) =
        one_who_owes_signs_of_life(Heartbeat::from_ms(50, 1_000)).await;
    for _ in 0..3 {
        assert_eq!(provider.receive().await.mtype, 18, "it is asked");
    }
    drop(provider);
    assert_eq!(watcher.receive().await.json(), notice("add", 3, port));
}

#[tokio::test]
async fn a_provider_that_comes_back_in_time_is_not_noticed_and_another_in_its_place_is() {
    let long = AvailabilityPolicy { provider_grace: Duration::from_mins(10), ..AvailabilityPolicy::default() };
    let center = center_that(long).await;
    let (_server, port) = listener().await;
    let (mut watcher, provider) = watcher_and_provider(&center, port).await;
    drop(provider);
    until("its end is known", || center.registry_metrics().departures == 1).await;
    let mut back = run_of(&center, "a").await;
    assert_eq!(back.ask(4, &register("add", port)).await.rcode(), 0);
    watcher.expect_quiet().await;
    assert_eq!(center.registry_metrics().taken_over, 1);

    drop(back);
    until("its end is known", || center.registry_metrics().departures == 2).await;
    let mut other = run_of(&center, "b").await;
    assert_eq!(other.ask(4, &register("add", port)).await.rcode(), 0);
    assert_eq!(watcher.receive().await.json(), notice("add", 3, port));
    assert_eq!(watcher.receive().await.json(), notice("add", 2, port));
    assert_eq!(center.registry_metrics().superseded, 1);
    // What is taken back goes at once, whoever had it before.
    assert_eq!(other.ask(4, r#"{"method":"add","optype":4}"#).await.rcode(), 0);
    assert_eq!(watcher.receive().await.json(), notice("add", 3, port));
    assert_eq!(discover(&mut watcher, "add").await["rcode"], 5, "nobody is an ordinary answer");
}

#[tokio::test]
async fn who_comes_and_goes_too_often_is_told_later_and_found_all_the_same() {
    let window = Duration::from_millis(500);
    let policy = AvailabilityPolicy { flap_changes: 2, flap_window: window, ..AvailabilityPolicy::default() };
    let center = center_that(policy).await;
    let (_server, port) = listener().await;
    let began = Instant::now();
    let (mut watcher, mut provider) = watcher_and_provider(&center, port).await;
    assert_eq!(provider.ask(4, r#"{"method":"add","optype":4}"#).await.rcode(), 0);
    assert_eq!(watcher.receive().await.json(), notice("add", 3, port));
    assert_eq!(provider.ask(4, &register("add", port)).await.rcode(), 0);
    let mut caller = run_of(&center, "caller").await;
    let found = discover(&mut caller, "add").await;
    assert_eq!(watcher.receive().await.json(), notice("add", 2, port));
    assert!(began.elapsed() >= window, "{:?}", began.elapsed());
    let listed = json!([{"ip": "127.0.0.1", "port": port, "instance": "a"}]);
    assert_eq!((&found["host"], center.registry_metrics().held), (&listed, 1));
    caller.expect_quiet().await;
}

#[tokio::test]
async fn who_leaves_with_much_is_told_of_to_the_last_entry() {
    const MANY: usize = 200;
    let center = center().await;
    let (mut watcher, mut provider) =
        (RawPeer::connect(address(&center)).await, RawPeer::connect(address(&center)).await);
    let mut methods: Vec<_> = (0..MANY).map(|number| format!("method-{number:03}")).collect();
    for method in &methods {
        assert_eq!(provider.ask(4, &register(method, 7001)).await.rcode(), 0);
        assert_eq!(discover(&mut watcher, method).await["host"].as_array().map(Vec::len), Some(1));
    }
    drop(provider);
    while !methods.is_empty() {
        let told = watcher.receive().await.json();
        let gone = methods.iter().position(|method| told == notice(method, 3, 7001));
        methods.swap_remove(gone.unwrap_or_else(|| panic!("{told}")));
    }
    until("the watcher is all that is left", || center.registry_size().connections == 1).await;
}

#[tokio::test]
async fn revisions_count_the_changes_for_those_who_asked_for_them() {
    let center = center().await;
    let (server, port) = listener().await;
    let (mut plain, provider) = watcher_and_provider(&center, port).await;
    let mut revised = run_of(&center, "b").await;
    let listed = json!([{"ip": "127.0.0.1", "port": port, "instance": "a"}]);
    let answer = json!({"rcode": 0, "optype": 1, "method": "add", "host": listed, "revision": 1});
    assert_eq!(discover(&mut revised, "add").await, answer);
    let mut v1 = RawPeer::connect(address(&center)).await;
    assert_eq!(v1.ask(4, &register("add", 7001)).await.rcode(), 0);
    let told = [("add", 2, 7001), ("add", 3, 7001), ("add", 3, port)].map(|(method, op, at)| notice(method, op, at));
    let (mut v1, mut provider) = (Some(v1), Some((provider, server)));
    for (notice, (revision, instance)) in told.iter().zip([(2, None), (3, None), (4, Some("a"))]) {
        // One end after the other: of two at once either may be seen first.
        match revision {
            3 => drop(v1.take()),
            4 => drop(provider.take()),
            _ => {}
        }
        assert_eq!(plain.receive().await.json(), *notice);
        let mut expected = notice.clone();
        expected["revision"] = json!(revision);
        if let Some(instance) = instance {
            expected["instance"] = json!(instance);
        }
        assert_eq!(revised.receive().await.json(), expected);
    }
}
