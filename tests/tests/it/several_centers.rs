//! Two centers that do not know each other, either of which may go at any time.

use std::collections::BTreeSet;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use callboard_center::Center;
use callboard_client::{CallError, CallErrorKind, Centers, Client, Reconnect};
use callboard_common::{Executed, Missed, ResultCode};
use callboard_pubsub::{Event, Subscription, SubscriptionError, Topics};
use callboard_registry::{Caller, Provider};
use callboard_tests::{RawPeer, within};
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::house::{router, until};

/// Places for centers that nobody else takes while one of them is away.
pub(crate) struct Stage(TempDir);

impl Stage {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn address(&self, name: &str) -> String {
        format!("unix://{}", self.0.path().join(name).display())
    }

    pub(crate) async fn center(&self, name: &str) -> Center {
        Center::builder().listen(self.address(name)).loops(1).start().await.unwrap()
    }

    /// Connected to both.
    pub(crate) async fn centers(&self) -> Centers {
        self.centers_within(Duration::from_secs(20)).await
    }

    async fn centers_within(&self, timeout: Duration) -> Centers {
        let soon = Reconnect { longest: Duration::from_millis(50), ..Reconnect::default() };
        let settings = Client::builder().timeout(timeout).reconnect(soon);
        settings.connect_centers(format!("{},{}", self.address("a"), self.address("b"))).await.unwrap()
    }
}

/// A center that can be killed: it lives on a runtime of its own.
pub(crate) struct Mortal {
    center: Center,
    runtime: Runtime,
}

impl Mortal {
    pub(crate) async fn born(stage: &Stage, name: &str) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let builder = Center::builder().listen(stage.address(name)).here(true);
        let center = runtime.spawn(builder.start()).await.unwrap().unwrap();
        Self { center, runtime }
    }

    /// Its runtime stands still as long as the sender lives.
    pub(crate) fn stand_still(&self) -> mpsc::Sender<()> {
        let ((go, goes), (told, stands)) = (mpsc::channel::<()>(), mpsc::channel());
        self.runtime.spawn(async move {
            told.send(()).unwrap();
            let _ = goes.recv();
        });
        stands.recv().unwrap();
        go
    }

    /// It leaves as it should.
    async fn leave(self) {
        self.runtime.spawn(self.center.shutdown()).await.unwrap();
        self.runtime.shutdown_background();
    }

    /// Nothing that it has queued leaves, and nobody is told.
    pub(crate) async fn kill(self) {
        let killed = tokio::task::spawn_blocking(move || self.runtime.shutdown_timeout(Duration::from_secs(20)));
        killed.await.unwrap();
    }
}

pub(crate) async fn online(centers: &Centers, how_many: usize) {
    until("so many are online", || centers.iter().filter(|center| center.is_online()).count() == how_many).await;
}

pub(crate) async fn next(news: &mut Subscription) -> Event {
    within(news.next_event()).await.unwrap().unwrap()
}

pub(crate) async fn number(news: &mut Subscription) -> u64 {
    loop {
        match next(news).await {
            Event::Message(message) => return message.json().unwrap(),
            Event::Lagged { .. } => panic!("nothing is left out"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn what_is_published_at_one_center_is_heard_once_wherever_it_was() {
    let stage = Stage::new();
    let (_a, b) = (stage.center("a").await, stage.center("b").await);
    let (hearing, publishing) = (stage.centers().await, stage.centers().await);
    let topics = Topics::new(&publishing);
    topics.create("t").await.unwrap();
    let mut news = Subscription::open(&hearing, "t").await.unwrap();
    topics.publish("t", &1).await.unwrap();
    assert_eq!(number(&mut news).await, 1);
    assert_eq!(news.heard_at().to_string(), stage.address("a"));
    // One who knows only the second center.
    let other = Client::connect(stage.address("b")).await.unwrap();
    Topics::new(&other).publish("t", &2).await.unwrap();
    assert_eq!(number(&mut news).await, 2);
    assert_eq!(news.heard_at().to_string(), stage.address("b"));
    assert_eq!(b.subscriber_count(), 1);
    assert_eq!(news.repeats(), 0);
    drop(news);
    until("nobody is subscribed", || b.subscriber_count() == 0).await;
}

/// Publishes much, and ends one center after the other meanwhile; says how many messages came a second time.
async fn publish_through_ends(end: impl AsyncFn(Mortal)) -> u64 {
    const MESSAGES: u64 = 8_000;
    const UNHEARD: usize = 1_000;
    let (stage, names) = (Stage::new(), ["a", "b"]);
    let mut mortals = [Some(Mortal::born(&stage, "a").await), Some(Mortal::born(&stage, "b").await)];
    let (hearing, publishing) = (stage.centers().await, stage.centers().await);
    let topics = Topics::new(&publishing);
    topics.create("t").await.unwrap();
    let mut news = Subscription::open(&hearing, "t").await.unwrap();
    let room = Arc::new(Semaphore::new(UNHEARD));
    let publisher = tokio::spawn({
        let room = Arc::clone(&room);
        async move {
            let mut publisher = topics.publisher("t");
            for number in 1..=MESSAGES {
                room.acquire().await.unwrap().forget();
                publisher.publish(&number).await.unwrap();
            }
            publisher.settle().await.unwrap();
        }
    });
    let mut heard = BTreeSet::new();
    for total in 1..=MESSAGES {
        let number = number(&mut news).await;
        assert!(heard.insert(number), "{number} was heard before");
        room.add_permits(1);
        if total % (MESSAGES / 4) == MESSAGES / 8 {
            let index = usize::try_from(total / (MESSAGES / 4)).unwrap() % 2;
            end(mortals[index].take().unwrap()).await;
            mortals[index] = Some(Mortal::born(&stage, names[index]).await);
            online(&hearing, 2).await;
            online(&publishing, 2).await;
        }
    }
    within(publisher).await.unwrap();
    assert_eq!(heard.last(), Some(&MESSAGES));
    for mortal in mortals.into_iter().flatten() {
        mortal.kill().await;
    }
    news.repeats()
}

#[tokio::test]
async fn when_one_center_after_the_other_leaves_all_messages_are_heard_once() {
    publish_through_ends(async |center| center.leave().await).await;
}

#[tokio::test]
async fn what_a_killed_center_had_not_passed_on_comes_from_the_next_and_once() {
    let repeats = publish_through_ends(async |center| center.kill().await).await;
    assert!(repeats > 0, "what it may not have passed on was published again");
}

#[tokio::test]
async fn a_publish_that_waits_for_its_answer_goes_to_the_next_center() {
    let stage = Stage::new();
    let (a, _b) = (stage.center("a").await, stage.center("b").await);
    let (hearing, publishing) = (stage.centers().await, stage.centers().await);
    let topics = Topics::new(&publishing);
    topics.create("t").await.unwrap();
    let error = topics.publish("nowhere", &1).await.unwrap_err();
    assert_eq!((error.code(), error.peer()), (Some(ResultCode::NotFoundTopic), &*stage.address("a")));
    let mut news = Subscription::open(&hearing, "t").await.unwrap();
    let stopping = tokio::spawn(a.shutdown());
    for number in 1..=200 {
        topics.publish("t", &number).await.unwrap();
    }
    stopping.await.unwrap();
    for expected in 1..=200 {
        assert_eq!(number(&mut news).await, expected);
    }
}

#[tokio::test]
async fn what_a_center_has_refused_is_not_published_at_the_next() {
    let stage = Stage::new();
    let (a, _b) = (stage.center("a").await, stage.center("b").await);
    let alone = Client::connect(stage.address("b")).await.unwrap();
    Topics::new(&alone).create("t").await.unwrap();
    let mut news = Subscription::open(&alone, "t").await.unwrap();
    let topics = Topics::new(&stage.centers().await);
    let error = topics.publish("t", &1).await.unwrap_err();
    assert_eq!((error.code(), error.executed()), (Some(ResultCode::NotFoundTopic), Executed::No));
    a.shutdown().await;
    topics.publish("t", &2).await.unwrap();
    assert_eq!(number(&mut news).await, 2);
}

#[tokio::test]
async fn of_what_another_center_may_have_published_a_refusal_does_not_say_that_it_was_not() {
    let stage = Stage::new();
    let (a, _b) = (Mortal::born(&stage, "a").await, stage.center("b").await);
    let alone = Client::connect(stage.address("a")).await.unwrap();
    Topics::new(&alone).create("t").await.unwrap();
    let topics = Topics::new(&stage.centers_within(Duration::from_secs(4)).await);
    topics.publish("t", &0).await.unwrap();
    let still = a.stand_still();
    let error = topics.publish("t", &1).await.unwrap_err();
    assert_eq!((error.code(), error.executed()), (Some(ResultCode::NotFoundTopic), Executed::Unknown), "{error}");
    drop(still);
    a.kill().await;
}

fn is_too_large(error: &CallError) -> bool {
    matches!(error.kind(), CallErrorKind::Encode) && error.executed() == Executed::No
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_and_holds_up_no_other() {
    let stage = Stage::new();
    let (_a, _b) = (stage.center("a").await, stage.center("b").await);
    let publishing = stage.centers().await;
    let topics = Topics::new(&publishing);
    topics.create("t").await.unwrap();
    let large = "x".repeat(17 << 20);
    let mut publisher = topics.publisher("t");
    let error = publisher.publish(&large).await.unwrap_err();
    assert!(is_too_large(&error), "{error}");
    for _ in 0..2 {
        assert!(is_too_large(&topics.publish("t", &large).await.unwrap_err()));
        topics.publish("t", &1).await.unwrap();
    }
    publisher.settle().await.unwrap();
}

#[tokio::test]
async fn what_proves_too_large_once_a_center_is_there_is_told_of_when_all_is_settled() {
    let stage = Stage::new();
    let client = |name| Client::builder().connect_in_background(stage.address(name)).unwrap();
    let publishing = Centers::new(client("a"), [client("b")]);
    let topics = Topics::new(&publishing);
    let large = "x".repeat(17 << 20);
    let mut publisher = topics.publisher("t");
    publisher.publish(&large).await.unwrap();
    let _a = stage.center("a").await;
    let error = publisher.settle().await.unwrap_err();
    assert!(is_too_large(&error), "{error}");
    topics.create("t").await.unwrap();
    publisher.publish(&1).await.unwrap();
    publisher.settle().await.unwrap();
    topics.publish("t", &2).await.unwrap();
}

#[tokio::test]
async fn a_center_that_stands_still_holds_up_nothing_that_another_takes() {
    let stage = Stage::new();
    let (a, _b) = (Mortal::born(&stage, "a").await, stage.center("b").await);
    let publishing = stage.centers_within(Duration::from_secs(6)).await;
    let topics = Topics::new(&publishing);
    topics.create("t").await.unwrap();
    topics.publish("t", &0).await.unwrap();
    let still = a.stand_still();
    topics.publish("t", &1).await.unwrap();
    let mut publisher = topics.publisher("t");
    publisher.publish(&2).await.unwrap();
    publisher.settle().await.unwrap();
    assert!(publishing.first().is_online(), "nobody has found it dead yet");
    drop(still);
    a.kill().await;
}

#[tokio::test]
async fn last_words_to_a_center_that_stands_still_end_and_cost_nothing() {
    let stage = Stage::new();
    let a = Mortal::born(&stage, "a").await;
    let settings = Client::builder().timeout(Duration::from_secs(1)).in_flight(4);
    let publishing = settings.connect_centers(format!("{},{}", stage.address("a"), stage.address("b"))).await.unwrap();
    let mut states = publishing.first().states();
    let topics = Topics::new(&publishing);
    topics.create("t").await.unwrap();
    topics.publish("t", &0).await.unwrap();
    let still = a.stand_still();
    // They take all places for requests, so that none is left to ask whether the last one was handled.
    let waiting = (0..8).map(|number| {
        let topics = topics.clone();
        tokio::spawn(async move { topics.publish("t", &number).await.unwrap_err() })
    });
    let waiting: Vec<_> = waiting.collect();
    tokio::task::yield_now().await;
    topics.publish_unacknowledged("t", &9).await.unwrap();
    drop((topics, publishing));
    let metrics = tokio::runtime::Handle::current().metrics();
    let (began, busy) = (Instant::now(), metrics.worker_total_busy_duration(0));
    for waits in waiting {
        waits.await.unwrap();
    }
    let ended = async { while states.next().await.is_some() {} };
    timeout(Duration::from_secs(30), ended).await.unwrap();
    let busy = metrics.worker_total_busy_duration(0).saturating_sub(busy);
    assert!(busy < began.elapsed() / 4, "{busy:?} of {:?}", began.elapsed());
    drop(still);
    a.kill().await;
}

#[tokio::test]
async fn gaps_are_told_of_the_center_where_they_are() {
    let stage = Stage::new();
    let (a, _b) = (stage.center("a").await, stage.center("b").await);
    let (hearing, publishing) = (stage.centers().await, stage.centers().await);
    let topics = Topics::new(&publishing);
    topics.create("t").await.unwrap();
    let mut news = Subscription::open(&hearing, "t").await.unwrap();
    a.shutdown().await;
    assert_eq!((next(&mut news).await, news.heard_at().to_string()), (Event::Disconnected, stage.address("a")));
    topics.publish("t", &1).await.unwrap();
    assert_eq!(number(&mut news).await, 1, "from the other");
    let _a = stage.center("a").await;
    let resumed = Event::Resumed { missed: Missed::Unknown };
    assert_eq!((next(&mut news).await, news.heard_at().to_string()), (resumed, stage.address("a")));
    // One who publishes there alone is heard again.
    let alone = Client::connect(stage.address("a")).await.unwrap();
    Topics::new(&alone).publish("t", &2).await.unwrap();
    assert_eq!(number(&mut news).await, 2);
}

#[tokio::test]
async fn a_center_that_starts_later_gets_the_topics_and_the_subscriptions() {
    let stage = Stage::new();
    let _a = stage.center("a").await;
    let (hearing, publishing) = (stage.centers().await, stage.centers().await);
    let topics = Topics::new(&publishing);
    topics.create_retaining("last").await.unwrap();
    topics.create("t").await.unwrap();
    topics.create("gone").await.unwrap();
    topics.remove("gone").await.unwrap();
    let mut news = Subscription::open(&hearing, "t").await.unwrap();
    let b = stage.center("b").await;
    // It may have been there before, have taken messages, and have been started anew.
    let joined = Event::Resumed { missed: Missed::Unknown };
    assert_eq!((next(&mut news).await, news.heard_at().to_string()), (joined, stage.address("b")));
    until("it has both topics", || b.topic_count() == 2).await;
    let alone = Client::connect(stage.address("b")).await.unwrap();
    Topics::new(&alone).publish("last", &7).await.unwrap();
    let mut last = Subscription::open(&alone, "last").await.unwrap();
    assert_eq!(number(&mut last).await, 7, "it was created to retain its last message");
    Topics::new(&alone).publish("t", &1).await.unwrap();
    assert_eq!(number(&mut news).await, 1);
}

#[tokio::test]
async fn a_topic_that_is_removed_at_one_is_heard_no_more() {
    let stage = Stage::new();
    let (a, b) = (stage.center("a").await, stage.center("b").await);
    let centers = stage.centers().await;
    let topics = Topics::new(&centers);
    let error = Subscription::open(&centers, "t").await.unwrap_err();
    assert_eq!(error.code(), Some(ResultCode::NotFoundTopic));
    topics.create("t").await.unwrap();
    let mut news = Subscription::open(&centers, "t").await.unwrap();
    topics.publish("t", &1).await.unwrap();
    topics.remove("t").await.unwrap();
    assert_eq!((a.topic_count(), b.topic_count()), (0, 0));
    assert_eq!(number(&mut news).await, 1, "what came before is heard");
    let end = within(news.next_event()).await.unwrap().unwrap_err();
    assert!(matches!(end, SubscriptionError::TopicRemoved { .. }), "{end}");
    assert!(within(news.next_event()).await.is_none());
}

#[tokio::test]
async fn a_topic_that_only_one_center_has_is_created_at_the_other() {
    let stage = Stage::new();
    let (_a, b) = (stage.center("a").await, stage.center("b").await);
    let alone = Client::connect(stage.address("a")).await.unwrap();
    Topics::new(&alone).create("t").await.unwrap();
    let centers = stage.centers().await;
    let mut news = Subscription::open(&centers, "t").await.unwrap();
    assert_eq!((b.topic_count(), b.subscriber_count()), (1, 1));
    let other = Client::connect(stage.address("b")).await.unwrap();
    Topics::new(&other).publish("t", &5).await.unwrap();
    assert_eq!(number(&mut news).await, 5);
}

#[tokio::test]
async fn of_retained_messages_one_that_was_followed_elsewhere_is_not_heard_after_that() {
    let stage = Stage::new();
    let (_a, _b) = (stage.center("a").await, stage.center("b").await);
    let publishing = stage.centers().await;
    let topics = Topics::new(&publishing);
    topics.create_retaining("t").await.unwrap();
    topics.publish("t", &1).await.unwrap();
    let first = publishing.online().unwrap().clone();
    first.hang_up("lost"); // a stays, with 1; what follows goes to b, and 1 again
    until("it publishes elsewhere", || !first.is_online() || first.generation() > 1).await;
    topics.publish("t", &2).await.unwrap();
    let mut heard = Vec::new();
    let late = stage.centers().await;
    let mut news = Subscription::open(&late, "t").await.unwrap();
    while heard.last() != Some(&2) {
        heard.push(number(&mut news).await);
    }
    topics.publish("t", &3).await.unwrap();
    heard.push(number(&mut news).await);
    assert!(heard == [1, 2, 3] || heard == [2, 3], "{heard:?}");
}

#[tokio::test]
async fn who_publishes_again_by_hand_under_the_same_id_is_heard_once_by_one_center_too() {
    let stage = Stage::new();
    let center = Center::builder().listen("127.0.0.1:0").loops(1).start().await.unwrap();
    let client = Client::connect(center.address()).await.unwrap();
    Topics::new(&client).create("t").await.unwrap();
    let mut news = Subscription::open(&client, "t").await.unwrap();
    let mut raw = RawPeer::connect(center.address()).await;
    let id = |number: u8| [&b"\xbb0123456789abcdef\0\0\0\0\0\0\0"[..], &[number], b"its own"].concat();
    for (id, message) in [(id(1), "one"), (id(2), "two"), (id(1), "one"), (b"same".into(), "x"), (b"same".into(), "x")]
    {
        raw.send(2, &id, &json!({"topic_key": "t", "optype": 4, "topic_msg": message}).to_string()).await;
        assert_eq!(raw.receive().await.rcode(), 0);
    }
    let mut heard = Vec::new();
    for _ in 0..4 {
        heard.push(within(news.next()).await.unwrap().unwrap().text().into_owned());
    }
    assert_eq!((heard, news.repeats()), (["one", "two", "x", "x"].map(str::to_owned).to_vec(), 1));
    drop(stage);
}

#[tokio::test]
async fn callers_and_providers_go_on_while_either_center_is_away() {
    let stage = Stage::new();
    let mut centers = [Some(stage.center("a").await), Some(stage.center("b").await)];
    let names = ["a", "b"];
    let server = callboard_server::Server::builder().router(router()).listen("127.0.0.1:0").start().await.unwrap();
    let provider = Provider::new(stage.centers().await).announce(["echo"], server.addresses()).await.unwrap();
    let list = format!("{},{}", stage.address("a"), stage.address("b"));
    let caller = Caller::connect(&list).await.unwrap();
    assert_eq!(caller.call::<u64>("echo", &0).await.unwrap(), 0);
    let calling = tokio::spawn(async move {
        for number in 1.. {
            let echoed: u64 = caller.call("echo", &number).await.unwrap();
            assert_eq!(echoed, number);
            if caller.center().is_closed() {
                return number;
            }
            tokio::task::yield_now().await;
        }
        0
    });
    for round in 0..4 {
        let (center, name) = (&mut centers[round % 2], names[round % 2]);
        center.take().unwrap().shutdown().await;
        // Who comes just now finds the provider at the other one.
        let late = Caller::connect(&list).await.unwrap();
        assert_eq!(within(late.call::<u64>("echo", &1)).await.unwrap(), 1);
        *center = Some(stage.center(name).await);
        online(provider.centers(), 2).await;
        let client = Client::connect(stage.address(name)).await.unwrap();
        let discovery = callboard_registry::Discovery::new(&client);
        within(discovery.wait_for_provider("echo", Duration::from_secs(20))).await.unwrap();
    }
    assert!(!calling.is_finished(), "no call has failed");
    calling.abort();
}
