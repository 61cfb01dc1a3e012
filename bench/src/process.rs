//! Processes under measurement.
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

/// A started process; dropped means killed.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    name: String,
    errors: PathBuf,
}

impl Process {
    /// Starts a command whose output is read line by line; what it says on stderr is kept in `dir`.
    pub fn start(command: &[OsString], dir: &Path) -> Result<Self> {
        Self::start_with(command, &[], dir)
    }

    /// The same with more variables in its environment.
    pub fn start_with(command: &[OsString], variables: &[(&str, &str)], dir: &Path) -> Result<Self> {
        let (program, arguments) = command.split_first().context("an empty command")?;
        let name = Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned();
        let role = arguments.first().map(|role| role.to_string_lossy()).unwrap_or_default();
        let errors = dir.join(format!("{name}.{role}"));
        let mut child = Command::new(program)
            .args(arguments)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors)?)
            .spawn()
            .with_context(|| name.clone())?;
        let stdout = child.stdout.take().context("no output")?;
        let (sender, lines) = channel();
        // The reader ends with the process; a broker's chatter must be read, or it would block on it.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Ok(Self { child, lines, name, errors })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the process says that it is set up.
    pub fn ready(&self, patience: Duration) -> Result<()> {
        let line = self.line(patience)?;
        if line != "READY" {
            bail!("{} said: {line}", self.name);
        }
        Ok(())
    }

    /// Waits for a result.
    pub fn json(&self, patience: Duration) -> Result<Map<String, Value>> {
        let line = self.line(patience)?;
        serde_json::from_str(&line).with_context(|| format!("{} said: {line}", self.name))
    }

    fn line(&self, patience: Duration) -> Result<String> {
        self.lines.recv_timeout(patience).ok().with_context(|| format!("{}: {}", self.name, self.last_words()))
    }

    fn last_words(&self) -> String {
        let said = fs::read_to_string(&self.errors).unwrap_or_default();
        said.lines().last().map_or_else(|| "no output in time".into(), Into::into)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(script: &str, dir: &Path) -> Process {
        Process::start(&["sh", "-c", script].map(OsString::from), dir).unwrap()
    }

    #[test]
    fn a_process_is_waited_for_so_long_and_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        let hanging = started("exec sleep 600", dir.path());
        let error = hanging.json(Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.to_string(), "sh: no output in time");
    }

    #[test]
    fn a_process_that_ends_is_told_by_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let ended = started("echo READY; echo lost >&2; exit 1", dir.path());
        ended.ready(Duration::from_mins(1)).unwrap();
        assert_eq!(ended.json(Duration::from_mins(1)).unwrap_err().to_string(), "sh: lost");
    }
}
