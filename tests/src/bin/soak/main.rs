//! A soak: clients come to a center, register, call, publish, subscribe and crash, for half an hour or as long as is said;
//! meanwhile it is looked at the center's memory, descriptors and tables. It fails where memory grows by more than 10 %
//! after the first minute (or third, of a shorter run), where anything is left after the last client, or where the clients
//! can't do what they come for.
//!
//! It prints a line now and then on a terminal, and a JSON object a second elsewhere.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its lines are what it is for")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod calls;
mod churn;
mod plot;
mod samples;
mod steady;
mod tally;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use callboard_tests::{Look, Tables, WatchedCenter};
use clap::Parser;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::churn::Churn;
use crate::samples::{Sample, Verdict};
use crate::steady::Steady;
use crate::tally::Count;

/// That of the program `callboard`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Lets clients come and go at a center, and looks whether it keeps anything of them
#[derive(Debug, Parser)]
struct Arguments {
    /// For how long, in s
    #[arg(long, default_value_t = 1800)]
    seconds: u64,
    /// Clients at a time
    #[arg(long, default_value_t = 24)]
    clients: u64,
    /// What the clients do follows from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// By what factor the center's memory may grow after the first minute, or third of a shorter run
    #[arg(long, default_value_t = 1.1)]
    growth: f64,
    /// Where to draw the course of it, as an SVG
    #[arg(long)]
    plot: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    WatchedCenter::be_center_if_asked().await?;
    churn::be_doomed_if_asked().await?;
    let arguments = Arguments::parse();
    callboard_net::raise_open_files()?;
    let mut center = WatchedCenter::start(&[]).await?;
    let before = center.look().await?;
    let steady = Steady::start(&center.unix).await?;
    let samples = soak(&arguments, &mut center).await?;
    let at_providers = steady.stop().await?;
    let after = empty(&mut center, before).await?;
    center.stop().await?;
    let verdict = Verdict::new(before, &samples, (after, at_providers))?;
    tell(&verdict)?;
    if let Some(path) = &arguments.plot {
        std::fs::write(path, plot::draw(&samples, &verdict)?).with_context(|| path.display().to_string())?;
    }
    verdict.check(arguments.growth)
}

async fn soak(arguments: &Arguments, center: &mut WatchedCenter) -> Result<Vec<Sample>> {
    let for_people = std::io::stdout().is_terminal();
    let churn = Churn::start(&center.tcp, &center.unix, arguments.clients, arguments.seed);
    let (began, until) = (Instant::now(), Duration::from_secs(arguments.seconds));
    let mut samples = Vec::new();
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while began.elapsed() < until {
        seconds.tick().await;
        let look = center.look().await?;
        let sample = Sample { seconds: began.elapsed().as_secs_f64(), look, done: churn.done() };
        if !for_people {
            println!("{}", serde_json::to_string(&sample)?);
        } else if samples.len() % EVERY == 0 {
            println!("{}", line(&sample));
        }
        samples.push(sample);
    }
    let (done, failures) = churn.stop().await?;
    for (times, told) in failures.iter().take(FAILURES) {
        eprintln!("{times:7} {told}");
    }
    if let Some(last) = samples.last_mut() {
        // What was under way has ended.
        last.done = done;
    }
    Ok(samples)
}

fn line(sample: &Sample) -> String {
    let Sample { seconds, look, done } = sample;
    format!(
        "{seconds:5.0} s  {:6.1} MiB  {:4} descriptors  {:4} connections  {:7} clients  {:9} published",
        look.memory as f64 / 1024.0 / 1024.0,
        look.descriptors,
        look.tables.connections,
        done.lives,
        done.published,
    )
}

/// Removes the topics, waits until nothing is left, or for so long that it never will be; gives what is left.
async fn empty(center: &mut WatchedCenter, before: Look) -> Result<Look> {
    churn::remove_topics(&center.unix).await?;
    let gone = async {
        loop {
            let look = center.look().await?;
            if look.tables == Tables::default() && look.descriptors <= before.descriptors {
                return Ok(look);
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    match timeout(PATIENCE, gone).await {
        Ok(look) => look,
        Err(_) => center.look().await,
    }
}

fn tell(verdict: &Verdict) -> Result<()> {
    if !std::io::stdout().is_terminal() {
        println!("{}", serde_json::to_string(verdict)?);
        return Ok(());
    }
    let mib = |bytes: f64| bytes / 1024.0 / 1024.0;
    let Verdict { settled_at, settled_memory, last_memory, growth, descriptors: [before, after], left, .. } = verdict;
    println!(
        "| memory after {settled_at:.0} s | memory at the end | growth | descriptors before, after | tables after |"
    );
    println!("| --- | --- | --- | --- | --- |");
    let left = if *left == Tables::default() { "empty".to_owned() } else { format!("{left:?}") };
    let (settled, last) = (mib(*settled_memory), mib(*last_memory));
    println!("| {settled:.1} MiB | {last:.1} MiB | {growth:.3} | {before}, {after} | {left} |\n");
    println!(
        "{} clients; {} published, {} received",
        verdict.done.lives, verdict.done.published, verdict.done.received
    );
    println!("{:?}\n", verdict.at_providers);
    println!("| to | succeeded | found nobody | failed | wrong | succeeded of those that found somebody | at least |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for (kind, name, bound, count) in verdict.done.kinds.iter() {
        let Count { good, nobody, failed, wrong } = count;
        println!("| {name} | {good} | {nobody} | {failed} | {wrong} | {:.2} % | {bound} % |", count.share(kind));
    }
    Ok(())
}

/// Looks between two lines for people.
const EVERY: usize = 10;
/// So many kinds of failures are told.
const FAILURES: usize = 60;
/// Longer than a caller is taken for alive that says nothing.
const PATIENCE: Duration = Duration::from_mins(1);
