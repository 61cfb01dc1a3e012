//! What one caller may take of a provider, where others want some of it too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use callboard::{Client, Method, RetryPolicy, Router, Server};
use tokio::time::sleep;

use crate::house::until;

/// As many calls under way as it may have, all the time.
async fn greedy(address: &str, stop: &Arc<AtomicBool>) -> Vec<tokio::task::JoinHandle<()>> {
    let client = Client::builder().retry(RetryPolicy::never()).connect(address).await.unwrap();
    let call = |_| {
        let (client, stop) = (client.clone(), Arc::clone(stop));
        tokio::spawn(async move {
            while !stop.load(SeqCst) {
                let _ = client.call::<()>("work", &()).await;
            }
        })
    };
    (0..1_024).map(call).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn greedy_callers_do_not_take_the_turns_of_another_one() {
    let router = Router::new().method_async(Method::new("work").concurrency(4), |(): ()| async {
        sleep(Duration::from_millis(2)).await;
        Ok(())
    });
    let server = Server::builder().router(router).loops(1).start().await.unwrap();
    let (address, stop) = (server.addresses()[0].to_string(), Arc::new(AtomicBool::new(false)));
    let honest = Client::builder().retry(RetryPolicy::never()).connect(&address).await.unwrap();
    let honest = honest.with_timeout(Duration::from_secs(30));
    let mut tasks = greedy(&address, &stop).await;
    tasks.extend(greedy(&address, &stop).await);
    until("more come than may wait", || server.metrics().overloaded > 0).await;
    for _ in 0..50 {
        honest.call::<()>("work", &()).await.unwrap();
    }
    assert!(server.metrics().overloaded > 50, "they are refused all the time: {:?}", server.metrics());
    stop.store(true, SeqCst);
    for task in tasks {
        task.await.unwrap();
    }
}
