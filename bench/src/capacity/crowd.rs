//! A process with many peers of one kind.
use std::io::{BufRead, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A crowd that is set up; dropped means killed.
pub struct Crowd {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    job: String,
    /// How long it took to set it up.
    pub secs: f64,
}

#[derive(Deserialize)]
struct Ready {
    secs: f64,
}

/// What became of connections that were held.
#[derive(Deserialize)]
pub struct Held {
    pub held: u64,
    pub lost: u64,
}

impl Crowd {
    /// Starts the process, and waits until it is set up.
    pub fn start(mut command: Command, job: &str) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context(job.to_owned())?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        let input = child.stdin.take();
        let mut crowd = Self { child, input, output, job: job.into(), secs: 0.0 };
        crowd.secs = crowd.told::<Ready>()?.secs;
        Ok(crowd)
    }

    /// Tells it to do what it is there for.
    pub fn tell(&mut self) -> Result<()> {
        Ok(self.input.as_mut().context("told to end already")?.write_all(b"go\n")?)
    }

    /// Tells it to end, and waits for what it has to say.
    pub fn end<T: DeserializeOwned>(mut self) -> Result<T> {
        self.input = None;
        self.told()
    }

    /// Waits for its next word.
    pub fn told<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("{} said: {line}", self.job))
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
