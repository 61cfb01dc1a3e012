//! The tables of a document: for each kind of work the peers as rows and the cells as columns.
use std::fmt::Write as _;

use crate::cell::{Cell, Transport};
use crate::results::{Document, Row};
use crate::stats::{short, short_or_dash, spread};
use crate::table::Table;

/// One table and what it is of.
pub struct Part {
    pub title: &'static str,
    pub table: Table,
}

/// All tables that the document has figures for.
pub fn parts(document: &Document) -> Vec<Part> {
    let parts = KINDS.iter().map(|kind| Part { title: kind.title, table: pivot(document, kind) });
    parts.filter(|part| !part.table.is_empty()).collect()
}

/// The tables with headings of the given depth, and what is to be said of their figures.
pub fn markdown(document: &Document, depth: usize) -> String {
    let heading = "#".repeat(depth);
    let mut text = String::new();
    for Part { title, table } in parts(document) {
        let _ = write!(text, "{heading} {title}\n\n{table}\n");
    }
    text + &remarks(document)
}

/// Figures that are not to be trusted, and peers that were not measured: never silently.
fn remarks(document: &Document) -> String {
    let mut lines = Vec::new();
    for row in document.rows.iter().filter(|row| !row.quiet()) {
        let disturbance = row.disturbance();
        lines.push(format!("{} at {} is marked *: {disturbance} in the quietest attempt", row.peer, row.cell));
    }
    for row in &document.rows {
        if let Some(error) = row.error() {
            lines.push(format!("{} at {} is marked !: {error}", row.peer, row.cell));
        }
    }
    let latest = document.sessions.last();
    for missing in latest.into_iter().flat_map(|session| &session.missing) {
        let (broker, package) = (&missing.broker, &missing.package);
        lines.push(format!("{broker} was not measured: it is not installed (Debian package {package})"));
    }
    lines.iter().flat_map(|line| ["- ", line, "\n"]).collect()
}

/// A table to be made.
struct Kind {
    title: &'static str,
    wanted: fn(&Cell) -> bool,
    value: fn(&Row) -> String,
}

fn pivot(document: &Document, kind: &Kind) -> Table {
    let rows: Vec<_> = document.rows.iter().filter(|row| (kind.wanted)(&row.cell)).collect();
    let cells = distinct(rows.iter().map(|row| &row.cell));
    let head = ["peer".to_owned()].into_iter().chain(cells.iter().map(|cell| cell.label()));
    let mut table = Table::new(head);
    for peer in distinct(rows.iter().map(|row| &row.peer)) {
        let values = cells.iter().map(|cell| {
            let row = rows.iter().find(|row| row.cell == **cell && row.peer == *peer);
            row.map_or_else(|| "-".into(), |row| (kind.value)(row) + marks(row))
        });
        table.row([peer.clone()].into_iter().chain(values));
    }
    table
}

fn marks(row: &Row) -> &'static str {
    match (row.quiet(), row.error()) {
        (true, None) => "",
        (false, None) => " *",
        (true, Some(_)) => " !",
        (false, Some(_)) => " * !",
    }
}

fn distinct<'a, T: PartialEq>(items: impl Iterator<Item = &'a T>) -> Vec<&'a T> {
    let mut seen = Vec::new();
    for item in items {
        if !seen.contains(&item) {
            seen.push(item);
        }
    }
    seen
}

fn figure(row: &Row, name: &str) -> String {
    short_or_dash(row.median(name))
}

/// A rate, and how far the runs were from it.
fn rate(row: &Row, name: &str) -> String {
    let runs = row.samples.iter().filter_map(|sample| sample.figures.get(name)).copied();
    let around = spread(runs).map_or_else(String::new, |part| format!(" ±{:.0}%", part * 100.0));
    figure(row, name) + &around
}

/// Two percentiles of a latency.
fn latency(row: &Row) -> String {
    format!("{} / {}", figure(row, "p50_us"), figure(row, "p99_us"))
}

fn with_loss(value: String, row: &Row) -> String {
    match row.median("lost_pct") {
        Some(lost) if lost > 0.0 => format!("{value}, {} % lost", short(lost)),
        _ => value,
    }
}

const KINDS: &[Kind] = &[
    Kind { title: "Calls a second, TCP", wanted: tcp, value: |row| rate(row, "rps") },
    Kind { title: "Latency of a call, p50 / p99 in us, TCP", wanted: tcp, value: latency },
    Kind {
        title: "Server's CPU seconds for 100,000 calls, TCP",
        wanted: tcp,
        value: |row| figure(row, "srv_cpu_100k"),
    },
    Kind {
        title: "Client's CPU seconds for 100,000 calls, TCP",
        wanted: tcp,
        value: |row| figure(row, "cli_cpu_100k"),
    },
    Kind { title: "Calls a second, Unix sockets", wanted: unix, value: |row| rate(row, "rps") },
    Kind { title: "Latency of a call, p50 / p99 in us, Unix sockets", wanted: unix, value: latency },
    Kind {
        title: "Topics at full speed, delivered a second to all subscribers together",
        wanted: full_speed,
        value: |row| with_loss(rate(row, "delivered_s"), row),
    },
    Kind {
        title: "Topics at full speed, server's CPU seconds for 100,000 deliveries",
        wanted: full_speed,
        value: |row| figure(row, "srv_cpu_100k"),
    },
    Kind {
        title: "Topics at a fixed rate, p50 / p99 in us",
        wanted: |cell| matches!(cell, Cell::Topics { rate: 1.., .. }),
        value: |row| with_loss(latency(row), row),
    },
    Kind {
        title: "Registry, operations a second",
        wanted: |cell| matches!(cell, Cell::Registry { .. }),
        value: |row| rate(row, "rps"),
    },
    Kind {
        title: "A change to so many watchers, p50 / p99 in us",
        wanted: |cell| matches!(cell, Cell::Notices { .. }),
        value: |row| with_loss(latency(row), row),
    },
    Kind {
        title: "Server's memory for so many idle connections, KiB each",
        wanted: |cell| matches!(cell, Cell::Idle { .. }),
        value: |row| figure(row, "per_conn_kb"),
    },
    Kind {
        title: "Calls a second by registered methods, 16 x 16",
        wanted: |cell| cell.job() == "grow-methods",
        value: |row| rate(row, "rps"),
    },
    Kind {
        title: "Calls a second by connections, of which 16 carry 16 calls each",
        wanted: |cell| cell.job() == "grow-connections",
        value: |row| rate(row, "rps"),
    },
    Kind {
        title: "Delivered a second by subscribers, 64 B",
        wanted: |cell| cell.job() == "grow-subscribers",
        value: |row| with_loss(rate(row, "delivered_s"), row),
    },
    Kind {
        title: "A change by watchers, p50 / p99 in us",
        wanted: |cell| cell.job() == "grow-watchers",
        value: |row| with_loss(latency(row), row),
    },
    Kind {
        title: "From exec to serving, ms",
        wanted: |cell| *cell == Cell::Start,
        value: |row| figure(row, "start_ms"),
    },
    Kind { title: "Binary, MB", wanted: |cell| *cell == Cell::Start, value: |row| figure(row, "binary_mb") },
    Kind {
        title: "A fresh release build, s",
        wanted: |cell| *cell == Cell::Build,
        value: |row| figure(row, "build_s"),
    },
];

fn tcp(cell: &Cell) -> bool {
    matches!(cell, Cell::Calls { transport: Transport::Tcp, .. })
}

fn unix(cell: &Cell) -> bool {
    matches!(cell, Cell::Calls { transport: Transport::Unix, .. })
}

fn full_speed(cell: &Cell) -> bool {
    matches!(cell, Cell::Topics { rate: 0, .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Sample;

    #[test]
    fn peers_are_rows_and_cells_are_columns() {
        let mut document = Document::default();
        for (connections, peer, kib, quiet) in
            [(1_000, "callboard", 1.5, true), (10_000, "callboard", 1.25, true), (1_000, "nats", 22.0, false)]
        {
            let figures = [("per_conn_kb".to_owned(), kib)].into();
            let sample = Sample { figures, quiet, strangers: if quiet { 0.05 } else { 0.5 }, ..Sample::default() };
            document.add(&Cell::Idle { connections }, peer, 0, sample);
        }
        let text = markdown(&document, 3);
        assert!(text.starts_with("### Server's memory for so many idle connections, KiB each\n\n| peer "), "{text}");
        assert!(text.contains("| callboard |   1.50 |  1.25 |"), "{text}");
        assert!(text.contains("| nats      | 22.0 * |     - |"), "{text}");
        assert!(text.contains("- nats at idle/1000 is marked *: strangers took 0.50 CPUs"), "{text}");
    }
}
