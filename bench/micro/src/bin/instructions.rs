//! Counts the instructions of each operation by callgrind, which must be installed (Debian: `valgrind`), and keeps them
//! in `instructions.txt`, so that a change of cost shows in the commit that made it.
//!
//! An operation is run N times and 2 N times, each in a process of its own; the difference is free of what start and
//! preparation take.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use micro::{Operation, operations};

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Count, and write instructions.txt anew
    Record,
    /// Count, and tell what is further off instructions.txt than it may be, most often 2 %; the exit code is 1 if anything is
    Check {
        /// Only operations whose name has this in it
        #[arg(default_value = "")]
        only: String,
    },
    /// Do one operation so many times: what is run under callgrind
    #[command(hide = true)]
    Run { name: String, rounds: u32 },
}

fn main() -> Result<ExitCode> {
    match Args::parse().action {
        Action::Record => record(),
        Action::Check { only } => check(&only),
        Action::Run { name, rounds } => run(&name, rounds),
    }
}

fn run(name: &str, rounds: u32) -> Result<ExitCode> {
    let operation = operations().into_iter().find(|operation| operation.name == name);
    let mut run = operation.with_context(|| format!("no operation {name:?}"))?.prepare();
    (0..rounds).for_each(|_| run());
    // Without taking apart what was made: what lies in hash tables is freed in another order each time.
    std::process::exit(0)
}

fn record() -> Result<ExitCode> {
    let mut text = format!("{ABOUT}# {}\n# {}\n", version("rustc")?, version("valgrind")?);
    for operation in operations() {
        let line = format!("{:>9}  {}\n", count(&operation)?, operation.name);
        eprint!("{line}");
        text += &line;
    }
    std::fs::write(record_file(), text)?;
    Ok(ExitCode::SUCCESS)
}

fn check(only: &str) -> Result<ExitCode> {
    let text = std::fs::read_to_string(record_file())?;
    let rustc = version("rustc")?;
    if !text.contains(&rustc) {
        println!("note: the recorded counts are another compiler's, not {rustc}'s");
    }
    let recorded: BTreeMap<&str, u64> = text.lines().filter_map(recorded).collect();
    let mut changed = 0;
    for operation in operations().iter().filter(|operation| operation.name.contains(only)) {
        let now = count(operation)?;
        let (mark, before) = match recorded.get(operation.name) {
            Some(&before) if before.abs_diff(now) * 100 <= before * operation.tolerance => (' ', before.to_string()),
            Some(before) => ('!', before.to_string()),
            None => ('!', "none".to_owned()),
        };
        changed += u32::from(mark == '!');
        println!("{mark} {:<52} {before:>9} -> {now:>9}", operation.name);
    }
    if changed == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    println!("{changed} changed by more than it may: mend it, or record it with the change that made it");
    Ok(ExitCode::FAILURE)
}

fn recorded(line: &str) -> Option<(&str, u64)> {
    let (count, name) = line.trim_start().split_once("  ")?;
    Some((name, count.parse().ok()?))
}

/// The instructions of one operation, rounded.
fn count(operation: &Operation) -> Result<u64> {
    let rounds = u64::from(operation.rounds);
    let (once, twice) = (collected(operation, operation.rounds)?, collected(operation, 2 * operation.rounds)?);
    Ok((twice.saturating_sub(once) + rounds / 2) / rounds)
}

/// All instructions of a process that does the operation so many times.
fn collected(operation: &Operation, rounds: u32) -> Result<u64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.arg(std::env::current_exe()?).args(["run", operation.name, &rounds.to_string()]);
    let output = command.output().context(VALGRIND)?;
    let told = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{:?} failed under callgrind: {told}", operation.name);
    }
    let collected =
        told.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, count)| count.trim().parse());
    collected.with_context(|| format!("callgrind told no count: {told}"))?.context("callgrind's count")
}

fn version(program: &str) -> Result<String> {
    let output = Command::new(program).arg("--version").output().with_context(|| format!("can't run {program}"))?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn record_file() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "instructions.txt"].iter().collect()
}

const ABOUT: &str = "\
# Instructions of each operation in user space, counted by callgrind. Written by
# `cargo run --release -p micro --bin instructions -- record`, compared by `... -- check`.
";
const VALGRIND: &str = "can't run valgrind: is it installed? (Debian's package is valgrind)";
