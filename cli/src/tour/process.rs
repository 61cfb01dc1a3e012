use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// This program once more, with other arguments. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    errors: Lines<BufReader<ChildStderr>>,
}

impl Process {
    /// Starts it, without the settings that this program's own environment may hold.
    pub(crate) fn start(name: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find the path of this program")?;
        let mut command = Command::new(program);
        let settings = std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("CALLBOARD_"));
        for (key, _) in settings {
            command.env_remove(key);
        }
        command.args(arguments).env("CALLBOARD_LOG", "error").kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let pipes = child.stdin.take().zip(child.stdout.take()).zip(child.stderr.take());
        let ((input, output), errors) = pipes.with_context(|| format!("cannot talk to {name}"))?;
        let (output, errors) = (BufReader::new(output).lines(), BufReader::new(errors).lines());
        Ok(Self { name: name.to_owned(), child, input, output, errors })
    }

    /// Runs a short command to its end and returns what it printed.
    pub(crate) async fn finish(arguments: &[&str]) -> anyhow::Result<Vec<String>> {
        let mut process = Self::start(&format!("`callboard {}`", arguments.join(" ")), arguments)?;
        let mut printed = Vec::new();
        while let Some(line) = in_time(&process.name, "an end", process.output.next_line()).await?? {
            printed.push(line);
        }
        let status = in_time(&process.name, "an end", process.child.wait()).await??;
        if status.success() { Ok(printed) } else { Err(process.ended().await) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The process id, while it runs.
    pub(crate) fn id(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Waits for a line of standard output that begins so, and returns the rest of it. Other lines are passed over.
    ///
    /// # Cancel safety
    /// No line is lost, unless one was passed over.
    pub(crate) async fn line(&mut self, start: &str) -> anyhow::Result<String> {
        let wanted = async {
            while let Some(line) = self.output.next_line().await? {
                if let Some(rest) = line.strip_prefix(start) {
                    return Ok(Some(rest.trim_start().to_owned()));
                }
            }
            anyhow::Ok(None)
        };
        match in_time(&self.name, &format!("a line \"{start}\""), wanted).await?? {
            Some(rest) => Ok(rest),
            None => Err(self.ended().await),
        }
    }

    /// Waits for this line of standard error.
    pub(crate) async fn remark(&mut self, wanted: &str) -> anyhow::Result<()> {
        let line = in_time(&self.name, &format!("a line \"{wanted}\""), self.errors.next_line()).await??;
        match line {
            Some(line) if line == wanted => Ok(()),
            Some(line) => bail!("{} said \"{line}\" and not \"{wanted}\"", self.name),
            None => bail!("{} ended without saying \"{wanted}\"", self.name),
        }
    }

    /// Writes a line to its standard input.
    pub(crate) async fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        let line = format!("{line}\n");
        in_time(&self.name, "attention", self.input.write_all(line.as_bytes()))
            .await?
            .with_context(|| format!("cannot tell {}", self.name))
    }

    /// SIGKILL: the process has no say in it.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        in_time(&self.name, "its end", self.child.kill()).await?.with_context(|| format!("cannot kill {}", self.name))
    }

    /// The error that it ended too early, with what it said last.
    async fn ended(&mut self) -> anyhow::Error {
        let mut said = String::new();
        let _ = timeout(PATIENCE, self.errors.get_mut().read_to_string(&mut said)).await;
        anyhow::anyhow!("{} ended too early: {}", self.name, said.trim())
    }
}

/// Nothing on the tour waits longer than this.
async fn in_time<T>(name: &str, what: &str, work: impl Future<Output = T>) -> anyhow::Result<T> {
    timeout(PATIENCE, work).await.with_context(|| format!("waited {PATIENCE:?} for {what} of {name}"))
}

const PATIENCE: Duration = Duration::from_secs(10);
