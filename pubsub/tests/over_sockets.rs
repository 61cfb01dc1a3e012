//! Topics over real sockets: a center's handler on its event loops, and clients.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what fails here fails its test")]

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use callboard_client::{Client, SessionMode};
use callboard_common::{
    Connection, Dispatcher, Encode, Handler, Head, Json, LengthValue, Message, Protocol, ResultCode, TopicOp,
    TopicRequest,
};
use callboard_net::{Address, Conn, Limits, Serving, Settings, serve};
use callboard_pubsub::{
    News, Subscription, SubscriptionError, TopicLimits, TopicService, Topics, TypedSubscription, subscribe_with,
};
use callboard_server::Sessions;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::{interval, timeout};

/// Long enough for a busy machine; no test waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(30);

/// A center that serves topics and sessions, and leaves calls unanswered.
struct Center {
    serving: Serving,
    topics: Arc<TopicService<Conn>>,
    _folder: TempDir,
}

struct NeverAnswers;

impl<C: Connection> Handler<C> for NeverAnswers {
    fn handle(&self, _conn: &C, _message: Message) {}
}

impl Center {
    async fn start() -> Self {
        Self::with_limits(Limits { stall: PATIENCE, ..Limits::default() }).await
    }

    async fn with_limits(limits: Limits) -> Self {
        let topics = Arc::new(TopicService::with_limits(TopicLimits::default()));
        let dispatcher = Dispatcher::new()
            .on_topic(Arc::clone(&topics))
            .on_rpc(NeverAnswers)
            .on_session(Sessions::for_server("center", &limits));
        let folder = tempfile::tempdir().unwrap();
        let addresses = ["tcp://127.0.0.1:0".parse().unwrap(), Address::Unix(folder.path().join("center"))];
        let settings = Settings { limits, loops: 2, pin: false };
        let serving = serve(&addresses, settings, Arc::new(dispatcher)).await.unwrap();
        Self { serving, topics, _folder: folder }
    }

    async fn client(&self) -> Client {
        self.connect(0, SessionMode::Require).await
    }

    async fn v1_client(&self) -> Client {
        self.connect(0, SessionMode::Off).await
    }

    /// Over a socket whose buffers in the kernel are small.
    async fn near_client(&self) -> Client {
        self.connect(1, SessionMode::Require).await
    }

    /// A v1 peer that subscribes and never reads.
    fn stalled_subscriber(&self, topic: &str) -> UnixStream {
        let Address::Unix(path) = &self.serving.addresses()[1] else { panic!("the second address is a path") };
        let mut stream = UnixStream::connect(path).unwrap();
        let subscribe = <TopicRequest<'_>>::new(topic, TopicOp::Subscribe);
        let mut frame = BytesMut::new();
        LengthValue::default().encode::<Json, _>(Head::new(subscribe.kind(), b"s"), &subscribe, &mut frame).unwrap();
        stream.write_all(&frame).unwrap();
        stream
    }

    async fn connect(&self, address: usize, mode: SessionMode) -> Client {
        let address = self.serving.addresses()[address].to_string();
        Client::builder().timeout(PATIENCE).session_timeout(PATIENCE).session(mode).connect(address).await.unwrap()
    }
}

async fn next(news: &mut Subscription) -> Result<News, SubscriptionError> {
    timeout(PATIENCE, news.next()).await.unwrap().unwrap()
}

async fn next_number(news: &mut Subscription) -> u64 {
    next(news).await.unwrap().json().unwrap()
}

async fn until(what: impl Fn() -> bool) {
    let mut looks = interval(Duration::from_millis(2));
    let seen = async {
        while !what() {
            looks.tick().await;
        }
    };
    timeout(PATIENCE, seen).await.unwrap();
}

/// What was sent before on this connection has been handled when this returns.
async fn settle(client: &Client) {
    Topics::new(client).create("settle").await.unwrap();
}

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

#[tokio::test]
async fn the_end_of_the_connection_is_told_once_after_what_has_come() {
    let center = Center::start().await;
    let client = center.client().await;
    let topics = Topics::new(&client);
    topics.create("news").await.unwrap();
    let mut news = Subscription::open(&client, "news").await.unwrap();
    topics.publish("news", "last").await.unwrap();
    center.serving.shutdown(PATIENCE).await;
    assert_eq!(next(&mut news).await.unwrap().text(), "last");
    let error = next(&mut news).await.unwrap_err();
    let expected = format!(
        "topic \"news\" is heard no more: the connection to {} ended; connect and subscribe again",
        client.address()
    );
    assert_eq!(error.to_string(), expected);
    assert!(news.next().await.is_none());
    let error = Subscription::open(&client, "news").await.unwrap_err();
    assert_eq!(error.subject(), "topic \"news\"");
}

#[tokio::test]
async fn the_end_of_a_topic_is_told_to_session_peers() {
    let center = Center::start().await;
    let (reader, v1) = (center.client().await, center.v1_client().await);
    let topics = Topics::new(&center.client().await);
    topics.create("news").await.unwrap();
    let mut news = Subscription::open(&reader, "news").await.unwrap();
    let mut deaf = Subscription::open(&v1, "news").await.unwrap();
    topics.publish("news", "last").await.unwrap();
    topics.remove("news").await.unwrap();
    topics.create("news").await.unwrap();
    topics.publish("news", "unheard").await.unwrap();
    assert_eq!(next(&mut news).await.unwrap().text(), "last");
    assert!(matches!(next(&mut news).await, Err(SubscriptionError::TopicRemoved { topic, .. }) if topic == "news"));
    assert!(news.next().await.is_none());
    assert_eq!(next(&mut deaf).await.unwrap().text(), "last");
    let mut again = Subscription::open(&v1, "news").await.unwrap();
    topics.publish("news", "heard").await.unwrap();
    for news in [&mut deaf, &mut again] {
        assert_eq!(next(news).await.unwrap().text(), "heard", "one connection, one subscription at the center");
    }
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
async fn any_value_reaches_old_and_new_peers_as_a_type() {
    let center = Center::start().await;
    let (new, old) = (center.client().await, center.v1_client().await);
    Topics::new(&new).create("prices").await.unwrap();
    let mut to_new: TypedSubscription<BTreeMap<String, f64>> = Subscription::open_typed(&new, "prices").await.unwrap();
    let mut to_old = Subscription::open_typed::<BTreeMap<String, f64>>(&old, "prices").await.unwrap();
    let mut text = Subscription::open(&old, "prices").await.unwrap();
    for publisher in [&new, &old] {
        let prices = BTreeMap::from([("a".to_owned(), 1.5)]);
        Topics::new(publisher).publish("prices", &prices).await.unwrap();
        assert_eq!(timeout(PATIENCE, to_new.next()).await.unwrap().unwrap().unwrap(), prices);
        assert_eq!(timeout(PATIENCE, to_old.next()).await.unwrap().unwrap().unwrap(), prices);
        assert_eq!(next(&mut text).await.unwrap().text(), r#"{"a":1.5}"#);
    }
    Topics::new(&new).publish("prices", "none").await.unwrap();
    assert!(matches!(timeout(PATIENCE, to_new.next()).await.unwrap(), Some(Err(SubscriptionError::Decode { .. }))));
    Topics::new(&new).publish("prices", &json!({})).await.unwrap();
    assert!(timeout(PATIENCE, to_new.next()).await.unwrap().unwrap().unwrap().is_empty());
}

#[tokio::test]
async fn a_callback_hears_until_its_guard_is_dropped() {
    let center = Center::start().await;
    let client = center.client().await;
    let topics = Topics::new(&client);
    topics.create("news").await.unwrap();
    let (heard, mut came) = mpsc::unbounded_channel();
    let guard = subscribe_with(&client, "news", move |news| {
        let _ = heard.send(news.map(|news| news.text().into_owned()).map_err(|e| e.to_string()));
    })
    .await
    .unwrap();
    for text in ["a", "b"] {
        topics.publish("news", text).await.unwrap();
        assert_eq!(timeout(PATIENCE, came.recv()).await.unwrap().unwrap().unwrap(), text);
    }
    drop(guard);
    assert!(timeout(PATIENCE, came.recv()).await.unwrap().is_none(), "the callback is dropped");
    settle(&client).await;
    assert_eq!(center.topics.subscriber_count(), 0);
}

#[tokio::test]
async fn a_callback_that_panics_hears_the_next_message() {
    let center = Center::start().await;
    let client = center.client().await;
    let topics = Topics::new(&client);
    topics.create("news").await.unwrap();
    let (heard, mut came) = mpsc::unbounded_channel();
    let _guard = subscribe_with(&client, "news", move |news| {
        let text = news.unwrap().text().into_owned();
        assert_ne!(text, "bad", "as the test wants it");
        let _ = heard.send(text);
    })
    .await
    .unwrap();
    for text in ["a", "bad", "b"] {
        topics.publish("news", text).await.unwrap();
    }
    for text in ["a", "b"] {
        assert_eq!(timeout(PATIENCE, came.recv()).await.unwrap().unwrap(), text);
    }
}
