use std::time::Duration;

use callboard_net::Limits;
use callboard_pubsub::{Subscription, SubscriptionError, Topics};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::center::{Center, PATIENCE, next, settle, until};

#[tokio::test]
async fn a_slow_reader_holds_the_publisher_and_loses_nothing() {
    let limits = Limits { queue_bytes: 1 << 20, max_frame_bytes: 1 << 16, stall: PATIENCE, ..Limits::default() };
    let center = Center::with_limits(limits).await;
    let (reader, writer) = (center.near_client().await, center.near_client().await);
    Topics::new(&writer).create("news").await.unwrap();
    let mut news = Subscription::builder(&reader, "news").hold_bytes(100 << 10).open().await.unwrap();
    let padding = "x".repeat(10 << 10);
    let messages = 1000_u64;
    let publishing = tokio::spawn(async move {
        let topics = Topics::new(&writer);
        for n in 0..messages {
            topics.publish("news", &(n, &padding)).await.unwrap();
        }
    });
    until(|| center.serving.metrics().holds > 0).await;
    assert!(!publishing.is_finished());
    for n in 0..messages {
        let (number, _) = next(&mut news).await.unwrap().json::<(u64, String)>().unwrap();
        assert_eq!(number, n);
    }
    timeout(PATIENCE, publishing).await.unwrap().unwrap();
    assert_eq!(center.serving.metrics().slow_readers, 0);
}

#[tokio::test]
async fn a_subscriber_that_takes_nothing_is_disconnected_and_the_others_hear_all() {
    let stall = Duration::from_millis(50);
    let limits = Limits { queue_bytes: 1 << 20, max_frame_bytes: 1 << 16, stall, ..Limits::default() };
    let center = Center::with_limits(limits).await;
    let (reader, writer) = (center.client().await, center.client().await);
    let topics = Topics::new(&writer);
    topics.create("news").await.unwrap();
    let mut news = Subscription::open(&reader, "news").await.unwrap();
    let stalled = center.stalled_subscriber("news");
    until(|| center.topics.subscriber_count() == 2).await;
    let padding = "x".repeat(10 << 10);
    for n in 0..500_u64 {
        topics.publish("news", &(n, &padding)).await.unwrap();
        assert_eq!(next(&mut news).await.unwrap().json::<(u64, String)>().unwrap().0, n);
    }
    until(|| center.topics.subscriber_count() == 1).await;
    assert_eq!(center.serving.metrics().slow_readers, 1);
    drop(stalled);
}

#[tokio::test]
async fn a_reader_that_is_behind_while_a_call_waits_ends_at_its_bound_and_the_connection_lives() {
    let center = Center::start().await;
    let (reader, writer) = (center.near_client().await, center.near_client().await);
    let topics = Topics::new(&writer);
    topics.create("news").await.unwrap();
    let bounds = |topic| Subscription::builder(&reader, topic).hold_bytes(10 << 10).max_bytes(100 << 10);
    let mut news = bounds("news").open().await.unwrap();
    let _waiting = reader.start::<Value>("never", &json!({})).await.unwrap();
    let padding = "x".repeat(10 << 10);
    for n in 0..200_u64 {
        topics.publish("news", &(n, &padding)).await.unwrap();
    }
    settle(&reader).await;
    let mut heard = 0;
    let error = loop {
        match next(&mut news).await {
            Ok(message) => assert_eq!(message.json::<(u64, String)>().unwrap().0, heard),
            Err(error) => break error,
        }
        heard += 1;
    };
    assert!((5..20).contains(&heard), "{heard}");
    assert!(matches!(error, SubscriptionError::Lagged { max_bytes: 102_400, .. }), "{error}");
    assert!(news.next().await.is_none());
    settle(&reader).await;
    assert_eq!(center.topics.subscriber_count(), 0);
    let mut again = bounds("news").open().await.unwrap();
    topics.publish("news", "again").await.unwrap();
    assert_eq!(next(&mut again).await.unwrap().text(), "again");
}
