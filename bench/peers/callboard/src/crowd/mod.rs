//! Many peers of one kind in one process, for `capacity`. Each says in one line of JSON that it is set up, and in
//! another what it has seen: when that is complete, or when it is told so by a line or the end of its input.
mod hold;
mod listeners;
mod provide;
mod publish;
mod watchers;

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use load::Opt;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::address;

pub async fn run(opt: Opt) -> Result<()> {
    match opt.job.as_str() {
        "hold" => hold::run(opt).await,
        "provide" => provide::run(opt).await,
        "watchers" => watchers::run(opt).await,
        "listeners" => listeners::run(opt).await,
        "publish" => publish::run(opt).await,
        job => bail!("no such job: {job}"),
    }
}

/// Makes `count` of something, some at the same time.
async fn make<T, F>(count: usize, mut each: impl FnMut(usize) -> F) -> Result<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let (mut set, mut made) = (JoinSet::new(), Vec::with_capacity(count));
    for index in 0..count {
        if set.len() == AT_ONCE
            && let Some(done) = set.join_next().await
        {
            made.push(done??);
        }
        set.spawn(each(index));
    }
    while let Some(done) = set.join_next().await {
        made.push(done??);
    }
    Ok(made)
}

/// One line for the one who started this process.
fn tell(what: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(what)?);
    std::io::stdout().flush()?;
    Ok(())
}

/// Says that all is set up, and how long that took.
fn tell_ready(begun: Instant) -> Result<()> {
    tell(&serde_json::json!({ "ready": true, "secs": begun.elapsed().as_secs_f64() }))
}

/// The lines of the input.
fn commands() -> mpsc::UnboundedReceiver<String> {
    // Not tokio's stdin: its read would hold up the end of the runtime.
    let (told, commands) = mpsc::unbounded_channel();
    std::thread::spawn(move || std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| told.send(line)));
    commands
}

/// Waits until `progress` gives `all`, or the same for so long that no more will come.
async fn complete(all: u64, progress: impl Fn() -> u64) {
    let (mut last, mut since) = (0, Instant::now());
    while last < all && since.elapsed() < if last == 0 { PATIENCE } else { SILENCE } {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = progress();
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
}

const AT_ONCE: usize = 64;
/// How long the first may take, and what comes after others.
const PATIENCE: Duration = Duration::from_mins(1);
const SILENCE: Duration = Duration::from_secs(5);
