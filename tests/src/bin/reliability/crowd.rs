//! How long it takes until 1,000 clients are whole again after their center was killed and started anew.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use callboard_client::Client;
use callboard_pubsub::{Subscription, Topics};
use callboard_registry::{Caller, Provider};
use callboard_server::{Router, Server};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::process::{PATIENCE, Part};

const PROVIDERS: usize = 250;
const CALLERS: usize = 500;
const SUBSCRIBERS: usize = 249; // and one who publishes
/// So long the center is away.
const AWAY: Duration = Duration::from_secs(1);

/// All in this process, over a connection each.
struct Crowd {
    _server: Server,
    providers: Vec<Provider>,
    callers: Vec<Caller>,
    subscribers: Vec<(Client, Subscription)>,
    publisher: Client,
}

pub(crate) async fn restart(times: usize) -> Result<Vec<Duration>> {
    // A Unix socket's path is not taken by others while the center is away.
    let folder = tempfile::tempdir()?;
    let address = format!("unix://{}", folder.path().join("center").display());
    let mut center = Part::center(&address, &[]).await?;
    let mut crowd = Crowd::new(&address).await?;
    let mut took = Vec::new();
    for time in 0..times {
        center.kill().await?;
        sleep(AWAY).await;
        let began = Instant::now();
        center = Part::center(&address, &[]).await?;
        timeout(PATIENCE, crowd.is_whole(&address, &format!("{time}"))).await.context("it is not whole again")??;
        took.push(began.elapsed());
    }
    Ok(took)
}

impl Crowd {
    async fn new(center: &str) -> Result<Self> {
        let methods: Vec<_> = (0..PROVIDERS).map(method).collect();
        let router = methods.iter().fold(Router::new(), |router, name| router.method(name.as_str(), |(): ()| Ok(())));
        let server = Server::builder().router(router).listen("127.0.0.1:0").start().await?;
        let publisher = Client::connect(center).await?;
        Topics::new(&publisher).create(TOPIC).await?;
        let (mut providers, mut callers, mut subscribers) = (Vec::new(), Vec::new(), Vec::new());
        for name in methods {
            providers.push(Provider::connect(center).await?.announce([name], server.addresses()).await?);
        }
        for number in 0..CALLERS {
            let caller = Caller::connect(center).await?;
            caller.call::<()>(&method(number), &()).await?;
            callers.push(caller);
        }
        for _ in 0..SUBSCRIBERS {
            let client = Client::connect(center).await?;
            let news = Subscription::open(&client, TOPIC).await?;
            subscribers.push((client, news));
        }
        Ok(Self { _server: server, providers, callers, subscribers, publisher })
    }

    /// Every client is connected again, every provider is found by one who never knew it, every caller's call is answered,
    /// and every subscriber gets a message.
    async fn is_whole(&mut self, center: &str, text: &str) -> Result<()> {
        let centers = self.providers.iter().map(Provider::center).chain(self.callers.iter().map(Caller::center));
        for client in centers.chain(self.subscribers.iter().map(|(client, _)| client)).chain([&self.publisher]) {
            client.online().await?;
        }
        let fresh = Caller::connect(center).await?;
        let mut found = JoinSet::new();
        for number in 0..PROVIDERS {
            let fresh = fresh.clone();
            found.spawn(async move { fresh.wait_for_provider(&method(number), PATIENCE).await.map(drop) });
        }
        for (number, caller) in self.callers.iter().cloned().enumerate() {
            found.spawn(async move { caller.call::<()>(&method(number), &()).await });
        }
        found.join_all().await.into_iter().collect::<Result<Vec<()>, _>>()?;
        Topics::new(&self.publisher).publish(TOPIC, text).await?;
        for (_, news) in &mut self.subscribers {
            while !matches!(news.next().await.context("it has ended")?, Ok(news) if news.text() == text) {}
        }
        Ok(())
    }
}

fn method(number: usize) -> String {
    format!("m{}", number % PROVIDERS)
}

const TOPIC: &str = "news";
