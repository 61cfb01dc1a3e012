//! Clients that come, do something, and go, in order or not, over and over again.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Result;
use callboard_client::{Client, Reconnect};
use callboard_pubsub::{Subscription, Topics};
use callboard_registry::{Caller, Provider};
use callboard_server::{Router, Server};
use callboard_tests::frame;
use fastrand::Rng;
use serde::Serialize;
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Lives that follow each other, several at a time.
pub(crate) struct Churn {
    shared: Arc<Shared>,
    lives: JoinSet<()>,
}

struct Shared {
    tcp: String,
    unix: String,
    stop: AtomicBool,
    tally: Tally,
}

/// What was done so far.
#[derive(Debug, Default)]
struct Tally {
    lives: AtomicU64,
    /// Lives that could not do what they came for: providers crash while they are called.
    failed: AtomicU64,
    calls: AtomicU64,
    published: AtomicU64,
    received: AtomicU64,
    /// Connections that were reset, and processes that were killed.
    crashes: AtomicU64,
}

/// The same at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Done {
    pub(crate) lives: u64,
    pub(crate) failed: u64,
    pub(crate) calls: u64,
    pub(crate) published: u64,
    pub(crate) received: u64,
    pub(crate) crashes: u64,
}

impl Churn {
    /// So many lives at a time; what they do follows from the seed, when they do it does not.
    pub(crate) fn start(tcp: &str, unix: &str, at_once: u64, seed: u64) -> Self {
        let shared = Shared {
            tcp: tcp.to_owned(),
            unix: unix.to_owned(),
            stop: AtomicBool::new(false),
            tally: Tally::default(),
        };
        let (shared, mut lives) = (Arc::new(shared), JoinSet::new());
        for number in 0..at_once {
            let (shared, rng) = (Arc::clone(&shared), Rng::with_seed(seed.wrapping_add(number)));
            lives.spawn(live_on(shared, rng));
        }
        Self { shared, lives }
    }

    pub(crate) fn done(&self) -> Done {
        let tally = &self.shared.tally;
        let count = |count: &AtomicU64| count.load(Relaxed);
        Done {
            lives: count(&tally.lives),
            failed: count(&tally.failed),
            calls: count(&tally.calls),
            published: count(&tally.published),
            received: count(&tally.received),
            crashes: count(&tally.crashes),
        }
    }

    /// Ends when each life under way has ended.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.shared.stop.store(true, Relaxed);
        while let Some(ended) = self.lives.join_next().await {
            ended?;
        }
        Ok(())
    }
}

/// In a process of its own: a provider and subscriber that is to be killed.
pub(crate) async fn be_doomed_if_asked() -> Result<()> {
    let Some(center) = std::env::var_os(DOOMED) else { return Ok(()) };
    let center = center.to_string_lossy().into_owned();
    let (_server, _provider) = provide(&center, &["doomed".to_owned()].into()).await?;
    let client = Client::connect(&center).await?;
    Topics::new(&client).create(&topic(0)).await?;
    let mut news = Subscription::open(&client, &topic(0)).await?;
    while news.next().await.is_some() {}
    std::process::exit(0)
}

/// The last client takes away what nobody owns.
pub(crate) async fn remove_topics(center: &str) -> Result<()> {
    let client = Client::connect(center).await?;
    let topics = Topics::new(&client);
    for number in 0..TOPICS {
        let _ = topics.remove(&topic(number)).await; // perhaps it was removed
    }
    Ok(())
}

async fn live_on(shared: Arc<Shared>, mut rng: Rng) {
    while !shared.stop.load(Relaxed) {
        shared.tally.lives.fetch_add(1, Relaxed);
        if live(&shared, &mut rng).await.is_err() {
            shared.tally.failed.fetch_add(1, Relaxed);
        }
    }
}

async fn live(shared: &Shared, rng: &mut Rng) -> Result<()> {
    match rng.u8(0..16) {
        0..4 => provider(shared, rng).await,
        4..8 => caller(shared, rng).await,
        8..11 => subscriber(shared, rng).await,
        11..14 => publisher(shared, rng).await,
        14 => reset(shared, rng).await,
        _ => killed(shared, rng).await,
    }
}

/// Comes with a few methods, and leaves in one of three ways.
async fn provider(shared: &Shared, rng: &mut Rng) -> Result<()> {
    let methods: BTreeSet<_> = (0..rng.usize(1..5)).map(|_| method(rng)).collect();
    let (server, provider) = provide(shared.address(rng), &methods).await?;
    stay(rng).await;
    match rng.u8(0..3) {
        0 => {
            provider.withdraw().await?;
            server.shutdown().await;
        }
        1 => drop((provider, server)),
        _ => provider.center().close(),
    }
    Ok(())
}

async fn caller(shared: &Shared, rng: &mut Rng) -> Result<()> {
    let caller = Caller::connect(shared.address(rng)).await?.with_timeout(Duration::from_secs(1));
    for _ in 0..rng.u8(1..30) {
        let method = method(rng);
        if caller.call::<Value>(&method, &json!({"text": "x".repeat(rng.usize(0..200))})).await.is_ok() {
            shared.tally.calls.fetch_add(1, Relaxed);
        }
    }
    if rng.bool() {
        caller.center().close();
    }
    Ok(())
}

async fn subscriber(shared: &Shared, rng: &mut Rng) -> Result<()> {
    let (client, topic) = (client(shared, rng).await?, any_topic(rng));
    let topics = Topics::new(&client);
    topics.create(&topic).await?;
    let mut news = Subscription::open(&client, &topic).await?;
    let reads = async {
        for _ in 0..rng.u16(1..500) {
            if !matches!(news.next().await, Some(Ok(_))) {
                break;
            }
            shared.tally.received.fetch_add(1, Relaxed);
        }
    };
    let _ = timeout(Duration::from_millis(500), reads).await; // perhaps nobody publishes
    match rng.u8(0..12) {
        0 => topics.remove(&topic).await?,
        1..6 => client.close(),
        _ => drop(news),
    }
    Ok(())
}

async fn publisher(shared: &Shared, rng: &mut Rng) -> Result<()> {
    let (client, topic) = (client(shared, rng).await?, any_topic(rng));
    let topics = Topics::new(&client);
    topics.create(&topic).await?;
    let mut publisher = topics.publisher(&topic);
    let text = "x".repeat(rng.usize(100..4000));
    for _ in 0..rng.u16(20..500) {
        publisher.publish_text(&text).await?;
        shared.tally.published.fetch_add(1, Relaxed);
    }
    if rng.bool() {
        publisher.settle().await?;
    }
    Ok(())
}

/// Registers, subscribes, begins another frame, and resets its connection.
async fn reset(shared: &Shared, rng: &mut Rng) -> Result<()> {
    let mut stream = TcpStream::connect(shared.tcp.trim_start_matches("tcp://")).await?;
    let register = json!({"method": method(rng), "optype": 0, "host": {"ip": "127.0.0.1", "port": 9}});
    let subscribe = json!({"topic_key": any_topic(rng), "optype": 2});
    let frames = [frame(4, b"r", register.to_string().as_bytes()), frame(2, b"s", subscribe.to_string().as_bytes())];
    let frames = frames.concat();
    stream.write_all(&frames).await?;
    stream.write_all(frames.get(..rng.usize(1..30)).unwrap_or_default()).await?;
    stay(rng).await;
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    shared.tally.crashes.fetch_add(1, Relaxed);
    Ok(())
}

async fn killed(shared: &Shared, rng: &mut Rng) -> Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env(DOOMED, shared.address(rng)).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let mut doomed = command.spawn()?;
    stay(rng).await;
    doomed.kill().await?;
    shared.tally.crashes.fetch_add(1, Relaxed);
    Ok(())
}

async fn provide(center: &str, methods: &BTreeSet<String>) -> Result<(Server, Provider)> {
    let router = methods.iter().fold(Router::new(), |router, name| router.method(name.as_str(), |v: Value| Ok(v)));
    let server = Server::builder().router(router).loops(1).listen("127.0.0.1:0").start().await?;
    let provider = Provider::connect(center).await?.announce(methods, server.addresses()).await?;
    Ok((server, provider))
}

async fn client(shared: &Shared, rng: &mut Rng) -> Result<Client> {
    Ok(Client::builder().reconnect(Reconnect::never()).connect(shared.address(rng)).await?)
}

async fn stay(rng: &mut Rng) {
    sleep(Duration::from_millis(rng.u64(20..300))).await;
}

impl Shared {
    /// Mostly the Unix socket: of TCP there are only so many ports a minute.
    fn address(&self, rng: &mut Rng) -> &str {
        if rng.u8(0..8) == 0 { &self.tcp } else { &self.unix }
    }
}

fn method(rng: &mut Rng) -> String {
    format!("method{}", rng.u8(0..40))
}

fn any_topic(rng: &mut Rng) -> String {
    topic(rng.u8(0..TOPICS))
}

fn topic(number: u8) -> String {
    format!("topic{number}")
}

const TOPICS: u8 = 8;
/// Names the center to a process that is to be killed.
const DOOMED: &str = "CALLBOARD_TESTS_DOOMED";
