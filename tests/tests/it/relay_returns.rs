//! Providers that listen nowhere, and whose connection is lost for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use callboard::{Caller, Center, Place, Provider, RetryPolicy, Router};
use callboard_tests::within;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;

use crate::house::{sessions, until};

/// A provider that calls itself so, and counts the calls that it executes.
async fn desk(center: &Center, executed: &Arc<AtomicUsize>) -> Provider {
    let counted = Arc::clone(executed);
    let router = Router::new().method("pay", move |sum: usize| {
        counted.fetch_add(1, SeqCst);
        Ok(sum)
    });
    let client = sessions().instance("cash-desk").serves(router).connect(center.address()).await.unwrap();
    Provider::new(client).announce(["pay"], Place::Relay).await.unwrap()
}

/// A caller that makes no call twice.
async fn caller(center: &Center) -> Caller {
    let caller = Caller::builder()
        .client(sessions())
        .connect(center.address())
        .await
        .unwrap()
        .with_timeout(Duration::from_secs(20));
    caller.with_retry(RetryPolicy::never())
}

fn call_often(callers: &[Caller], calls: usize) -> Vec<(usize, JoinHandle<usize>)> {
    let call = |number: usize| {
        let caller = callers[number % callers.len()].clone();
        (number, tokio::spawn(async move { caller.call::<usize>("pay", &number).await.unwrap() }))
    };
    (0..calls).map(call).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_provider_that_is_lost_comes_back_in_time_no_call_fails() {
    const CALLS: usize = 100;
    let center = Center::builder().listen("127.0.0.1:0").loops(2).start().await.unwrap();
    let executed = Arc::new(AtomicUsize::new(0));
    let mut provider = desk(&center, &executed).await;
    let callers = [caller(&center).await, caller(&center).await, caller(&center).await];
    for caller in &callers {
        assert_eq!(caller.call::<usize>("pay", &5).await.unwrap(), 5);
    }
    let mut notices = callers[0].notices();
    executed.store(0, SeqCst);
    for round in 1..=20_u64 {
        // As if it were killed: its connection is gone, and it has said nothing.
        provider.center().close();
        until("it is gone", || center.registry_metrics().departures == round).await;
        let calls = call_often(&callers, CALLS);
        until("all wait", || center.relay_metrics().waiting == CALLS).await;
        provider = desk(&center, &executed).await;
        for (number, call) in calls {
            assert_eq!(within(call).await.unwrap(), number);
        }
        assert_eq!(executed.swap(0, SeqCst), CALLS, "each of them once");
    }
    let metrics = center.relay_metrics();
    let calls = u64::try_from(20 * CALLS).unwrap();
    assert_eq!((metrics.waited, metrics.resumed, metrics.refused), (calls, calls, 0));
    assert_eq!((metrics.passed_on, metrics.waiting, metrics.waiting_bytes), (0, 0, 0));
    provider.withdraw().await.unwrap();
    assert!(!within(notices.next()).await.unwrap().online, "nobody has noticed before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_providers_come_back_to_a_center_that_was_started_anew_no_call_fails() {
    let first = Center::builder().listen("127.0.0.1:0").loops(1).start().await.unwrap();
    let (address, executed) = (first.address(), Arc::new(AtomicUsize::new(0)));
    let provider = desk(&first, &executed).await;
    let callers = [caller(&first).await];
    assert_eq!(callers[0].call::<usize>("pay", &5).await.unwrap(), 5);
    // It does not come before calls wait for it.
    provider.center().close();
    first.shutdown().await;
    let second = Center::builder().listen(&address).loops(1).start().await.unwrap();
    let calls = call_often(&callers, 10);
    until("all wait", || second.relay_metrics().waiting == 10).await;
    let _provider = desk(&second, &executed).await;
    for (number, call) in calls {
        assert_eq!(within(call).await.unwrap(), number);
    }
    assert_eq!(executed.load(SeqCst), 11);
}
