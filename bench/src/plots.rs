//! The plots of a document, as SVG.
mod bars;
pub mod lines;
mod style;

use anyhow::Result;

use crate::cell::{Cell, Growth, Transport};
use crate::results::{Document, Row};

use self::bars::{Bar, Bars};
use self::lines::{Line, Lines, Scale};

/// A file of `docs/performance/`.
pub struct Plot {
    pub file: &'static str,
    pub title: &'static str,
    pub svg: String,
}

/// All plots that the document has figures for.
pub fn draw(document: &Document) -> Result<Vec<Plot>> {
    let mut plots = Vec::new();
    for (file, title, panels) in [
        ("calls-add.svg", "Small calls a second over TCP", calls(document, "add")),
        ("calls-echo1k.svg", "Echoes of 1 KiB a second over TCP", calls(document, "echo1k")),
        ("calls-echo64k.svg", "Echoes of 64 KiB a second over TCP", calls(document, "echo64k")),
        ("topics.svg", "Delivered a second to all subscribers together, without raw-hub", topics(document)),
    ] {
        if !panels.is_empty() {
            plots.push(Plot { file, title, svg: bars::draw(title, &panels)? });
        }
    }
    for (file, title, panels) in [
        ("latency.svg", "Latency of small calls over TCP by percentile, us", call_latency(document)),
        ("latency-topics.svg", "Latency of a topic at a fixed rate by percentile, us", topic_latency(document)),
        ("growth.svg", "Growth", growth(document)),
    ] {
        if !panels.is_empty() {
            plots.push(Plot { file, title, svg: lines::draw(title, &panels)? });
        }
    }
    Ok(plots)
}

fn calls(document: &Document, wanted: &str) -> Vec<Bars> {
    let of = |cell: &Cell| matches!(cell, Cell::Calls { method, transport: Transport::Tcp, .. } if method == wanted);
    panels(document, of).into_iter().map(|(cell, rows)| bars_of(cell, &rows, "rps")).collect()
}

fn topics(document: &Document) -> Vec<Bars> {
    let of = |cell: &Cell| matches!(cell, Cell::Topics { rate: 0, .. });
    panels(document, of).into_iter().map(|(cell, rows)| bars_of(cell, &rows, "delivered_s")).collect()
}

fn call_latency(document: &Document) -> Vec<Lines> {
    let of = |cell: &Cell| matches!(cell, Cell::Calls { method, transport: Transport::Tcp, .. } if method == "add");
    panels(document, of).into_iter().map(|(cell, rows)| curves_of(cell, &rows)).collect()
}

fn topic_latency(document: &Document) -> Vec<Lines> {
    let of = |cell: &Cell| matches!(cell, Cell::Topics { rate: 1.., .. });
    panels(document, of).into_iter().map(|(cell, rows)| curves_of(cell, &rows)).collect()
}

/// The rows of the wanted cells, by cell.
fn panels(document: &Document, wanted: impl Fn(&Cell) -> bool) -> Vec<(&Cell, Vec<&Row>)> {
    let mut panels: Vec<(&Cell, Vec<&Row>)> = Vec::new();
    for row in document.rows.iter().filter(|row| wanted(&row.cell)) {
        match panels.iter_mut().find(|(cell, _)| **cell == row.cell) {
            Some((_, rows)) => rows.push(row),
            None => panels.push((&row.cell, vec![row])),
        }
    }
    panels
}

fn bars_of(cell: &Cell, rows: &[&Row], figure: &str) -> Bars {
    // The hub delivers so much more that it would shrink all others to nothing; it is in the table.
    let bars = rows.iter().filter(|row| row.peer != "raw-hub").map(|row| {
        let lost = row.median("lost_pct").filter(|lost| *lost >= 0.1);
        let note = lost.map_or_else(String::new, |lost| format!(", {lost:.0} % lost"));
        Bar { peer: row.peer.clone(), value: row.median(figure), note }
    });
    Bars { title: cell.label(), bars: bars.collect() }
}

fn curves_of(cell: &Cell, rows: &[&Row]) -> Lines {
    let shown = rows.iter().filter(|row| !UNDRAWN.contains(&row.peer.as_str()));
    let lines = shown.map(|row| Line { peer: row.peer.clone(), points: row.curve() });
    let lines = lines.filter(|line| !line.points.is_empty());
    Lines { title: cell.label(), x: Scale::Percentile, y: Scale::Log, series: lines.collect() }
}

/// Close to another row of the same peer, so that its curve would only hide others.
const UNDRAWN: [&str; 6] =
    ["raw-each", "raw-batch", "callboard-then", "callboard-blocking", "jsonrpsee-http", "volo-thrift"];

fn growth(document: &Document) -> Vec<Lines> {
    let panel = |over: Growth, title: &str, figure: &str, y: Scale| {
        let mut series: Vec<Line> = Vec::new();
        for row in &document.rows {
            let Cell::Growth { over: grown, count } = row.cell else { continue };
            let Some(value) = row.median(figure).filter(|_| grown == over) else { continue };
            let point = (f64::from(count), value);
            match series.iter_mut().find(|line| line.peer == row.peer) {
                Some(line) => line.points.push(point),
                None => series.push(Line { peer: row.peer.clone(), points: vec![point] }),
            }
        }
        Lines { title: title.into(), x: Scale::Log, y, series }
    };
    let panels = [
        panel(Growth::Methods, "calls a second by methods", "rps", Scale::FromZero),
        panel(Growth::Connections, "calls a second by connections", "rps", Scale::FromZero),
        panel(Growth::Subscribers, "delivered a second by subscribers", "delivered_s", Scale::Log),
        panel(Growth::Watchers, "p50 of a notice by watchers, us", "p50_us", Scale::Log),
    ];
    panels.into_iter().filter(|panel| !panel.series.is_empty()).collect()
}
