//! Callers of a provider that listens nowhere, some of whom make as many calls as they can.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use callboard::{Caller, Center, KeptAnswers, Limits, Method, Place, Provider, RetryPolicy, Router};
use callboard_tests::{RawPeer, frame, within};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use crate::house::{sessions, until};

async fn relayed(center: &Center, router: Router) -> Provider {
    let names = router.names();
    let client = sessions().serves(router).connect(center.address()).await.unwrap();
    Provider::new(client).announce(names, Place::Relay).await.unwrap()
}

#[tokio::test]
async fn greedy_callers_and_a_slow_method_leave_room_for_others_at_a_relayed_provider() {
    let center = Center::builder().listen("127.0.0.1:0").loops(2).start().await.unwrap();
    let go = Arc::new(Semaphore::new(0));
    let goes = Arc::clone(&go);
    let router = Router::new().method("quick", |n: u64| Ok(n)).method_async("slow", move |n: u64| {
        let goes = Arc::clone(&goes);
        async move {
            goes.acquire().await?.forget();
            Ok(n)
        }
    });
    let _provider = relayed(&center, router).await;
    let (mut greedy, mut honest) = (Vec::new(), Vec::new());
    for number in 0..12 {
        let mut peer = RawPeer::with_session(&center.address(), &["relay", "revisions", "cancel"]).await;
        let listed = peer.ask(4, r#"{"method":"slow","optype":1}"#).await.json();
        let call = json!({"method": "slow", "parameters": 0, "meta": {"instance": listed["host"][0]["instance"]}});
        for id in 0..1024_u32 {
            peer.send(4 << 24, &id.to_be_bytes(), &call.to_string()).await;
        }
        until("it has its calls", || center.relayed_calls() >= 512).await;
        greedy.push(peer);
        let caller = Caller::builder().client(sessions()).retry(RetryPolicy::never()).timeout(PATIENCE);
        let caller = caller.connect(center.address()).await.unwrap();
        for n in 0..5 {
            assert_eq!(within(caller.call::<u64>("quick", &n)).await.unwrap(), n, "beside {number} of them");
        }
        // And of the slow method one call at least. Were it refused, that would be told before the answer to the next.
        let mut slow = caller.start::<u64>("slow", &7).await.unwrap();
        assert_eq!(caller.call::<u64>("quick", &8).await.unwrap(), 8);
        let told = tokio::time::timeout(Duration::ZERO, &mut slow).await;
        assert!(told.is_err(), "beside {number} of them: {told:?}");
        honest.push((caller, slow));
    }
    go.add_permits(Semaphore::MAX_PERMITS);
    for (_caller, slow) in honest {
        assert_eq!(within(slow).await.unwrap(), 7);
    }
}

#[tokio::test]
async fn calls_that_go_on_without_their_callers_leave_room_for_others_at_a_relayed_provider() {
    for kind in ["one way", "under keys", "that must finish"] {
        let center = Center::builder().listen("127.0.0.1:0").loops(2).start().await.unwrap();
        let (begun, go) = (Arc::<AtomicUsize>::default(), Arc::new(Semaphore::new(0)));
        let (begins, goes) = (Arc::clone(&begun), Arc::clone(&go));
        let slow = Method::new("slow");
        let slow = if kind == "that must finish" { slow.must_finish() } else { slow };
        let router = Router::new().method_async("soon", async |n: u64| Ok(n)).method_async(slow, move |n: u64| {
            begins.fetch_add(1, SeqCst);
            let goes = Arc::clone(&goes);
            async move {
                goes.acquire().await?.forget();
                Ok(n)
            }
        });
        let _provider = relayed(&center, router).await;
        let features = ["relay", "revisions", "cancel", "one_way", "keys"];
        let mut peer = RawPeer::with_session(&center.address(), &features).await;
        let listed = peer.ask(4, r#"{"method":"slow","optype":1}"#).await.json();
        let meta = json!({"instance": listed["host"][0]["instance"]});
        // As many as a connection may have in flight, of which this center lets one caller have half at a time, and more.
        for number in 1..=1280_usize {
            let (mut meta, id) = (meta.clone(), number.to_be_bytes());
            if kind == "under keys" {
                meta["idempotency_key"] = json!(number.to_string());
            }
            let call = json!({"method": "slow", "parameters": 0, "meta": meta}).to_string();
            match kind {
                "one way" => peer.send(5 << 24, b"", &call).await,
                _ => peer.send(4 << 24, &id, &call).await,
            }
            if number % 256 == 0 {
                let bound = number.min(Limits::default().in_flight);
                until("they have begun", || begun.load(SeqCst) == bound).await;
                for given_up in number - 255..=number {
                    peer.send(CANCEL, &given_up.to_be_bytes(), "{}").await;
                }
                until("they are given up", || center.relayed_calls() == 0).await;
            }
        }
        let caller = Caller::builder().client(sessions()).retry(RetryPolicy::never()).timeout(PATIENCE);
        let caller = caller.connect(center.address()).await.unwrap();
        for n in 0..5 {
            assert_eq!(within(caller.call::<u64>("soon", &n)).await.unwrap(), n, "beside calls {kind}");
        }
        assert_eq!(begun.load(SeqCst), Limits::default().in_flight, "calls {kind}");
        go.add_permits(Semaphore::MAX_PERMITS);
    }
}

/// One that makes as many calls as it can of a method with a queue, of which one waits at most.
#[tokio::test]
async fn beside_a_flood_of_calls_of_one_method_others_have_their_turns_through_a_center() {
    let center = Center::builder().listen("127.0.0.1:0").loops(2).start().await.unwrap();
    let slow = Method::new("slow").concurrency(1).queue(32);
    let router = Router::new().method_async(slow, async |n: u64| {
        tokio::time::sleep(Duration::from_millis(1)).await;
        Ok(n)
    });
    let _provider = relayed(&center, router).await;
    let mut greedy = RawPeer::with_session(&center.address(), &["relay", "revisions", "cancel"]).await;
    let listed = greedy.ask(4, r#"{"method":"slow","optype":1}"#).await.json();
    let call =
        json!({"method": "slow", "parameters": 0, "meta": {"instance": listed["host"][0]["instance"]}}).to_string();
    // It has 64 under way all the time, of which half are refused.
    let refused = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&refused);
    let flood = tokio::spawn(async move {
        for id in 0..64_u64 {
            greedy.send(4 << 24, &id.to_be_bytes(), &call).await;
        }
        for id in 64_u64.. {
            let answer = greedy.receive().await.json();
            counted.fetch_add(usize::from(answer["rcode"] == 17), SeqCst);
            greedy.send(4 << 24, &id.to_be_bytes(), &call).await;
        }
    });
    until("it is refused what has no room", || refused.load(SeqCst) >= 32).await;
    let caller = Caller::builder().client(sessions()).retry(RetryPolicy::never()).timeout(PATIENCE);
    let caller = caller.connect(center.address()).await.unwrap();
    for n in 0..30 {
        assert_eq!(within(caller.call::<u64>("slow", &n)).await.unwrap(), n);
    }
    assert!(!flood.is_finished());
    flood.abort();
}

/// The same of a method that runs in place: all come over one connection, and none is to wait for all that came before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_a_flood_of_calls_that_run_in_place_others_have_their_turns_through_a_center() {
    for one_way in [false, true] {
        let center = Center::builder().listen("127.0.0.1:0").loops(1).start().await.unwrap();
        let ran = Arc::<AtomicUsize>::default();
        let runs = Arc::clone(&ran);
        let router = Router::new().method("quick", |n: u64| Ok(n)).method("long", move |n: u64| {
            std::thread::sleep(Duration::from_millis(1));
            runs.fetch_add(1, SeqCst);
            Ok(n)
        });
        let _provider = relayed(&center, router).await;
        let caller = Caller::builder().client(sessions()).retry(RetryPolicy::never()).timeout(PATIENCE);
        let caller = caller.connect(center.address()).await.unwrap();
        assert_eq!(within(caller.call::<u64>("quick", &0)).await.unwrap(), 0);
        let features = ["relay", "revisions", "cancel", "one_way", "ping"];
        let mut greedy = RawPeer::with_session(&center.address(), &features).await;
        let listed = greedy.ask(4, r#"{"method":"long","optype":1}"#).await.json();
        let call = json!({"method": "long", "parameters": 0, "meta": {"instance": listed["host"][0]["instance"]}});
        for id in 0..FLOOD {
            let id = u32::try_from(id).unwrap().to_be_bytes();
            greedy.send(if one_way { 5 << 24 } else { 4 << 24 }, &id, &call.to_string()).await;
        }
        // Whatever it is answered meanwhile: the center has passed all of them on.
        greedy.send(PING, b"ping", "").await;
        while greedy.receive().await.id != b"ping" {}
        assert_eq!(within(caller.call::<u64>("quick", &1)).await.unwrap(), 1);
        let before = ran.load(SeqCst);
        assert!(before < FLOOD / 2, "{before} of {FLOOD} came first");
        until("all of them have run", || ran.load(SeqCst) == FLOOD).await;
    }
}

/// A provider that remembers a hundred answers, of two callers through one center.
#[tokio::test]
async fn a_caller_s_keys_are_remembered_however_many_calls_another_one_makes_under_keys_through_the_center() {
    let center = Center::builder().listen("127.0.0.1:0").loops(2).start().await.unwrap();
    let runs = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&runs);
    let router = Router::new().kept_answers(KeptAnswers::default().answers(100)).method("count", move |_: u64| {
        counted.fetch_add(1, SeqCst);
        Ok(())
    });
    let _provider = relayed(&center, router).await;
    let mut callers = Vec::new();
    for _ in 0..2 {
        callers.push(Caller::builder().client(sessions()).connect(center.address()).await.unwrap());
    }
    for (caller, count) in [(0, 10), (1, 300), (0, 10)] {
        for n in 0..count {
            let key = format!("{caller} {n}");
            within(callers[caller].with_idempotency_key(key).call::<()>("count", &n)).await.unwrap();
        }
    }
    assert_eq!(runs.load(SeqCst), 310, "no repeat was run");
}

/// What one gives up gives its place at the center back at once. Were it not so at the provider, the connection that all share
/// would soon have no place for others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gives_up_what_waits_to_run_in_place_takes_no_places_of_others_at_a_relayed_provider() {
    let center = Center::builder().listen("127.0.0.1:0").loops(2).start().await.unwrap();
    let router = Router::new().method("quick", |n: u64| Ok(n)).method_async("soon", async |n: u64| Ok(n)).method(
        "long",
        |n: u64| {
            std::thread::sleep(Duration::from_millis(5));
            Ok(n)
        },
    );
    let _provider = relayed(&center, router).await;
    let caller = Caller::builder().client(sessions()).retry(RetryPolicy::never()).timeout(PATIENCE);
    let caller = caller.connect(center.address()).await.unwrap();
    assert_eq!(within(caller.call::<u64>("quick", &0)).await.unwrap(), 0);
    let flood = flood(&center, |call, id| {
        let mut frames = frame(4 << 24, &id.to_be_bytes(), call);
        if !id.is_multiple_of(16) {
            frames.extend(frame(CANCEL, &id.to_be_bytes(), b""));
        }
        frames
    });
    let flood = flood.await;
    until("it has half of the places", || center.relayed_calls() >= 256).await;
    for n in 0..20 {
        assert_eq!(within(caller.call::<u64>("quick", &n)).await.unwrap(), n);
        assert_eq!(within(caller.call::<u64>("soon", &n)).await.unwrap(), n);
    }
    assert!(!flood.is_finished());
    flood.abort();
}

/// Calls of `long`, as fast as the center reads them.
async fn flood(
    center: &Center,
    frames: impl Fn(&[u8], u64) -> Vec<u8> + Send + Sync + 'static,
) -> tokio::task::JoinHandle<()> {
    let mut peer = RawPeer::with_session(&center.address(), &["relay", "revisions", "cancel", "one_way"]).await;
    let listed = peer.ask(4, r#"{"method":"long","optype":1}"#).await.json();
    let call =
        json!({"method": "long", "parameters": 0, "meta": {"instance": listed["host"][0]["instance"]}}).to_string();
    let (mut answers, mut calls) = peer.stream.into_split();
    tokio::spawn(async move {
        let read = async {
            let mut some = vec![0; 1 << 16];
            while answers.read(&mut some).await.is_ok_and(|count| count > 0) {}
        };
        let write = async {
            for batch in 0_u64.. {
                let many: Vec<u8> = (0..256).flat_map(|id| frames(call.as_bytes(), batch * 256 + id)).collect();
                if calls.write_all(&many).await.is_err() {
                    return;
                }
            }
        };
        tokio::join!(read, write);
    })
}

/// What waits for a provider is one stream: who fills it faster than it is read is not read itself for moments.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sends_one_way_calls_faster_than_a_relayed_provider_reads_is_held_back() {
    let center = Center::builder().listen("127.0.0.1:0").loops(2).start().await.unwrap();
    let router = Router::new().method("quick", |n: u64| Ok(n)).method("long", |n: u64| {
        std::thread::sleep(Duration::from_millis(1));
        Ok(n)
    });
    let _provider = relayed(&center, router).await;
    let caller = Caller::builder().client(sessions()).retry(RetryPolicy::never()).timeout(PATIENCE);
    let caller = caller.connect(center.address()).await.unwrap();
    assert_eq!(within(caller.call::<u64>("quick", &0)).await.unwrap(), 0);
    let mut floods = Vec::new();
    for _ in 0..2 {
        floods.push(flood(&center, |call, _| frame(5 << 24, b"", call)).await);
    }
    until("they are held back", || center.metrics().holds > 100).await;
    for n in 0..5 {
        assert_eq!(within(caller.call::<u64>("quick", &n)).await.unwrap(), n);
    }
    assert!(floods.iter().all(|flood| !flood.is_finished()));
    floods.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Before this, what waited for the provider was full of the calls of one, and all others were refused.
#[tokio::test]
async fn who_sends_a_provider_more_than_it_reads_is_refused_and_nobody_else_is() {
    let center = Center::builder().listen("127.0.0.1:0").loops(2).start().await.unwrap();
    let mut provider = RawPeer::connect(center.address()).await;
    let hello = json!({"version": 2, "instance": "i-1", "features": ["serves", "relay", "callers"], "limits": {}});
    assert_eq!(provider.ask(16, &hello.to_string()).await.rcode(), 0);
    assert_eq!(provider.ask(4, r#"{"method":"store","optype":0,"relay":true}"#).await.rcode(), 0);
    let call = |parameters: &str| {
        json!({"method": "store", "parameters": parameters, "meta": {"instance": "i-1"}}).to_string()
    };
    let mut greedy = RawPeer::with_session(&center.address(), &["relay"]).await;
    let large = call(&"x".repeat(1 << 20));
    for id in 0..64_u32 {
        greedy.send(4 << 24, &id.to_be_bytes(), &large).await;
    }
    // Beside what the system takes, half of what may wait for the provider.
    for _ in 0..16 {
        let refused = greedy.receive().await.json();
        assert_eq!((&refused["rcode"], &refused["error"]["executed"]), (&json!(17), &json!("no")), "{refused}");
        assert_eq!(refused["error"]["data"]["limit"], "provider_queued_bytes", "{refused}");
    }
    let mut honest = RawPeer::with_session(&center.address(), &["relay"]).await;
    honest.send(4 << 24, b"small", &call("y")).await;
    honest.expect_quiet().await;
    let asked = loop {
        let frame = provider.receive().await;
        if frame.json()["parameters"] == "y" {
            break frame;
        }
    };
    provider.send(1, &asked.id, r#"{"rcode":0,"result":7}"#).await;
    let answer = honest.receive().await;
    assert_eq!((&answer.id[..], answer.json()["result"].as_u64()), (&b"small"[..], Some(7)));
}

/// As many as one caller may have waiting at a provider.
const FLOOD: usize = 512;
const PING: u32 = 18;
const CANCEL: u32 = 20;
/// Longer than a busy machine takes for all of it: what is shown is who finds room, not how soon.
const PATIENCE: Duration = Duration::from_mins(1);
