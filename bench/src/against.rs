//! What a change costs: this build against that of another checkout, in alternation.
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, ensure};

use crate::cell::{Cell, Transport};
use crate::config::{Config, Peer};
use crate::drivers::Drivers;
use crate::measure::measure;
use crate::plan::{self, FULL, seconds};
use crate::progress::Progress;
use crate::quiet::{Locks, MOST_STRANGERS, Patience, quietest, wait_until_idle};
use crate::results::Sample;
use crate::select::{Selector, selected};
use crate::site::Arena;
use crate::stats::median;
use crate::table::Table;

#[derive(clap::Args)]
pub struct Args {
    /// A checkout of the version to compare with, such as `git worktree add DIR REVISION` makes
    #[arg(value_name = "DIR")]
    tree: PathBuf,
    /// Compare at this part of the full plan only; without it at calls, registrations, discoveries and topics
    #[arg(long, value_delimiter = ',', value_name = "JOB")]
    only: Vec<Selector>,
    /// Pairs of runs of every cell
    #[arg(long, default_value_t = 8)]
    pairs: u32,
    /// How often a cell that seems to cost more than it may is measured in as many pairs again; all of them count
    #[arg(long, default_value_t = 2)]
    again: u32,
    /// Seconds that each run is measured for
    #[arg(long, default_value_t = FULL.secs)]
    secs: f64,
    /// Seconds of load before that
    #[arg(long, default_value_t = FULL.warm)]
    warm: f64,
    /// Percent of throughput or latency that may be lost; the exit code is the number of cells at which more is
    #[arg(long, default_value_t = 5.0)]
    percent: f64,
    /// CPUs that strangers may take before a run is repeated; a pair beside more does not count
    #[arg(long, default_value_t = MOST_STRANGERS)]
    max_strangers: f64,
    /// How often a disturbed run is tried
    #[arg(long, default_value_t = 3)]
    attempts: u32,
    /// A file to lock while building and while a pair is measured, as others who share the machine do; may be given more than once
    #[arg(long, value_name = "FILE")]
    lock: Vec<PathBuf>,
    /// Print each measurement as a line of JSON
    #[arg(long)]
    json: bool,
}

/// What both builds did at a cell, pair by pair.
struct Compared<'a> {
    cell: Cell,
    peer: &'a Peer,
    pairs: Vec<Pair>,
}

struct Pair {
    new: Sample,
    old: Sample,
}

/// Measures both builds, prints a table of how they compare, and fails where the new one costs too much.
pub fn run(home: &Path, args: &Args) -> Result<ExitCode> {
    let other = args.tree.join("bench");
    ensure!(other.join("Cargo.toml").exists(), "{} is no checkout of Callboard: it has no arena", args.tree.display());
    let config = Config::read(home)?;
    let mut compared = cells(&config, &args.only);
    let peers: Vec<_> = compared.iter().map(|each| each.peer).collect();
    ensure!(!peers.is_empty(), "nothing is selected that two builds are compared at");
    let locks = Locks::take(&args.lock)?;
    let (new, old) = (Drivers::build(home, &peers, false)?, Drivers::elsewhere(&other, &peers)?);
    drop(locks);
    let arena = |drivers| Arena { home, config: &config, drivers, warm: args.warm, secs: args.secs };
    let (new, old) = (arena(&new), arena(&old));
    measure_pairs(args, compared.iter_mut().collect(), [&new, &old])?;
    for _ in 0..args.again {
        let dear = compared.iter_mut().filter(|each| matches!(each.fault(args.percent), Some(Fault::Costs(..))));
        measure_pairs(args, dear.collect(), [&new, &old])?;
    }
    Ok(judge(&compared, args.percent))
}

/// Pair by pair, so that a disturbance of minutes spoils one pair of many cells and not all pairs of one.
fn measure_pairs(args: &Args, mut cells: Vec<&mut Compared<'_>>, [new, old]: [&Arena<'_>; 2]) -> Result<()> {
    let progress = Progress::new(2 * u64::from(args.pairs) * cells.len() as u64, args.json);
    for pair in 0..args.pairs {
        for Compared { cell, peer, pairs } in &mut cells {
            let _locks = Locks::take(&args.lock)?;
            wait_until_idle();
            let one = |name, arena| sample(args, &progress, name, arena, peer, cell);
            let (new, old) = if pair.is_multiple_of(2) {
                let old = one("old", old);
                (one("new", new), old)
            } else {
                (one("new", new), one("old", old))
            };
            pairs.push(Pair { new, old });
        }
    }
    progress.finish();
    Ok(())
}

fn sample(args: &Args, progress: &Progress, name: &str, arena: &Arena<'_>, peer: &Peer, cell: &Cell) -> Sample {
    progress.begin(cell, name);
    let arena = Arena { secs: seconds(cell, arena.secs), ..*arena };
    let patience = Patience { attempts: args.attempts, most_strangers: args.max_strangers, ours: true };
    let sample = quietest(patience, wait_until_idle, || measure(&arena, peer, cell));
    progress.end(cell, name, &sample);
    sample
}

/// What a client does all day, unless it is told what.
fn cells<'a>(config: &'a Config, only: &[Selector]) -> Vec<Compared<'a>> {
    let wanted = |cell: &Cell| match cell {
        Cell::Idle { .. } | Cell::Start | Cell::Build => false,
        cell if !only.is_empty() => selected(only, cell, OURS),
        Cell::Calls { method, transport: Transport::Tcp, connections, .. } => {
            method == "add" || (method == "echo1k" && *connections > 1)
        }
        Cell::Registry { connections, .. } => *connections > 1,
        Cell::Topics { rate, .. } => *rate == 0,
        _ => false,
    };
    let cells = plan::full().into_iter().filter(wanted);
    let with_peer = |cell: Cell| {
        let peer = config.peers.iter().find(|peer| peer.name == OURS && peer.measures(&cell))?;
        Some(Compared { cell, peer, pairs: Vec::new() })
    };
    cells.filter_map(with_peer).collect()
}

fn judge(compared: &[Compared<'_>], percent: f64) -> ExitCode {
    let mut table =
        Table::new(["cell", "pairs", "rate", "of single pairs", "p50", "p99", "server's CPU", "clients' CPU"]);
    for each in compared {
        table.row(each.row());
    }
    println!(
        "Medians of the pairs' ratios, new by old; CPU is that of an operation, each driven by its own arena's load.\n\n{table}"
    );
    let faults: Vec<_> = compared.iter().filter_map(|each| Some((&each.cell, each.fault(percent)?))).collect();
    for (cell, fault) in &faults {
        println!("- {cell}: {fault}");
    }
    let strangers = compared.iter().flat_map(|each| &each.pairs).flat_map(|pair| [&pair.new, &pair.old]);
    let strangers = strangers.map(|sample| sample.strangers).fold(0.0, f64::max);
    println!(
        "{} of {} cost more than {percent} %; strangers took {strangers:.2} CPUs at most",
        faults.len(),
        compared.len()
    );
    ExitCode::from(u8::try_from(faults.len()).unwrap_or(u8::MAX))
}

impl Compared<'_> {
    fn quiet(&self) -> impl Iterator<Item = &Pair> {
        self.pairs.iter().filter(|pair| pair.new.quiet && pair.old.quiet)
    }

    /// Of each pair that nobody disturbed, in which both have the figure.
    fn ratios(&self, figure: impl Fn(&Sample) -> Option<f64>) -> Vec<f64> {
        let ratio = |pair: &Pair| Some(figure(&pair.new)? / figure(&pair.old)?);
        self.quiet().filter_map(ratio).filter(|ratio| ratio.is_finite()).collect()
    }

    fn ratio(&self, figure: &str) -> Option<f64> {
        median(self.ratios(|sample| sample.figures.get(figure).copied()))
    }

    fn rates(&self) -> Vec<f64> {
        let (figure, _) = self.cell.headline();
        if !RATES.contains(&figure) {
            return Vec::new();
        }
        self.ratios(|sample| sample.figures.get(figure).copied())
    }

    fn row(&self) -> [String; 8] {
        let rates = self.rates();
        let least = rates.iter().copied().fold(f64::INFINITY, f64::min);
        let most = rates.iter().copied().fold(0.0, f64::max);
        let single = if rates.is_empty() { String::new() } else { format!("{least:.2} to {most:.2}") };
        let clients = median(self.ratios(clients_cpu));
        let text = |ratio: Option<f64>| ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let of = |figure| text(self.ratio(figure));
        let pairs = self.quiet().count().to_string();
        [self.cell.to_string(), pairs, text(median(rates)), single, of(P50), of(P99), of("srv_cpu_100k"), text(clients)]
    }

    /// Why it is not the case that the new build costs no more than so much.
    fn fault(&self, percent: f64) -> Option<Fault> {
        let failed = |(name, sample): (&'static str, &Sample)| Some(Fault::Failed(name, sample.error.clone()?));
        let mut samples = self.pairs.iter().flat_map(|pair| [("new", &pair.new), ("old", &pair.old)]);
        if let Some(failed) = samples.find_map(failed) {
            return Some(failed);
        }
        let lost = |pair: &Pair| pair.new.figures.get("lost").copied().filter(|lost| *lost > 0.0);
        if let Some(lost) = self.pairs.iter().find_map(lost) {
            return Some(Fault::Lost(lost));
        }
        let rate = median(self.rates()).map(|ratio| ("rate", ratio, 1.0 - ratio));
        let late = [P50, P99].map(|figure| self.ratio(figure).map(|ratio| (figure, ratio, ratio - 1.0)));
        let costs: Vec<_> = rate.into_iter().chain(late.into_iter().flatten()).collect();
        let quiet = self.quiet().count();
        if costs.is_empty() || 2 * quiet < self.pairs.len() {
            return Some(Fault::TooFew(quiet));
        }
        let dear = costs.into_iter().find(|(_, _, cost)| 100.0 * cost > percent);
        dear.map(|(figure, ratio, _)| Fault::Costs(figure, ratio))
    }
}

/// What clients or subscribers used for an operation.
fn clients_cpu(sample: &Sample) -> Option<f64> {
    let of = |figure: &str| sample.figures.get(figure).copied();
    of("sub_cpu_s").and_then(|cpu| Some(cpu / of("delivered_s")?)).or_else(|| of("cli_cpu_100k"))
}

#[derive(Debug, PartialEq)]
enum Fault {
    Costs(&'static str, f64),
    Failed(&'static str, String),
    Lost(f64),
    TooFew(usize),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Costs(figure, ratio) => write!(f, "{figure} is {ratio:.2} of what it was"),
            Self::Failed(build, error) => write!(f, "the {build} build failed: {error}"),
            Self::Lost(count) => write!(f, "the new build lost {count} messages in a run"),
            Self::TooFew(quiet) => write!(f, "{quiet} pairs were quiet, so that nothing is known"),
        }
    }
}

const OURS: &str = "callboard";
const P50: &str = "p50_us";
const P99: &str = "p99_us";
/// Of these more is better.
const RATES: [&str; 2] = ["rps", "delivered_s"];

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(figures: &[(&str, f64)]) -> Sample {
        let figures = figures.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
        Sample { figures, quiet: true, ..Sample::default() }
    }

    fn names(only: &[&str]) -> Vec<String> {
        let home = Path::new(env!("CARGO_MANIFEST_DIR"));
        let only: Vec<_> = only.iter().map(|text| text.parse().unwrap()).collect();
        cells(&Config::read(home).unwrap(), &only).iter().map(|each| each.cell.to_string()).collect()
    }

    #[test]
    fn by_default_clients_do_what_they_do_all_day() {
        let default = names(&[]);
        for cell in ["calls/add/1x1/tcp", "calls/echo1k/16x16/tcp", "registry/register/16x16", "topics/100/64/full"] {
            assert!(default.contains(&cell.to_owned()), "{cell}");
        }
        assert!(!default.iter().any(|cell| cell.contains("unix") || cell.contains("idle") || cell == "start"));
        assert_eq!(names(&["grow-subscribers/1000"]), ["grow-subscribers/1000"]);
        assert!(names(&["start", "idle"]).is_empty());
    }

    #[test]
    fn what_costs_more_than_it_may_is_a_fault() {
        let config = Config::read(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        let base = [("rps", 100.0), (P50, 50.0), (P99, 80.0)];
        let rows = [
            (base, None),
            ([("rps", 96.0), (P50, 52.0), (P99, 83.0)], None),
            ([("rps", 200.0), (P50, 20.0), (P99, 40.0)], None),
            ([("rps", 90.0), (P50, 50.0), (P99, 80.0)], Some(Fault::Costs("rate", 0.9))),
            ([("rps", 100.0), (P50, 55.0), (P99, 80.0)], Some(Fault::Costs(P50, 1.1))),
            ([("rps", 100.0), (P50, 50.0), (P99, 120.0)], Some(Fault::Costs(P99, 1.5))),
        ];
        for (new, expected) in rows {
            let mut compared = cells(&config, &["calls/add/1x1/tcp".parse().unwrap()]).remove(0);
            compared.pairs.push(Pair { new: sample(&new), old: sample(&base) });
            assert_eq!(compared.fault(5.0), expected, "{new:?}");
            // A pair that was disturbed says nothing, and where most were, nothing is known.
            let loud = Sample { quiet: false, ..sample(&[("rps", 1.0), (P50, 1e6), (P99, 1e6)]) };
            compared.pairs.push(Pair { new: loud.clone(), old: sample(&base) });
            assert_eq!(compared.fault(5.0), expected, "{new:?}");
            compared.pairs.push(Pair { new: loud.clone(), old: sample(&base) });
            assert_eq!(compared.fault(5.0), Some(Fault::TooFew(1)));
            let error = Some("2 calls failed".to_owned());
            compared.pairs.push(Pair { new: sample(&base), old: Sample { error, ..sample(&base) } });
            assert_eq!(compared.fault(5.0), Some(Fault::Failed("old", "2 calls failed".into())));
        }
    }

    #[test]
    fn the_median_of_the_pairs_counts_and_their_range_is_told() {
        let config = Config::read(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        let mut compared = cells(&config, &["topics/10/64/full".parse().unwrap()]).remove(0);
        for (new, cpu) in [(0.8, 3.0), (0.98, 2.0), (1.1, 2.0)] {
            let [new, old] =
                [(new, cpu * new), (1.0, 1.0)].map(|(rate, cpu)| sample(&[("delivered_s", rate), ("sub_cpu_s", cpu)]));
            compared.pairs.push(Pair { new, old });
        }
        assert_eq!(compared.row(), ["topics/10/64/full", "3", "0.98", "0.80 to 1.10", "", "", "", "2.00"]);
        assert_eq!(compared.fault(5.0), None);
        assert_eq!(compared.fault(1.0), Some(Fault::Costs("rate", 0.98)));
        compared
            .pairs
            .push(Pair { new: sample(&[("delivered_s", 1.0), ("lost", 7.0)]), old: sample(&[("lost", 9.0)]) });
        assert_eq!(compared.fault(5.0), Some(Fault::Lost(7.0)));
    }
}
