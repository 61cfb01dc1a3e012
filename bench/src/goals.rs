//! Where we mean to stand, and whether we do: each goal is a bar for a ratio of medians of the same session.
mod calls;
mod others;
mod topics;
mod view;

use std::fmt;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::results::Document;
use crate::stats::short;
use crate::table::Table;

use self::view::View;

/// One goal and what was measured for it.
pub struct Goal {
    pub work: String,
    pub what: String,
    pub bar: Bar,
    pub measured: Result<f64, Gap>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bar {
    AtLeast(f64),
    AtMost(f64),
}

/// Why there is nothing to hold against the bar.
#[derive(Clone, Debug, PartialEq)]
pub enum Gap {
    NotMeasured(String),
    /// Measured as 0, as of something that does not work.
    Nothing(String),
    /// So many runs of so many: one may be far off, and nothing would tell.
    TooFew(String, usize, usize),
    /// Strangers took too much, each time it was tried.
    NotQuiet(String, String),
    Failed(String),
    /// The two sides were not measured side by side.
    Apart(String),
}

/// What else is known, beside the results of the arena.
#[derive(Clone, Debug, Default)]
pub struct Capacity {
    /// What was measured, and when.
    pub commit: Option<String>,
    pub date: Option<String>,
    /// Those that were held until the end.
    pub connections: Option<f64>,
    /// As many as the limit of open files allowed where they were held, less 1,000, and 100,000 at most.
    pub connections_wanted: Option<f64>,
    /// The p99 of a call beside all connections by that without them.
    pub p99_ratio: Option<f64>,
    /// CPUs that strangers took while it was measured, at most.
    pub strangers: Option<f64>,
}

impl Capacity {
    /// Reads what `capacity` last found, if it was run.
    pub fn read(home: &Path) -> Self {
        let text = fs::read_to_string(home.join("results/capacity.json")).unwrap_or_default();
        let found: Value = serde_json::from_str(&text).unwrap_or_default();
        let number = |pointer: &str| found.pointer(pointer).and_then(Value::as_f64);
        let text = |pointer: &str| found.pointer(pointer).and_then(Value::as_str).map(Into::into);
        let both =
            |name: &str| number(&format!("/idle/one/beside/{name}")).zip(number(&format!("/idle/one/alone/{name}")));
        Self {
            commit: text("/idle/about/commit"),
            date: text("/idle/about/date"),
            connections: number("/idle/connections").zip(number("/idle/lost")).map(|(all, lost)| all - lost),
            connections_wanted: number("/idle/wanted"),
            p99_ratio: both("p99_us").filter(|&(beside, alone)| beside.min(alone) > 0.0).map(|(b, a)| b / a),
            strangers: both("strangers").map(|(beside, alone)| beside.max(alone)),
        }
    }
}

/// Every goal; with `partial`, those only that the document has figures for.
pub fn judge(document: &Document, capacity: &Capacity, partial: bool) -> Vec<Goal> {
    let view = View { document, partial };
    let mut goals = calls::goals(view);
    goals.extend(topics::goals(view));
    goals.extend(others::goals(view, capacity));
    goals.retain(|goal| !partial || !matches!(goal.measured, Err(Gap::NotMeasured(_))));
    goals
}

/// How many were not met; what was not measured was not met.
pub fn missed(goals: &[Goal]) -> usize {
    goals.iter().filter(|goal| !goal.met()).count()
}

/// A row for each goal.
pub fn table(goals: &[Goal]) -> Table {
    let mut table = Table::new(["work", "goal", "bar", "measured", ""]).left(2);
    for goal in goals {
        let measured = goal.measured.as_ref().map_or_else(|_| "-".into(), |value| short(*value));
        table.row([goal.work.clone(), goal.what.clone(), goal.bar.to_string(), measured, goal.verdict().into()]);
    }
    table
}

/// The commits that goals are judged by: which, what measured it, and when.
pub fn commits(document: &Document, capacity: &Capacity) -> Vec<String> {
    let line = |commit: &str, command: &str, date: &str| format!("{commit}, measured by `{command}` at {date}");
    let sessions = document.used().map(|(_, session)| line(&session.commit, &session.command, &session.date));
    let of_capacity = capacity.commit.iter().zip(&capacity.date).map(|(commit, date)| line(commit, "capacity", date));
    sessions.chain(of_capacity).collect()
}

/// What keeps goals from being judged, each said once.
pub fn gaps(goals: &[Goal]) -> Vec<String> {
    let mut gaps: Vec<_> = goals.iter().filter_map(|goal| Some(goal.measured.as_ref().err()?.to_string())).collect();
    gaps.sort();
    gaps.dedup();
    gaps
}

impl Goal {
    fn new(work: impl Into<String>, what: impl Into<String>, bar: Bar, measured: Result<f64, Gap>) -> Self {
        Self { work: work.into(), what: what.into(), bar, measured }
    }

    pub fn met(&self) -> bool {
        self.measured.as_ref().is_ok_and(|&value| self.bar.met_by(value))
    }

    fn verdict(&self) -> &'static str {
        match &self.measured {
            Ok(_) if self.met() => "met",
            Ok(_) => "NOT MET",
            Err(Gap::NotMeasured(_) | Gap::Nothing(_)) => "NOT MEASURED",
            Err(Gap::TooFew(..)) => "TOO FEW RUNS",
            Err(Gap::NotQuiet(..)) => "NOT QUIET",
            Err(Gap::Failed(_)) => "FAILED",
            Err(Gap::Apart(_)) => "NOT TOGETHER",
        }
    }
}

impl Bar {
    fn met_by(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bar) => value >= bar,
            Self::AtMost(bar) => value <= bar,
        }
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bar) => write!(f, ">= {}", short(*bar)),
            Self::AtMost(bar) => write!(f, "<= {}", short(*bar)),
        }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMeasured(what) => write!(f, "no {what}"),
            Self::Nothing(what) => write!(f, "a ratio needs figures above 0; {what}"),
            Self::TooFew(what, runs, wanted) => write!(f, "{what}: {runs} of {wanted} runs"),
            Self::NotQuiet(what, disturbance) => write!(f, "{what}: {disturbance}"),
            Self::Failed(what) => write!(f, "failed: {what}"),
            Self::Apart(what) => write!(f, "not in one session: {what}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::calls::JSON;
    use super::view::Better;
    use super::*;
    use crate::cell::{Cell, Transport};
    use crate::results::{Document, Sample, Session};

    fn document(rows: &[(&str, usize, f64, bool)]) -> Document {
        let mut document =
            Document { sessions: vec![Session { runs: 1, ..Session::default() }; 2], ..Document::default() };
        let cell = Cell::Calls { method: "add".into(), connections: 16, outstanding: 16, transport: Transport::Tcp };
        for &(peer, session, rps, quiet) in rows {
            let figures = [("rps".to_owned(), rps)].into();
            let strangers = if quiet { 0.0 } else { 0.75 };
            document.add(&cell, peer, session, Sample { figures, strangers, quiet, ..Sample::default() });
        }
        document
    }

    fn verdict(document: &Document, goal: &str) -> (bool, Result<f64, Gap>) {
        let goals = judge(document, &Capacity::default(), false);
        let found = goals.iter().find(|g| g.work.contains("16 x 16") && g.what.contains(goal)).unwrap();
        (found.met(), found.measured.clone())
    }

    #[test]
    fn a_ratio_is_held_against_its_bar() {
        let ours_by_tarpc = [(400.0, true, 4.0), (300.0, true, 3.0), (299.0, false, 2.99)];
        for (ours, met, ratio) in ours_by_tarpc {
            let document = document(&[("callboard", 0, ours, true), ("tarpc-json", 0, 100.0, true)]);
            assert_eq!(verdict(&document, "rate by tarpc-json"), (met, Ok(ratio)));
        }
    }

    #[test]
    fn what_was_not_measured_well_is_not_met() {
        let rows = [
            (document(&[("callboard", 0, 400.0, true)]), "no tarpc-json at calls/add/16x16/tcp"),
            (
                document(&[("callboard", 0, 400.0, false), ("tarpc-json", 0, 100.0, true)]),
                "callboard at calls/add/16x16/tcp: strangers took 0.75 CPUs",
            ),
            (
                document(&[("callboard", 0, 400.0, true), ("tarpc-json", 1, 100.0, true)]),
                "not in one session: callboard and tarpc-json at calls/add/16x16/tcp",
            ),
        ];
        for (document, expected) in rows {
            let (met, measured) = verdict(&document, "rate by tarpc-json");
            assert!(!met);
            assert_eq!(measured.unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn a_peer_that_was_disturbed_meets_no_goal_even_where_some_of_its_calls_failed() {
        let mut document = document(&[("callboard", 0, 400.0, true), ("tarpc-json", 0, 100.0, false)]);
        document.rows[1].samples[0].error = Some("2 calls failed".into());
        let (met, measured) = verdict(&document, "rate by tarpc-json");
        assert!(!met && matches!(measured, Err(Gap::NotQuiet(..))), "{measured:?}");
    }

    #[test]
    fn a_peer_that_failed_or_did_nothing_is_beaten_by_nobody() {
        let rows = [
            (0.0, None, "NOT MEASURED"),
            (0.0, None, "NOT MEASURED"),
            (0.0, Some("5000 calls failed"), "FAILED"),
            (1.0, Some("5000 calls failed"), "FAILED"),
        ];
        for ((rps, error, expected), partial) in rows.into_iter().zip([false, true, false, true]) {
            let mut document = document(&[("callboard", 0, 400.0, true), ("tarpc-json", 0, rps, true)]);
            document.rows[1].samples[0].error = error.map(Into::into);
            let goals = judge(&document, &Capacity::default(), partial);
            let is_wanted = |goal: &&Goal| goal.work.contains("16 x 16") && goal.what == "rate by tarpc-json";
            let goal = goals.iter().find(is_wanted).unwrap();
            assert_eq!((goal.verdict(), goal.met()), (expected, false), "{rps} {error:?}: {:?}", goal.measured);
        }
    }

    #[test]
    fn a_quick_run_leaves_out_of_the_best_who_was_not_measured_but_not_who_has_no_figure() {
        let cell = Cell::Calls { method: "echo1k".into(), connections: 16, outstanding: 16, transport: Transport::Tcp };
        for (figure, verdict) in [("rps", "met"), ("p50_us", "NOT MEASURED")] {
            let mut document = Document::default();
            document.begin(Session { runs: 1, ..Session::default() });
            for (peer, name, value) in
                [("callboard", "rps", 400.0), ("tarpc-json", "rps", 100.0), ("jsonrpsee-ws", figure, 50.0)]
            {
                let figures = [(name.to_owned(), value)].into();
                document.add(&cell, peer, 0, Sample { figures, quiet: true, ..Sample::default() });
            }
            let view = View { document: &document, partial: true };
            let measured = view.by_best(&cell.to_string(), &JSON, "rps", Better::More);
            let goal = Goal::new("echo", "rate", Bar::AtLeast(3.0), measured);
            assert_eq!(goal.verdict(), verdict, "{:?}", goal.measured);
        }
    }

    #[test]
    fn a_broker_is_measured_by_the_messages_that_it_delivers_and_by_no_call_that_fails() {
        let topic = Cell::Topics { subscribers: 1, size: 64, rate: 0 };
        let call = Cell::Calls { method: "add".into(), connections: 16, outstanding: 16, transport: Transport::Tcp };
        for (cell, peer, fails) in [(&topic, "nats", false), (&topic, "raw-hub", true), (&call, "nats", true)] {
            let mut document = Document::default();
            document.begin(Session { runs: 1, ..Session::default() });
            for (peer, error) in [("callboard", None), (peer, Some("messages still came when it was given up"))] {
                let figures = [("rate".to_owned(), 1.0)].into();
                let sample = Sample { figures, quiet: true, error: error.map(Into::into), ..Sample::default() };
                document.add(cell, peer, 0, sample);
            }
            let measured = View { document: &document, partial: false }.by(&cell.to_string(), peer, "rate");
            assert_eq!(matches!(measured, Err(Gap::Failed(_))), fails, "{peer} at {cell}: {measured:?}");
        }
    }

    #[test]
    fn a_median_is_one_of_three_runs_unless_fewer_were_asked_for() {
        let mut document = document(&[("callboard", 0, 400.0, true), ("tarpc-json", 0, 100.0, true)]);
        let ours = document.rows[0].samples[0].clone();
        document.rows[0].samples = vec![ours; 3];
        let theirs = document.rows[1].samples[0].clone();
        for (runs, samples, met) in [(3, 2, false), (5, 2, false), (2, 2, true), (3, 3, true), (5, 3, true)] {
            document.sessions[0].runs = runs;
            document.rows[1].samples = vec![theirs.clone(); samples];
            let (is_met, measured) = verdict(&document, "rate by tarpc-json");
            assert_eq!(is_met, met, "{samples} of {runs}: {measured:?}");
        }
    }

    #[test]
    fn losses_that_are_not_known_or_made_up_for_by_surplus_are_not_met() {
        let cell = Cell::Topics { subscribers: 1, size: 64, rate: 0 };
        let rows = [
            ([Some(0.0); 3], Some(0.0)),
            ([Some(5.0), Some(-5.0), Some(0.0)], Some(10.0)),
            ([Some(0.0), None, Some(0.0)], None),
            ([None; 3], None),
        ];
        for (lost, expected) in rows {
            let mut document = Document::default();
            document.begin(Session { runs: 3, ..Session::default() });
            for (run, lost) in (0..).zip(lost) {
                let figures = lost.map(|lost| ("lost".to_owned(), lost)).into_iter().collect();
                document.add(&cell, "callboard", 0, Sample { run, figures, quiet: true, ..Sample::default() });
            }
            let goals = judge(&document, &Capacity::default(), false);
            let goal =
                goals.iter().find(|goal| goal.work == "topic, 1 to 1, 64 B" && goal.what.contains("lost")).unwrap();
            assert_eq!((goal.measured.clone().ok(), goal.met()), (expected, expected == Some(0.0)));
        }
    }

    #[test]
    fn latency_beside_idle_connections_needs_quiet() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("results")).unwrap();
        for (strangers, verdict) in [("0.15", "met"), ("0.4", "NOT QUIET"), ("null", "NOT MEASURED")] {
            let speed = |p99: f64, strangers: &str| format!(r#"{{"p99_us": {p99}, "strangers": {strangers}}}"#);
            let (alone, beside) = (speed(100.0, "0"), speed(120.0, strangers));
            let one = format!(r#"{{"alone": {alone}, "beside": {beside}}}"#);
            let about = r#"{"commit": "0123456789", "date": "today"}"#;
            let idle = format!(r#"{{"about": {about}, "connections": 9, "wanted": 7, "lost": 2, "one": {one}}}"#);
            fs::write(home.path().join("results/capacity.json"), format!(r#"{{"idle": {idle}}}"#)).unwrap();
            let capacity = Capacity::read(home.path());
            let goals = judge(&Document::default(), &capacity, false);
            let goal = goals.iter().find(|goal| goal.work == "calls beside them").unwrap();
            assert_eq!(goal.verdict(), verdict, "{:?}", goal.measured);
            assert_eq!((capacity.connections, capacity.connections_wanted), (Some(7.0), Some(7.0)));
            assert_eq!(commits(&Document::default(), &capacity), ["0123456789, measured by `capacity` at today"]);
        }
    }

    #[test]
    fn connections_are_held_against_what_was_wanted_where_they_were_held() {
        let rows = [
            (Some(9.0), "NOT MET"),
            (Some(8.0), "met"),
            (Some(0.0), "NOT MEASURED"),
            (None, "NOT MEASURED"), // as in files from before it was written down
        ];
        for (connections_wanted, verdict) in rows {
            let capacity = Capacity { connections: Some(8.0), connections_wanted, ..Capacity::default() };
            let goals = judge(&Document::default(), &capacity, false);
            let goal = goals.iter().find(|goal| goal.what.contains("limit of files")).unwrap();
            assert_eq!(goal.verdict(), verdict, "{connections_wanted:?}: {:?}", goal.measured);
        }
    }

    #[test]
    fn nothing_measured_is_nothing_met() {
        let goals = judge(&Document::default(), &Capacity::default(), false);
        assert_eq!(missed(&goals), goals.len());
        assert!(judge(&Document::default(), &Capacity::default(), true).is_empty());
    }

    #[test]
    fn the_table_names_each_verdict() {
        let goals = [
            Goal::new("a", "b", Bar::AtLeast(2.0), Ok(2.5)),
            Goal::new("a", "b", Bar::AtMost(2.0), Ok(2.5)),
            Goal::new("a", "b", Bar::AtMost(2.0), Err(Gap::NotMeasured("x".into()))),
        ];
        let table = table(&goals).to_string();
        let verdicts: Vec<_> = table.lines().skip(2).map(|line| line.trim_end_matches([' ', '|'])).collect();
        assert!(verdicts[0].ends_with(" met"), "{table}");
        assert!(verdicts[1].ends_with("NOT MET"), "{table}");
        assert!(verdicts[2].ends_with("NOT MEASURED"), "{table}");
        assert_eq!(missed(&goals), 2);
        assert_eq!(gaps(&goals), ["no x"]);
    }
}
