use std::io::IsTerminal;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Map, Value, json};

/// What can be measured.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    Close,
    Withdrawal,
    GoAway,
    Kill,
    Stop,
    EagerStop,
    Drop,
    DropThere,
    EagerDropThere,
    DropBack,
    Restart,
    Failover,
    Providers,
    Center,
}

/// What came out.
#[derive(Debug)]
pub(crate) enum Measured {
    Times(Vec<Duration>),
    /// By name.
    Counts(Vec<(&'static str, u64)>),
}

/// What is promised of it.
#[derive(Debug)]
pub(crate) struct Figure {
    pub(crate) what: What,
    pub(crate) name: &'static str,
    /// In ms, if there is one.
    bound: Option<u64>,
}

pub(crate) const FIGURES: [Figure; 14] = [
    Figure { what: What::Close, name: "a v1 provider's connection is closed", bound: Some(50) },
    Figure { what: What::Withdrawal, name: "a method is withdrawn", bound: Some(50) },
    Figure { what: What::GoAway, name: "a provider says GOAWAY to its callers", bound: Some(50) },
    Figure { what: What::Kill, name: "kill -9 of a provider", bound: Some(50) },
    Figure { what: What::Stop, name: "SIGSTOP of a provider", bound: Some(3500) },
    Figure { what: What::EagerStop, name: "SIGSTOP of a provider, set to 100 and 400 ms", bound: Some(500) },
    Figure { what: What::Drop, name: "the network of a provider drops all packets", bound: Some(3500) },
    Figure { what: What::DropThere, name: "only packets to a provider are dropped", bound: Some(3500) },
    Figure {
        what: What::EagerDropThere,
        name: "only packets to a provider are dropped, set to 100 and 400 ms",
        bound: Some(500),
    },
    Figure { what: What::DropBack, name: "only packets of a provider are dropped", bound: Some(3500) },
    Figure { what: What::Restart, name: "1,000 clients whole again after the center's restart", bound: None },
    Figure { what: What::Failover, name: "kill -9 of one of two centers under load", bound: None },
    Figure { what: What::Providers, name: "rolling restart of 4 providers under load", bound: None },
    Figure { what: What::Center, name: "rolling restart of the center under load", bound: None },
];

/// Tells what was measured: to people as a table, to programs as a JSON object a line.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: usize,
}

impl Report {
    pub(crate) fn tell(&mut self, figure: &Figure, measured: Result<Measured>) {
        let for_people = std::io::stdout().is_terminal();
        if for_people && self.rows == 0 {
            println!("| what | bound | median | worst | times |\n| --- | --- | --- | --- | --- |");
        }
        self.rows += 1;
        println!("{}", if for_people { figure.row(measured) } else { figure.object(measured).to_string() });
    }

    pub(crate) fn end(&self) {
        if self.rows == 0 {
            println!("nothing has such a name");
        }
    }
}

impl Figure {
    fn row(&self, measured: Result<Measured>) -> String {
        let name = self.name;
        match measured {
            Ok(Measured::Times(times)) => {
                let bound = self.bound.map_or_else(|| "none".to_owned(), |bound| format!("{bound} ms"));
                let (median, worst) = median_and_worst(&times);
                format!("| {name} | {bound} | {median:.1} ms | {worst:.1} ms | {} |", times.len())
            }
            Ok(Measured::Counts(counts)) => {
                let counts: Vec<_> = counts.iter().map(|(what, count)| format!("{what}: {count}")).collect();
                format!("| {name} | {} | | | |", counts.join(", "))
            }
            Err(why) => format!("| {name} | not measured: {why:#} | | | |"),
        }
    }

    fn object(&self, measured: Result<Measured>) -> Value {
        let Self { name, bound, .. } = self;
        match measured {
            Ok(Measured::Times(times)) => {
                let (median, worst) = median_and_worst(&times);
                let times = times.len();
                json!({"what": name, "bound_ms": bound, "median_ms": median, "worst_ms": worst, "times": times})
            }
            Ok(Measured::Counts(counts)) => {
                let counts: Map<_, _> = counts.iter().map(|(what, count)| ((*what).to_owned(), json!(count))).collect();
                json!({"what": name, "counts": counts})
            }
            Err(why) => json!({"what": name, "not_measured": format!("{why:#}")}),
        }
    }
}

/// In ms.
fn median_and_worst(times: &[Duration]) -> (f64, f64) {
    let mut times = times.to_vec();
    times.sort_unstable();
    let at = |index: usize| times.get(index).copied().map_or(0.0, in_ms);
    (at(times.len() / 2), at(times.len().saturating_sub(1)))
}

fn in_ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}
