//! Providers of one method that all go at once: how long it takes until every watcher knows.
use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::outcome::About;
use super::stage::{Stage, ms_between};

#[derive(Deserialize, Serialize)]
pub struct Departure {
    pub about: About,
    pub providers: u32,
    pub watchers: u32,
    /// MiB that the center used before, and at most.
    pub memory: [f64; 2],
    /// When each watcher knew of all, in ms after the providers went; in order.
    pub known_ms: Vec<f64>,
    /// Notices that were not heard.
    pub lost: u64,
}

#[derive(Deserialize)]
struct Gone {
    gone_ns: u64,
}

#[derive(Deserialize)]
struct Heard {
    heard: u64,
    done_ns: Vec<u64>,
}

pub fn run(stage: &Stage<'_>, providers: u32, watchers: u32) -> Result<Departure> {
    let center = stage.center()?;
    let mut leaving = center.crowd("provide", providers, "", 0)?;
    let mut watching = center.crowd("watchers", watchers, &format!("providers={providers}"), 0)?;
    let before = center.memory()?;
    stage.say(format!("{providers} providers go"));
    leaving.tell()?;
    let Gone { gone_ns } = leaving.told()?;
    let Heard { heard, done_ns } = watching.told()?;
    Ok(Departure {
        about: stage.about(),
        providers,
        watchers,
        memory: [before, center.peak_memory()?],
        known_ms: done_ns.into_iter().map(|done| ms_between(gone_ns, done)).collect(),
        lost: (u64::from(providers) * u64::from(watchers)).abs_diff(heard),
    })
}

impl Departure {
    /// When so much of the watchers knew, in ms.
    pub fn known_ms(&self, part: f64) -> f64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "there are a few thousand watchers"
        )]
        let index = (self.known_ms.len() as f64 * part) as usize;
        let last = self.known_ms.len().saturating_sub(1);
        self.known_ms.get(index.min(last)).copied().unwrap_or_default()
    }
}
