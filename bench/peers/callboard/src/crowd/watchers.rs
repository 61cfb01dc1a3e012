//! Watchers, `--conns` of them, of the method that `provide` shares: each hears of every provider that goes.
//! `--mode providers=N`: done when all have heard that N went.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use anyhow::Result;
use callboard::{Client, Discovery, Notices};
use futures::StreamExt;
use load::{Opt, now_ns};

use super::provide::METHOD;
use crate::mode::Mode;

/// What one watcher has heard.
#[derive(Default)]
struct Heard {
    offline: AtomicU64,
    missed: AtomicU64,
    last_ns: AtomicU64,
}

pub async fn run(opt: Opt) -> Result<()> {
    let begun = Instant::now();
    let (address, providers) = (super::address(&opt), Mode::of(&opt).value("providers", 1u64)?);
    let watchers = super::make(opt.conns, |_| watch(address.clone(), providers)).await?;
    let (mut kept, mut all) = (Vec::new(), Vec::new());
    for (discovery, notices) in watchers {
        let heard = Arc::new(Heard::default());
        tokio::spawn(listen(notices, Arc::clone(&heard)));
        kept.push(discovery);
        all.push(heard);
    }
    super::tell_ready(begun)?;
    let sum = |count: fn(&Heard) -> &AtomicU64| all.iter().map(|heard| count(heard).load(Relaxed)).sum::<u64>();
    super::complete(providers * opt.conns as u64, || sum(|heard| &heard.offline)).await;
    let mut done_ns: Vec<u64> = all.iter().map(|heard| heard.last_ns.load(Relaxed)).collect();
    done_ns.sort_unstable();
    let (heard, missed) = (sum(|heard| &heard.offline), sum(|heard| &heard.missed));
    super::tell(&serde_json::json!({ "heard": heard, "missed": missed, "done_ns": done_ns }))
}

async fn watch(address: String, providers: u64) -> Result<(Discovery, Notices)> {
    let discovery = Discovery::new(&Client::connect(&address).await?);
    let notices = discovery.notices();
    load::check(discovery.hosts(METHOD).await?.len() as u64 == providers)?;
    Ok((discovery, notices))
}

async fn listen(mut notices: Notices, heard: Arc<Heard>) {
    while let Some(notice) = notices.next().await {
        if !notice.online {
            heard.offline.fetch_add(1, Relaxed);
            heard.last_ns.store(now_ns(), Relaxed);
        }
        heard.missed.store(notices.missed(), Relaxed);
    }
}
