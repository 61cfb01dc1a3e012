//! One publisher: `--mode messages=N`, `--rate` a second, or 0 for as fast as may be; each has its number.
use std::time::{Duration, Instant};

use anyhow::Result;
use callboard::{Client, Topics};
use load::{Opt, now_ns};
use serde::{Deserialize, Serialize};

use crate::mode::Mode;

pub const TOPIC: &str = "capacity";

/// A message of some 64 bytes.
#[derive(Serialize, Deserialize)]
pub struct Numbered {
    pub number: usize,
    pub text: String,
}

pub async fn run(opt: Opt) -> Result<()> {
    let begun = Instant::now();
    let client = Client::connect(&super::address(&opt)).await?;
    let topics = Topics::new(&client);
    super::tell_ready(begun)?;
    let messages = Mode::of(&opt).value("messages", 1)?;
    let sent_ns =
        if opt.rate == 0 { at_once(&topics, messages).await? } else { paced(&topics, messages, opt.rate).await? };
    super::tell(&serde_json::json!({ "sent_ns": sent_ns }))?;
    // What it has sent may wait to be read, so it stays until it is ended.
    while super::commands().recv().await.is_some() {}
    Ok(())
}

/// Each after its time has come and the center has taken the one before.
async fn paced(topics: &Topics, messages: usize, rate: u64) -> Result<Vec<u64>> {
    let mut due = tokio::time::interval(Duration::from_secs(1).div_f64(rate as f64));
    let mut sent_ns = Vec::new();
    for number in 0..messages {
        due.tick().await;
        sent_ns.push(now_ns());
        topics.publish(TOPIC, &Numbered::new(number)).await?;
    }
    Ok(sent_ns)
}

/// As fast as they are taken.
async fn at_once(topics: &Topics, messages: usize) -> Result<Vec<u64>> {
    let mut sent_ns = Vec::new();
    for number in 0..messages {
        sent_ns.push(now_ns());
        topics.publish_unacknowledged(TOPIC, &Numbered::new(number)).await?;
    }
    Ok(sent_ns)
}

impl Numbered {
    fn new(number: usize) -> Self {
        Self { number, text: load::payload(32) }
    }
}
