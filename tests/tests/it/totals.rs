//! Bounds on everything at once.

use callboard_center::Center;
use callboard_net::Limits;
use callboard_pubsub::TopicLimits;
use callboard_tests::{RawPeer, frame};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::house::{address, center_with, until};

#[tokio::test]
async fn past_the_total_of_unfinished_frames_the_stalest_goes() {
    let limits = Limits { total_partial_bytes: 2 << 20, max_frame_bytes: 2 << 20, ..Limits::default() };
    let center = center_with(limits).await;
    let body = format!(r#"{{"method":"echo","parameters":"{}"}}"#, "x".repeat(3 << 19));
    let bytes = frame(0, b"id", body.as_bytes());
    let part = 1200 << 10;
    let mut stale = RawPeer::connect(address(&center)).await;
    stale.send_bytes(&bytes[..part]).await;
    until("its part is held", || center.metrics().partial_bytes >= part as u64).await;
    let mut fresh = RawPeer::connect(address(&center)).await;
    fresh.send_bytes(&bytes[..part]).await;
    stale.expect_end().await;
    assert_eq!(center.metrics().evicted, 1);
    fresh.send_bytes(&bytes[part..]).await;
    assert_eq!(fresh.receive().await.rcode(), 0);
    assert_eq!(center.metrics().partial_bytes, 0);
}

#[tokio::test]
async fn past_the_total_of_all_outboxes_the_most_stalled_goes() {
    let limits =
        Limits { total_queue_bytes: 12 << 20, queue_bytes: 16 << 20, max_frame_bytes: 2 << 20, ..Limits::default() };
    let center = center_with(limits).await;
    let body = format!(r#"{{"method":"echo","parameters":"{}"}}"#, "x".repeat(1 << 20));
    let bytes = frame(0, b"id", body.as_bytes());
    // Each asks for much and reads nothing; the center stops reading it at half of its outbox.
    let greedy = |number: usize| {
        let (address, bytes) = (address(&center), bytes.clone());
        tokio::spawn(async move {
            let mut peer = RawPeer::connect(address).await;
            for _ in 0..64 {
                if peer.stream.write_all(&bytes).await.is_err() {
                    return number;
                }
            }
            number
        })
    };
    let first = greedy(1);
    until("the first one's outbox is half full", || center.metrics().queued_bytes >= 8 << 20).await;
    let second = greedy(2);
    assert_eq!(first.await.unwrap(), 1);
    assert_eq!(center.metrics().evicted, 1, "{:?}", center.metrics());
    assert!(!second.is_finished(), "the second one is waited for");
    let mut other = RawPeer::connect(address(&center)).await;
    other.expect_quiet().await;
    second.abort();
}

#[tokio::test]
async fn topics_are_bounded_in_number() {
    let limits = TopicLimits { created_per_connection: 100_000, ..TopicLimits::default() };
    let center = Center::builder().listen("127.0.0.1:0").loops(1).topic_limits(limits).start().await.unwrap();
    let mut peer = RawPeer::connect(address(&center)).await;
    let create = |number: usize| json!({"topic_key": format!("t{number}"), "optype": 0}).to_string();
    for thousand in 0..100 {
        let batch = (0..1000).map(|number| frame(2, b"c", create(thousand * 1000 + number).as_bytes()));
        peer.send_bytes(&batch.collect::<Vec<_>>().concat()).await;
        for _ in 0..1000 {
            assert_eq!(peer.receive().await.rcode(), 0);
        }
    }
    let answer = peer.ask(2, &create(100_000)).await.json();
    assert_eq!((&answer["rcode"], &answer["error"]["executed"]), (&json!(17), &json!("no")), "{answer}");
    assert_eq!(peer.ask(2, &create(7)).await.rcode(), 0, "one that exists is no new one");
    assert_eq!(peer.ask(2, r#"{"topic_key":"t7","optype":1}"#).await.rcode(), 0);
    assert_eq!(peer.ask(2, &create(100_000)).await.rcode(), 0, "there is a place again");
    for number in 8..10_008 {
        assert_eq!(peer.ask(2, &json!({"topic_key": format!("t{number}"), "optype": 2}).to_string()).await.rcode(), 0);
    }
    assert_eq!(
        peer.ask(2, r#"{"topic_key":"t20000","optype":2}"#).await.rcode(),
        17,
        "subscriptions of one connection"
    );
}

#[tokio::test]
async fn connections_are_bounded_in_number() {
    let center = center_with(Limits { max_connections: 3, ..Limits::default() }).await;
    let mut peers = Vec::new();
    for _ in 0..3 {
        let mut peer = RawPeer::connect(address(&center)).await;
        peer.expect_quiet().await;
        peers.push(peer);
    }
    let mut one_too_many = RawPeer::connect(address(&center)).await;
    one_too_many.expect_end().await;
    assert_eq!(center.metrics().turned_away, 1);
    peers.pop();
    until("a place is free", || center.metrics().connections == 2).await;
    RawPeer::connect(address(&center)).await.expect_quiet().await;
}
