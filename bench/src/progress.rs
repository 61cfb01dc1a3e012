//! Tells how far a run is: a bar on a terminal, lines elsewhere, JSON for programs.
use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::cell::Cell;
use crate::results::Sample;
use crate::stats::short;

pub struct Progress {
    bar: ProgressBar,
    json: bool,
}

impl Progress {
    /// `json` prints each measurement to stdout as a line of its own.
    pub fn new(total: u64, json: bool) -> Self {
        let style = ProgressStyle::with_template("{bar:32} {pos}/{len}  {eta} left  {msg}");
        let bar = ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, json }
    }

    pub fn begin(&self, cell: &Cell, peer: &str) {
        self.bar.set_message(format!("{cell} {peer}"));
        self.bar.tick();
    }

    pub fn end(&self, cell: &Cell, peer: &str, sample: &Sample) {
        self.bar.inc(1);
        let (at, all) = (self.bar.position(), self.bar.length().unwrap_or_default());
        let line = format!("[{at}/{all}] {cell} {peer}: {}", outcome(cell, sample));
        if self.json {
            println!("{}", json!({"cell": cell.to_string(), "peer": peer, "sample": sample}));
        }
        if !std::io::stderr().is_terminal() {
            eprintln!("{line}");
        } else if !sample.quiet || sample.error.is_some() {
            self.bar.println(line);
        }
    }

    pub fn skip(&self, count: usize) {
        self.bar.inc(count as u64);
    }

    /// There is more to do than was said.
    pub fn more(&self, count: usize) {
        self.bar.inc_length(count as u64);
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn outcome(cell: &Cell, sample: &Sample) -> String {
    if let Some(error) = &sample.error {
        return error.clone();
    }
    let (figure, unit) = cell.headline();
    let value = sample.figures.get(figure).map_or_else(|| "-".into(), |value| short(*value));
    let disturbed = if sample.quiet {
        String::new()
    } else {
        format!(", NOT QUIET: {} in the quietest of {} attempts", sample.disturbance(), sample.attempts)
    };
    format!("{value} {unit}{disturbed}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_says_what_was_wrong() {
        let figures = std::collections::BTreeMap::from([("start_ms".to_owned(), 3.5)]);
        let quiet = Sample { figures: figures.clone(), quiet: true, ..Sample::default() };
        let noisy = Sample { figures, strangers: 0.75, attempts: 3, ..Sample::default() };
        let failed = Sample { error: Some("no server".into()), ..Sample::default() };
        assert_eq!(outcome(&Cell::Start, &quiet), "3.50 ms");
        assert_eq!(outcome(&Cell::Start, &failed), "no server");
        assert!(outcome(&Cell::Start, &noisy).ends_with("strangers took 0.75 CPUs in the quietest of 3 attempts"));
    }
}
