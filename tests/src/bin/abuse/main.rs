//! Attacks a center, each time in another way and mostly with 1,000 connections, beside normal clients, and looks what these
//! notice of it and how much memory the center takes.
//!
//! It fails where memory passes its bound, or a normal client is told an error or disconnected. It prints a table on a
//! terminal, and a JSON object for each attack elsewhere. It needs Linux, which says what a process takes.

#![expect(clippy::print_stdout, reason = "its lines are what it is for")]

mod attack;
mod cores;
mod figures;
mod frames;
mod memory;
mod normal;
mod process;
mod row;
mod still;
mod target;

use std::io::{IsTerminal, Write, stderr, stdout};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use callboard_tests::WatchedCenter;
use clap::{Parser, Subcommand, ValueEnum};
use tokio::time::{Instant, sleep};

use crate::attack::{Attack, Done};
use crate::cores::Cores;
use crate::figures::Figures;
use crate::process::{Part, Turn};
use crate::row::{Bounds, Row};
use crate::target::{Taken, Target};

/// That of the program `callboard`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Attacks a center beside normal clients, and looks what these notice of it and how much memory it takes
#[derive(Debug, Parser)]
struct Arguments {
    /// Only these attacks
    #[arg(long)]
    attack: Vec<Attack>,
    /// Hostile connections of each attack
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    /// How long each attack lasts, in ms
    #[arg(long, default_value_t = 10_000)]
    attack_ms: u64,
    /// How long it is quiet before and after it, in ms
    #[arg(long, default_value_t = 5000)]
    quiet_ms: u64,
    /// Operations of each kind that normal clients do in a second
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// The program callboard, to be attacked in place of a center that is embedded here
    #[arg(long)]
    program: Option<PathBuf>,
    /// How much memory the center may take, in MiB; the default is what its default settings permit
    #[arg(long)]
    memory_mib: Option<u64>,
    /// It fails where an operation in a hundred takes longer than this beside an attack, in ms
    #[arg(long)]
    delay_ms: Option<f64>,
    /// And where it takes longer than so many times what it takes when it is quiet
    #[arg(long)]
    ratio: Option<f64>,
    /// An attack during which the machine stood still so often, since others share it, that more than a fourth of what
    /// normal clients did had to be left out is made again, so many times in all; that counts of which least was left out
    #[arg(long, default_value_t = 1)]
    tries: u32,
    /// Normal clients and attackers get their turns from the kernel as everybody does: where the machine is busy with other
    /// things, and delays mean nothing
    #[arg(long)]
    busy: bool,
    /// A JSON object a line on a terminal, too
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    part: Option<Command>,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// What runs in a process of its own
    #[command(hide = true)]
    Part {
        #[command(subcommand)]
        role: Role,
    },
}

#[derive(Clone, Debug, Subcommand)]
enum Role {
    Normal { center: String, rate: u32, cores: Vec<usize> },
    Attack { center: String, attack: Attack, connections: usize },
    Hold { bytes: usize },
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(WatchedCenter::be_center_if_asked())?;
    let arguments = Arguments::parse();
    match arguments.part {
        Some(Command::Part { role: Role::Normal { center, rate, cores } }) => normal::run(&center, rate, &cores),
        Some(Command::Part { role: Role::Attack { center, attack, connections } }) => {
            runtime.block_on(attack::run(&center, attack, connections))
        }
        Some(Command::Part { role: Role::Hold { bytes } }) => memory::hold(bytes),
        None => runtime.block_on(arguments.attack_all()),
    }
}

impl Arguments {
    async fn attack_all(&self) -> Result<()> {
        let for_people = stdout().is_terminal() && !self.json;
        if for_people {
            println!("{}", Row::HEAD);
        }
        let attacks = if self.attack.is_empty() { Attack::value_variants() } else { &self.attack };
        let bounds = Bounds::new(self.memory_mib, self.delay_ms, self.ratio);
        let cores = Cores::divide(!self.busy)?;
        let mut broken = Vec::new();
        for (number, attack) in attacks.iter().enumerate() {
            let progress = Progress { attack: *attack, number, of: attacks.len(), for_people };
            let mut best: Option<Row> = None;
            for _ in 0..self.tries.max(1) {
                let row = self.attack_once(*attack, &bounds, &cores, &progress).await?;
                broken.extend(row.broken(&bounds));
                best = Some(best.filter(|best| best.left_out() <= row.left_out()).unwrap_or(row));
                if best.as_ref().is_some_and(|best| best.left_out() <= LEFT_OUT) {
                    break;
                }
            }
            progress.clear();
            if let Some(row) = best {
                println!("{}", if for_people { row.line() } else { serde_json::to_string(&row)? });
                broken.extend(row.late(&bounds));
            }
        }
        ensure!(broken.is_empty(), "promises are broken: {}", broken.join("; "));
        Ok(())
    }

    async fn attack_once(&self, attack: Attack, bounds: &Bounds, cores: &Cores, progress: &Progress) -> Result<Row> {
        let held = if self.busy { None } else { Some(cores.with_hostile(|| memory::holder(bounds.memory()))?) };
        let target = Target::start(self.program.as_deref()).await?;
        let center = target.address().to_owned();
        let mut normal = vec!["normal".to_owned(), center.clone(), self.rate.to_string()];
        let turn = if self.busy { Turn::Equal } else { Turn::First };
        // Who has to wait for a core as everybody does can't tell why it waits.
        let is_watched = turn.is_permitted();
        if is_watched {
            normal.extend(cores.each().iter().map(usize::to_string));
        }
        let mut normal = Part::start(turn, &normal)?;
        normal.line().await?;
        let held = memory::is_held(held).await?;
        let quiet = Duration::from_millis(self.quiet_ms);
        watch(&target, quiet / 5, "warming up", progress).await?;
        let connections = attack.connections(self.connections);
        let name = attack.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let turn = if self.busy || cores.are_divided() { Turn::Equal } else { Turn::Last };
        let hostile = ["attack".to_owned(), center, name, connections.to_string()];
        let mut hostile = cores.with_hostile(|| Part::start(turn, &hostile))?;
        hostile.line().await?;
        // As many connections as beside the attack, but idle.
        normal.say("quiet").await?;
        let times = cores.times()?;
        let before = watch(&target, quiet, "quiet", progress).await?;
        let quiet_times = cores.times()?;
        normal.say("memory is given back").await?;
        memory::let_go(held).await?;
        let times_before = cores.times()?;
        normal.say("attack").await?;
        hostile.say("attack").await?;
        let during = watch(&target, Duration::from_millis(self.attack_ms), "attack", progress).await?;
        let attacked_times = cores.times()?;
        normal.say("quiet").await?;
        let done: Done = hostile.end().await?;
        watch(&target, quiet, "quiet", progress).await?;
        let after = target.taken()?;
        let figures: Vec<Figures> = normal.end().await?;
        let [_, mut quiet, between, attacked, later] = <[Figures; figures::PHASES]>::try_from(figures)
            .map_err(|figures| anyhow::anyhow!("{} phases", figures.len()))?;
        // Of that phase no time counts, but nobody may be harmed in it either.
        quiet.errors += between.errors;
        quiet.disconnects += between.disconnects;
        Ok(Row {
            attack,
            connections,
            is_watched,
            done,
            quiet_memory: before.last.memory,
            peak_memory: after.peak,
            later_memory: after.memory,
            cores: during.cores,
            stolen: quiet_times.stolen_since(times).max(attacked_times.stolen_since(times_before)),
            quiet,
            attacked,
            later,
            counted: target.stop().await?,
        })
    }
}

/// What a phase took.
struct Watched {
    last: Taken,
    /// How many cores were busy with the center.
    cores: f64,
}

/// Waits, and shows how far it has come.
async fn watch(target: &Target, time: Duration, phase: &str, progress: &Progress) -> Result<Watched> {
    let (began, first) = (Instant::now(), target.taken()?);
    while began.elapsed() < time {
        sleep(LOOK.min(time.saturating_sub(began.elapsed()))).await;
        progress.show(phase, began.elapsed().as_secs_f64() / time.as_secs_f64(), target.taken()?.memory);
    }
    let last = target.taken()?;
    Ok(Watched { last, cores: (last.cores - first.cores) / began.elapsed().as_secs_f64() })
}

struct Progress {
    attack: Attack,
    number: usize,
    of: usize,
    for_people: bool,
}

impl Progress {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of twenty")]
    fn show(&self, phase: &str, part: f64, memory: u64) {
        if !self.for_people {
            return;
        }
        let bar = "#".repeat((part.min(1.0) * 20.0) as usize);
        let (number, mib) = (self.number + 1, memory >> 20);
        eprint!("\r\x1b[K{number}/{} {:?}: {phase:10} [{bar:20}] {mib} MiB", self.of, self.attack);
        let _ = stderr().flush();
    }

    fn clear(&self) {
        if self.for_people {
            eprint!("\r\x1b[K");
        }
    }
}

const LOOK: Duration = Duration::from_millis(100);
/// Of the rest there is enough to tell how long one in a hundred takes.
const LEFT_OUT: f64 = 0.25;
