//! What one subscription at two centers tells: each message that was published, or that it is missing.

use std::collections::BTreeSet;
use std::time::Duration;

use callboard_center::Center;
use callboard_client::{Centers, Client, Reconnect};
use callboard_common::{Missed, SlowPolicy};
use callboard_pubsub::{Event, Subscription, SubscriptionError, Topics};
use callboard_tests::within;

use crate::house::until;
use crate::several_centers::{Stage, next, number, online};

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

/// Publishes to the first center, then much to another topic, and then to the second center. Of the first topic both
/// messages have come when it returns, and nothing is read.
async fn publish_far_apart(stage: &Stage, hearing: &Centers, a: Center) {
    const BETWEEN: u64 = 40_000;
    let publishing = stage.centers().await;
    let topics = Topics::new(&publishing);
    topics.create("other").await.unwrap();
    // What one subscription over a connection has heard has come for all of them.
    let [mut at_a, mut at_b] = {
        let (first, second) = (hearing.first(), hearing.iter().nth(1).unwrap());
        [Subscription::open(first, "t").await.unwrap(), Subscription::open(second, "t").await.unwrap()]
    };
    topics.publish("t", &1).await.unwrap();
    assert_eq!(number(&mut at_a).await, 1);
    let mut other = topics.publisher("other");
    for number in 0..BETWEEN {
        other.publish(&number).await.unwrap();
    }
    other.settle().await.unwrap();
    a.shutdown().await;
    topics.publish("t", &2).await.unwrap();
    assert_eq!(number(&mut at_b).await, 2);
}

/// Makes this center the one that is read, until its turn is over.
async fn hear_at(stage: &Stage, name: &str, news: &mut Subscription) {
    let only = Client::connect(stage.address(name)).await.unwrap();
    Topics::new(&only).publish("t", &0).await.unwrap();
    assert_eq!(number(news).await, 0);
    assert_eq!(news.heard_at().to_string(), stage.address(name));
}

#[tokio::test]
async fn a_message_that_waits_at_one_center_while_very_many_follow_at_another_is_heard() {
    let stage = Stage::new();
    let (a, _b) = (stage.center("a").await, stage.center("b").await);
    let hearing = stage.centers().await;
    Topics::new(&hearing).create("t").await.unwrap();
    let mut news = Subscription::open(&hearing, "t").await.unwrap();
    hear_at(&stage, "a", &mut news).await;
    publish_far_apart(&stage, &hearing, a).await;
    // The turn of this center is over.
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!([number(&mut news).await, number(&mut news).await], [2, 1]);
    assert_eq!(news.repeats(), 0);
}

#[tokio::test]
async fn who_wants_the_latest_only_is_told_of_an_older_one_that_it_is_missing() {
    let stage = Stage::new();
    let (a, _b) = (stage.center("a").await, stage.center("b").await);
    let hearing = stage.centers().await;
    Topics::new(&hearing).create("t").await.unwrap();
    let mut news = Subscription::builder(&hearing, "t").policy(SlowPolicy::Latest).open().await.unwrap();
    hear_at(&stage, "a", &mut news).await;
    publish_far_apart(&stage, &hearing, a).await;
    // The turn of this center is over.
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(number(&mut news).await, 2);
    assert_eq!(next(&mut news).await, Event::Lagged { from: 2, to: 2 });
    assert_eq!(news.heard_at().to_string(), stage.address("a"));
}

#[tokio::test]
async fn a_center_that_has_gone_for_good_is_told_and_the_other_one_heard_on() {
    let stage = Stage::new();
    let (a, _b) = (stage.center("a").await, stage.center("b").await);
    let settings = Client::builder().timeout(Duration::from_secs(20)).reconnect(Reconnect::never());
    let list = format!("{},{}", stage.address("a"), stage.address("b"));
    let hearing = settings.connect_centers(list).await.unwrap();
    Topics::new(&hearing).create("t").await.unwrap();
    let mut news = Subscription::open(&hearing, "t").await.unwrap();
    a.shutdown().await;
    assert_eq!(next(&mut news).await, Event::Disconnected);
    hear_at(&stage, "b", &mut news).await;
}

#[tokio::test]
async fn at_a_center_that_was_started_anew_nobody_knows_what_was_missed() {
    let stage = Stage::new();
    let (_a, b) = (stage.center("a").await, stage.center("b").await);
    let hearing = stage.centers().await;
    for name in ["a", "b"] {
        let only = Client::connect(stage.address(name)).await.unwrap();
        Topics::new(&only).create("t").await.unwrap();
    }
    let mut news = Subscription::open(&hearing, "t").await.unwrap();
    b.shutdown().await;
    assert_eq!(next(&mut news).await, Event::Disconnected);
    let _b = stage.center("b").await;
    assert_eq!(next(&mut news).await, Event::Resumed { missed: Missed::Unknown });
    hear_at(&stage, "b", &mut news).await;
}

#[tokio::test]
async fn who_takes_its_time_hears_each_center_in_turn() {
    let stage = Stage::new();
    let (_a, _b) = (stage.center("a").await, stage.center("b").await);
    let hearing = stage.centers().await;
    Topics::new(&hearing).create("t").await.unwrap();
    let mut news = Subscription::open(&hearing, "t").await.unwrap();
    for center in hearing.iter() {
        // What one subscription over a connection has heard has come for all of them.
        let mut mark = Subscription::open(center, "t").await.unwrap();
        let mut publisher = Topics::new(center).publisher("t");
        for number in 0..100 {
            publisher.publish(&number).await.unwrap();
        }
        publisher.settle().await.unwrap();
        while number(&mut mark).await != 99 {}
    }
    let mut heard_at = BTreeSet::new();
    for _ in 0..10 {
        number(&mut news).await;
        heard_at.insert(news.heard_at().to_string());
        // Reading takes so long.
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    assert_eq!(heard_at.len(), 2, "a center that is not read for half a second cuts the subscriber off");
}
