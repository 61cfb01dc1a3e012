//! Measures a rolling restart: four providers, then the center, are asked to leave (SIGTERM) and started anew, again
//! and again, while callers call without a rest, and newcomers make their first calls as soon as the part is back.
//!
//! ```sh
//! cargo build --release && cargo run --release -p callboard-cli --example rolling -- 20
//! ```
//!
//! The number is how many seconds each part takes. It drives the `callboard` that was built beside it.

#![expect(clippy::print_stdout, reason = "its figures go to standard output")]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use callboard::Caller;
use callboard_tests::{Load, Report};
use tokio::runtime::Runtime;

const PROVIDERS: usize = 4;
const CALLERS: usize = 8;
const NEWCOMERS: usize = 4;

/// A process of the program, and where it listens.
struct Part {
    child: Child,
    address: String,
    arguments: Vec<String>,
}

fn main() -> anyhow::Result<()> {
    let seconds = std::env::args().nth(1).map_or(Ok(20), |seconds| seconds.parse())?;
    let each = Duration::from_secs(seconds);
    let runtime = Runtime::new()?;
    let mut center = Part::start(&["center", "--listen", "127.0.0.1:0"])?;
    let start = |_| Part::start(&["provide", "--demo", "--center", &center.address]);
    let mut providers = (0..PROVIDERS).map(start).collect::<anyhow::Result<Vec<_>>>()?;
    println!(
        "| restarted in turn, each {seconds} s | restarts | calls | failed | longest | of newcomers | failed | longest |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let at = center.address.clone();
    measure(&runtime, &at, "4 providers", each, &mut providers)?;
    measure(&runtime, &at, "the center", each, std::slice::from_mut(&mut center))?;
    for mut part in providers.into_iter().chain([center]) {
        part.leave()?;
    }
    Ok(())
}

fn measure(runtime: &Runtime, center: &str, what: &str, time: Duration, parts: &mut [Part]) -> anyhow::Result<()> {
    let load = runtime.block_on(Load::start(center, CALLERS));
    let (began, mut restarts, mut newcomers) = (Instant::now(), 0, Report::default());
    while began.elapsed() < time {
        for part in &mut *parts {
            part.leave()?;
            *part = Part::start(&part.arguments)?;
            restarts += 1;
            newcomers.add(runtime.block_on(first_calls(center)));
            // The next one goes when all is whole again, and callers have used it.
            runtime.block_on(whole(center))?;
            runtime.block_on(load.go_on(20 * (PROVIDERS * CALLERS) as u64));
        }
    }
    let report = runtime.block_on(load.stop());
    println!("| {what} | {restarts} {report} {newcomers} |");
    let failed = report.failed + newcomers.failed;
    report.errors.iter().chain(&newcomers.errors).for_each(|error| println!("{error}"));
    ensure!(failed == 0, "{failed} calls failed");
    Ok(())
}

/// Of callers that come anew, and at a center that has just begun most likely before the providers are back.
async fn first_calls(center: &str) -> Report {
    let load = Load::start(center, NEWCOMERS).await;
    load.go_on(2 * NEWCOMERS as u64).await;
    load.stop().await
}

/// Waits until a caller that comes anew finds all providers.
async fn whole(center: &str) -> anyhow::Result<()> {
    loop {
        let hosts = Caller::connect(center).await?.hosts("add").await?;
        if hosts.len() == PROVIDERS {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Part {
    /// Starts it, and waits until it listens. The next time it does so at the same address.
    fn start(arguments: &[impl AsRef<str>]) -> anyhow::Result<Self> {
        let mut arguments: Vec<String> = arguments.iter().map(|argument| argument.as_ref().to_owned()).collect();
        let mut command = Command::new(program()?);
        // Who is restarted so often would else be announced later.
        command.env("CALLBOARD_LOG", "warn").env("CALLBOARD_FLAP_CHANGES", "1000000");
        let mut child = command.args(&arguments).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its output")?).read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening on ").context("it does not listen")?.to_owned();
        if !arguments.contains(&address) {
            arguments.retain(|argument| argument != "--listen" && argument != "127.0.0.1:0");
            arguments.extend(["--listen".to_owned(), address.clone()]);
        }
        Ok(Self { child, address, arguments })
    }

    /// Asks it to leave, and waits until it has.
    fn leave(&mut self) -> anyhow::Result<()> {
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        let ended = self.child.wait()?;
        if asked.success() && ended.success() { Ok(()) } else { bail!("{:?} ended with {ended}", self.arguments) }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `callboard`, two folders up from `examples/rolling`.
fn program() -> anyhow::Result<PathBuf> {
    let built = std::env::current_exe()?.ancestors().nth(2).context("no folder of builds")?.join("callboard");
    ensure!(built.exists(), "{} is not there: build it first", built.display());
    Ok(built)
}
