//! A runtime of one thread, as that of each test here: who sends without waiting for answers lets others have their turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use callboard_client::Client;
use callboard_pubsub::Topics;
use callboard_registry::Caller;
use serde_json::Value;

use crate::house::{address, center};

/// More than a runtime lets a task do in one turn, less than an outbox holds.
const MESSAGES: usize = 2000;

/// How often a task beside this one has been run.
fn bystander() -> Arc<AtomicUsize> {
    let turns = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&turns);
    tokio::spawn(async move {
        loop {
            counted.fetch_add(1, Relaxed);
            tokio::task::yield_now().await;
        }
    });
    turns
}

fn assert_taken(turns: &AtomicUsize) {
    let turns = turns.load(Relaxed);
    assert!(turns >= MESSAGES / 200, "{turns} turns while {MESSAGES} were sent");
}

#[tokio::test]
async fn a_loop_that_publishes_lets_others_run() {
    let center = center().await;
    let client = Client::connect(address(&center).to_string()).await.unwrap();
    let topics = Topics::new(&client);
    topics.create("t").await.unwrap();
    let mut publisher = topics.publisher("t");
    let turns = bystander();
    for number in 0..MESSAGES {
        publisher.publish(&number).await.unwrap();
    }
    assert_taken(&turns);
}

#[tokio::test]
async fn a_loop_that_notifies_lets_others_run() {
    let center = center().await;
    let client = Client::connect(address(&center).to_string()).await.unwrap();
    let turns = bystander();
    for number in 0..MESSAGES {
        client.notify("echo", &number).await.unwrap();
    }
    assert_taken(&turns);
}

#[tokio::test]
async fn a_loop_that_starts_calls_lets_others_run() {
    let center = center().await;
    let client = Client::connect(address(&center).to_string()).await.unwrap();
    let turns = bystander();
    for number in 0..MESSAGES {
        drop(client.start::<Value>("echo", &number).await.unwrap());
    }
    assert_taken(&turns);
}

#[tokio::test]
async fn a_loop_of_calls_that_fail_at_once_lets_others_run() {
    let center = center().await;
    let caller = Caller::connect(address(&center).to_string()).await.unwrap();
    let closed = Client::connect(address(&center).to_string()).await.unwrap();
    caller.call::<()>("nothing", &()).await.unwrap_err();
    let turns = bystander();
    for _ in 0..MESSAGES {
        caller.call::<()>("nothing", &()).await.unwrap_err();
    }
    assert_taken(&turns);
    closed.close();
    turns.store(0, Relaxed);
    for _ in 0..MESSAGES {
        closed.call::<()>("nothing", &()).await.unwrap_err();
    }
    assert_taken(&turns);
}
