//! Who is measured: `etc/peers.toml`.
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::cell::{Cell, Transport};

/// All peers, and the brokers that some of them need.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Libraries whose versions are told.
    pub crates: Vec<String>,
    pub brokers: BTreeMap<String, Broker>,
    #[serde(rename = "peer")]
    pub peers: Vec<Peer>,
}

/// A third party's server.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broker {
    /// `{port}`, `{port2}` and `{dir}` are filled in; `{conf:FILE}` becomes the path of a filled-in file of `etc/`.
    pub command: Vec<String>,
    pub version: Vec<String>,
    /// The Debian package that has it.
    pub package: String,
    /// Waited after it accepts connections.
    #[serde(default)]
    pub settle_ms: u64,
    /// Where its data lies; the directory for temporary files by default.
    pub dir: Option<String>,
}

/// A peer at some jobs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    pub name: String,
    pub bin: String,
    pub jobs: Vec<String>,
    #[serde(default)]
    pub transports: Transports,
    #[serde(default)]
    pub server: String,
    #[serde(default)]
    pub client: String,
    pub broker: Option<String>,
    #[serde(default)]
    pub broker_only: bool,
    /// The driver's own names of a registry's operations.
    #[serde(default)]
    pub methods: BTreeMap<String, String>,
    /// Only these; all cells of its jobs if empty.
    #[serde(default)]
    pub cells: Vec<String>,
    #[serde(default = "yes")]
    pub paced: bool,
    #[serde(default)]
    pub quick: bool,
}

/// What a driver calls its transports.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transports {
    pub tcp: Option<String>,
    pub unix: Option<String>,
}

impl Config {
    /// Reads `etc/peers.toml` of the arena's directory.
    pub fn read(home: &Path) -> Result<Self> {
        let path = home.join("etc/peers.toml");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        toml::from_str(&text).with_context(|| path.display().to_string())
    }

    /// The broker that a peer needs.
    pub fn broker(&self, peer: &Peer) -> Result<Option<&Broker>> {
        let Some(name) = &peer.broker else { return Ok(None) };
        self.brokers.get(name).map(Some).with_context(|| format!("no broker is called {name}"))
    }
}

impl Peer {
    /// Whether the peer is to be measured at a cell.
    pub fn measures(&self, cell: &Cell) -> bool {
        let listed = self.cells.is_empty() || self.cells.contains(&cell.to_string());
        let paced = self.paced || !matches!(cell, Cell::Topics { rate: 1.., .. });
        let reachable = self.transport(cell.transport()).is_some();
        listed && paced && reachable && self.jobs.iter().any(|job| job == cell.job())
    }

    /// The driver's name of a transport.
    pub fn transport(&self, transport: Transport) -> Option<&str> {
        match transport {
            Transport::Tcp => self.transports.tcp.as_deref(),
            Transport::Unix => self.transports.unix.as_deref(),
        }
    }
}

impl Default for Transports {
    fn default() -> Self {
        Self { tcp: Some("tcp".into()), unix: None }
    }
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan;

    fn config() -> Config {
        Config::read(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    #[test]
    fn every_broker_that_a_peer_needs_is_described() {
        let config = config();
        for peer in &config.peers {
            config.broker(peer).unwrap();
        }
    }

    #[test]
    fn every_row_is_measured_somewhere_and_every_cell_by_us() {
        let (config, cells) = (config(), plan::full());
        for peer in &config.peers {
            assert!(cells.iter().any(|cell| peer.measures(cell)), "{} {:?}", peer.name, peer.jobs);
        }
        for cell in cells {
            assert!(config.peers.iter().any(|peer| peer.name == "callboard" && peer.measures(&cell)), "{cell}");
        }
    }

    #[test]
    fn no_peer_has_two_rows_for_one_cell() {
        let config = config();
        for cell in plan::full() {
            let mut names: Vec<_> =
                config.peers.iter().filter(|peer| peer.measures(&cell)).map(|peer| &peer.name).collect();
            let count = names.len();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), count, "{cell}");
        }
    }
}
