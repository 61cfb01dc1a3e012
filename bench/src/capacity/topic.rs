//! One topic with many subscribers: how long a message takes to reach all of them.
use std::iter::zip;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::crowd::Crowd;
use super::outcome::About;
use super::stage::{Center, Stage, ms_between};
use crate::stats::median;

#[derive(Deserialize, Serialize)]
pub struct Topic {
    pub about: About,
    pub subscribers: u32,
    pub subscribe_secs: f64,
    /// MiB that the center used without them, with them, and at most.
    pub memory: [f64; 3],
    /// From before each publish until the last subscriber had it, in ms.
    pub to_all_ms: Vec<f64>,
    pub lost: u64,
    /// As fast as the center lets the publisher.
    pub delivered_per_second: f64,
    pub lost_at_full_speed: u64,
}

#[derive(Deserialize)]
struct Sent {
    sent_ns: Vec<u64>,
}

/// For each message, how many received it, and when the last of them did.
#[derive(Deserialize)]
struct Heard {
    received: Vec<u64>,
    last_ns: Vec<u64>,
}

pub fn run(stage: &Stage<'_>, subscribers: u32) -> Result<Topic> {
    let center = stage.center()?;
    let without = center.memory()?;
    let crowds = subscribe(&center, subscribers, PACED)?;
    let subscribe_secs = crowds.iter().map(|crowd| crowd.secs).sum();
    let with = center.memory()?;
    let (sent, heard) = publish(&center, crowds, PACED, RATE)?;
    let to_all_ms = zip(&sent.sent_ns, &heard.last_ns).map(|(sent, last)| ms_between(*sent, *last)).collect();
    let lost = heard.lost(subscribers, PACED);

    let crowds = subscribe(&center, subscribers, FAST)?;
    let (sent, heard) = publish(&center, crowds, FAST, 0)?;
    let (begun, ended) = (sent.sent_ns.first().copied(), heard.last_ns.iter().max().copied());
    let ms = ms_between(begun.unwrap_or(0), ended.unwrap_or(0));
    let memory = [without, with, center.peak_memory()?];
    let delivered_per_second = f64::from(subscribers) * f64::from(FAST) / ms * 1e3;
    let lost_at_full_speed = heard.lost(subscribers, FAST);
    let about = stage.about();
    Ok(Topic { about, subscribers, subscribe_secs, memory, to_all_ms, lost, delivered_per_second, lost_at_full_speed })
}

fn subscribe(center: &Center<'_>, subscribers: u32, messages: u32) -> Result<Vec<Crowd>> {
    let mode = format!("messages={messages}");
    let share = subscribers.div_ceil(PROCESSES);
    let shares = (0..PROCESSES).map(|process| share.min(subscribers.saturating_sub(process * share)));
    shares.map(|share| center.crowd("listeners", share, &mode, 0)).collect()
}

fn publish(center: &Center<'_>, crowds: Vec<Crowd>, messages: u32, rate: u32) -> Result<(Sent, Heard)> {
    let mut publisher = center.crowd("publish", 1, &format!("messages={messages}"), rate)?;
    let sent: Sent = publisher.told()?;
    let mut all = Heard { received: Vec::new(), last_ns: Vec::new() };
    for mut crowd in crowds {
        all = all.and(&crowd.told()?);
    }
    Ok((sent, all))
}

impl Heard {
    /// What two crowds have heard.
    fn and(self, other: &Self) -> Self {
        if self.received.is_empty() {
            return Self { received: other.received.clone(), last_ns: other.last_ns.clone() };
        }
        Self {
            received: zip(&self.received, &other.received).map(|(one, other)| one + other).collect(),
            last_ns: zip(&self.last_ns, &other.last_ns).map(|(one, other)| *one.max(other)).collect(),
        }
    }

    fn lost(&self, subscribers: u32, messages: u32) -> u64 {
        (u64::from(subscribers) * u64::from(messages)).abs_diff(self.received.iter().sum())
    }
}

impl Topic {
    pub fn median_ms(&self) -> f64 {
        median(self.to_all_ms.iter().copied()).unwrap_or_default()
    }

    pub fn longest_ms(&self) -> f64 {
        self.to_all_ms.iter().copied().fold(0.0, f64::max)
    }
}

/// Processes that the subscribers are shared out to.
const PROCESSES: u32 = 4;
/// Messages that go out one by one, so many a second, and as fast as may be.
const PACED: u32 = 30;
const RATE: u32 = 3;
const FAST: u32 = 100;
