//! What came out, as `results/capacity.json` keeps it.
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::departure::Departure;
use super::idle::Idle;
use super::methods::Methods;
use super::topic::Topic;
use crate::machine::Machine;

/// The last outcome of each scenario.
#[derive(Default, Deserialize, Serialize)]
pub struct Outcome {
    pub idle: Option<Idle>,
    pub topic: Option<Topic>,
    pub methods: Option<Methods>,
    pub departure: Option<Departure>,
}

/// When and on what a scenario was run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct About {
    pub date: String,
    pub commit: String,
    pub machine: Machine,
}

impl Outcome {
    /// What earlier commands found; nothing if there was none.
    pub fn read(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Ok(Self::default());
        }
        serde_json::from_str(&fs::read_to_string(path)?).with_context(|| path.display().to_string())
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        fs::create_dir_all(path.parent().context("no directory")?)?;
        Ok(fs::write(path, serde_json::to_string_pretty(self)? + "\n")?)
    }

    /// Connections, messages and notices that should not have been lost.
    pub fn losses(&self) -> u64 {
        let lost = [
            self.idle.as_ref().map(|idle| idle.lost),
            self.topic.as_ref().map(|topic| topic.lost + topic.lost_at_full_speed),
            self.methods.as_ref().map(|methods| methods.lost),
            self.departure.as_ref().map(|departure| departure.lost),
        ];
        lost.into_iter().flatten().sum()
    }
}
