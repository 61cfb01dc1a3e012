//! Runs a plan: interleaved, on a quiet machine, saved as it goes.
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Result, ensure};

use crate::args::RunArgs;
use crate::cell::Cell;
use crate::config::{Config, Peer};
use crate::drivers::{CENTER, Drivers, missing};
use crate::machine::{Machine, commit, versions};
use crate::measure::measure;
use crate::plan::Pace;
use crate::progress::Progress;
use crate::quiet::{Locks, quietest, wait_until_idle};
use crate::results::{Document, Session};
use crate::select::selected;
use crate::site::Arena;

/// Which cells, how long, and where the results go.
pub struct Plan {
    pub name: &'static str,
    pub cells: Vec<Cell>,
    pub pace: Pace,
    pub quick_peers: bool,
    pub results: PathBuf,
}

/// Measures a plan and returns all results, those of earlier sessions among them.
pub fn run(home: &Path, plan: &Plan, args: &RunArgs) -> Result<Document> {
    let config = Config::read(home)?;
    let missing = missing(&config);
    for broker in &missing {
        eprintln!("{} is not installed (Debian package {}): not measured", broker.broker, broker.package);
    }
    let absent = |peer: &Peer| peer.broker.as_ref().is_some_and(|name| missing.iter().any(|m| m.broker == *name));
    let work = work(&config, plan, args, absent);
    ensure!(!work.is_empty(), "nothing is selected");

    let mut peers: Vec<&Peer> = work.iter().flat_map(|(_, peers)| peers).copied().collect();
    peers.retain(|peer| peer.bin != CENTER);
    let drivers = Drivers::build(home, &peers, work.iter().any(|(cell, _)| matches!(cell, Cell::Start)))?;

    let mut document = Document::read(&plan.results).unwrap_or_default();
    let session = if args.resume && !document.sessions.is_empty() {
        document.sessions.len() - 1
    } else {
        document.begin(Session {
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            command: command_line(plan.name, args),
            commit: commit(home),
            runs: plan.pace.runs,
            warm: plan.pace.warm,
            secs: plan.pace.secs,
            machine: Machine::of_this_process(),
            versions: versions(home, &config)?,
            missing,
        })
    };
    let Pace { runs, warm, secs } = plan.pace;
    let arena = Arena { home, config: &config, drivers: &drivers, warm, secs };
    let each_run: usize = work.iter().map(|(_, peers)| peers.len()).sum();
    let progress = Progress::new(u64::from(runs) * each_run as u64, args.json);
    for run in 0..runs {
        for (cell, peers) in &work {
            let left: Vec<_> = peers.iter().filter(|peer| !document.has(cell, &peer.name, session, run)).collect();
            (left.len()..peers.len()).for_each(|_| progress.skip());
            if left.is_empty() {
                continue;
            }
            let _locks = Locks::take(&args.lock)?;
            wait_until_idle();
            for peer in left {
                progress.begin(cell, &peer.name);
                let mut sample =
                    quietest(args.attempts, args.max_strangers, wait_until_idle, || measure(&arena, peer, cell));
                sample.run = run;
                progress.end(cell, &peer.name, &sample);
                document.add(cell, &peer.name, session, sample);
            }
            document.write(&plan.results)?;
        }
    }
    progress.finish();
    Ok(document)
}

/// The cells in order, each with its peers in order.
fn work<'a>(
    config: &'a Config,
    plan: &Plan,
    args: &RunArgs,
    absent: impl Fn(&Peer) -> bool,
) -> Vec<(Cell, Vec<&'a Peer>)> {
    let peers = |cell: &Cell| {
        let wanted = |peer: &&Peer| {
            (peer.quick || !plan.quick_peers)
                && peer.measures(cell)
                && !absent(peer)
                && selected(&args.only, cell, &peer.name)
        };
        config.peers.iter().filter(wanted).collect::<Vec<_>>()
    };
    let cells = plan.cells.iter().map(|cell| (cell.clone(), peers(cell)));
    cells.filter(|(_, peers)| !peers.is_empty()).collect()
}

fn command_line(name: &str, args: &RunArgs) -> String {
    let arguments: Vec<_> = std::env::args().skip(2).collect();
    let _ = args;
    [&[name.to_owned()], arguments.as_slice()].concat().join(" ")
}
