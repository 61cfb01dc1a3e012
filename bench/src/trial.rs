//! Whether a driver does what `etc/peers.toml` says of it, at each job and over each transport.
use std::path::Path;

use anyhow::{Result, ensure};

use crate::cell::{Cell, Growth};
use crate::config::{Config, Peer};
use crate::drivers::{Drivers, missing};
use crate::measure::measure;
use crate::plan;
use crate::site::Arena;

/// Has the driver `bin`, whose binary is at `path`, do each kind of work of its rows for an instant, and returns what
/// failed. Rows whose broker is not installed are passed over.
///
/// # Errors
/// If `etc/peers.toml` can't be read, or has no row of this driver.
pub fn trial(bin: &str, path: &Path) -> Result<Vec<String>> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (config, drivers) = (Config::read(home)?, Drivers::built(bin, path));
    let absent = missing(&config);
    let arena = Arena { home, config: &config, drivers: &drivers, warm: 0.05, secs: 0.2 };
    let rows: Vec<_> = config.peers.iter().filter(|peer| peer.bin == bin).collect();
    ensure!(!rows.is_empty(), "no row of {bin}");
    let able = |peer: &Peer| !absent.iter().any(|missing| peer.broker.as_ref() == Some(&missing.broker));
    let mut failed = Vec::new();
    for peer in rows.into_iter().filter(|peer| able(peer)) {
        for cell in cells(peer) {
            if let Err(error) = attempt(&arena, peer, &cell) {
                failed.push(format!("{} at {cell}: {error:#}", peer.name));
            }
        }
    }
    Ok(failed)
}

fn attempt(arena: &Arena<'_>, peer: &Peer, cell: &Cell) -> Result<()> {
    let sample = measure(arena, peer, cell)?;
    ensure!(sample.error.is_none(), "{}", sample.error.unwrap_or_default());
    let (figure, _) = cell.headline();
    let value = sample.figures.get(figure);
    // The memory of a few connections may well lie in pages that the server had before.
    let enough = |value: f64| value > 0.0 || matches!(cell, Cell::Idle { .. });
    ensure!(value.is_some_and(|&value| enough(value)), "{figure} is {value:?}");
    Ok(())
}

/// What the row is measured at in a full run, made small; each kind of work once.
fn cells(peer: &Peer) -> Vec<Cell> {
    let mut cells: Vec<_> = plan::full().iter().filter(|cell| peer.measures(cell)).map(small).collect();
    let mut seen = std::collections::HashSet::new();
    cells.retain(|cell| seen.insert(cell.clone()));
    cells
}

fn small(cell: &Cell) -> Cell {
    let mut cell = cell.clone();
    match &mut cell {
        Cell::Calls { connections, outstanding, .. } | Cell::Registry { connections, outstanding, .. } => {
            (*connections, *outstanding) = (2, 2);
        }
        Cell::Topics { subscribers, rate, .. } => (*subscribers, *rate) = (2, (*rate).min(500)),
        Cell::Idle { connections } => *connections = 10,
        // Some more than those that carry the load.
        Cell::Growth { over: Growth::Connections, count } => *count = 20,
        Cell::Notices { watchers: count } | Cell::Growth { count, .. } => *count = 2,
        Cell::Start | Cell::Build => {}
    }
    cell
}
