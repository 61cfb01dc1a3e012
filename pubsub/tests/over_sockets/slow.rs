use std::time::Duration;

use callboard_net::Limits;
use callboard_pubsub::{Event, SlowPolicy, Subscription, Topics};
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
    assert!(error.to_string().contains("over 102400 bytes of messages would wait"), "{error}");
    assert!(news.next().await.is_none());
    settle(&reader).await;
    assert_eq!(center.topics.subscriber_count(), 0);
    let mut again = bounds("news").open().await.unwrap();
    topics.publish("news", "again").await.unwrap();
    assert_eq!(next(&mut again).await.unwrap().text(), "again");
}

/// The first and the last number, and whether they were received.
type Told = (u64, u64, bool);

/// Messages and gaps, as they are told, until the last message.
async fn events_up_to(news: &mut Subscription, last: u64) -> Vec<Told> {
    let mut events = Vec::new();
    while events.last().is_none_or(|(_, to, _)| *to < last) {
        events.push(match timeout(PATIENCE, news.next_event()).await.unwrap().unwrap().unwrap() {
            Event::Message(message) => (message.seq().unwrap(), message.seq().unwrap(), true),
            Event::Lagged { from, to } => (from, to, false),
            other => panic!("{other:?}"),
        });
    }
    events
}

#[tokio::test]
async fn one_that_may_miss_messages_gets_what_its_policy_says_and_is_told_of_each_gap() {
    let center = Center::start().await;
    let (reader, writer) = (center.client().await, center.client().await);
    let topics = Topics::new(&writer);
    topics.create("news").await.unwrap();
    let rows: [(SlowPolicy, &[Told]); 3] = [
        (SlowPolicy::DropOldest, &[(1, 97, false), (98, 98, true), (99, 99, true), (100, 100, true)]),
        (SlowPolicy::DropNewest, &[(1, 1, true), (2, 2, true), (3, 3, true), (4, 100, false)]),
        (SlowPolicy::Latest, &[(1, 99, false), (100, 100, true)]),
    ];
    let mut subscriptions = Vec::new();
    for (policy, _) in rows {
        let builder = Subscription::builder(&reader, "news").policy(policy).max_messages(3);
        subscriptions.push(builder.open().await.unwrap());
    }
    let cut_off = Subscription::builder(&reader, "news").policy(SlowPolicy::Disconnect).max_messages(3);
    let mut cut_off = cut_off.max_bytes(1 << 20).open().await.unwrap();
    for n in 1..=100_u64 {
        topics.publish("news", &n).await.unwrap();
    }
    settle(&reader).await;
    for ((policy, expected), news) in rows.iter().zip(&mut subscriptions) {
        assert_eq!(events_up_to(news, 100).await, *expected, "{policy:?}");
    }
    for n in 1..=3 {
        assert_eq!(next(&mut cut_off).await.unwrap().seq(), Some(n));
    }
    let error = next(&mut cut_off).await.unwrap_err();
    assert!(error.to_string().contains("over 3 messages would wait"), "{error}");
    topics.publish("news", "more").await.unwrap();
    for news in &mut subscriptions {
        assert_eq!(next(news).await.unwrap().seq(), Some(101), "and goes on");
    }
    assert_eq!(center.serving.metrics().holds, 0, "nobody waited");
}

#[tokio::test]
async fn who_takes_messages_alone_is_told_what_is_missing_and_goes_on() {
    let center = Center::start().await;
    let (reader, old, topics) = (center.client().await, center.v1_client().await, Topics::new(&center.client().await));
    topics.create("news").await.unwrap();
    let mut subscriptions = Vec::new();
    for client in [&reader, &old] {
        let builder = Subscription::builder(client, "news").policy(SlowPolicy::DropOldest).max_messages(2);
        subscriptions.push(builder.open().await.unwrap());
    }
    for n in 1..=10_u64 {
        topics.publish("news", &n).await.unwrap();
    }
    settle(&reader).await;
    settle(&old).await;
    for (news, seq) in subscriptions.iter_mut().zip([Some(9), None]) {
        let error = next(news).await.unwrap_err();
        let expected = "8 messages of topic \"news\" are missing here; the subscription goes on";
        assert_eq!(error.to_string(), expected, "also where the center gives no numbers");
        let message = next(news).await.unwrap();
        assert_eq!((message.json::<u64>().unwrap(), message.seq()), (9, seq));
        assert_eq!(next(news).await.unwrap().json::<u64>().unwrap(), 10);
    }
}
