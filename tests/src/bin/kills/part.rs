//! A process: a center, a provider or a caller.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{sleep, timeout};

use crate::ledger::{Entry, Ledger};

/// Killed with this value.
pub(crate) struct Part {
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    ledger: PathBuf,
    is_paused: bool,
    pub(crate) was_killed: bool,
    /// Another one before it wrote to the same ledger, and was killed.
    pub(crate) was_cut: bool,
    /// What it said when it was ready.
    pub(crate) first: String,
}

impl Part {
    /// Starts what this program is with these arguments, which writes to that ledger; it is ready when this returns.
    pub(crate) async fn start(role: &str, ledger: PathBuf, arguments: &[String]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["part", role]).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let input = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().context("it has an output")?).lines();
        let (first, no) = (String::new(), false);
        let mut part = Self { child, input, lines, ledger, is_paused: no, was_killed: no, was_cut: no, first };
        part.first = part.line().await.with_context(|| format!("a {role} does not start"))?;
        Ok(part)
    }

    pub(crate) async fn say(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("it was asked to leave")?;
        Ok(input.write_all(format!("{line}\n").as_bytes()).await?)
    }

    pub(crate) async fn line(&mut self) -> Result<String> {
        timeout(PATIENCE, self.lines.next_line()).await.context("it says nothing")??.context("it has ended")
    }

    /// A number.
    pub(crate) async fn ask(&mut self, line: &str) -> Result<usize> {
        self.say(line).await?;
        Ok(self.line().await?.parse()?)
    }

    pub(crate) fn entries(&self) -> Result<Vec<Entry>> {
        Ledger::read(&self.ledger)
    }

    /// SIGKILL; returns when it has ended.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.was_killed = true;
        Ok(self.child.kill().await?)
    }

    /// SIGSTOP; returns when it stands still.
    pub(crate) async fn pause(&mut self) -> Result<()> {
        self.is_paused = true;
        self.signal("-STOP").await?;
        // The signal is sent at once, and each thread stops when its turn comes.
        let stopped = async {
            while !self.stands_still()? {
                sleep(Duration::from_millis(1)).await;
            }
            Ok(())
        };
        timeout(PATIENCE, stopped).await.context("it does not stop")?
    }

    fn stands_still(&self) -> Result<bool> {
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.id()?))? {
            let stat = std::fs::read_to_string(thread?.path().join("stat"))?;
            // The state is what follows the name, which is in parentheses.
            if !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Nothing where it does not stand still.
    pub(crate) async fn resume(&mut self) -> Result<()> {
        if std::mem::take(&mut self.is_paused) && !self.was_killed { self.signal("-CONT").await } else { Ok(()) }
    }

    /// Waits until it has ended by itself, and well.
    pub(crate) async fn ended(&mut self) -> Result<()> {
        let status = timeout(PATIENCE, self.child.wait()).await.context("it does not end")??;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }

    /// Asks it to leave in good order, and waits until it has.
    pub(crate) async fn leave(&mut self) -> Result<()> {
        self.input = None;
        self.ended().await
    }

    pub(crate) fn id(&self) -> Result<u32> {
        self.child.id().context("it has ended")
    }

    async fn signal(&self, signal: &str) -> Result<()> {
        let kill = Command::new("kill").args([signal, &self.id()?.to_string()]).status().await?;
        ensure!(kill.success(), "kill {signal} failed");
        Ok(())
    }
}

/// More than anything takes that goes well.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
