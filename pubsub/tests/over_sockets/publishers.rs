use std::time::Duration;

use callboard_client::CallErrorKind;
use callboard_common::ResultCode;
use callboard_net::Limits;
use callboard_pubsub::{Subscription, Topics};
use tokio::time::timeout;

use crate::center::{Center, PATIENCE, next, next_number, settle, until};

#[tokio::test]
async fn a_publisher_at_full_speed_is_heard_in_order_and_whole_by_old_and_new_peers() {
    const MESSAGES: u64 = 30_000;
    let center = Center::start().await;
    let (old, new) = (center.v1_client().await, center.client().await);
    for publishing in [&new, &old] {
        let topics = Topics::new(publishing);
        topics.create("news").await.unwrap();
        let mut heard = Vec::new();
        for client in [center.v1_client().await, center.client().await] {
            let mut news = Subscription::open(&client, "news").await.unwrap();
            heard.push(tokio::spawn(async move {
                for n in 0..MESSAGES {
                    assert_eq!(next_number(&mut news).await, n);
                }
                assert_eq!(next(&mut news).await.unwrap().text(), "the \"end\"");
            }));
        }
        let mut publisher = topics.publisher("news");
        for n in 0..MESSAGES {
            publisher.publish(&n).await.unwrap();
        }
        publisher.publish_text("the \"end\"").await.unwrap();
        publisher.settle().await.unwrap();
        for subscriber in heard {
            subscriber.await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_a_publisher_sent_is_handled_when_it_has_settled() {
    let center = Center::start().await;
    let client = center.client().await;
    let topics = Topics::new(&client);
    topics.create("news").await.unwrap();
    let mut news = Subscription::open(&client, "news").await.unwrap();
    let mut publisher = topics.publisher("news");
    publisher.publish(&1).await.unwrap();
    publisher.settle().await.unwrap();
    // Its own subscription has the message before the answer.
    let heard = timeout(Duration::ZERO, news.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(heard.raw(), b"1");
    assert_eq!(publisher.topic(), "news");
}

#[tokio::test]
async fn a_missing_topic_is_named_with_what_to_do() {
    let center = Center::start().await;
    let client = center.client().await;
    let error = Topics::new(&client).publish("news", "x").await.unwrap_err();
    assert_eq!((error.subject(), error.code()), ("topic \"news\"", Some(ResultCode::NotFoundTopic)));
    let error = Subscription::open(&client, "news").await.unwrap_err();
    assert_eq!((error.subject(), error.code()), ("topic \"news\"", Some(ResultCode::NotFoundTopic)));
    assert_eq!(error.advice(), "create the topic first");
    Topics::new(&client).publish_unacknowledged("news", "x").await.unwrap();
    settle(&client).await;
}

#[tokio::test]
async fn what_is_published_leaves_though_nothing_follows_it() {
    // Some at a time leave at once, many together.
    for messages in [1, 10, 1_000, 5_000_u64] {
        let center = Center::start().await;
        let (reader, writer) = (center.client().await, center.client().await);
        let topics = Topics::new(&writer);
        topics.create("news").await.unwrap();
        let mut news = Subscription::open(&reader, "news").await.unwrap();
        let mut publisher = topics.publisher("news");
        for burst in 0..3 {
            for n in 0..messages {
                publisher.publish(&(burst * messages + n)).await.unwrap();
            }
            for n in 0..messages {
                assert_eq!(next_number(&mut news).await, burst * messages + n);
            }
        }
    }
}

#[tokio::test]
async fn what_one_client_sends_otherwise_comes_after_what_its_publishers_sent() {
    let center = Center::start().await;
    let (reader, writer) = (center.client().await, center.client().await);
    let topics = Topics::new(&writer);
    topics.create("news").await.unwrap();
    let mut news = Subscription::open(&reader, "news").await.unwrap();
    let mut publishers = [topics.publisher("news"), topics.publisher("news")];
    let mut expected = 0_u64;
    for _ in 0..20 {
        for _ in 0..100 {
            for publisher in &mut publishers {
                publisher.publish(&expected).await.unwrap();
                expected += 1;
            }
        }
        topics.publish("news", &expected).await.unwrap();
        expected += 1;
    }
    for n in 0..expected {
        assert_eq!(next_number(&mut news).await, n);
    }
}

#[tokio::test]
async fn what_is_published_leaves_while_its_own_connection_is_not_read() {
    let center = Center::start().await;
    let (reader, writer) = (center.client().await, center.client().await);
    let topics = Topics::new(&writer);
    topics.create("news").await.unwrap();
    let mut news = Subscription::open(&reader, "news").await.unwrap();
    // Behind from the first message on, and never taken from.
    let own = Subscription::builder(&writer, "news").hold_messages(0).open().await.unwrap();
    let mut publisher = topics.publisher("news");
    for n in 0..1_000_u64 {
        publisher.publish(&n).await.unwrap();
    }
    for n in 0..1_000 {
        assert_eq!(next_number(&mut news).await, n);
    }
    drop(own);
}

#[tokio::test]
async fn a_publisher_whose_center_takes_nothing_is_told_when_its_time_is_up() {
    let limits = Limits { queue_bytes: 1 << 20, max_frame_bytes: 1 << 16, stall: PATIENCE, ..Limits::default() };
    let center = Center::with_limits(limits).await;
    let writer = center.near_client().await;
    Topics::new(&writer).create("news").await.unwrap();
    // Its first bytes fill its socket; then it is waited for, and so is the center.
    let stalled = center.stalled_subscriber("news");
    until(|| center.topics.subscriber_count() == 1).await;
    let mut publisher = Topics::new(writer.with_timeout(Duration::from_millis(100))).publisher("news");
    let padding = "x".repeat(10 << 10);
    let publishing = async {
        loop {
            if let Err(error) = publisher.publish_text(&padding).await {
                return error;
            }
        }
    };
    let error = timeout(PATIENCE, publishing).await.unwrap();
    assert!(matches!(error.kind(), CallErrorKind::Timeout), "{error}");
    assert!(error.to_string().contains("topic \"news\""), "{error}");
    assert!(!writer.is_closed());
    drop(stalled);
}
