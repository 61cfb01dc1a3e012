//! Runs simulated houses, one a seed, and says which of them broke a promise.

#![expect(clippy::print_stdout, reason = "its lines are what it is for")]

use std::io::{IsTerminal, Write, stderr};
use std::panic::catch_unwind;
use std::time::Instant;

use anyhow::bail;
use callboard_sim::house::{self, Report};
use clap::Parser;

/// Run simulated houses under faults, one a seed, and check what must hold after each
#[derive(Debug, Parser)]
#[command(name = "sim", version)]
struct Arguments {
    /// How many seeds
    #[arg(long, value_name = "N", default_value_t = 1000)]
    seeds: u64,
    /// The first of them
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    from: u64,
    /// Print what happened, step by step; with one seed
    #[arg(long)]
    trace: bool,
}

fn main() -> anyhow::Result<()> {
    let Arguments { seeds, from, trace } = Arguments::parse();
    if trace {
        let report = house::run_heard(from, |line| println!("{line}"));
        println!("seed {from}: {report}");
        return Ok(());
    }
    let (began, mut all, mut broken) = (Instant::now(), Report::default(), Vec::new());
    for seed in from..from.saturating_add(seeds) {
        match catch_unwind(|| house::run(seed)) {
            Ok(report) => all.add(&report),
            Err(_) => broken.push(seed),
        }
        let done = seed - from + 1;
        if done % 100 == 0 && stderr().is_terminal() {
            let rate = rate(done, began);
            // Nothing is lost where nobody sees it.
            let _ = write!(stderr(), "\r{done} of {seeds} seeds, {rate:.0} a second, {} broken ", broken.len());
        }
    }
    println!("{seeds} seeds from {from}: {:.0} a second; {all}", rate(seeds, began));
    if !broken.is_empty() {
        bail!("a promise was broken with {} of them: {broken:?}; see one with --trace --from SEED", broken.len());
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn rate(seeds: u64, began: Instant) -> f64 {
    seeds as f64 / began.elapsed().as_secs_f64()
}
