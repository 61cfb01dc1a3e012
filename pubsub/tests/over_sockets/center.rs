use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use callboard_client::{Client, SessionMode};
use callboard_common::{
    Connection, Dispatcher, Encode, Handler, Head, Json, LengthValue, Message, Protocol, TopicOp, TopicRequest,
};
use callboard_net::{Address, Conn, Limits, Serving, Settings, serve};
use callboard_pubsub::{News, Subscription, SubscriptionError, TopicLimits, TopicService, Topics};
use callboard_server::Sessions;
use tempfile::TempDir;
use tokio::time::{interval, timeout};

/// Long enough for a busy machine; no test waits for it to pass.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A center that serves topics and sessions, and leaves calls unanswered.
pub(crate) struct Center {
    pub(crate) serving: Serving,
    pub(crate) topics: Arc<TopicService<Conn>>,
    _folder: TempDir,
}

struct NeverAnswers;

impl<C: Connection> Handler<C> for NeverAnswers {
    fn handle(&self, _conn: &C, _message: Message) {}
}

impl Center {
    pub(crate) async fn start() -> Self {
        Self::with_limits(Limits { stall: PATIENCE, ..Limits::default() }).await
    }

    pub(crate) async fn with_limits(limits: Limits) -> Self {
        Self::with(limits, TopicLimits::default()).await
    }

    pub(crate) async fn with_topic_limits(limits: TopicLimits) -> Self {
        Self::with(Limits::default(), limits).await
    }

    async fn with(limits: Limits, topics: TopicLimits) -> Self {
        let topics = Arc::new(TopicService::with_limits(topics));
        let dispatcher = Dispatcher::new()
            .on_topic(Arc::clone(&topics))
            .on_rpc(NeverAnswers)
            .on_session(Sessions::for_server("center", &limits));
        let folder = tempfile::tempdir().unwrap();
        let addresses = ["tcp://127.0.0.1:0".parse().unwrap(), Address::Unix(folder.path().join("center"))];
        let settings = Settings { limits, loops: 2, ..Settings::default() };
        let serving = serve(&addresses, settings, Arc::new(dispatcher)).await.unwrap();
        Self { serving, topics, _folder: folder }
    }

    pub(crate) async fn client(&self) -> Client {
        self.connect(0, SessionMode::Require).await
    }

    pub(crate) async fn v1_client(&self) -> Client {
        self.connect(0, SessionMode::Off).await
    }

    /// Over a socket whose buffers in the kernel are small.
    pub(crate) async fn near_client(&self) -> Client {
        self.connect(1, SessionMode::Require).await
    }

    /// A v1 peer that subscribes and never reads.
    pub(crate) fn stalled_subscriber(&self, topic: &str) -> UnixStream {
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

pub(crate) async fn next(news: &mut Subscription) -> Result<News, SubscriptionError> {
    timeout(PATIENCE, news.next()).await.unwrap().unwrap()
}

pub(crate) async fn next_number(news: &mut Subscription) -> u64 {
    next(news).await.unwrap().json().unwrap()
}

pub(crate) async fn until(what: impl Fn() -> bool) {
    let mut looks = interval(Duration::from_millis(2));
    let seen = async {
        while !what() {
            looks.tick().await;
        }
    };
    timeout(PATIENCE, seen).await.unwrap();
}

/// What was sent before on this connection has been handled when this returns.
pub(crate) async fn settle(client: &Client) {
    Topics::new(client).create("settle").await.unwrap();
}
