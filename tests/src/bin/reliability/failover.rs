//! One of two centers is killed while many call, publish and listen.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use callboard_client::Centers;
use callboard_common::Missed;
use callboard_pubsub::{Event, Subscription, Topics};
use callboard_registry::Provider;
use callboard_server::Server;
use callboard_tests::{Load, methods};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::process::{PATIENCE, Part};

const CALLERS: usize = 8;
/// So long the load goes on before and after the kill.
const HALF: Duration = Duration::from_secs(1);
const TOPIC: &str = "news";
const LAST: &str = "last";

/// What came about, by name.
pub(crate) type Counts = Vec<(&'static str, u64)>;

#[derive(Default)]
struct Published {
    acknowledged: u64,
    failed: u64,
}

#[derive(Default)]
struct Heard {
    received: u64,
    missing: u64,
    unknown: u64,
}

pub(crate) async fn kill_one_of_two(times: usize) -> Result<Counts> {
    let mut sums = Counts::new();
    for _ in 0..times {
        let counts = once().await?;
        if sums.is_empty() {
            sums = counts;
        } else {
            sums.iter_mut().zip(counts).for_each(|((_, sum), (_, count))| *sum += count);
        }
    }
    Ok(sums)
}

async fn once() -> Result<Counts> {
    let folder = tempfile::tempdir()?;
    let address = |name: &str| format!("unix://{}", folder.path().join(name).display());
    let (mut first, second) = (Part::center(&address("a"), &[]).await?, Part::center(&address("b"), &[]).await?);
    let both = format!("{},{}", first.address, second.address);
    let _providers = [provide(&both).await?, provide(&both).await?];

    let centers = Centers::connect(&both).await?;
    let topics = Topics::new(&centers);
    topics.create(TOPIC).await?;
    let news = Subscription::open(&Centers::connect(&both).await?, TOPIC).await?;
    let heard = tokio::spawn(listen(news));
    let (stop, stopped) = watch::channel(false);
    let published = publish(topics, stopped);
    let load = Load::start(&both, CALLERS).await;

    sleep(HALF).await;
    first.kill().await?;
    sleep(HALF).await;

    let calls = load.stop().await;
    stop.send_replace(true);
    let published = timeout(PATIENCE, published).await.context("publishing does not end")???;
    let (heard, repeats) = timeout(PATIENCE, heard).await.context("the last message does not come")???;
    Ok(vec![
        ("calls made", calls.calls),
        ("calls failed", calls.failed),
        ("messages published", published.acknowledged),
        ("publishes failed", published.failed),
        ("messages received", heard.received),
        ("told to be missing", heard.missing),
        ("gaps of unknown size", heard.unknown),
        ("repeats left out", repeats),
    ])
}

async fn provide(centers: &str) -> Result<(Server, Provider)> {
    let router = methods(&Arc::default());
    let names = router.names();
    let server = Server::builder().router(router).loops(1).listen("127.0.0.1:0").start().await?;
    let provider = Provider::connect(centers).await?.announce(names, server.addresses()).await?;
    Ok((server, provider))
}

/// Publishes one message after the other, until it is told to stop, and then the last one.
fn publish(topics: Topics, stopped: watch::Receiver<bool>) -> JoinHandle<Result<Published>> {
    tokio::spawn(async move {
        let mut published = Published::default();
        while !*stopped.borrow() {
            match topics.publish(TOPIC, &published.acknowledged).await {
                Ok(()) => published.acknowledged += 1,
                Err(_) => published.failed += 1,
            }
        }
        topics.publish(TOPIC, LAST).await?;
        published.acknowledged += 1;
        Ok(published)
    })
}

/// Hears all up to the last message; and how many came a second time and were left out.
async fn listen(mut news: Subscription) -> Result<(Heard, u64)> {
    let mut heard = Heard::default();
    loop {
        match news.next_event().await.context("the subscription has ended")?? {
            Event::Message(message) => {
                heard.received += 1;
                if message.text() == LAST {
                    return Ok((heard, news.repeats()));
                }
            }
            Event::Lagged { from, to } => heard.missing += to - from + 1,
            Event::Resumed { missed: Missed::Exactly(missed) } => heard.missing += missed,
            Event::Resumed { missed: Missed::Unknown } => heard.unknown += 1,
            _ => {}
        }
    }
}
