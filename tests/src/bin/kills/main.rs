//! Kills providers, callers and centers (SIGKILL), each at six points of a call, and looks in the ledgers of those who ran
//! the calls, and of those who made them, whether one was begun twice, one was never answered, or a caller was told what is
//! not so. It fails where that is so.
//!
//! It prints a table on a terminal, and a JSON object for each point and victim elsewhere. It needs Linux, whose table of
//! sockets shows where the bytes of a call are.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its lines are what it is for")]

mod calls;
mod house;
mod ledger;
mod part;
mod plan;
mod roles;
mod sockets;
mod verdict;
mod work;

use std::io::IsTerminal;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use serde::Serialize;

use crate::house::House;
use crate::plan::{Plan, Point, Victim, Way};
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
    /// Only calls of these ways; else of all of them in turn
    #[arg(long)]
    way: Vec<Way>,
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

/// A row of a table: of a point and a victim, or of a way.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    of: Of,
    #[serde(flatten)]
    verdict: Verdict,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Of {
    Kill { point: Point, victim: Victim },
    Way { way: Way },
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(Part::Part { role }) = arguments.part {
        return role.run().await;
    }
    let for_people = std::io::stdout().is_terminal() && !arguments.json;
    let say = |row: Row| -> Result<()> {
        println!("{}", if for_people { row.line() } else { serde_json::to_string(&row)? });
        Ok(())
    };
    head(for_people, ["point", "killed"].as_slice());
    let mut ways: Vec<_> = chosen(&arguments.way).into_iter().map(|way| (way, Verdict::default())).collect();
    let (mut number, mut sum) = (0, Verdict::default());
    for point in chosen(&arguments.point) {
        for victim in chosen(&arguments.victim) {
            let mut verdict = Verdict::default();
            for _ in 0..arguments.kills_each() {
                let turn = number % ways.len();
                let (way, of_way) = ways.get_mut(turn).context("there is a way")?;
                // Each way races every other time.
                let races = (number / chosen(&arguments.way).len()) % 2 == 1;
                let (way, calls, careless) = (*way, arguments.calls_each(), arguments.careless);
                let plan = Plan { point, victim, way, calls, races, careless };
                let of_kill = House::start(plan).await?.run().await?;
                if !of_kill.holds() {
                    eprintln!("a promise is broken in {plan:?}: {of_kill:?}");
                }
                verdict += of_kill;
                *of_way += of_kill;
                number += 1;
            }
            say(Row { of: Of::Kill { point, victim }, verdict })?;
            sum += verdict;
        }
    }
    head(for_people, ["calls that are"].as_slice());
    for (way, verdict) in ways {
        say(Row { of: Of::Way { way }, verdict })?;
    }
    ensure!(sum.holds(), "a promise is broken: {sum:?}");
    Ok(())
}

impl Arguments {
    /// Of each victim at each point.
    fn kills_each(&self) -> usize {
        self.kills.div_ceil(chosen(&self.victim).len()).max(1)
    }

    /// Of each caller, before each kill.
    fn calls_each(&self) -> usize {
        self.calls.div_ceil(chosen(&self.victim).len() * self.kills_each()).div_ceil(2).max(LEAST)
    }
}

impl Row {
    fn line(&self) -> String {
        let Verdict {
            calls,
            kills,
            repeats,
            ok,
            yes,
            no,
            unknown,
            untold,
            given_up,
            duplicates,
            lost,
            mislabelled,
            cut,
        } = self.verdict;
        let counts =
            [calls, kills, repeats, ok, yes, no, unknown, untold, given_up, duplicates, lost, mislabelled, cut];
        let counts: String = counts.map(|count| format!(" {count} |")).concat();
        let of = match &self.of {
            Of::Kill { point, victim } => format!("{} | {}", words(point), words(victim)),
            Of::Way { way } => words(way),
        };
        format!("| {of} |{counts}")
    }
}

fn words(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().replace('-', " ")).unwrap_or_default()
}

fn head(for_people: bool, first: &[&str]) {
    if for_people {
        let head: Vec<_> = first.iter().chain(&HEAD).copied().collect();
        println!("\n| {} |\n|{}", head.join(" | "), " --- |".repeat(head.len()));
    }
}

/// All of them where none was chosen.
fn chosen<T: ValueEnum + Clone>(some: &[T]) -> Vec<T> {
    if some.is_empty() { T::value_variants().to_vec() } else { some.to_vec() }
}

const HEAD: [&str; 13] = [
    "calls",
    "kills",
    "made again",
    "ok",
    "yes",
    "no",
    "unknown",
    "untold",
    "given up",
    "duplicates",
    "lost",
    "mislabelled",
    "cut",
];
/// Calls of a caller in one house: fewer long ones would fit into the sockets.
const LEAST: usize = 50;
