//! What one subscription at two centers tells: each message that was published, or that it is missing.

use callboard_client::Client;
use callboard_pubsub::{Event, Subscription, SubscriptionError, Topics};
use callboard_tests::within;

use crate::house::until;
use crate::several_centers::{Stage, online};

/// How many were heard, and how many were told to be missing, until the end.
async fn heard_and_told(news: &mut Subscription) -> (u64, u64, SubscriptionError) {
    let (mut heard, mut told) = (0, 0);
    loop {
        match within(news.next_event()).await.unwrap() {
            Ok(Event::Message(_)) => heard += 1,
            Ok(Event::Lagged { from, to }) => told += to - from + 1,
            Ok(other) => panic!("{other:?}"),
            Err(end) => return (heard, told, end),
        }
    }
}

#[tokio::test]
async fn a_topic_that_is_removed_at_one_center_ends_behind_what_the_other_has_sent() {
    const MESSAGES: u64 = 50_000;
    let stage = Stage::new();
    let (_a, b) = (stage.center("a").await, stage.center("b").await);
    let (hearing, publishing) = (stage.centers().await, stage.centers().await);
    let topics = Topics::new(&publishing);
    for removed_at_both in [false, true] {
        topics.create("t").await.unwrap();
        let mut news = Subscription::open(&hearing, "t").await.unwrap();
        let mut publisher = topics.publisher("t");
        for number in 0..MESSAGES {
            publisher.publish(&number).await.unwrap();
        }
        publisher.settle().await.unwrap();
        if removed_at_both {
            topics.remove("t").await.unwrap();
        } else {
            let second = Client::connect(stage.address("b")).await.unwrap();
            Topics::new(&second).remove("t").await.unwrap();
        }
        assert_eq!(b.subscriber_count(), 0);
        let (heard, told, end) = heard_and_told(&mut news).await;
        assert_eq!((heard, told), (MESSAGES, 0), "{removed_at_both} {end}");
        assert!(matches!(end, SubscriptionError::TopicRemoved { .. }), "{end}");
        assert!(within(news.next_event()).await.is_none());
    }
}

#[tokio::test]
async fn a_subscription_that_has_ended_does_nothing_at_a_center_that_comes_later() {
    let stage = Stage::new();
    let a = stage.center("a").await;
    let (hearing, publishing) = (stage.centers().await, stage.centers().await);
    let topics = Topics::new(&publishing);
    topics.create("t").await.unwrap();
    let mut news = Subscription::open(&hearing, "t").await.unwrap();
    topics.remove("t").await.unwrap();
    let (.., end) = heard_and_told(&mut news).await;
    assert!(matches!(end, SubscriptionError::TopicRemoved { .. }), "{end}");
    let b = stage.center("b").await;
    online(&hearing, 2).await;
    // A later subscription over the same connections is put in place behind what an earlier one would have asked.
    topics.create("later").await.unwrap();
    let later = Subscription::open(&hearing, "later").await.unwrap();
    until("the later one is there", || b.subscriber_count() >= 1).await;
    assert_eq!((a.topic_count(), b.topic_count(), b.subscriber_count()), (1, 1, 1));
    drop(later);
}
