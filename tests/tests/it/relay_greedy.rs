//! Callers of a provider that listens nowhere, some of whom make as many calls as they can.

use std::sync::Arc;
use std::time::Duration;

use callboard::{Caller, Center, Place, Provider, RetryPolicy, Router};
use callboard_tests::{RawPeer, within};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::house::{sessions, until};

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
    let client = sessions().serves(router.clone()).connect(center.address()).await.unwrap();
    let _provider = Provider::new(client).announce(router.names(), Place::Relay).await.unwrap();
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

/// Longer than a busy machine takes for all of it: what is shown is who finds room, not how soon.
const PATIENCE: Duration = Duration::from_mins(1);
