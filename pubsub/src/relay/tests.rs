//! The relay against centers of a few lines, over pipes and in paused time.

use bytes::BytesMut;
use callboard_client::{Client, ClientBuilder, Connector};
use callboard_common::{
    Codec, Encode, EncodeError, Head, Json, LengthValue, Message, MessageType, Protocol, PublishId, ResultCode,
};
use callboard_net::{Address, Memory, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::{Publisher, Topics};

/// How a center takes what comes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Well,
    /// So many bytes each 100 ms.
    Slow(usize),
    /// It has no topic.
    Empty,
    /// It reads nothing, and says now and then that it lives.
    Held,
    /// It does nothing.
    Still,
}

/// What a test sees of a center.
#[derive(Clone)]
struct Center {
    mode: watch::Sender<Mode>,
    /// The numbers of what was published there, in the order in which it came.
    published: Arc<Mutex<Vec<u64>>>,
}

impl Center {
    async fn start(memory: &Memory, address: &str) -> Self {
        let center = Self { mode: watch::Sender::new(Mode::Well), published: Arc::default() };
        let (bound, _) = memory.bind(&address.parse::<Address>().unwrap()).await.unwrap();
        let (memory, accepting) = (memory.clone(), center.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = memory.accept(&bound).await.unwrap();
                tokio::spawn(accepting.clone().serve(stream));
            }
        });
        center
    }

    fn goes_on(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    fn count(&self) -> usize {
        self.published.lock().unwrap().len()
    }

    async fn serve(self, mut stream: DuplexStream) {
        let mut mode = self.mode.subscribe();
        let mut buf = BytesMut::new();
        loop {
            let now = *mode.borrow_and_update();
            match now {
                Mode::Well | Mode::Empty => tokio::select! {
                    biased;
                    _ = mode.changed() => {}
                    read = stream.read_buf(&mut buf) => if read.unwrap_or(0) == 0 { return },
                },
                Mode::Slow(bytes) => {
                    sleep(Duration::from_millis(100)).await;
                    buf.reserve(bytes);
                    if (&mut stream).take(bytes as u64).read_buf(&mut buf).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                Mode::Held | Mode::Still => {
                    let told = timeout(Duration::from_millis(250), mode.changed()).await;
                    if told.is_err() && now == Mode::Held {
                        stream.write_all(&frame(MessageType::Ping, b"", "")).await.unwrap();
                    }
                }
            }
            while let Some(message) = LengthValue::default().decode(&mut buf).unwrap() {
                if let Some(answer) = self.handle(&message) {
                    let _ = stream.write_all(&frame(message.kind().answer(), message.id(), answer)).await;
                }
            }
        }
    }

    fn handle(&self, message: &Message) -> Option<&'static str> {
        match message.kind() {
            MessageType::SessionRequest => Some(
                r#"{"rcode":0,"version":2,"instance":"i","features":["one_way","ping"],"limits":{"max_frame_bytes":65536}}"#,
            ),
            MessageType::Ping => Some(""),
            MessageType::TopicRequest => {
                let (id, _) = PublishId::split(message.id()).unwrap();
                self.published.lock().unwrap().push(id.number);
                let is_there = *self.mode.borrow() != Mode::Empty;
                let refused = r#"{"rcode":7,"error":{"message":"there is none","executed":"no"}}"#;
                (!message.is_one_way()).then_some(if is_there { r#"{"rcode":0}"# } else { refused })
            }
            _ => None,
        }
    }
}

fn frame(kind: MessageType, id: &[u8], body: &'static str) -> BytesMut {
    let mut frame = BytesMut::new();
    LengthValue::default().encode::<Json, _>(Head::new(kind, id), &Text(kind, body), &mut frame).unwrap();
    frame
}

/// So much may wait to be confirmed.
const WINDOW_BYTES: usize = 1 << 20;

/// A body as it stands.
struct Text(MessageType, &'static str);

impl Encode for Text {
    fn kind(&self) -> MessageType {
        self.0
    }

    fn encode<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        out.extend_from_slice(self.1.as_bytes());
        Ok(())
    }
}

fn settings(memory: Memory) -> ClientBuilder {
    Client::builder().connector(Connector::over(memory)).deadlines_by_runtime(true).remember_v1(false)
}

/// Who publishes to two centers that are not there yet.
fn nobody_there(memory: &Memory) -> Centers {
    let client = |address| settings(memory.clone()).connect_in_background(address).unwrap();
    Centers::new(client("center:1"), [client("center:2")])
}

/// So many centers, and who publishes there.
async fn house<const N: usize>(timeout: Duration) -> ([Center; N], Centers) {
    house_with_pipes(64 << 10, timeout).await
}

async fn house_with_pipes<const N: usize>(pipe_bytes: usize, timeout: Duration) -> ([Center; N], Centers) {
    let memory = Memory::new(pipe_bytes);
    let addresses: Vec<_> = (1..=N).map(|port| format!("center:{port}")).collect();
    let mut centers = Vec::new();
    for address in &addresses {
        centers.push(Center::start(&memory, address).await);
    }
    let publishing = settings(memory).timeout(timeout).connect_centers(addresses.join(",")).await.unwrap();
    assert!(publishing.iter().all(Client::is_online));
    (centers.try_into().ok().unwrap(), publishing)
}

fn is_late(error: &CallError, executed: Executed) -> bool {
    matches!(error.kind(), CallErrorKind::Timeout) && error.executed() == executed
}

/// Publishes so many messages of 2 KiB.
async fn publish_many(publisher: &mut Publisher, count: usize) {
    let payload = "x".repeat(2 << 10);
    for _ in 0..count {
        publisher.publish_text(&payload).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_center_that_takes_slowly_what_is_published_is_not_left() {
    let ([slow, other], centers) = house(Duration::from_secs(5)).await;
    slow.goes_on(Mode::Slow(10 << 10));
    let mut publisher = Topics::new(&centers).publisher("t");
    publish_many(&mut publisher, 1_000).await;
    publisher.settle().await.unwrap();
    assert_eq!((slow.count(), other.count()), (1_000, 0));
}

#[tokio::test(start_paused = true)]
async fn a_center_that_is_held_back_and_says_that_it_lives_is_not_left() {
    let ([held, other], centers) = house(Duration::from_secs(5)).await;
    held.goes_on(Mode::Held);
    let mut publisher = Topics::new(&centers).publisher("t");
    publish_many(&mut publisher, 100).await;
    sleep(Duration::from_secs(20)).await;
    held.goes_on(Mode::Well);
    publisher.settle().await.unwrap();
    assert_eq!((held.count(), other.count()), (100, 0));
}

#[tokio::test(start_paused = true)]
async fn a_center_that_gives_no_sign_of_life_is_left_though_its_socket_takes_what_comes() {
    let ([still, other], centers) = house(Duration::from_secs(5)).await;
    let topics = Topics::new(&centers);
    topics.publish("t", &0).await.unwrap();
    still.goes_on(Mode::Still);
    let others = topics.clone();
    tokio::spawn(async move {
        loop {
            others.publish_unacknowledged("t", &2).await.unwrap();
            sleep(Duration::from_millis(10)).await;
        }
    });
    topics.publish("t", &1).await.unwrap();
    assert_eq!(still.count(), 1);
    assert!(other.count() > 1);
}

#[tokio::test(start_paused = true)]
async fn who_publishes_waits_for_room_as_long_as_the_center_takes_something() {
    let ([slow, _other], centers) = house_with_pipes(1 << 10, Duration::from_secs(2)).await;
    slow.goes_on(Mode::Slow(1 << 10));
    let mut publisher = Topics::new(&centers).publisher("t");
    let began = Instant::now();
    publish_many(&mut publisher, 600).await;
    publisher.settle().await.unwrap();
    assert!(began.elapsed() > Duration::from_secs(100), "it is slow: {:?}", began.elapsed());
    assert_eq!(slow.count(), 600);
}

#[tokio::test(start_paused = true)]
async fn a_publish_that_is_late_says_whether_the_center_lives() {
    let payload = "x".repeat(60 << 10);
    let rows = [(Mode::Held, "slow subscribers hold it up"), (Mode::Still, "check that one of the centers runs")];
    for (mode, advice) in rows {
        let (all, centers) = house::<2>(Duration::from_secs(2)).await;
        for center in &all {
            center.goes_on(mode);
        }
        let topics = Topics::new(&centers);
        let error = topics.publish("t", &1).await.unwrap_err();
        assert!(is_late(&error, Executed::Unknown), "{error}");
        assert!(error.to_string().contains(advice), "{error}");
        for _ in 0..=WINDOW_BYTES / payload.len() {
            topics.publish_unacknowledged("t", &payload).await.unwrap();
        }
        let error = topics.publish_unacknowledged("t", &payload).await.unwrap_err();
        assert!(is_late(&error, Executed::No), "{error}");
        assert!(error.to_string().contains(advice), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_center_refuses_that_another_was_sent_may_have_been_published() {
    let ([first, second], centers) = house(Duration::from_secs(5)).await;
    let topics = Topics::new(&centers);
    first.goes_on(Mode::Empty);
    let refused = topics.publish("t", &1).await.unwrap_err();
    assert_eq!((refused.code(), refused.executed()), (Some(ResultCode::NotFoundTopic), Executed::No));
    first.goes_on(Mode::Still);
    second.goes_on(Mode::Empty);
    let refused = topics.publish("t", &2).await.unwrap_err();
    assert_eq!((refused.code(), refused.executed()), (Some(ResultCode::NotFoundTopic), Executed::Unknown));
    let refused = topics.publish("t", &3).await.unwrap_err();
    assert_eq!((refused.peer(), refused.executed()), ("tcp://center:2", Executed::No));
}

#[tokio::test(start_paused = true)]
async fn of_many_centers_all_but_one_may_stand_still() {
    let (all, centers) = house::<4>(Duration::from_secs(5)).await;
    let topics = Topics::new(&centers);
    topics.publish("t", &0).await.unwrap();
    for center in &all[..3] {
        center.goes_on(Mode::Still);
    }
    topics.publish("t", &1).await.unwrap();
    assert!(all[3].count() > 0);
}

#[tokio::test(start_paused = true)]
async fn last_words_go_to_a_center_that_lives_however_long_a_request_may_take() {
    let ([still, other], centers) = house(Duration::from_mins(1)).await;
    let topics = Topics::new(&centers);
    still.goes_on(Mode::Still);
    topics.publish_unacknowledged("t", &1).await.unwrap();
    drop((topics, centers));
    sleep(LAST_WORDS).await;
    assert_eq!((still.count(), other.count()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_publish_that_no_center_came_for_is_taken_back_with_its_room() {
    let memory = Memory::new(64 << 10);
    let topics = Topics::new(nobody_there(&memory));
    let error = topics.publish("t", &"x".repeat(WINDOW_BYTES)).await.unwrap_err();
    assert!(is_late(&error, Executed::No), "{error}");
    let began = Instant::now();
    topics.publish_unacknowledged("t", &2).await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    let center = Center::start(&memory, "center:1").await;
    topics.publish("t", &3).await.unwrap();
    assert_eq!(*center.published.lock().unwrap(), [2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_publish_that_waits_for_a_center_and_proves_too_large_frees_its_room() {
    let memory = Memory::new(64 << 10);
    let topics = Topics::new(nobody_there(&memory));
    let publishing = topics.clone();
    let large = tokio::spawn(async move { publishing.publish("t", &"x".repeat(WINDOW_BYTES)).await });
    sleep(Duration::from_millis(1)).await;
    let center = Center::start(&memory, "center:2").await;
    let error = large.await.unwrap().unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Encode) && error.executed() == Executed::No, "{error}");
    topics.publish("t", &2).await.unwrap();
    assert_eq!(*center.published.lock().unwrap(), [2]);
}
