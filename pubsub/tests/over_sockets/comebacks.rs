use std::sync::{Arc, Mutex};
use std::time::Duration;

use callboard_client::{Client, ClientState, SessionMode};
use callboard_common::{Connection, Dispatcher, Handler, Heartbeat, Heartbeats, Message, SlowPolicy, TopicAnswer};
use callboard_net::{Conn, Limits, Settings, serve};
use callboard_pubsub::{Event, Missed, Subscription, TopicService, Topics};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::center::{Center, PATIENCE, next, next_number};

#[tokio::test]
async fn more_topics_than_may_be_asked_for_at_once_are_subscribed_again() {
    let center = Center::start().await;
    let address = center.serving.addresses()[0].to_string();
    let client =
        Client::builder().timeout(PATIENCE).in_flight(4).session(SessionMode::Require).connect(address).await.unwrap();
    let topics = Topics::new(&client);
    let mut open = Vec::new();
    for n in 0..8 {
        topics.create(&format!("t{n}")).await.unwrap();
        open.push(Subscription::open(&client, &format!("t{n}")).await.unwrap());
    }
    let mut states = client.states();
    client.hang_up("lost");
    let resumed = async { while states.next().await.unwrap() != ClientState::Resumed {} };
    timeout(PATIENCE, resumed).await.unwrap();
    for (n, news) in open.iter_mut().enumerate() {
        topics.publish(&format!("t{n}"), &n).await.unwrap();
        assert_eq!(next_number(news).await, n as u64);
    }
}

#[tokio::test]
async fn a_reader_that_is_slow_is_not_taken_for_dead() {
    let beats = Heartbeat::from_ms(500, 2_000);
    let limits =
        Limits { stall: PATIENCE, heartbeats: Heartbeats { caller: beats, provider: beats }, ..Limits::default() };
    let center = Center::with_limits(limits).await;
    let (reader, writer) = (center.client().await, center.client().await);
    Topics::new(&writer).create("news").await.unwrap();
    let mut news = Subscription::builder(&reader, "news").hold_bytes(10 << 10).open().await.unwrap();
    for _ in 0..4 {
        Topics::new(&writer).publish("news", &"x".repeat(10 << 10)).await.unwrap();
    }
    sleep(Duration::from_secs(4)).await; // time has to pass: more than a peer may be silent
    for number in 1..=4 {
        let event = timeout(PATIENCE, news.next_event()).await.unwrap().unwrap().unwrap();
        assert!(matches!(&event, Event::Message(message) if message.seq() == Some(number)), "{number}: {event:?}");
    }
    assert_eq!(center.serving.metrics().peers_dead, 0);
}

#[derive(Clone, Default)]
struct V1(Arc<Mutex<Vec<String>>>);

impl Handler<Conn> for V1 {
    fn handle(&self, conn: &Conn, message: Message) {
        self.0.lock().unwrap().push(String::from_utf8_lossy(message.body()).into_owned());
        conn.answer(message.id(), &TopicAnswer::ok()).unwrap();
    }
}

#[tokio::test]
async fn a_v1_center_is_told_nothing_beyond_v1() {
    let seen = V1::default();
    let handler = Dispatcher::new().on_topic(seen.clone());
    let serving =
        serve(&["127.0.0.1:0".parse().unwrap()], Settings { loops: 1, ..Settings::default() }, Arc::new(handler))
            .await
            .unwrap();
    let client = Client::builder().session(SessionMode::Off).connect(serving.addresses()[0].to_string()).await.unwrap();
    let _news =
        Subscription::builder(&client, "news").policy(SlowPolicy::DropOldest).retain(true).open().await.unwrap();
    assert_eq!(seen.0.lock().unwrap()[0], r#"{"topic_key":"news","optype":2}"#);
}

#[tokio::test]
async fn a_v1_center_that_was_restarted_gets_its_topics_back() {
    let folder = TempDir::new().unwrap();
    let address = format!("unix://{}", folder.path().join("c").display());
    let start = async || {
        let handler = Dispatcher::new().on_topic(TopicService::<Conn>::new());
        serve(&[address.parse().unwrap()], Settings { loops: 1, ..Settings::default() }, Arc::new(handler))
            .await
            .unwrap()
    };
    let center = start().await;
    let client = Client::builder().session(SessionMode::Off).connect(&address).await.unwrap();
    Topics::new(&client).create("news").await.unwrap();
    let mut news = Subscription::open(&client, "news").await.unwrap();
    center.shutdown(Duration::ZERO).await;
    let _center = start().await;
    for expected in [Event::Disconnected, Event::Resumed { missed: Missed::Unknown }] {
        assert_eq!(timeout(PATIENCE, news.next_event()).await.unwrap().unwrap().unwrap(), expected);
    }
    Topics::new(&client).publish("news", "back").await.unwrap();
    assert_eq!(next(&mut news).await.unwrap().text(), "back");
}
