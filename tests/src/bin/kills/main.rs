//! Kills providers, callers and centers (SIGKILL), each at six points of a call, and looks in the ledgers of those who ran
//! the calls, and of those who made them, whether one was begun twice, one was never answered, or a caller was told what is
//! not so. It fails where that is so.
//!
//! It prints a table on a terminal, and a JSON object for each point and victim elsewhere. It needs Linux, whose table of
//! sockets shows where the bytes of a call are.

#![expect(clippy::print_stdout, reason = "its lines are what it is for")]

mod house;
mod ledger;
mod part;
mod roles;
mod sockets;
mod verdict;

use std::io::IsTerminal;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use serde::Serialize;

use crate::house::{House, Plan, Point, Victim};
use crate::roles::Role;
use crate::verdict::Verdict;

/// Kills providers, callers and centers at six points of a call, and looks whether all callers were told the truth
#[derive(Debug, Parser)]
struct Arguments {
    /// How many calls to bring to each point, at least
    #[arg(long, default_value_t = 10_000)]
    calls: usize,
    /// How many kills to spread them over, at least, of all victims together
    #[arg(long, default_value_t = 102)]
    kills: usize,
    /// Only these points
    #[arg(long)]
    point: Vec<Point>,
    /// Only these victims
    #[arg(long)]
    victim: Vec<Victim>,
    /// A JSON object a line on a terminal, too
    #[arg(long)]
    json: bool,
    /// Have the callers repeat calls that may have run: it must be found
    #[arg(long)]
    careless: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Part {
    /// What runs in a process of its own
    #[command(hide = true)]
    Part {
        #[command(subcommand)]
        role: Role,
    },
}

/// A row of the table.
#[derive(Serialize)]
struct Row {
    point: Point,
    victim: Victim,
    #[serde(flatten)]
    verdict: Verdict,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(Part::Part { role }) = arguments.part {
        return role.run().await;
    }
    let for_people = std::io::stdout().is_terminal() && !arguments.json;
    if for_people {
        println!("| {} |", HEAD.join(" | "));
        println!("|{}", " --- |".repeat(HEAD.len()));
    }
    let mut sum = Verdict::default();
    for point in chosen(&arguments.point) {
        for victim in chosen(&arguments.victim) {
            let row = Row { point, victim, verdict: arguments.kill(point, victim).await? };
            println!("{}", if for_people { row.line() } else { serde_json::to_string(&row)? });
            sum += row.verdict;
        }
    }
    ensure!(sum.holds(), "a promise is broken: {sum:?}");
    Ok(())
}

impl Arguments {
    async fn kill(&self, point: Point, victim: Victim) -> Result<Verdict> {
        let kills = self.kills.div_ceil(chosen(&self.victim).len()).max(1);
        let calls = self.calls.div_ceil(chosen(&self.victim).len() * kills).div_ceil(2).max(LEAST);
        let mut sum = Verdict::default();
        for number in 0..kills {
            let plan = Plan { point, victim, calls, races: number % 2 == 1, careless: self.careless };
            sum += House::start(plan).await?.run().await?;
        }
        Ok(sum)
    }
}

impl Row {
    fn line(&self) -> String {
        let Verdict { calls, kills, ok, yes, no, unknown, untold, duplicates, lost, mislabelled } = self.verdict;
        let counts = [calls, kills, ok, yes, no, unknown, untold, duplicates, lost, mislabelled];
        let counts: String = counts.map(|count| format!(" {count} |")).concat();
        let name = |value: Option<clap::builder::PossibleValue>| value.map(|v| v.get_name().replace('-', " "));
        let (point, victim) = (name(self.point.to_possible_value()), name(self.victim.to_possible_value()));
        format!("| {} | {} |{counts}", point.unwrap_or_default(), victim.unwrap_or_default())
    }
}

/// All of them where none was chosen.
fn chosen<T: ValueEnum + Clone>(some: &[T]) -> Vec<T> {
    if some.is_empty() { T::value_variants().to_vec() } else { some.to_vec() }
}

const HEAD: [&str; 12] =
    ["point", "killed", "calls", "kills", "ok", "yes", "no", "unknown", "untold", "duplicates", "lost", "mislabelled"];
/// Calls of a caller in one house: fewer long ones would fit into the sockets.
const LEAST: usize = 50;
