use std::io::IsTerminal;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

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
    Restart,
}

/// What is promised of it.
#[derive(Debug)]
pub(crate) struct Figure {
    pub(crate) what: What,
    pub(crate) name: &'static str,
    /// In ms, if there is one.
    bound: Option<u64>,
}

pub(crate) const FIGURES: [Figure; 8] = [
    Figure { what: What::Close, name: "a v1 provider's connection is closed", bound: Some(50) },
    Figure { what: What::Withdrawal, name: "a method is withdrawn", bound: Some(50) },
    Figure { what: What::GoAway, name: "a provider says GOAWAY to its callers", bound: Some(50) },
    Figure { what: What::Kill, name: "kill -9 of a provider", bound: Some(50) },
    Figure { what: What::Stop, name: "SIGSTOP of a provider", bound: Some(3500) },
    Figure { what: What::EagerStop, name: "SIGSTOP of a provider, set to 100 and 400 ms", bound: Some(500) },
    Figure { what: What::Drop, name: "the network of a provider drops all packets", bound: Some(3500) },
    Figure { what: What::Restart, name: "1,000 clients whole again after the center's restart", bound: None },
];

/// Tells what was measured: to people as a table, to programs as a JSON object a line.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: usize,
}

impl Report {
    pub(crate) fn tell(&mut self, figure: &Figure, measured: Result<Vec<Duration>>) {
        let Figure { name, bound, .. } = figure;
        let told = measured.map(|mut times| {
            times.sort_unstable();
            let median = times.get(times.len() / 2).copied().unwrap_or_default();
            (times.len(), in_ms(median), in_ms(times.last().copied().unwrap_or_default()))
        });
        let for_people = std::io::stdout().is_terminal();
        if for_people && self.rows == 0 {
            println!("| what | bound | median | worst | times |\n| --- | --- | --- | --- | --- |");
        }
        self.rows += 1;
        match told {
            Ok((times, median, worst)) if for_people => {
                let bound = bound.map_or("none".to_owned(), |bound| format!("{bound} ms"));
                println!("| {name} | {bound} | {median:.1} ms | {worst:.1} ms | {times} |");
            }
            Ok((times, median, worst)) => println!(
                "{}",
                json!({"what": name, "bound_ms": bound, "median_ms": median, "worst_ms": worst, "times": times})
            ),
            Err(why) if for_people => println!("| {name} | not measured: {why:#} | | | |"),
            Err(why) => println!("{}", json!({"what": name, "not_measured": format!("{why:#}")})),
        }
    }

    pub(crate) fn end(&self) {
        if self.rows == 0 {
            println!("nothing has such a name");
        }
    }
}

fn in_ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}
