//! A registry with many methods: registering them, memory, and asking for them.
use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::crowd::Held;
use super::outcome::About;
use super::stage::{Load, Speed, Stage, compare};

#[derive(Deserialize, Serialize)]
#[expect(clippy::struct_field_names, reason = "it is what they are called in the results")]
pub struct Methods {
    pub about: About,
    pub methods: u32,
    /// Connections that register them: one may register 10,000.
    pub connections: u32,
    pub register_secs: f64,
    /// MiB that the center used without them, with them, and when they had been taken back.
    pub memory: [f64; 3],
    /// Requests, 16 x 16, to a center with 100 methods, and to this one, for any of its methods.
    pub few: Speed,
    pub full: Speed,
    pub lost: u64,
}

pub fn run(stage: &Stage<'_>, methods: u32) -> Result<Methods> {
    let (small, center) = (stage.center()?, stage.center()?);
    let connections = methods.div_ceil(PER_CONNECTION);
    let without = center.memory()?;
    let providers = center.crowd("provide", connections, &format!("methods={methods}"), 0)?;
    let register_secs = providers.secs;
    let with = center.memory()?;
    let few = Load { connections: 16, outstanding: 16, methods: 0 };
    let (few, full) = compare(stage, (&small, few), (&center, Load { methods, ..few }))?;
    let Held { held, lost } = providers.end()?;
    let lost = lost + (u64::from(connections) - held);
    let memory = [without, with, center.memory()?];
    Ok(Methods { about: stage.about(), methods, connections, register_secs, memory, few, full, lost })
}

impl Methods {
    /// Bytes of the center's memory that each method takes.
    pub fn bytes_each(&self) -> f64 {
        let [without, with, _] = self.memory;
        (with - without) * 1_048_576.0 / f64::from(self.methods)
    }
}

/// What a center lets one connection register by default.
const PER_CONNECTION: u32 = 10_000;
