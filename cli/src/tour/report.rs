use std::io::IsTerminal;
use std::time::Instant;

use anyhow::Context;

use crate::{environment, output};

/// What is printed of a tour: a numbered line a step. Colours on a terminal only, and not if NO_COLOR is set.
#[derive(Debug)]
pub(crate) struct Report {
    started: Instant,
    steps: u32,
    colour: bool,
}

impl Report {
    pub(crate) fn begin(title: &str) -> anyhow::Result<Self> {
        let unwanted = environment::value("NO_COLOR").is_some();
        let report = Self { started: Instant::now(), steps: 0, colour: std::io::stdout().is_terminal() && !unwanted };
        output::line(&format!("{}\n", report.painted(BOLD, title)))?;
        Ok(report)
    }

    /// Plays a step that is to show `what`, and prints what was seen.
    pub(crate) async fn step<T>(
        &mut self,
        what: &str,
        step: impl Future<Output = anyhow::Result<(T, String)>>,
    ) -> anyhow::Result<T> {
        self.steps += 1;
        let played = step.await;
        let (tick, text) = match &played {
            Ok((_, seen)) => (self.painted(GREEN, "✓"), seen.as_str()),
            Err(_) => (self.painted(RED, "✗"), what),
        };
        output::line(&format!("{:>3}. {tick} {text}", self.steps))?;
        let (value, _) = played.with_context(|| format!("step {} of the tour failed: {what}", self.steps))?;
        Ok(value)
    }

    pub(crate) fn end(&self) -> anyhow::Result<()> {
        let (steps, seconds) = (self.steps, self.started.elapsed().as_secs_f64());
        output::line(&format!("\nAll {steps} steps were seen to work, in {seconds:.1} s."))
    }

    fn painted(&self, colour: &str, text: &str) -> String {
        if self.colour { format!("{colour}{text}{PLAIN}") } else { text.to_owned() }
    }
}

const BOLD: &str = "\x1b[1m";
const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";
