//! The processes: the center that is attacked, its normal clients, the attackers.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// How the kernel divides the cores that several share: that is not to be measured.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Turn {
    /// At once: normal clients do little.
    First,
    /// When nobody else wants one: attackers that have no core to themselves.
    Last,
    /// As everybody.
    Equal,
}

/// This program in a process of its own, with which one talks in lines. Killed with this value.
pub(crate) struct Part {
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Part {
    pub(crate) fn start(turn: Turn, arguments: &[String]) -> Result<Self> {
        let program = std::env::current_exe()?;
        let mut command = turn.of(&program);
        command.arg("part").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let lines = BufReader::new(child.stdout.take().context("it has an output")?).lines();
        Ok(Self { input: child.stdin.take(), child, lines })
    }

    pub(crate) async fn say(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("its input has ended")?;
        Ok(input.write_all(format!("{line}\n").as_bytes()).await?)
    }

    pub(crate) async fn line(&mut self) -> Result<String> {
        timeout(PATIENCE, self.lines.next_line()).await.context("it says nothing")??.context("it has ended")
    }

    /// Ends its input, and takes what it then tells.
    pub(crate) async fn end<T: DeserializeOwned>(mut self) -> Result<T> {
        self.input = None;
        let told = serde_json::from_str(&self.line().await?)?;
        let status = timeout(PATIENCE, self.child.wait()).await.context("it does not end")??;
        ensure!(status.success(), "it ended with {status}");
        Ok(told)
    }
}

impl Turn {
    /// Whether the kernel lets us have it.
    pub(crate) fn is_permitted(self) -> bool {
        self.permitted().is_some()
    }

    /// What to tell `chrt`.
    fn permitted(self) -> Option<[&'static str; 2]> {
        let arguments = match self {
            Self::First => ["--fifo", "1"],
            Self::Last => ["--idle", "0"],
            Self::Equal => return None,
        };
        let may = std::process::Command::new("chrt").args(arguments).arg("true").stderr(Stdio::null()).status();
        may.is_ok_and(|status| status.success()).then_some(arguments)
    }

    /// By `chrt`, where that may be done: it becomes the program.
    fn of(self, program: &Path) -> Command {
        if let Some(arguments) = self.permitted() {
            let mut command = Command::new("chrt");
            command.args(arguments).arg(program);
            return command;
        }
        match self {
            Self::First | Self::Equal => Command::new(program),
            Self::Last => {
                let mut command = Command::new("nice");
                command.args(["-n", "19"]).arg(program);
                command
            }
        }
    }
}

/// Longer than anything takes that goes well.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
