//! Clients that come, do something, and go, in order or not, over and over again.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result};
use callboard_client::{Client, ClientBuilder, Reconnect};
use callboard_pubsub::{Subscription, Topics};
use callboard_registry::{Place, Provider};
use callboard_server::{Router, Server};
use callboard_tests::frame;
use fastrand::Rng;
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::calls;
use crate::tally::{Done, Kind, Outcome, Tally};

/// Lives that follow each other, several at a time.
pub(crate) struct Churn {
    shared: Arc<Shared>,
    lives: JoinSet<()>,
}

pub(crate) struct Shared {
    tcp: String,
    unix: String,
    stop: AtomicBool,
    pub(crate) tally: Tally,
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
        self.shared.tally.done()
    }

    /// Ends when each life under way has ended; gives what was done.
    pub(crate) async fn stop(mut self) -> Result<(Done, Vec<(u64, String)>)> {
        self.shared.stop.store(true, Relaxed);
        while let Some(ended) = self.lives.join_next().await {
            ended?;
        }
        Ok((self.done(), self.shared.tally.failures()))
    }
}

/// In a process of its own: a provider and subscriber that is to be killed. Says so when it is both.
#[expect(clippy::print_stdout, reason = "it is waited for")]
pub(crate) async fn be_doomed_if_asked() -> Result<()> {
    let Some(center) = std::env::var_os(DOOMED) else { return Ok(()) };
    let center = center.to_string_lossy().into_owned();
    let (_server, _provider) = provide(&center, &["doomed".to_owned()].into()).await?;
    let _relayed = provide_relayed(&center, &["doomed-relayed".to_owned()].into()).await?;
    let client = Client::connect(&center).await?;
    Topics::new(&client).create(&topic(TOPICS)).await?;
    let mut news = Subscription::open(&client, &topic(TOPICS)).await?;
    println!("ready");
    while news.next().await.is_some() {}
    std::process::exit(0)
}

/// The last client takes away what nobody owns.
pub(crate) async fn remove_topics(center: &str) -> Result<()> {
    let client = Client::connect(center).await?;
    let topics = Topics::new(&client);
    for number in 0..=TOPICS {
        let _ = topics.remove(&topic(number)).await; // perhaps it was removed
    }
    Ok(())
}

async fn live_on(shared: Arc<Shared>, mut rng: Rng) {
    while !shared.stop.load(Relaxed) {
        shared.tally.lives.fetch_add(1, Relaxed);
        // What failed is in the tally.
        let _ = live(&shared, &mut rng).await;
    }
}

async fn live(shared: &Shared, rng: &mut Rng) -> Result<()> {
    match rng.u8(0..18) {
        0..4 => provider(shared, rng).await,
        4..6 => relayed_provider(shared, rng).await,
        6..10 => calls::caller(shared, rng).await,
        10..13 => subscriber(shared, rng).await,
        13..16 => publisher(shared, rng).await,
        16 => shared.tally.noted(Kind::Reset, reset(shared, rng).await),
        _ => shared.tally.noted(Kind::Kill, killed(shared, rng).await),
    }
}

/// Comes with a few methods, and leaves in one of three ways.
async fn provider(shared: &Shared, rng: &mut Rng) -> Result<()> {
    let methods: BTreeSet<_> = (0..rng.usize(1..5)).map(|_| calls::method(rng)).collect();
    let (server, provider) = shared.tally.noted(Kind::Provide, provide(shared.address(rng), &methods).await)?;
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

/// The same, and listens nowhere.
async fn relayed_provider(shared: &Shared, rng: &mut Rng) -> Result<()> {
    let methods: BTreeSet<_> = (0..rng.usize(1..5)).map(|_| calls::relayed_method(rng)).collect();
    let announced = provide_relayed(shared.address(rng), &methods).await;
    let provider = shared.tally.noted(Kind::ProvideRelayed, announced)?;
    stay(rng).await;
    match rng.u8(0..3) {
        0 => provider.withdraw().await?,
        1 => drop(provider),
        _ => provider.center().close(),
    }
    Ok(())
}

async fn subscriber(shared: &Shared, rng: &mut Rng) -> Result<()> {
    let (client, topic) = (client(shared, rng).await?, any_topic(rng));
    let topics = Topics::new(&client);
    let opened = async {
        topics.create(&topic).await?;
        anyhow::Ok(Subscription::open(&client, &topic).await?)
    };
    let mut news = shared.tally.noted(Kind::Subscribe, opened.await)?;
    let (mut heard, reads) = (Outcome::Nobody, rng.u16(1..500));
    let hear = async {
        for _ in 0..reads {
            match news.next().await {
                Some(Ok(_)) => heard = Outcome::Good,
                _ if heard == Outcome::Good => break,
                _ => return heard = Outcome::Failed,
            }
            shared.tally.received.fetch_add(1, Relaxed);
        }
    };
    let _ = timeout(Duration::from_millis(500), hear).await; // perhaps nobody publishes
    shared.tally.note(Kind::Hear, heard);
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
    let all = async {
        for _ in 0..rng.u16(20..500) {
            publisher.publish_text(&text).await?;
            shared.tally.published.fetch_add(1, Relaxed);
        }
        if rng.bool() {
            publisher.settle().await?;
        }
        anyhow::Ok(())
    };
    shared.tally.noted(Kind::Publish, all.await)
}

/// Registers, subscribes, begins another frame, and resets its connection.
async fn reset(shared: &Shared, rng: &mut Rng) -> Result<()> {
    let mut stream = TcpStream::connect(shared.tcp.trim_start_matches("tcp://")).await?;
    let register = json!({"method": calls::method(rng), "optype": 0, "host": {"ip": "127.0.0.1", "port": 9}});
    let subscribe = json!({"topic_key": any_topic(rng), "optype": 2});
    let frames = [frame(4, b"r", register.to_string().as_bytes()), frame(2, b"s", subscribe.to_string().as_bytes())];
    let frames = frames.concat();
    stream.write_all(&frames).await?;
    timeout(PATIENCE, stream.read_u32()).await??; // one of them is answered
    stream.write_all(frames.get(..rng.usize(1..30)).unwrap_or_default()).await?;
    stay(rng).await;
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    Ok(())
}

async fn killed(shared: &Shared, rng: &mut Rng) -> Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env(DOOMED, shared.address(rng)).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut doomed = command.kill_on_drop(true).spawn()?;
    let mut said = doomed.stdout.take().context("it has an output")?;
    timeout(PATIENCE, said.read_u8()).await??;
    stay(rng).await;
    Ok(doomed.kill().await?)
}

async fn provide(center: &str, methods: &BTreeSet<String>) -> Result<(Server, Provider)> {
    let server = Server::builder().router(router(methods)).loops(1).listen("127.0.0.1:0").start().await?;
    let provider = Provider::connect(center).await?.announce(methods, server.addresses()).await?;
    Ok((server, provider))
}

async fn provide_relayed(center: &str, methods: &BTreeSet<String>) -> Result<Provider> {
    let client = sessions().reconnect(Reconnect::never()).serves(router(methods)).connect(center).await?;
    Ok(Provider::new(client).announce(methods, Place::Relay).await?)
}

fn router(methods: &BTreeSet<String>) -> Router {
    methods.iter().fold(Router::new(), |router, name| router.method(name.as_str(), |v: Value| Ok(v)))
}

async fn client(shared: &Shared, rng: &mut Rng) -> Result<Client> {
    Ok(sessions().reconnect(Reconnect::never()).connect(shared.address(rng)).await?)
}

/// A busy machine may be slow to grant them; without one a client can do less.
pub(crate) fn sessions() -> ClientBuilder {
    Client::builder().session_timeout(Duration::from_secs(2))
}

async fn stay(rng: &mut Rng) {
    sleep(Duration::from_millis(rng.u64(20..300))).await;
}

impl Shared {
    /// Mostly the Unix socket: of TCP there are only so many ports a minute.
    pub(crate) fn address(&self, rng: &mut Rng) -> &str {
        if rng.u8(0..8) == 0 { &self.tcp } else { &self.unix }
    }
}

fn any_topic(rng: &mut Rng) -> String {
    topic(rng.u8(0..TOPICS))
}

fn topic(number: u8) -> String {
    format!("topic{number}")
}

/// Those that come and go; one more is subscribed to by those who are killed.
const TOPICS: u8 = 8;
/// Names the center to a process that is to be killed.
const DOOMED: &str = "CALLBOARD_TESTS_DOOMED";
/// More than anything takes here.
const PATIENCE: Duration = Duration::from_secs(20);
