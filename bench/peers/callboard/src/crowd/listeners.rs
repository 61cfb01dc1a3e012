//! Subscribers, `--conns` of them, each on its own connection, of the topic that `publish` publishes to.
//! `--mode messages=N`: done when all have heard N messages.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use anyhow::Result;
use callboard::{Client, Subscription, Topics};
use load::{Opt, now_ns};

use super::publish::{Numbered, TOPIC};
use crate::mode::Mode;

/// What became of one message.
#[derive(Default)]
struct Fate {
    received: AtomicU64,
    last_ns: AtomicU64,
}

pub async fn run(opt: Opt) -> Result<()> {
    let begun = Instant::now();
    let (address, messages) = (super::address(&opt), Mode::of(&opt).value("messages", 1)?);
    Topics::new(&Client::connect(&address).await?).create(TOPIC).await?;
    let subscriptions = super::make(opt.conns, |_| subscribe(address.clone())).await?;
    let fates: Arc<[Fate]> = (0..messages).map(|_| Fate::default()).collect();
    for subscription in subscriptions {
        tokio::spawn(listen(subscription, Arc::clone(&fates)));
    }
    super::tell_ready(begun)?;
    let each = |what: fn(&Fate) -> &AtomicU64| fates.iter().map(|fate| what(fate).load(Relaxed)).collect::<Vec<_>>();
    let all = (messages * opt.conns) as u64;
    super::complete(all, || each(|fate| &fate.received).iter().sum()).await;
    let (received, last_ns) = (each(|fate| &fate.received), each(|fate| &fate.last_ns));
    super::tell(&serde_json::json!({ "received": received, "last_ns": last_ns }))
}

async fn subscribe(address: String) -> Result<Subscription> {
    Ok(Subscription::open(&Client::connect(&address).await?, TOPIC).await?)
}

async fn listen(mut news: Subscription, fates: Arc<[Fate]>) {
    while let Some(Ok(message)) = news.next().await {
        let Ok(message) = message.json::<Numbered>() else { continue };
        if let Some(fate) = fates.get(message.number) {
            fate.received.fetch_add(1, Relaxed);
            fate.last_ns.fetch_max(now_ns(), Relaxed);
        }
    }
}
