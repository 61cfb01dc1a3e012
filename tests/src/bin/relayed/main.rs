//! Measures what a call through the center costs beside one that goes straight to its provider: how many a second, how long
//! each takes, and what of the CPU its center takes. Center, provider and caller are processes of their own, which are this
//! program again. Direct and relayed calls take turns, so that a ratio is one of the same minutes.
//!
//! `relayed [ROUNDS] [SECONDS]` prints a table on a terminal, and a JSON object a line elsewhere.

#![expect(clippy::print_stdout, reason = "its lines are what it is for")]
#![expect(clippy::indexing_slicing, reason = "a part prints all that is looked for")]

use std::io::IsTerminal;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use callboard::{Caller, Center, Client, Place, Provider, Router, Server};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["part", "center"] => serve_center().await,
        ["part", "provider", center, way] => provide(center, way == "relayed").await,
        ["part", "caller", center, callers, at_once, seconds] => {
            call(center, callers.parse()?, at_once.parse()?, seconds.parse()?).await
        }
        ["part", ..] => bail!("no such part"),
        ref numbers => {
            let number = |at: usize, default| numbers.get(at).map_or(Ok(default), |text| text.parse::<u64>());
            measure(number(0, 5)?, number(1, 3)?).await
        }
    }
}

/// Callers, and calls of each at once.
const LOADS: [(usize, usize); 3] = [(1, 1), (1, 64), (16, 16)];
const WAYS: [&str; 2] = ["direct", "relayed"];

async fn measure(rounds: u64, seconds: u64) -> Result<()> {
    let mut houses = Vec::new();
    for way in WAYS {
        let (center, address) = part(&["center"]).await?;
        let (provider, _) = part(&["provider", &address, way]).await?;
        houses.push((way, center, address, provider));
    }
    for (callers, at_once) in LOADS {
        let mut results: [Vec<Value>; 2] = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for ((_, center, address, _), results) in houses.iter().zip(&mut results) {
                let before = cpu(center)?;
                let (callers, at_once) = (callers.to_string(), at_once.to_string());
                let (mut caller, line) = part(&["caller", address, &callers, &at_once, &seconds.to_string()]).await?;
                caller.wait().await?;
                let mut result: Value = serde_json::from_str(&line)?;
                result["center_us"] = json!((cpu(center)? - before) * 1e6 / result["calls"].as_f64().unwrap_or(1.0));
                results.push(result);
            }
        }
        let [direct, relayed] = &results;
        let failed: f64 = results.iter().flatten().filter_map(|result| result["failed"].as_f64()).sum();
        let of = |results: &[Value], what: &str| median(results.iter().filter_map(|result| result[what].as_f64()));
        let line = json!({
            "load": format!("{callers}x{at_once}"),
            "direct_per_s": of(direct, "per_s"), "relayed_per_s": of(relayed, "per_s"),
            "ratio": of(relayed, "per_s") / of(direct, "per_s"),
            "direct_p50_us": of(direct, "p50_us"), "relayed_p50_us": of(relayed, "p50_us"),
            "direct_p99_us": of(direct, "p99_us"), "relayed_p99_us": of(relayed, "p99_us"),
            "center_us_per_call": of(relayed, "center_us"), "failed": failed,
        });
        tell(&line);
        ensure!(failed < 1.0, "{failed} calls failed: what the others took says little");
    }
    for (_, mut center, _, mut provider) in houses {
        provider.kill().await?;
        center.kill().await?;
    }
    Ok(())
}

fn tell(line: &Value) {
    if !std::io::stdout().is_terminal() {
        return println!("{line}");
    }
    for (what, value) in line.as_object().into_iter().flatten() {
        print!("{what} {} ", value.as_f64().map_or_else(|| value.to_string(), |number| format!("{number:.3}")));
    }
    println!();
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// CPU seconds that a process has taken.
fn cpu(process: &Child) -> Result<f64> {
    let id = process.id().context("it has ended")?;
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    let fields = stat.rsplit_once(')').context("a line of /proc")?.1;
    let ticks: Vec<f64> = fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

/// A process of this program, and the first line that it says.
async fn part(arguments: &[&str]) -> Result<(Child, String)> {
    let mut command = Command::new(std::env::current_exe()?);
    let command = command.arg("part").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("it has no output")?).read_line(&mut line).await?;
    ensure!(!line.is_empty(), "{arguments:?} has said nothing");
    Ok((child, line.trim().to_owned()))
}

/// Until whoever started this has gone.
async fn until_left() -> Result<()> {
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    Ok(())
}

async fn serve_center() -> Result<()> {
    let center = Center::builder().listen("127.0.0.1:0").start().await?;
    println!("{}", center.address());
    until_left().await
}

fn router() -> Router {
    Router::new().method("add", |(a, b): (i64, i64)| Ok(a + b))
}

async fn provide(center: &str, is_relayed: bool) -> Result<()> {
    let server = Server::builder().router(router()).listen("127.0.0.1:0").start().await?;
    let client = Client::builder().serves(router()).connect(center).await?;
    let place = if is_relayed { Place::Relay } else { server.addresses().into() };
    let _provider = Provider::new(client).announce(["add"], place).await?;
    println!("ready");
    until_left().await
}

async fn call(center: &str, callers: usize, at_once: usize, seconds: u64) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for _ in 0..callers {
        let caller = Caller::connect(center).await?;
        ensure!(caller.call::<i64>("add", &(1, 2)).await? == 3, "a wrong sum");
        for _ in 0..at_once {
            let (caller, stop) = (caller.clone(), Arc::clone(&stop));
            tasks.push(tokio::spawn(async move {
                let (mut times, mut failed) = (Vec::new(), 0_u32);
                while !stop.load(Relaxed) {
                    let began = Instant::now();
                    let sum = caller.call::<i64>("add", &(1, 2)).await;
                    match sum {
                        Ok(_) => times.push(u32::try_from(began.elapsed().as_nanos()).unwrap_or(u32::MAX)),
                        Err(_) => failed += 1,
                    }
                }
                (times, failed)
            }));
        }
    }
    let began = Instant::now();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    stop.store(true, Relaxed);
    let (mut times, mut failed) = (Vec::new(), 0);
    for task in tasks {
        let (own, own_failed) = task.await?;
        times.extend(own);
        failed += own_failed;
    }
    let took = began.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |share: f64| {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "small"
        )]
        let index = (times.len() as f64 * share) as usize;
        times.get(index).map_or(f64::NAN, |nanos| f64::from(*nanos) / 1e3)
    };
    #[expect(clippy::cast_precision_loss, reason = "a count of calls")]
    let calls = times.len() as f64;
    println!(
        "{}",
        json!({"calls": calls, "per_s": calls / took, "p50_us": at(0.5), "p99_us": at(0.99), "failed": failed})
    );
    Ok(())
}
