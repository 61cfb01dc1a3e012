//! What was measured: one JSON document with every run, and its medians.
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cell::Cell;
use crate::drivers::Missing;
use crate::machine::Machine;
use crate::plan::Pace;
use crate::quiet::MOST_STRANGERS;
use crate::stats::median;

/// All results of one plan; a part that was measured again replaces what it was, and has a session of its own.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Document {
    pub sessions: Vec<Session>,
    pub rows: Vec<Row>,
}

/// What all results of one command have in common.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Session {
    pub date: String,
    pub command: String,
    pub commit: String,
    pub runs: u32,
    pub warm: f64,
    pub secs: f64,
    pub machine: Machine,
    pub versions: BTreeMap<String, String>,
    pub missing: Vec<Missing>,
}

/// All runs of a peer at a cell.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Row {
    #[serde(flatten)]
    pub cell: Cell,
    pub peer: String,
    pub session: usize,
    pub samples: Vec<Sample>,
}

/// One run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Sample {
    pub run: u32,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<String, f64>,
    /// Pairs of percentile and microseconds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<(f64, f64)>,
    /// CPUs that strangers took meanwhile.
    pub strangers: f64,
    /// Who they were, and what each took.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub who: Vec<(String, f64)>,
    /// False if they took too much, each time it was tried.
    pub quiet: bool,
    pub attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Document {
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }

    /// What earlier commands measured, nothing if there was none: what can't be read is not to be written over.
    pub fn kept(path: &Path) -> Result<Self> {
        if path.exists() { Self::read(path) } else { Ok(Self::default()) }
    }

    /// Writes the document with a row a line, so that a repository shows what changed.
    pub fn write(&self, path: &Path) -> Result<()> {
        let lines = |items: Vec<String>| items.join(",\n");
        let sessions = self.sessions.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
        let rows = self.rows.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
        let text = format!("{{\"sessions\":[\n{}\n],\"rows\":[\n{}\n]}}\n", lines(sessions), lines(rows));
        fs::create_dir_all(path.parent().context("no directory")?)?;
        // Renamed into place, so that an interrupted run leaves the last whole document.
        let unfinished = path.with_extension("tmp");
        fs::write(&unfinished, text)?;
        Ok(fs::rename(&unfinished, path)?)
    }

    /// The row of a peer at a cell, by the cell's id.
    pub fn row(&self, cell: &str, peer: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.peer == peer && row.cell.to_string() == cell)
    }

    /// The sessions that any row is of, with their indices.
    pub fn used(&self) -> impl Iterator<Item = (usize, &Session)> {
        let used = |index: usize| self.rows.iter().any(|row| row.session == index);
        self.sessions.iter().enumerate().filter(move |(index, _)| used(*index))
    }

    /// The last session, to go on with: of the same commit and pace only, since what it says holds for all of its runs.
    pub fn resumed(&self, commit: &str, pace: Pace) -> Result<Option<usize>> {
        let Some(last) = self.sessions.last() else { return Ok(None) };
        let other = &last.commit;
        ensure!(other == commit, "the last session is of commit {other}, this is {commit}: leave --resume out");
        let other = Pace { runs: last.runs, warm: last.warm, secs: last.secs };
        ensure!(other == pace, "the last session has {other}, this has {pace}: say the same, or leave --resume out");
        Ok(Some(self.sessions.len() - 1))
    }

    /// What failed in the latest session, ours before that of others.
    pub fn failures(&self) -> Vec<(&Row, &str)> {
        let latest = self.rows.iter().filter(|row| row.session + 1 == self.sessions.len());
        let mut failures: Vec<_> = latest.filter_map(|row| Some((row, row.error()?))).collect();
        failures.sort_by_key(|(row, _)| !row.ours());
        failures
    }

    /// Whether a run is there already.
    pub fn has(&self, cell: &Cell, peer: &str, session: usize, run: u32) -> bool {
        let row = self.rows.iter().find(|row| row.is(cell, peer) && row.session == session);
        row.is_some_and(|row| row.samples.iter().any(|sample| sample.run == run))
    }

    /// A run that strangers disturbed.
    pub fn disturbed(&self, cell: &Cell, peer: &str, session: usize, run: u32) -> Option<&Sample> {
        let row = self.rows.iter().find(|row| row.is(cell, peer) && row.session == session)?;
        row.samples.iter().find(|sample| sample.run == run && !sample.undisturbed())
    }

    /// Adds a run, or puts it in place of what it was; what an earlier session measured of it goes.
    pub fn add(&mut self, cell: &Cell, peer: &str, session: usize, sample: Sample) {
        self.rows.retain(|row| !row.is(cell, peer) || row.session == session);
        if let Some(row) = self.rows.iter_mut().find(|row| row.is(cell, peer)) {
            row.samples.retain(|other| other.run != sample.run);
            row.samples.push(sample);
        } else {
            self.rows.push(Row { cell: cell.clone(), peer: peer.into(), session, samples: vec![sample] });
        }
    }

    /// Begins a session, and drops those whose rows have all been replaced.
    pub fn begin(&mut self, session: Session) -> usize {
        let used: Vec<_> = self.used().map(|(index, _)| index).collect();
        for row in &mut self.rows {
            row.session = used.iter().position(|&i| i == row.session).unwrap_or(0);
        }
        let mut index = 0..;
        self.sessions.retain(|_| index.next().is_some_and(|i| used.contains(&i)));
        self.sessions.push(session);
        self.sessions.len() - 1
    }
}

impl Row {
    fn is(&self, cell: &Cell, peer: &str) -> bool {
        self.peer == peer && self.cell == *cell
    }

    /// Whether it is Callboard, called in whichever way.
    pub fn ours(&self) -> bool {
        is_ours(&self.peer)
    }

    /// The figure of each run that has it.
    pub fn values(&self, figure: &str) -> impl Iterator<Item = f64> {
        self.samples.iter().filter_map(move |sample| sample.figures.get(figure)).copied()
    }

    /// The median over the runs.
    pub fn median(&self, figure: &str) -> Option<f64> {
        median(self.values(figure))
    }

    /// The latency curve of medians.
    pub fn curve(&self) -> Vec<(f64, f64)> {
        let percentiles = self.samples.iter().map(|sample| &sample.curve).max_by_key(|curve| curve.len());
        let at = |percentile: f64| {
            let points = self.samples.iter().flat_map(|sample| &sample.curve);
            median(points.filter(|point| (point.0 - percentile).abs() < 1e-6).map(|point| point.1))
        };
        percentiles.into_iter().flatten().filter_map(|&(percentile, _)| Some((percentile, at(percentile)?))).collect()
    }

    pub fn quiet(&self) -> bool {
        self.samples.iter().all(Sample::undisturbed)
    }

    /// What strangers took in the run that they disturbed most.
    pub fn disturbance(&self) -> String {
        let most = self.samples.iter().max_by(|a, b| a.strangers.total_cmp(&b.strangers));
        most.map(Sample::disturbance).unwrap_or_default()
    }

    pub fn error(&self) -> Option<&str> {
        self.samples.iter().find_map(|sample| sample.error.as_deref())
    }
}

impl Sample {
    /// Takes a driver's result apart: its numbers, its curve, and what went wrong.
    pub fn of(result: &Map<String, Value>) -> Self {
        let figures = result.iter().filter_map(|(name, value)| Some((name.clone(), significant(value.as_f64()?))));
        let curve = result.get("curve").and_then(|curve| serde_json::from_value(curve.clone()).ok());
        Self {
            figures: figures.collect(),
            curve: curve.unwrap_or_default(),
            strangers: result.get("foreign_cpu").and_then(Value::as_f64).unwrap_or(0.0),
            who: result.get("strangers").and_then(|who| serde_json::from_value(who.clone()).ok()).unwrap_or_default(),
            ..Self::default()
        }
    }

    /// Whether strangers spoiled no figure of it; what failed altogether has none. Whoever permits them more while
    /// measuring gets figures, but none to judge by.
    fn undisturbed(&self) -> bool {
        (self.quiet && self.strangers <= MOST_STRANGERS) || self.figures.is_empty()
    }

    /// This run or the one that was disturbed, whichever is quieter. What failed then is still told; of ours, whatever
    /// failed or was lost in either.
    pub fn or_disturbed(mut self, disturbed: &Self, ours: bool) -> Self {
        if self.figures.is_empty() || self.strangers >= disturbed.strangers {
            let failed = std::mem::replace(&mut self, disturbed.clone());
            if ours {
                self.tell_of(&failed);
            }
        } else if ours {
            self.tell_of(disturbed);
        } else {
            self.error = self.error.take().or_else(|| disturbed.error.clone());
        }
        self
    }

    /// Takes over what went wrong in another attempt at the same run: it happened, whichever attempt's figures are kept.
    pub fn tell_of(&mut self, other: &Self) {
        self.error = self.error.take().or_else(|| other.error.clone());
        let lost = |sample: &Self| sample.figures.get("lost").map_or(0.0, |lost| lost.abs());
        if lost(other) > lost(self) {
            let losses = ["lost", "lost_pct"].into_iter().filter_map(|name| other.figures.get_key_value(name));
            self.figures.extend(losses.map(|(name, value)| (name.clone(), *value)));
        }
    }

    /// Adds one more who took CPUs, and keeps the most demanding.
    pub fn disturb(&mut self, name: &str, cpus: f64) {
        self.strangers = significant(self.strangers + cpus);
        self.who.push((name.into(), cpus));
        self.who.retain(|(_, cpus)| *cpus >= TELLING);
        self.who.sort_by(|a, b| b.1.total_cmp(&a.1));
        self.who.truncate(MOST_NAMES);
        for (_, cpus) in &mut self.who {
            *cpus = significant(*cpus);
        }
    }

    pub fn disturbance(&self) -> String {
        let who: Vec<_> = self.who.iter().map(|(name, cpus)| format!("{name} {cpus:.2}")).collect();
        let who = if who.is_empty() { String::new() } else { format!(" ({})", who.join(", ")) };
        format!("strangers took {:.2} CPUs{who}", self.strangers)
    }
}

/// Whether a peer is Callboard, called in whichever way.
pub fn is_ours(peer: &str) -> bool {
    peer.starts_with("callboard")
}

/// Six significant digits: more would only make the document longer.
fn significant(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

/// CPUs below which nobody is named.
const TELLING: f64 = 0.01;
const MOST_NAMES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn session(date: &str) -> Session {
        Session { date: date.into(), command: "full".into(), runs: 3, ..Session::default() }
    }

    fn sample(run: u32, rps: f64) -> Sample {
        Sample { run, figures: BTreeMap::from([("rps".into(), rps)]), quiet: true, ..Sample::default() }
    }

    #[test]
    fn a_document_reads_as_it_was_written() {
        let (directory, mut document) = (tempfile::tempdir().unwrap(), Document::default());
        let session = document.begin(session("today"));
        let cell = Cell::Topics { subscribers: 10, size: 64, rate: 0 };
        document.add(&cell, "callboard", session, sample(0, 1.5));
        let path = directory.path().join("full.json");
        document.write(&path).unwrap();
        let read = Document::read(&path).unwrap();
        assert_eq!(read.row("topics/10/64/full", "callboard").unwrap().median("rps"), Some(1.5));
        assert!(read.has(&cell, "callboard", session, 0) && !read.has(&cell, "callboard", session, 1));
    }

    #[test]
    fn results_that_cannot_be_read_are_not_taken_for_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("full.json");
        assert!(Document::kept(&path).unwrap().rows.is_empty());
        fs::write(&path, "{").unwrap();
        assert!(Document::kept(&path).is_err());
    }

    #[test]
    fn a_session_replaces_only_what_it_measured() {
        let mut document = Document::default();
        let first = document.begin(session("first"));
        document.add(&Cell::Start, "callboard", first, sample(0, 1.0));
        document.add(&Cell::Build, "callboard", first, sample(0, 2.0));
        let second = document.begin(session("second"));
        document.add(&Cell::Start, "callboard", second, sample(0, 9.0));
        let start = document.row("start", "callboard").unwrap();
        assert_eq!((start.session, start.median("rps")), (second, Some(9.0)));
        assert_eq!(document.row("build", "callboard").unwrap().session, first);

        document.add(&Cell::Build, "callboard", second, sample(0, 3.0));
        let third = document.begin(session("third"));
        let dates: Vec<_> = document.sessions.iter().map(|session| session.date.as_str()).collect();
        assert_eq!((dates, third), (vec!["second", "third"], 1));
        assert!(document.rows.iter().all(|row| row.session == 0));
    }

    #[test]
    fn a_session_goes_on_with_the_commit_and_the_pace_that_it_began_with_only() {
        let mut document = Document::default();
        let pace = Pace { runs: 3, warm: 0.3, secs: 1.5 };
        assert_eq!(document.resumed("0123456789", pace).unwrap(), None);
        document.begin(Session { commit: "0123456789".into(), warm: 0.3, secs: 1.5, ..session("today") });
        assert_eq!(document.resumed("0123456789", pace).unwrap(), Some(0));
        let error = document.resumed("9876543210", pace).unwrap_err().to_string();
        assert!(error.contains("0123456789") && error.contains("9876543210"), "{error}");
        for other in [Pace { runs: 5, ..pace }, Pace { warm: 0.2, ..pace }, Pace { secs: 0.6, ..pace }] {
            let error = document.resumed("0123456789", other).unwrap_err().to_string();
            assert!(error.contains(&pace.to_string()) && error.contains(&other.to_string()), "{error}");
        }
    }

    #[test]
    fn a_run_that_was_disturbed_can_be_replaced() {
        let (mut document, cell) = (Document::default(), Cell::Start);
        let session = document.begin(session("today"));
        document.add(&cell, "callboard", session, sample(0, 1.0));
        let error = Some("2 calls failed".into());
        document.add(&cell, "callboard", session, Sample { quiet: false, strangers: 0.5, error, ..sample(1, 2.0) });
        let disturbed = |document: &Document, run| {
            document.disturbed(&cell, "callboard", session, run).map(|sample| sample.strangers)
        };
        assert_eq!(
            (disturbed(&document, 0), disturbed(&document, 1), disturbed(&document, 2)),
            (None, Some(0.5), None)
        );
        document.add(&cell, "callboard", session, sample(1, 4.0));
        assert_eq!((disturbed(&document, 1), document.rows[0].median("rps")), (None, Some(2.5)));
    }

    #[test]
    fn a_run_that_was_disturbed_gives_way_to_a_quieter_one_but_not_what_failed_in_it() {
        let loud = Sample { quiet: false, strangers: 0.5, error: Some("2 calls failed".into()), ..sample(0, 1.0) };
        for ours in [false, true] {
            let replaced = Sample { strangers: 0.25, ..sample(0, 2.0) }.or_disturbed(&loud, ours);
            assert_eq!((replaced.strangers, replaced.error.as_deref()), (0.25, Some("2 calls failed")));
            let failed = Sample { error: Some("no server".into()), ..Sample::default() };
            for worse in [Sample { strangers: 0.5, ..sample(0, 2.0) }, failed] {
                let kept = worse.or_disturbed(&loud, ours);
                assert_eq!((kept.figures["rps"], kept.error.as_deref()), (1.0, Some("2 calls failed")));
            }
        }
    }

    #[test]
    fn of_ours_all_that_was_lost_or_failed_in_any_attempt_is_told() {
        let losing = |strangers: f64, lost: f64| {
            let figures = BTreeMap::from([("lost".into(), lost), ("lost_pct".into(), lost / 10.0)]);
            Sample { figures, strangers, ..Sample::default() }
        };
        let rows = [(losing(0.5, 7.0), losing(0.1, 0.0)), (losing(0.5, 0.0), losing(0.6, -7.0))];
        for (disturbed, again) in rows {
            let lost = |ours| again.clone().or_disturbed(&disturbed, ours).figures["lost"].abs();
            assert_eq!((lost(false), lost(true)), (0.0, 7.0));
        }
        let failed = Sample { error: Some("the center has crashed".into()), ..Sample::default() };
        let kept = failed.or_disturbed(&losing(0.5, 0.0), true);
        assert_eq!((kept.error.as_deref(), kept.strangers), (Some("the center has crashed"), 0.5));
    }

    #[test]
    fn a_run_beside_more_strangers_than_goals_permit_is_not_quiet_whatever_was_permitted_it() {
        for (strangers, quiet) in [(MOST_STRANGERS, true), (MOST_STRANGERS + 0.01, false)] {
            let mut document = Document::default();
            document.add(&Cell::Start, "callboard", 0, Sample { strangers, ..sample(0, 1.0) });
            assert_eq!(document.rows[0].quiet(), quiet);
        }
    }

    #[test]
    fn a_run_that_was_disturbed_is_not_quiet_even_where_some_of_it_failed() {
        let cell = Cell::Start;
        let failed = |sample| Sample { quiet: false, error: Some("2 calls failed".into()), ..sample };
        for (sample, quiet) in
            [(sample(0, 1.0), true), (failed(sample(0, 1.0)), false), (failed(Sample::default()), true)]
        {
            let mut document = Document::default();
            document.add(&cell, "nats", 0, sample);
            assert_eq!(document.rows[0].quiet(), quiet);
            assert_eq!(document.disturbed(&cell, "nats", 0, 0).is_some(), !quiet);
        }
    }

    #[test]
    fn failures_of_the_latest_session_are_told_ours_first() {
        let (mut document, failed) =
            (Document::default(), |run| Sample { error: Some("no server".into()), ..sample(run, 0.0) });
        let first = document.begin(session("first"));
        document.add(&Cell::Build, "callboard", first, failed(0));
        let second = document.begin(session("second"));
        document.add(&Cell::Idle { connections: 10 }, "nats", second, failed(0));
        document.add(&Cell::Start, "callboard", second, sample(0, 1.0));
        document.add(&Cell::Start, "callboard", second, failed(1));
        let told: Vec<_> =
            document.failures().into_iter().map(|(row, error)| (row.peer.as_str(), row.cell.job(), error)).collect();
        assert_eq!(told, [("callboard", "start", "no server"), ("nats", "idle", "no server")]);
    }

    #[test]
    fn a_drivers_result_is_taken_apart() {
        let result =
            serde_json::json!({"rps": 1_234_567.89, "foreign_cpu": 0.25, "first_error": "x", "curve": [[50.0, 7.5]]});
        let sample = Sample::of(result.as_object().unwrap());
        assert_eq!(sample.figures.get("rps"), Some(&1_234_570.0));
        assert_eq!((sample.strangers, sample.curve), (0.25, vec![(50.0, 7.5)]));
    }

    #[test]
    fn strangers_are_named_the_most_demanding_first() {
        let result = serde_json::json!({"foreign_cpu": 0.375, "strangers": [["cc", 0.25], ["make", 0.125]]});
        let mut sample = Sample::of(result.as_object().unwrap());
        sample.disturb("the hypervisor", 0.2);
        assert_eq!(sample.disturbance(), "strangers took 0.57 CPUs (cc 0.25, the hypervisor 0.20, make 0.12)");
        sample.disturb("nobody", 0.0);
        assert_eq!(sample.who.len(), 3);
        assert_eq!(Sample { strangers: 0.5, ..Sample::default() }.disturbance(), "strangers took 0.50 CPUs");
    }
}
