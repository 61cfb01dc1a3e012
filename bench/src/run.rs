//! Runs a plan: interleaved, on a quiet machine, saved as it goes.
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Result, ensure};

use crate::args::RunArgs;
use crate::cell::Cell;
use crate::config::{Config, Peer};
use crate::drivers::{CENTER, Drivers, Missing, missing};
use crate::machine::{Machine, commit, versions};
use crate::measure::measure;
use crate::plan::{Pace, seconds};
use crate::progress::Progress;
use crate::quiet::{Locks, Patience, quietest, wait_until_idle};
use crate::results::{Document, Session, is_ours};
use crate::select::selected;
use crate::site::Arena;

/// Which cells, how long, and where the results go.
pub struct Plan {
    pub name: &'static str,
    pub cells: Vec<Cell>,
    pub pace: Pace,
    pub quick_peers: bool,
    /// What one run is enough for.
    pub once: fn(&Cell) -> bool,
    /// Whether what was disturbed is measured once more at the end.
    pub again: bool,
    pub results: PathBuf,
}

/// A cell in one run, with all who are measured at it one after another.
struct Round<'a> {
    run: u32,
    cell: &'a Cell,
    peers: Vec<&'a Peer>,
}

/// Measures a plan and returns all results, those of earlier sessions among them.
pub fn run(home: &Path, plan: &Plan, args: &RunArgs) -> Result<Document> {
    let config = Config::read(home)?;
    let missing = missing(&config);
    for Missing { broker, package } in &missing {
        eprintln!("{broker} is not installed (Debian package {package}): not measured");
    }
    let rounds = rounds(&config, plan, args, &missing);
    ensure!(!rounds.is_empty(), "nothing is selected");
    let commit = commit(home);
    // Others who share the machine would measure our compiler.
    let locks = Locks::take(&args.lock)?;
    let drivers = build(home, &rounds)?;
    drop(locks);
    let mut document = Document::kept(&plan.results)?;
    let resumed = if args.resume { document.resumed(&commit, plan.pace)? } else { None };
    let session = match resumed {
        Some(last) => last,
        None => document.begin(session(home, plan, &config, commit, missing)?),
    };
    let Pace { warm, secs, .. } = plan.pace;
    let arena = Arena { home, config: &config, drivers: &drivers, warm, secs };
    let all: usize = rounds.iter().map(|round| round.peers.len()).sum();
    let progress = Progress::new(all as u64, args.json);
    let mut course = Course { arena, plan, args, session, document, progress };
    for round in &rounds {
        course.go(round)?;
    }
    if plan.again {
        for round in &rounds {
            course.again(round)?;
        }
    }
    course.progress.finish();
    Ok(course.document)
}

/// A plan on its way.
struct Course<'a> {
    arena: Arena<'a>,
    plan: &'a Plan,
    args: &'a RunArgs,
    session: usize,
    document: Document,
    progress: Progress,
}

impl Course<'_> {
    /// Measures all of a round, but those that were measured before an interruption.
    fn go(&mut self, round: &Round<'_>) -> Result<()> {
        let left = |peer: &&Peer| !self.document.has(round.cell, &peer.name, self.session, round.run);
        let peers: Vec<_> = round.peers.iter().copied().filter(left).collect();
        self.progress.skip(round.peers.len() - peers.len());
        self.measure(round, &peers)
    }

    /// Measures once more what was disturbed: what disturbed it may be over by now.
    fn again(&mut self, round: &Round<'_>) -> Result<()> {
        let disturbed =
            |peer: &&Peer| self.document.disturbed(round.cell, &peer.name, self.session, round.run).is_some();
        let peers: Vec<_> = round.peers.iter().copied().filter(disturbed).collect();
        self.progress.more(peers.len());
        self.measure(round, &peers)
    }

    /// Measures peers one after another, and keeps what is quieter than what there was.
    fn measure(&mut self, round: &Round<'_>, peers: &[&Peer]) -> Result<()> {
        if peers.is_empty() {
            return Ok(());
        }
        let (cell, &RunArgs { attempts, max_strangers: most_strangers, .. }) = (round.cell, self.args);
        let _locks = Locks::take(&self.args.lock)?;
        wait_until_idle();
        let arena = Arena { secs: seconds(cell, self.arena.secs), ..self.arena };
        for peer in peers {
            self.progress.begin(cell, &peer.name);
            let ours = is_ours(&peer.name);
            let patience = Patience { attempts, most_strangers, ours };
            let mut sample = quietest(patience, wait_until_idle, || measure(&arena, peer, cell));
            sample.run = round.run;
            self.progress.end(cell, &peer.name, &sample);
            if let Some(disturbed) = self.document.disturbed(cell, &peer.name, self.session, round.run) {
                sample = sample.or_disturbed(disturbed, ours);
            }
            self.document.add(cell, &peer.name, self.session, sample);
        }
        self.document.write(&self.plan.results)
    }
}

/// Run by run, so that a disturbance of minutes spoils one run of many cells and not all runs of one.
fn rounds<'a>(config: &'a Config, plan: &'a Plan, args: &RunArgs, missing: &[Missing]) -> Vec<Round<'a>> {
    let absent = |peer: &Peer| missing.iter().any(|missing| peer.broker.as_ref() == Some(&missing.broker));
    let wanted = |cell: &Cell, peer: &Peer| {
        (peer.quick || !plan.quick_peers)
            && peer.measures(cell)
            && !absent(peer)
            && selected(&args.only, cell, &peer.name)
    };
    let mut rounds = Vec::new();
    for run in 0..plan.pace.runs {
        for cell in plan.cells.iter().filter(|cell| run == 0 || !(plan.once)(cell)) {
            let peers: Vec<_> = config.peers.iter().filter(|peer| wanted(cell, peer)).collect();
            if !peers.is_empty() {
                rounds.push(Round { run, cell, peers });
            }
        }
    }
    rounds
}

fn build(home: &Path, rounds: &[Round<'_>]) -> Result<Drivers> {
    let mut peers: Vec<&Peer> = rounds.iter().flat_map(|round| &round.peers).copied().collect();
    peers.retain(|peer| peer.bin != CENTER);
    Drivers::build(home, &peers, rounds.iter().any(|round| *round.cell == Cell::Start))
}

fn session(home: &Path, plan: &Plan, config: &Config, commit: String, missing: Vec<Missing>) -> Result<Session> {
    let Pace { runs, warm, secs } = plan.pace;
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    Ok(Session {
        date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        command: if arguments.is_empty() { plan.name.into() } else { without_locks(&arguments) },
        commit,
        runs,
        warm,
        secs,
        machine: Machine::of_this_process(),
        versions: versions(home, config)?,
        missing,
    })
}

/// The command as others would repeat it: whom we took turns with is of no interest to them.
fn without_locks(arguments: &[String]) -> String {
    let mut words = Vec::new();
    let mut left = arguments.iter();
    while let Some(word) = left.next() {
        if word == "--lock" {
            left.next();
        } else if !word.starts_with("--lock=") {
            words.push(word.as_str());
        }
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn planned(arguments: &[&str]) -> Vec<String> {
        let home = Path::new(env!("CARGO_MANIFEST_DIR"));
        let Command::Full(args) = Cli::parse_from(["arena", "full"].iter().chain(arguments)).command else { panic!() };
        let (config, plan) = (Config::read(home).unwrap(), crate::full_plan(home, &args));
        let rounds = rounds(&config, &plan, &args, &[]);
        let names =
            rounds.iter().flat_map(|round| round.peers.iter().map(|peer| format!("{} {}", round.cell, peer.name)));
        names.collect()
    }

    #[test]
    fn a_build_is_measured_only_if_it_is_asked_for() {
        let build = "build callboard";
        assert_eq!(planned(&["--only", "build"]), [build]);
        assert!(planned(&["--only", "start,build"]).iter().any(|name| name == build));
        for arguments in [&[][..], &["--only", "callboard"]] {
            assert!(!planned(arguments).iter().any(|name| name == build), "{arguments:?}");
        }
    }

    #[test]
    fn locks_are_left_out_of_the_command() {
        let arguments = ["full", "--lock", "/a", "--only", "topics", "--lock=/b"].map(String::from);
        assert_eq!(without_locks(&arguments), "full --only topics");
    }
}
