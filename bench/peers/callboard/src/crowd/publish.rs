//! One publisher: `--mode messages=N`, `--rate` a second, each told apart by its number.
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
    let mut due = tokio::time::interval(Duration::from_secs(1).div_f64(opt.rate.max(1) as f64));
    let mut sent_ns = Vec::new();
    for number in 0..Mode::of(&opt).value("messages", 1)? {
        due.tick().await;
        sent_ns.push(now_ns());
        topics.publish(TOPIC, &Numbered { number, text: load::payload(32) }).await?;
    }
    super::tell(&serde_json::json!({ "sent_ns": sent_ns }))
}
