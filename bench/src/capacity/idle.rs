//! As many idle connections as may be: connecting, memory, and requests beside and over them.
use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::crowd::{Crowd, Held};
use super::outcome::About;
use super::stage::{Center, Load, Speed, Stage, compare};

#[derive(Deserialize, Serialize)]
pub struct Idle {
    pub about: About,
    pub connections: u32,
    /// As many as the limit of open files allowed, less what a center needs beside them; a file of before has none.
    #[serde(default)]
    pub wanted: Option<u32>,
    /// Processes that hold them, each from an address of its own.
    pub processes: usize,
    pub connect_secs: f64,
    /// Connections, and MiB that the center uses with them.
    pub memory: Vec<(u32, f64)>,
    /// Requests to a center without them, and to this one.
    pub one: Compared,
    pub many: Compared,
    /// How long it took until each of them had made a request and got its answer.
    pub ask_all_secs: f64,
    pub lost: u64,
}

#[derive(Deserialize, Serialize)]
pub struct Compared {
    pub alone: Speed,
    pub beside: Speed,
}

#[derive(Deserialize)]
struct Asked {
    secs: f64,
}

/// With `connections`, or as many as are `wanted`.
pub fn run(stage: &Stage<'_>, connections: Option<u32>, wanted: u32) -> Result<Idle> {
    let connections = connections.unwrap_or(wanted);
    let (empty, full) = (stage.center()?, stage.center()?);
    let mut memory = vec![(0, full.memory()?)];
    let mut crowds = connect(&full, connections, &mut memory)?;
    let beside = |load| {
        let (alone, beside) = compare(stage, (&empty, load), (&full, load))?;
        anyhow::Ok(Compared { alone, beside })
    };
    let (one, many) = (beside(ONE)?, beside(MANY)?);
    stage.say("a request over each connection");
    let ask_all_secs = ask_all(&mut crowds)?;
    Ok(Idle {
        about: stage.about(),
        connections,
        wanted: Some(wanted),
        processes: crowds.len(),
        connect_secs: crowds.iter().map(|crowd| crowd.secs).sum(),
        memory,
        one,
        many,
        ask_all_secs,
        lost: end(crowds, connections)?,
    })
}

/// One process after the other, so that the center's memory can be seen to grow.
fn connect(center: &Center<'_>, connections: u32, memory: &mut Vec<(u32, f64)>) -> Result<Vec<Crowd>> {
    let mut crowds = Vec::new();
    let mut connected = 0;
    while connected < connections {
        let more = PER_PROCESS.min(connections - connected);
        let address = crowds.len() + 2;
        ensure!(address < 255, "too many processes");
        crowds.push(center.crowd("hold", more, &format!("from=127.0.0.{address}"), 0)?);
        connected += more;
        memory.push((connected, center.memory()?));
    }
    Ok(crowds)
}

fn ask_all(crowds: &mut [Crowd]) -> Result<f64> {
    let mut secs = 0.0;
    for crowd in crowds {
        crowd.tell()?;
        secs += crowd.told::<Asked>()?.secs;
    }
    Ok(secs)
}

/// Connections that the center did not keep.
fn end(crowds: Vec<Crowd>, connections: u32) -> Result<u64> {
    let mut kept = 0;
    for crowd in crowds {
        let Held { held, lost } = crowd.end()?;
        kept += held - lost;
    }
    Ok(u64::from(connections) - kept)
}

impl Idle {
    /// Bytes of the center's memory that each connection takes.
    pub fn bytes_each(&self) -> f64 {
        let (Some(first), Some(last)) = (self.memory.first(), self.memory.last()) else { return 0.0 };
        (last.1 - first.1) * 1_048_576.0 / f64::from(self.connections)
    }
}

const ONE: Load = Load { connections: 1, outstanding: 1, methods: 0 };
const MANY: Load = Load { connections: 16, outstanding: 16, methods: 0 };
/// Connections that one process holds: few enough that each process has ports to spare.
const PER_PROCESS: u32 = 5_000;
