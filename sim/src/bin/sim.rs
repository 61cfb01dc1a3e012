//! Runs simulated houses, one a seed, and says which of them broke a promise.

#![expect(clippy::print_stdout, reason = "its lines are what it is for")]

use std::io::{IsTerminal, Write, stderr, stdout};
use std::panic::set_hook;
use std::time::Instant;

use anyhow::{Context, bail};
use callboard_sim::house::{self, Report};
use callboard_sim::run_seeds;
use clap::Parser;
use tracing_subscriber::EnvFilter;

/// Run simulated houses under faults, one a seed, on all cores, and check what must hold after each
#[derive(Debug, Parser)]
#[command(name = "sim", version)]
struct Arguments {
    /// How many seeds
    #[arg(long, value_name = "N", default_value_t = 1000)]
    seeds: u64,
    /// The first of them
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    from: u64,
    /// Print what happens with the first seed, step by step
    #[arg(long)]
    trace: bool,
    /// With --trace: what to print of the programs' log, for example debug
    #[arg(long, value_name = "FILTER", env = "CALLBOARD_LOG", default_value = "off")]
    log: String,
}

fn main() -> anyhow::Result<()> {
    let Arguments { seeds, from, trace, log } = Arguments::parse();
    if trace {
        let filter = EnvFilter::try_new(&log).with_context(|| format!("--log {log} can't be read"))?;
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_ansi(false).with_writer(stdout).init();
        let report = house::run_heard(from, |line| println!("{line}"));
        println!("seed {from}: {report}");
        return Ok(());
    }
    // What a run panics with is printed below, with its seed.
    set_hook(Box::new(|_| {}));
    let (began, mut all, mut done, mut broken) = (Instant::now(), Report::default(), 0_u64, 0_u64);
    run_seeds(from..from.saturating_add(seeds), house::run, |seed, outcome| {
        done += 1;
        match outcome {
            Ok(report) => all.add(&report),
            Err(why) => {
                broken += 1;
                println!("seed {seed} breaks a promise: {why}");
                println!("    step by step: cargo run --release --bin sim -- --trace --from {seed}");
            }
        }
        if done.is_multiple_of(100) && stderr().is_terminal() {
            // Nothing is lost where nobody sees it.
            let _ = write!(stderr(), "\r{done} of {seeds} seeds, {:.0} a second, {broken} broken ", rate(done, began));
        }
    });
    if stderr().is_terminal() {
        let _ = writeln!(stderr());
    }
    println!("{seeds} seeds from {from}: {:.0} a second; {all}", rate(seeds, began));
    if broken > 0 {
        bail!("a promise was broken with {broken} of {seeds} seeds");
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn rate(seeds: u64, began: Instant) -> f64 {
    seeds as f64 / began.elapsed().as_secs_f64()
}
