//! What one center holds: idle connections, subscribers of a topic, registered methods, and providers that all go at once.
//!
//! Each scenario has a fresh center of its own, which is the product's binary with its default settings, and peers in
//! several processes (`bench/peers/callboard/src/crowd`).
mod crowd;
mod departure;
mod idle;
mod methods;
mod outcome;
mod plots;
mod section;
mod stage;
mod topic;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};

use self::outcome::Outcome;
use self::stage::Stage;
use crate::config::Config;
use crate::drivers::Drivers;
use crate::quiet::{Locks, wait_until_idle};

/// What to find out, and how much of it.
#[derive(clap::Args)]
pub struct Args {
    /// These scenarios only
    #[arg(long, value_delimiter = ',', default_values_t = Scenario::value_variants().to_vec())]
    only: Vec<Scenario>,
    /// Idle connections; default: as many as the limit of open files allows less 1,000, and 100,000 at most
    #[arg(long, value_name = "N")]
    connections: Option<u32>,
    /// Subscribers of one topic
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    subscribers: u32,
    /// Registered methods
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    methods: u32,
    /// Providers that go at once
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    providers: u32,
    /// Watchers of theirs
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    watchers: u32,
    /// Run nothing, and write the section again from the last results
    #[arg(long)]
    report: bool,
    /// A file to lock during each scenario, as others who share the machine do; may be given more than once
    #[arg(long, value_name = "FILE")]
    lock: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Scenario {
    /// Idle connections: connecting, memory, requests beside and over them
    Idle,
    /// One topic with many subscribers
    Topic,
    /// A full registry
    Methods,
    /// Providers that all go at once, and their watchers
    Departure,
}

impl std::fmt::Display for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", clap::builder::PossibleValue::get_name))
    }
}

/// Runs the scenarios, and puts what came out into `results/capacity.json` and `docs/performance.md`.
pub fn run(home: &Path, args: &Args) -> Result<ExitCode> {
    let results = home.join("results/capacity.json");
    let mut outcome = Outcome::read(&results)?;
    if !args.report {
        run_all(home, args, &mut outcome, &results)?;
    }
    section::write(home, &outcome)?;
    print!("{}", section::markdown(&outcome));
    Ok(if outcome.losses() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_all(home: &Path, args: &Args, outcome: &mut Outcome, results: &Path) -> Result<()> {
    let config = Config::read(home)?;
    let driver = config.peers.iter().find(|peer| peer.bin == DRIVER).context("peers.toml has no Callboard")?;
    let drivers = Drivers::build(home, &[driver], true)?;
    let bar = bar(args.only.len());
    for scenario in &args.only {
        let _locks = Locks::take(&args.lock)?;
        wait_until_idle();
        scenario.run(args, &Stage::new(home, &drivers, &bar), outcome)?;
        outcome.write(results)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

impl Scenario {
    fn run(self, args: &Args, stage: &Stage<'_>, outcome: &mut Outcome) -> Result<()> {
        match self {
            Self::Idle => outcome.idle = Some(idle::run(stage, args.connections, most_connections()?)?),
            Self::Topic => outcome.topic = Some(topic::run(stage, args.subscribers)?),
            Self::Methods => outcome.methods = Some(methods::run(stage, args.methods)?),
            Self::Departure => outcome.departure = Some(departure::run(stage, args.providers, args.watchers)?),
        }
        Ok(())
    }
}

/// As many as the limit of open files allows, less what a center needs beside them.
fn most_connections() -> Result<u32> {
    let (_, files) = rlimit::getrlimit(rlimit::Resource::NOFILE)?;
    ensure!(files > 2 * RESERVE, "the limit of open files is {files}; raise it (ulimit -n)");
    Ok(u32::try_from(files - RESERVE).unwrap_or(u32::MAX).min(MOST))
}

fn bar(scenarios: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:16} {pos}/{len}  {elapsed}  {msg}");
    ProgressBar::new(scenarios as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

const DRIVER: &str = "peer-callboard";
/// Files that a center has open beside its connections, by far.
const RESERVE: u64 = 1_000;
const MOST: u32 = 100_000;
