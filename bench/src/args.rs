//! The command line.
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::plan::Pace;
use crate::quiet::MOST_STRANGERS;
use crate::select::Selector;

/// Measures Callboard and its peers the same way, side by side, and says how they compare.
#[derive(Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Measure ourselves, the raw limit, tarpc with JSON and NATS, in under three minutes
    Quick(RunArgs),
    /// Measure everything, in about three quarters of an hour, and write the report
    Full(RunArgs),
    /// Find out what one center holds: connections, subscribers, methods, and providers that all go
    Capacity(crate::capacity::Args),
    /// Find out what a change costs: this build against that of another checkout, in alternation
    Against(crate::against::Args),
    /// Say which goals the last full run met; the exit code is the number that were not met
    Check {
        /// Judge the last quick run, at what it measured
        #[arg(long)]
        quick: bool,
    },
    /// Write the tables and plots of the last full run into docs/performance.md
    Report,
}

#[derive(Args)]
pub struct RunArgs {
    /// Measure this part only: JOB, PEER, JOB/PEER, or any words of a cell such as calls/16x16/tcp
    #[arg(long, value_delimiter = ',', value_name = "JOB/PEER")]
    pub only: Vec<Selector>,
    /// Runs of every cell
    #[arg(long)]
    runs: Option<u32>,
    /// Seconds that each run is measured for
    #[arg(long)]
    secs: Option<f64>,
    /// Seconds of load before that
    #[arg(long)]
    warm: Option<f64>,
    /// Go on with the last session where it was interrupted
    #[arg(long)]
    pub resume: bool,
    /// CPUs that strangers may take before a run is repeated; beside more than by default no goal is met
    #[arg(long, default_value_t = MOST_STRANGERS)]
    pub max_strangers: f64,
    /// How often a disturbed run is tried
    #[arg(long, default_value_t = 3)]
    pub attempts: u32,
    /// A file to lock while building and while a cell is measured, as others who share the machine do; may be given more than once
    #[arg(long, value_name = "FILE")]
    pub lock: Vec<PathBuf>,
    /// Where the results go, in place of results/quick.json or results/full.json
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Print each measurement as a line of JSON
    #[arg(long)]
    pub json: bool,
}

impl RunArgs {
    /// The plan's pace, as far as the command line does not say otherwise.
    pub fn pace(&self, plan: Pace) -> Pace {
        Pace {
            runs: self.runs.unwrap_or(plan.runs),
            warm: self.warm.unwrap_or(plan.warm),
            secs: self.secs.unwrap_or(plan.secs),
        }
    }
}
