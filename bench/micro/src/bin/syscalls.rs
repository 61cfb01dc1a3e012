//! Counts the system calls of Callboard's own driver, a call and a message, on every side: by `perf stat` (Debian:
//! `linux-perf`), which slows its subject far less than a tracer does. Needs the right to count (root, or
//! `kernel.perf_event_paranoid` at -1), and the driver: `cargo build --release -p peer-callboard`.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde_json::Value;

#[derive(Parser)]
struct Args {
    /// Seconds of load in each cell
    #[arg(long, default_value_t = 3.0)]
    secs: f64,
    /// Subscribers of the topic
    #[arg(long, default_value_t = 10)]
    subscribers: u32,
}

fn main() -> Result<()> {
    let args = Args::parse();
    println!("{:<10}{:<12}{:>11}{:>11}{}{:>11}", "cell", "side", "operations", "all", columns(&NAMES), "other");
    for (connections, outstanding) in [(1, 1), (1, 64), (16, 16)] {
        calls(&args, connections, outstanding)?;
    }
    topic(&args)
}

/// Calls of `add`, so many outstanding on each of so many connections.
fn calls(args: &Args, connections: u32, outstanding: u32) -> Result<()> {
    let server = Driver::serve("")?;
    let load = format!("--job rpc --conns {connections} --outstanding {outstanding} --warm 0 --secs {}", args.secs);
    let mut client = Driver::start(&server.addr, "client", &load)?;
    let calls = field(&client.told()?, "n")?;
    let cell = format!("{connections} x {outstanding}");
    row(&cell, "server", calls, &server.stop()?);
    row(&cell, "client", calls, &client.stop()?);
    Ok(())
}

/// One publisher at full speed; counted for each message that is delivered, the publisher's for each published.
fn topic(args: &Args) -> Result<()> {
    let center = Driver::serve("center")?;
    let subs = args.subscribers;
    let mut subscribers = Driver::start(&center.addr, "client", &format!("--job sub --subs {subs}"))?;
    subscribers.wait_ready()?;
    let load = format!("--job pub --subs {subs} --warm 0 --secs {}", args.secs);
    let mut publisher = Driver::start(&center.addr, "client", &load)?;
    let sent = field(&publisher.told()?, "published")?;
    let delivered = field(&subscribers.told()?, "delivered")?;
    let cell = format!("1 to {subs}");
    row(&cell, "publisher", sent, &publisher.stop()?);
    row(&cell, "center", delivered, &center.stop()?);
    row(&cell, "subscribers", delivered, &subscribers.stop()?);
    Ok(())
}

fn field(told: &Value, name: &str) -> Result<u32> {
    let count = told.get(name).and_then(Value::as_u64).with_context(|| format!("no {name:?} in {told}"))?;
    u32::try_from(count).context("more operations than fit into 32 bits")
}

fn row(cell: &str, side: &str, operations: u32, counts: &[u32]) {
    let each = |count: u32| format!("{:.4}", f64::from(count) / f64::from(operations));
    let (all, named) = counts.split_first().unwrap_or((&0, &[]));
    let other = all.saturating_sub(named.iter().sum());
    let named: Vec<_> = named.iter().map(|count| each(*count)).collect();
    println!("{cell:<10}{side:<12}{operations:>11}{:>11}{}{:>11}", each(*all), columns(&named), each(other));
}

fn columns<T: std::fmt::Display>(texts: &[T]) -> String {
    texts.iter().map(|text| format!("{text:>11}")).collect::<Vec<_>>().concat()
}

/// The driver in one of its roles, under `perf stat`.
struct Driver {
    perf: Child,
    output: BufReader<ChildStdout>,
    addr: String,
    counts: PathBuf,
}

impl Driver {
    fn serve(mode: &str) -> Result<Self> {
        let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let mut this = Self::start(&addr, "server", &format!("--mode={mode}"))?;
        this.wait_ready()?;
        Ok(this)
    }

    fn start(addr: &str, role: &str, args: &str) -> Result<Self> {
        let driver = std::env::current_exe()?.with_file_name("peer-callboard");
        if !driver.exists() {
            bail!("{} is not there: cargo build --release -p peer-callboard", driver.display());
        }
        let events = NAMES.map(|name| format!(",syscalls:sys_enter_{name}")).concat();
        let counts = std::env::temp_dir().join(format!("syscalls-{}-{role}-{}", std::process::id(), args.len()));
        let mut command = Command::new("perf");
        command.args(["stat", "-x,", "-e"]).arg(format!("raw_syscalls:sys_enter{events}")).arg("-o").arg(&counts);
        command.arg("--").arg(driver).args([role, "--addr", addr]).args(args.split(' '));
        // It is ended by a signal, and perf tells that of it.
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut perf = command.spawn().context("can't run perf (Debian's package is linux-perf)")?;
        let output = BufReader::new(perf.stdout.take().context("no output")?);
        Ok(Self { perf, output, addr: addr.to_owned(), counts })
    }

    fn wait_ready(&mut self) -> Result<()> {
        let line = self.line()?;
        if line.trim() == "READY" { Ok(()) } else { bail!("the driver said {line:?} where it was to be ready") }
    }

    /// What it tells when its load is over.
    fn told(&mut self) -> Result<Value> {
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("the driver said {line:?} where it was to tell its result"))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line)
    }

    /// Ends it, and gives what perf has counted.
    fn stop(mut self) -> Result<Vec<u32>> {
        self.kill()?;
        self.counted()
    }

    /// Ends the driver itself, and perf with it; one that has ended has left no children behind.
    fn kill(&self) -> Result<()> {
        let perf = self.perf.id();
        let children = std::fs::read_to_string(format!("/proc/{perf}/task/{perf}/children"))?;
        Command::new("kill").args(children.split_whitespace()).stderr(Stdio::null()).status()?;
        Ok(())
    }

    /// All system calls, then those of each name.
    fn counted(&mut self) -> Result<Vec<u32>> {
        self.perf.wait()?;
        let text = std::fs::read_to_string(&self.counts)?;
        std::fs::remove_file(&self.counts)?;
        let counts = text.lines().filter(|line| line.contains("sys_enter")).map(|line| line.split(',').next());
        counts.map(|count| count.unwrap_or_default().parse().with_context(|| format!("perf says: {text}"))).collect()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Ok(None) = self.perf.try_wait() {
            let _ = self.kill();
        }
    }
}

/// What is told apart.
const NAMES: [&str; 7] = ["recvfrom", "sendto", "writev", "epoll_wait", "futex", "write", "read"];
