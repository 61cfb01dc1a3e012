//! Where a scenario takes place: centers, and the processes that connect to them.
use std::ffi::OsString;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::DRIVER;
use super::crowd::Crowd;
use super::outcome::About;
use crate::drivers::{CENTER, Drivers};
use crate::machine::{self, Machine};
use crate::process::Process;
use crate::quiet::{MOST_STRANGERS, wait_until_idle};
use crate::site::free_port;
use crate::stats::median;

pub struct Stage<'a> {
    home: &'a Path,
    drivers: &'a Drivers,
    bar: &'a ProgressBar,
}

/// A center of its own; dropped means killed.
pub struct Center<'a> {
    process: Process,
    address: String,
    driver: PathBuf,
    bar: &'a ProgressBar,
}

/// How long requests took, and how many there were a second.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Speed {
    pub per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// CPUs that strangers took meanwhile, the hypervisor among them.
    #[serde(default)]
    pub strangers: f64,
}

/// Closed-loop requests for the hosts of a method.
#[derive(Clone, Copy)]
pub struct Load {
    pub connections: u32,
    pub outstanding: u32,
    /// Methods that were registered for it to ask for; 0: it registers 100 itself.
    pub methods: u32,
}

impl<'a> Stage<'a> {
    pub fn new(home: &'a Path, drivers: &'a Drivers, bar: &'a ProgressBar) -> Self {
        Self { home, drivers, bar }
    }

    /// What all of its figures have in common.
    pub fn about(&self) -> About {
        About {
            date: humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
            commit: machine::commit(self.home),
            machine: Machine::of_this_process(),
        }
    }

    /// Starts a center with its default settings, but that it takes providers at their word: there are thousands, at hosts
    /// where nobody listens.
    pub fn center(&self) -> Result<Center<'a>> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let command: [OsString; 4] =
            [self.drivers.path(CENTER)?.into(), "center".into(), "--listen".into(), (&address).into()];
        let settings = [("CALLBOARD_PROBE", "false"), ("CALLBOARD_FLAP_CHANGES", "1000000000")];
        let process = Process::start_with(&command, &settings, &std::env::temp_dir())?;
        let (driver, began) = (self.drivers.path(DRIVER)?.to_owned(), Instant::now());
        while TcpStream::connect(&address).is_err() {
            ensure!(began.elapsed() < Duration::from_secs(5), "the center takes no connection");
            sleep(Duration::from_millis(10));
        }
        Ok(Center { process, address, driver, bar: self.bar })
    }

    pub fn say(&self, what: impl Into<String>) {
        say(self.bar, what.into());
    }
}

impl Center<'_> {
    /// Starts peers of this center, and waits until they are set up.
    pub fn crowd(&self, job: &str, peers: u32, mode: &str, rate: u32) -> Result<Crowd> {
        say(self.bar, format!("{peers} x {job} {mode}"));
        let options = ["--job", job, "--conns", &peers.to_string(), "--rate", &rate.to_string()].map(OsString::from);
        let mut command = Command::new(&self.driver);
        command.args(["client", "--addr", &self.address, "--mode", mode]).args(options);
        Crowd::start(command, job)
    }

    /// Memory in use, in MiB, once it has settled.
    pub fn memory(&self) -> Result<f64> {
        sleep(Duration::from_millis(300));
        self.status("VmRSS")
    }

    /// The most memory that was in use, in MiB.
    pub fn peak_memory(&self) -> Result<f64> {
        self.status("VmHWM")
    }

    fn status(&self, field: &str) -> Result<f64> {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.process.pid())).context("the center has ended")?;
        let line = status.lines().find(|line| line.starts_with(field)).context("no such field")?;
        let kib: f64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
        Ok(kib / 1024.0)
    }

    /// Tried again while strangers take too much.
    fn load_quietly(&self, load: Load) -> Result<Speed> {
        let mut quietest = self.load(load)?;
        for _ in 1..ATTEMPTS {
            if quietest.strangers <= MOST_STRANGERS {
                break;
            }
            wait_until_idle();
            let again = self.load(load)?;
            if again.strangers < quietest.strangers {
                quietest = again;
            }
        }
        Ok(quietest)
    }

    fn load(&self, load: Load) -> Result<Speed> {
        let mode = if load.methods == 0 { String::new() } else { format!("methods={}", load.methods) };
        let mut command: Vec<OsString> = vec![self.driver.clone().into(), "client".into()];
        let options = [
            ("--addr", self.address.clone()),
            ("--job", "registry".into()),
            ("--method", "discover".into()),
            ("--mode", mode),
            ("--conns", load.connections.to_string()),
            ("--outstanding", load.outstanding.to_string()),
            ("--warm", "0.5".into()),
            ("--secs", SECS.to_string()),
            ("--pids", self.process.pid().to_string()),
        ];
        command.extend(options.into_iter().flat_map(|(name, value)| [name.into(), value.into()]));
        let result = Process::start(&command, &std::env::temp_dir())?.json(Duration::from_secs(30))?;
        if result.get("errors").and_then(Value::as_u64) != Some(0) {
            bail!("requests failed: {:?}", result.get("first_error"));
        }
        let figure = |name| result.get(name).and_then(Value::as_f64).with_context(|| format!("no {name}"));
        Ok(Speed {
            per_second: figure("rps")?,
            p50_us: figure("p50_us")?,
            p99_us: figure("p99_us")?,
            strangers: figure("foreign_cpu")? + figure("steal_s")? / SECS,
        })
    }
}

/// The medians of two centers under the same load, by turns, since the machine's speed changes with time.
pub fn compare(stage: &Stage<'_>, one: (&Center<'_>, Load), other: (&Center<'_>, Load)) -> Result<(Speed, Speed)> {
    let (mut ones, mut others) = (Vec::new(), Vec::new());
    for turn in 1..=TURNS {
        stage.say(format!("requests, {} x {}, turn {turn} of {TURNS}", one.1.connections, one.1.outstanding));
        ones.push(one.0.load_quietly(one.1)?);
        others.push(other.0.load_quietly(other.1)?);
    }
    Ok((middle(&ones), middle(&others)))
}

fn middle(speeds: &[Speed]) -> Speed {
    let of = |figure: fn(&Speed) -> f64| median(speeds.iter().map(figure)).unwrap_or_default();
    Speed {
        per_second: of(|speed| speed.per_second),
        p50_us: of(|speed| speed.p50_us),
        p99_us: of(|speed| speed.p99_us),
        strangers: speeds.iter().map(|speed| speed.strangers).fold(0.0, f64::max),
    }
}

/// From one reading of the monotonic clock to a later one.
#[expect(clippy::cast_precision_loss, reason = "less than a century")]
pub fn ms_between(from_ns: u64, to_ns: u64) -> f64 {
    to_ns.saturating_sub(from_ns) as f64 / 1e6
}

/// On a terminal the bar says it, elsewhere a line.
fn say(bar: &ProgressBar, what: String) {
    if bar.is_hidden() {
        eprintln!("{what}");
    }
    bar.set_message(what);
    bar.tick();
}

const TURNS: u32 = 3;
/// How long each load is measured.
const SECS: f64 = 1.5;
const ATTEMPTS: u32 = 3;
