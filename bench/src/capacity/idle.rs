//! As many idle connections as may be.
use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::crowd::{Crowd, Held};
use super::outcome::About;
use super::stage::{Center, Load, Speed, Stage, compare};

#[derive(Deserialize, Serialize)]
pub struct Idle {
    pub about: About,
    pub connections: u32,
    /// Processes that hold them, each from an address of its own.
    pub processes: u32,
    pub connect_secs: f64,
    /// Connections, and MiB that the center uses with them.
    pub memory: Vec<(u32, f64)>,
    pub alone: Figures,
    pub beside: Figures,
    /// How long it took until each of them had made a request and got its answer.
    pub ask_all_secs: f64,
    pub lost: u64,
}

/// Requests of one connection after the other, and of many at once.
#[derive(Default, Deserialize, Serialize)]
pub struct Figures {
    pub one: Speed,
    pub many: Speed,
}

#[derive(Deserialize)]
struct Asked {
    answered: u32,
}

pub fn run(stage: &Stage<'_>, connections: u32) -> Result<Idle> {
    let (empty, full) = (stage.center()?, stage.center()?);
    let mut idle = Idle::new(stage, connections);
    let mut crowds = idle.connect(&full)?;
    for (load, pick) in [(ONE, Figures::one as Pick), (MANY, Figures::many)] {
        let (alone, beside) = compare(stage, (&empty, load), (&full, load))?;
        *pick(&mut idle.alone) = alone;
        *pick(&mut idle.beside) = beside;
    }
    stage.say("a request over each connection");
    idle.ask_all(&mut crowds)?;
    for crowd in crowds {
        let Held { held, lost } = crowd.end()?;
        idle.lost += lost + u64::from(PER_PROCESS.min(connections)).saturating_sub(held).min(0);
    }
    Ok(idle)
}
