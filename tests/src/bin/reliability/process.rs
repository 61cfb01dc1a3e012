use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use callboard_tests::FarHost;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// A part in a process of its own, killed with this value.
#[derive(Debug)]
pub(crate) struct Part {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// Where it listens.
    pub(crate) address: String,
}

impl Part {
    /// Starts a center with these settings, by their variables.
    pub(crate) async fn center(listen: &str, settings: &[(&str, &str)]) -> Result<Self> {
        let mut command = Self::command()?;
        command.args(["part", "center"]).env("CALLBOARD_LISTEN", listen).envs(settings.iter().copied());
        Self::start(command).await
    }

    /// Starts a provider; it is there when this returns.
    pub(crate) async fn provider(center: &str, method: &str) -> Result<Self> {
        let mut command = Self::command()?;
        command.args(["part", "provider", center, method, "127.0.0.1"]);
        Self::start(command).await
    }

    /// Starts a provider of what a load calls, at an address.
    pub(crate) async fn called(center: &str, listen: &str) -> Result<Self> {
        let mut command = Self::command()?;
        command.args(["part", "called", center, listen]);
        Self::start(command).await
    }

    /// The same on another host.
    pub(crate) async fn provider_far(far: &FarHost, center: &str, method: &str) -> Result<Self> {
        let mut command = Self::command()?;
        command.args(["part", "provider", center, method, &far.there()]);
        Self::start(far.inside(command.as_std()).into()).await
    }

    /// Ends it without a farewell.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.child.start_kill()?;
        self.child.wait().await?;
        Ok(())
    }

    /// Asks it to leave and waits until it has; its last words, if it says any.
    pub(crate) async fn leave(&mut self) -> Result<Option<String>> {
        self.signal("-TERM").await?;
        let words = timeout(PATIENCE, self.lines.next_line()).await.context("it does not leave")??;
        let ended = timeout(PATIENCE, self.child.wait()).await.context("it does not end")??;
        ensure!(ended.success(), "it ended with {ended}");
        Ok(words)
    }

    /// Kills it without waiting until the system has cleared it away.
    pub(crate) fn start_kill(&mut self) -> Result<()> {
        Ok(self.child.start_kill()?)
    }

    /// It stands still.
    pub(crate) async fn stop(&self) -> Result<()> {
        self.signal("-STOP").await
    }

    async fn signal(&self, signal: &str) -> Result<()> {
        let id = self.child.id().context("it has ended")?.to_string();
        let kill = Command::new("kill").args([signal, &id]).status().await?;
        ensure!(kill.success(), "kill {signal} failed");
        Ok(())
    }

    fn command() -> Result<Command> {
        Ok(Command::new(std::env::current_exe()?))
    }

    async fn start(mut command: Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("it has an output")?).lines();
        let address = timeout(PATIENCE, lines.next_line()).await??.context("it has ended")?;
        Ok(Self { child, lines, address })
    }
}

/// More than anything takes that goes well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
