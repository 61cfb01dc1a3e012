//! A client's side; the peer is by hand.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Barrier};

use callboard_client::{Client, SessionMode};
use callboard_pubsub::Subscription;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::Figure;
use crate::heap::{Seen, Watch};
use crate::wire::{Go, TEXT, answerer};

const OPERATIONS: u32 = 64 * 100;

pub(crate) fn figures() -> Vec<Figure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let figure = |what, at_most, seen| Figure { what, operations: OPERATIONS, seen, at_most };
    runtime.block_on(async {
        vec![
            figure("client, call, one at a time", 1.05, calls(SessionMode::Require, 1).await),
            figure("client, call, 64 at a time", 1.05, calls(SessionMode::Require, 64).await),
            figure("client, call without a session", 1.05, calls(SessionMode::Off, 64).await),
            figure("client, call_then, 64 at a time", 2.05, callbacks().await),
            figure("subscriber, a message", 0.1, messages().await),
        ]
    })
}

#[derive(serde::Serialize)]
struct Pair {
    num1: i64,
    num2: i64,
}

const PAIR: Pair = Pair { num1: 1, num2: 2 };

async fn calls(session: SessionMode, at_a_time: u32) -> Seen {
    let client = Client::builder().session(session).connect(answerer(0, Go::new(Barrier::new(1)))).await.unwrap();
    let rounds = OPERATIONS / at_a_time;
    let mut tasks = JoinSet::new();
    let (warm, begin) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
    for _ in 0..at_a_time {
        let (client, warm, begin) = (client.clone(), Arc::clone(&warm), Arc::clone(&begin));
        tasks.spawn(async move {
            ask(&client, rounds).await;
            warm.fetch_add(1, Relaxed);
            begin.notified().await;
            ask(&client, rounds).await;
        });
    }
    while warm.load(Relaxed) < at_a_time {
        tokio::task::yield_now().await;
    }
    let watch = Watch::start(&format!("client-call-{session:?}-{at_a_time}"));
    begin.notify_waiters();
    while tasks.join_next().await.transpose().unwrap().is_some() {}
    watch.stop()
}

async fn ask(client: &Client, rounds: u32) {
    for _ in 0..rounds {
        assert_eq!(client.call::<i64>("add", &PAIR).await.unwrap(), 3);
    }
}

async fn callbacks() -> Seen {
    let client = Client::connect(answerer(0, Go::new(Barrier::new(1)))).await.unwrap();
    let (answered, told) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
    let mut sent = 0;
    let mut round = async || {
        for _ in 0..64 {
            let (answered, told) = (Arc::clone(&answered), Arc::clone(&told));
            let then = move |sum: Result<i64, _>| {
                assert_eq!(sum.unwrap(), 3);
                answered.fetch_add(1, Relaxed);
                told.notify_one();
            };
            client.call_then("add", &PAIR, then).unwrap();
        }
        sent += 64;
        while answered.load(Relaxed) < sent {
            told.notified().await;
        }
    };
    for _ in 0..OPERATIONS / 64 {
        round().await;
    }
    let watch = Watch::start("client-call_then");
    for _ in 0..OPERATIONS / 64 {
        round().await;
    }
    watch.stop()
}

async fn messages() -> Seen {
    let go = Arc::new(Barrier::new(2));
    let client = Client::connect(answerer(OPERATIONS as usize, Arc::clone(&go))).await.unwrap();
    let mut subscription = Subscription::open(&client, "t").await.unwrap();
    let mut hear = async || {
        for _ in 0..OPERATIONS {
            assert_eq!(subscription.next().await.unwrap().unwrap().text(), TEXT);
        }
    };
    hear().await;
    let watch = Watch::start("subscriber");
    go.wait();
    hear().await;
    watch.stop()
}
