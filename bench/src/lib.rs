//! The arena: measures Callboard and its peers, and says how they compare. `README.md` has the commands.
mod against;
mod args;
mod capacity;
mod cell;
mod config;
mod drivers;
mod goals;
mod machine;
mod measure;
mod plan;
mod plots;
mod process;
mod progress;
mod quiet;
mod report;
mod results;
mod run;
mod select;
mod site;
mod start;
mod stats;
mod summary;
mod table;
mod trial;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

use crate::args::{Cli, Command, RunArgs};
use crate::cell::Cell;
use crate::goals::Capacity;
use crate::results::Document;
use crate::run::{Plan, run};

pub use crate::trial::trial;

/// Does what the command line says.
pub fn main() -> Result<ExitCode> {
    rlimit::increase_nofile_limit(u64::MAX)?;
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    match Cli::parse().command {
        Command::Quick(args) => quick(home, &args),
        Command::Full(args) => full(home, &args),
        Command::Capacity(args) => capacity::run(home, &args),
        Command::Against(args) => against::run(home, &args),
        Command::Check { quick } => Ok(check(home, quick)),
        Command::Report => {
            report(home, &Document::read(&kept(home, "full"))?)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn quick(home: &Path, args: &RunArgs) -> Result<ExitCode> {
    let results = args.out.clone().unwrap_or_else(|| kept(home, "quick"));
    let plan = Plan {
        name: "quick",
        cells: plan::quick(),
        pace: args.pace(plan::QUICK),
        quick_peers: true,
        once: plan::once_in_quick,
        again: false,
        results,
    };
    let document = run(home, &plan, args)?;
    print!("{}", summary::markdown(&document, 2));
    Ok(outcome(&document))
}

fn full(home: &Path, args: &RunArgs) -> Result<ExitCode> {
    let document = run(home, &full_plan(home, args), args)?;
    print!("{}", summary::markdown(&document, 2));
    // Results that were put elsewhere are not what the page is about.
    if args.out.is_none() {
        report(home, &document)?;
    }
    Ok(outcome(&document))
}

fn full_plan(home: &Path, args: &RunArgs) -> Plan {
    let mut cells = plan::full();
    // It takes minutes, so it is left out unless it is asked for.
    if select::named(&args.only, Cell::Build.job()) {
        cells.push(Cell::Build);
    }
    let results = args.out.clone().unwrap_or_else(|| kept(home, "full"));
    Plan {
        name: "full",
        cells,
        pace: args.pace(plan::FULL),
        quick_peers: false,
        once: plan::once,
        again: true,
        results,
    }
}

/// Says last what failed. A peer that fails is no failure of the run, but one of ours is.
fn outcome(document: &Document) -> ExitCode {
    let failures = document.failures();
    if !failures.is_empty() {
        eprintln!("\nFAILED at {} of the cells:", failures.len());
    }
    for (row, error) in &failures {
        eprintln!("- {} at {}: {error}", row.peer, row.cell);
    }
    if failures.iter().any(|(row, _)| row.ours()) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn check(home: &Path, quick: bool) -> ExitCode {
    let document = match Document::read(&kept(home, if quick { "quick" } else { "full" })) {
        Ok(document) => document,
        Err(error) => {
            eprintln!("nothing to judge: {error:#}");
            return ExitCode::from(u8::MAX);
        }
    };
    let capacity = Capacity::read(home);
    let goals = goals::judge(&document, &capacity, quick);
    let missed = goals::missed(&goals);
    for commit in goals::commits(&document, &capacity) {
        println!("- commit {commit}");
    }
    println!("\n{}", goals::table(&goals));
    for gap in goals::gaps(&goals) {
        println!("- {gap}");
    }
    println!("\n{missed} of {} not met", goals.len());
    ExitCode::from(u8::try_from(missed).unwrap_or(u8::MAX))
}

fn report(home: &Path, document: &Document) -> Result<()> {
    report::write(home, document, &goals::judge(document, &Capacity::read(home), false))?;
    eprintln!("docs/performance.md is written anew");
    Ok(())
}

/// Where the results of a plan are kept.
fn kept(home: &Path, plan: &str) -> PathBuf {
    home.join("results").join(plan).with_extension("json")
}
