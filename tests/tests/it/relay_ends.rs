//! How providers end that listen nowhere, while they are called.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use callboard::{Caller, Center, Executed, Place, Provider, Reconnect, RetryPolicy, Router};
use callboard_common::{Heartbeat, Heartbeats};
use callboard_net::Limits;
use callboard_tests::{RawPeer, within};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use crate::house::{sessions, until};

async fn center() -> Center {
    Center::builder().listen("127.0.0.1:0").loops(2).start().await.unwrap()
}

/// Calls wait in the center for a provider that reads nothing, says that it sends no more, and then reads on.
#[tokio::test]
async fn no_call_that_comes_to_a_provider_is_told_not_to_have_run() {
    const CALLS: usize = 300;
    let center = center().await;
    let mut provider = RawPeer::connect(&center.address()).await;
    let hello = json!({"version": 2, "instance": "i-1", "features": ["serves", "relay", "cancel"]});
    assert_eq!(provider.ask(16, &hello.to_string()).await.rcode(), 0);
    assert_eq!(provider.ask(4, r#"{"method":"work","optype":0}"#).await.rcode(), 0);
    let (mut callers, padding) = (Vec::new(), "x".repeat(60_000));
    for first in (0..CALLS).step_by(CALLS / 3) {
        let mut caller = RawPeer::with_session(&center.address(), &["relay", "cancel"]).await;
        for number in first..first + CALLS / 3 {
            let body = json!({"method": "work", "parameters": padding, "meta": {"instance": "i-1"}});
            caller.send(4 << 24, &number.to_be_bytes(), &body.to_string()).await;
        }
        // All are passed on when this is answered.
        caller.expect_quiet().await;
        callers.push(caller);
    }
    assert_eq!(center.relayed_calls(), CALLS);
    provider.stream.shutdown().await.unwrap();
    let coming = async {
        let mut came = 0;
        while let Some(frame) = provider.try_receive().await {
            came += usize::from(frame.mtype == 0);
        }
        came
    };
    let told = async {
        let mut told = HashMap::new();
        for caller in &mut callers {
            for _ in 0..CALLS / 3 {
                let answer = caller.receive().await.json();
                *told.entry(answer["error"]["executed"].as_str().unwrap().to_owned()).or_default() += 1;
            }
        }
        told
    };
    let (came, told) = tokio::join!(within(coming), within(told));
    assert_eq!((came, told), (CALLS, HashMap::from([("unknown".to_owned(), CALLS)])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_relayed_providers_leave_in_good_order_and_others_come_no_call_is_lost() {
    let (center, stop) = (center().await, Arc::new(AtomicBool::new(false)));
    let router = || {
        Router::new().method_async("work", |number: u64| async move {
            sleep(Duration::from_millis(1)).await;
            Ok(number)
        })
    };
    let start = async || {
        let client = sessions().reconnect(Reconnect::never()).serves(router());
        let client = client.connect(center.address()).await.unwrap();
        Provider::new(client).announce(["work"], Place::Relay).await.unwrap()
    };
    let mut current = start().await;
    let mut callers = Vec::new();
    for _ in 0..4 {
        let caller = Caller::builder().client(sessions()).connect(center.address()).await.unwrap();
        for _ in 0..4 {
            let (caller, stop) = (caller.clone(), Arc::clone(&stop));
            callers.push(tokio::spawn(async move {
                let mut made = 0;
                while !stop.load(SeqCst) {
                    assert_eq!(caller.call::<u64>("work", &made).await.unwrap(), made);
                    made += 1;
                }
                made
            }));
        }
    }
    for _ in 0..100 {
        let next = start().await;
        std::mem::replace(&mut current, next).withdraw().await.unwrap();
    }
    stop.store(true, SeqCst);
    for caller in callers {
        assert!(within(caller).await.unwrap() > 0);
    }
}

#[tokio::test]
async fn a_center_tells_how_many_calls_that_it_passes_on_were_given_up() {
    let center = center().await;
    let router = Router::new().method_async("work", |(): ()| std::future::pending::<Result<(), _>>());
    let client = sessions().serves(router).connect(center.address()).await.unwrap();
    let _provider = Provider::new(client).announce(["work"], Place::Relay).await.unwrap();
    let counted = |name| center.counted().find(|(counted, _)| *counted == name).map(|(_, count)| count);
    assert_eq!(counted("cancelled"), None);
    let caller = Caller::builder().client(sessions()).connect(center.address()).await.unwrap();
    let call = tokio::spawn(async move { caller.call::<()>("work", &()).await });
    until("it is passed on", || center.relayed_calls() == 1).await;
    call.abort();
    until("it is given up", || center.relayed_calls() == 0).await;
    assert_eq!(counted("cancelled"), Some(1));
}

/// A program that names itself, so that a center knows it again.
#[tokio::test]
async fn a_call_under_a_key_is_not_executed_again_by_a_relayed_provider_that_was_started_anew() {
    let (center, paid) = (center().await, Arc::new(AtomicUsize::new(0)));
    let start = async |ends: bool| {
        let counts = Arc::clone(&paid);
        let router = Router::new().method_async("pay", move |sum: u64| {
            counts.fetch_add(1, SeqCst);
            async move { if ends { Ok(sum) } else { std::future::pending().await } }
        });
        let client = sessions().instance("cash-desk").serves(router).connect(center.address()).await.unwrap();
        Provider::new(client).announce(["pay"], Place::Relay).await.unwrap()
    };
    let policy = RetryPolicy { tries: 100, first: Duration::from_millis(100), ..RetryPolicy::default() };
    for per_try in [None, Some(Duration::from_millis(500))] {
        paid.store(0, SeqCst);
        let first = start(false).await;
        let caller = Caller::builder()
            .client(sessions())
            .connect(center.address())
            .await
            .unwrap()
            .with_timeout(Duration::from_secs(20));
        let caller = caller.with_retry(RetryPolicy { per_try, ..policy }).with_idempotency_key("order-17");
        let call = tokio::spawn(async move { caller.call::<u64>("pay", &5).await });
        until("it runs", || paid.load(SeqCst) == 1).await;
        first.center().close();
        let second = start(true).await;
        let error = within(call).await.unwrap().unwrap_err();
        assert_eq!((error.executed(), paid.load(SeqCst)), (Executed::Unknown, 1), "{error}");
        second.withdraw().await.unwrap();
    }
}

/// A method that takes as many ms as it is told, and how many calls of it have begun.
fn slow() -> (Router, Arc<AtomicUsize>) {
    let begun = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&begun);
    let router = Router::new().method_async("work", move |ms: u64| {
        counts.fetch_add(1, SeqCst);
        async move {
            sleep(Duration::from_millis(ms)).await;
            Ok(ms)
        }
    });
    (router, begun)
}

/// The center takes a provider for dead that gives no sign of life for 0.4 s. This one's method goes on for longer than that
/// after its provider was asked to leave, and so does the next one's.
#[tokio::test]
async fn a_relayed_provider_that_leaves_gives_signs_of_life_until_its_last_answer() {
    let heartbeats = Heartbeats { caller: Heartbeat::from_ms(100, 400), provider: Heartbeat::from_ms(100, 400) };
    let limits = Limits { heartbeats, ..Limits::default() };
    let center = Center::builder().listen("127.0.0.1:0").loops(2).limits(limits).start().await.unwrap();
    let (router, begun) = slow();
    let client = sessions().reconnect(Reconnect::never()).serves(router).connect(center.address()).await.unwrap();
    let provider = Provider::new(client).announce(["work"], Place::Relay).await.unwrap();
    let caller = Caller::builder().client(sessions()).connect(center.address()).await.unwrap();
    let [awaited, given_up] = [1_200, 60_000].map(|ms| {
        let caller = caller.clone();
        tokio::spawn(async move { caller.call::<u64>("work", &ms).await })
    });
    until("both run", || begun.load(SeqCst) == 2).await;
    let leaving = tokio::spawn(callboard::leave_relayed(provider, Duration::from_secs(30)));
    assert_eq!(awaited.await.unwrap().unwrap(), 1_200);
    // What is given up meanwhile is waited for no longer.
    given_up.abort();
    let left = within(leaving).await.unwrap();
    assert_eq!((left.finished, left.given_up, left.cut), (1, 1, 0));
}

#[tokio::test]
async fn a_center_that_leaves_waits_for_what_relayed_providers_are_executing() {
    let center = Center::builder().listen("127.0.0.1:0").loops(2).grace(Duration::from_secs(30));
    let (center, (router, begun)) = (center.start().await.unwrap(), slow());
    let client = sessions().reconnect(Reconnect::never()).serves(router).connect(center.address()).await.unwrap();
    let _provider = Provider::new(client).announce(["work"], Place::Relay).await.unwrap();
    let caller = Caller::builder().client(sessions()).connect(center.address()).await.unwrap();
    let call = tokio::spawn(async move { caller.call::<u64>("work", &2_500).await });
    until("it runs", || begun.load(SeqCst) == 1).await;
    let stopped = within(center.shutdown()).await;
    assert_eq!((call.await.unwrap().unwrap(), stopped.finished, stopped.cut), (2_500, 1, 0));
}
