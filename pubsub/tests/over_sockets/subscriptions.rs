use callboard_client::{Client, SessionMode};
use callboard_pubsub::{Subscription, Topics};
use serde_json::{Value, json};

use crate::center::{Center, PATIENCE, next, next_number, settle, until};

#[tokio::test]
async fn subscriptions_of_one_client_hear_their_topics_in_order() {
    let center = Center::start().await;
    let (reader, topics) = (center.client().await, Topics::new(&center.client().await));
    for topic in ["news", "music"] {
        topics.create(topic).await.unwrap();
    }
    let mut one = Subscription::open(&reader, "news").await.unwrap();
    let mut other = Subscription::open(&reader, "news").await.unwrap();
    let mut music = Subscription::open(&reader, "music").await.unwrap();
    for n in 0..100_u64 {
        topics.publish("news", &n).await.unwrap();
        topics.publish_unacknowledged("music", &(n + 1000)).await.unwrap();
    }
    for n in 0..100 {
        assert_eq!(next_number(&mut one).await, n);
        assert_eq!(next_number(&mut other).await, n);
        assert_eq!(next_number(&mut music).await, n + 1000);
    }
    assert_eq!((one.topic(), music.topic()), ("news", "music"));
}

#[tokio::test]
async fn dropping_the_last_subscription_cancels_and_not_before() {
    let center = Center::start().await;
    let client = center.client().await;
    let topics = Topics::new(&client);
    topics.create("news").await.unwrap();
    let one = Subscription::open(&client, "news").await.unwrap();
    let mut other = Subscription::open(&client, "news").await.unwrap();
    drop(one);
    topics.publish("news", "still heard").await.unwrap();
    assert_eq!(next(&mut other).await.unwrap().text(), "still heard");
    assert_eq!(center.topics.subscriber_count(), 1);
    drop(other);
    settle(&client).await;
    assert_eq!(center.topics.subscriber_count(), 0);
}

#[tokio::test]
async fn a_subscription_that_is_given_up_before_it_is_answered_leaves_nothing() {
    let center = Center::start().await;
    let client = center.client().await;
    Topics::new(&client).create("news").await.unwrap();
    for _ in 0..20 {
        let open = Subscription::open(&client, "news");
        tokio::select! {
            biased;
            _ = open => {}
            () = std::future::ready(()) => {} // polled once: the request is queued
        }
    }
    settle(&client).await;
    assert_eq!(center.topics.subscriber_count(), 0);
}

#[tokio::test]
async fn one_who_subscribes_again_at_once_hears_all_from_its_first_message_on() {
    let center = Center::start().await;
    let (reader, writer) = (center.client().await, center.client().await);
    Topics::new(&writer).create("news").await.unwrap();
    let publishing = tokio::spawn(async move {
        let topics = Topics::new(&writer);
        for n in 0_u64.. {
            topics.publish("news", &n).await.unwrap();
        }
    });
    for _ in 0..100 {
        let mut news = Subscription::open(&reader, "news").await.unwrap();
        let first = next_number(&mut news).await;
        for n in 1..10 {
            assert_eq!(next_number(&mut news).await, first + n);
        }
    }
    publishing.abort();
}

#[tokio::test]
async fn a_cancel_that_finds_no_place_among_the_calls_is_sent_when_the_next_message_comes() {
    let center = Center::start().await;
    for mode in [SessionMode::Require, SessionMode::Off] {
        let topics = Topics::new(&center.client().await);
        topics.create("news").await.unwrap();
        let address = center.serving.addresses()[0].to_string();
        let reader = Client::builder().timeout(PATIENCE).in_flight(1).session(mode).connect(address).await.unwrap();
        let news = Subscription::open(&reader, "news").await.unwrap();
        let waiting = reader.start::<Value>("never", &json!({})).await.unwrap();
        drop(news);
        assert_eq!(center.topics.subscriber_count(), 1);
        topics.publish("news", "unwanted").await.unwrap();
        until(|| center.topics.subscriber_count() == 0).await;
        drop(waiting);
        let mut again = Subscription::open(&reader, "news").await.unwrap();
        topics.publish("news", "wanted").await.unwrap();
        assert_eq!(next(&mut again).await.unwrap().text(), "wanted");
    }
}
