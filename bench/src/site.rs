//! A peer's broker and server, and the clients that load them.
use std::ffi::OsString;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cell::{Cell, Growth, Transport};
use crate::config::{Broker, Config, Peer};
use crate::drivers::Drivers;
use crate::process::Process;

/// What all measurements need to know.
pub struct Arena<'a> {
    pub home: &'a Path,
    pub config: &'a Config,
    pub drivers: &'a Drivers,
    pub warm: f64,
    pub secs: f64,
}

/// A peer that serves; dropped means ended, with its files.
pub struct Site<'a> {
    arena: &'a Arena<'a>,
    peer: &'a Peer,
    transport: &'a str,
    address: String,
    serving: Vec<Process>,
    dir: PathBuf,
    ports: (u16, u16),
    deadline: Instant,
}

impl<'a> Site<'a> {
    pub fn start(arena: &'a Arena<'a>, peer: &'a Peer, cell: &Cell) -> Result<Self> {
        let broker = arena.config.broker(peer)?;
        let (ports, deadline) = ((free_port()?, free_port()?), Instant::now() + LONGEST);
        let base = broker.and_then(|broker| broker.dir.as_ref()).map_or_else(std::env::temp_dir, PathBuf::from);
        let dir = base.join(format!("arena-{}-{}", std::process::id(), ports.0));
        fs::create_dir_all(&dir)?;
        let address = match cell.transport() {
            Transport::Tcp => format!("127.0.0.1:{}", ports.0),
            Transport::Unix => dir.join("s.sock").display().to_string(),
        };
        let transport = peer.transport(cell.transport()).context("no such transport")?;
        let mut site = Self { arena, peer, transport, address, serving: Vec::new(), dir, ports, deadline };
        if let Some(broker) = broker {
            site.start_broker(broker)?;
        }
        if !peer.broker_only {
            site.start_server(cell)?;
        }
        Ok(site)
    }

    /// How long its processes may still take, lest one that hangs hold up a run.
    pub fn patience(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Starts a client; `options` replace the common ones.
    pub fn client(&self, options: &[(&str, String)]) -> Result<Process> {
        let common = [("--mode", self.peer.client.clone()), ("--pids", join(&self.serving))];
        self.driver("client", &[&common, options].concat())
    }

    fn start_broker(&mut self, broker: &Broker) -> Result<()> {
        let command = broker.command.iter().map(|word| self.fill_word(word)).collect::<Result<Vec<_>>>()?;
        self.serving.push(Process::start(&command, &self.dir)?);
        self.await_port()?;
        sleep(Duration::from_millis(broker.settle_ms));
        Ok(())
    }

    fn start_server(&mut self, cell: &Cell) -> Result<()> {
        let mut mode = self.peer.server.clone();
        if let Cell::Growth { over: Growth::Methods, count } = cell {
            mode = format!("methods={count}");
        }
        let server = self.driver("server", &[("--mode", mode)])?;
        server.ready(self.patience())?;
        self.serving.push(server);
        Ok(())
    }

    fn driver(&self, role: &str, options: &[(&str, String)]) -> Result<Process> {
        let mut command: Vec<OsString> = vec![self.arena.drivers.path(&self.peer.bin)?.into(), role.into()];
        let common = [
            ("--transport", self.transport.to_owned()),
            ("--addr", self.address.clone()),
            ("--warm", self.arena.warm.to_string()),
            ("--secs", self.arena.secs.to_string()),
        ];
        let given = |name: &str| options.iter().any(|option| option.0 == name);
        let common = common.iter().filter(|option| !given(option.0));
        for (name, value) in common.chain(options).filter(|(_, value)| !value.is_empty()) {
            command.extend([name.into(), value.into()]);
        }
        Process::start(&command, &self.dir)
    }

    fn fill_word(&self, word: &str) -> Result<OsString> {
        let Some(name) = word.strip_prefix("{conf:").and_then(|rest| rest.strip_suffix('}')) else {
            return Ok(self.fill(word).into());
        };
        let template = self.arena.home.join("etc").join(name);
        let path = self.dir.join("conf");
        fs::write(&path, self.fill(&fs::read_to_string(&template).context(name.to_owned())?))?;
        Ok(path.into())
    }

    fn fill(&self, text: &str) -> String {
        text.replace("{port}", &self.ports.0.to_string())
            .replace("{port2}", &self.ports.1.to_string())
            .replace("{dir}", &self.dir.display().to_string())
    }

    fn await_port(&self) -> Result<()> {
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.ports.0)).is_err() {
            if began.elapsed() > Duration::from_secs(10) {
                bail!("{} does not listen", self.peer.name);
            }
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Site<'_> {
    fn drop(&mut self) {
        self.serving.clear();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Process ids as the drivers take them.
pub fn join<'p>(processes: impl IntoIterator<Item = &'p Process>) -> String {
    let pids: Vec<_> = processes.into_iter().map(|process| process.pid().to_string()).collect();
    pids.join(",")
}

/// A port below the range that outgoing connections take theirs from.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..PORTS {
        let offset = std::process::id().wrapping_add(NEXT.fetch_add(1, Relaxed)) % PORTS;
        let port = u16::try_from(FIRST_PORT + offset)?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port is free")
}

/// From a server's start to the last result of its clients.
const LONGEST: Duration = Duration::from_secs(90);
const FIRST_PORT: u32 = 20_000;
const PORTS: u32 = 10_000;
