//! The tables of a document: for each kind of work the peers as rows and the cells as columns.
use crate::cell::Cell;
use crate::results::{Document, Row};
use crate::stats::short_or_dash;
use crate::table::Table;

/// All tables, with their titles.
pub fn markdown(document: &Document) -> String {
    let sections = [
        pivot(document, "Calls a second", |cell| matches!(cell, Cell::Calls { .. }), |row| row.median("rps")),
        pivot(document, "Latency p50, us", |cell| matches!(cell, Cell::Calls { .. }), |row| row.median("p50_us")),
        pivot(
            document,
            "Delivered a second",
            |cell| matches!(cell, Cell::Topics { rate: 0, .. }),
            |row| row.median("delivered_s"),
        ),
    ];
    sections.into_iter().flatten().collect()
}

fn pivot(
    document: &Document,
    title: &str,
    wanted: impl Fn(&Cell) -> bool,
    value: impl Fn(&Row) -> Option<f64>,
) -> Option<String> {
    let rows: Vec<_> = document.rows.iter().filter(|row| wanted(&row.cell)).collect();
    let cells = distinct(rows.iter().map(|row| row.cell.to_string()));
    let peers = distinct(rows.iter().map(|row| row.peer.clone()));
    let columns = cells.iter().map(|cell| cell.split_once('/').map_or(cell.as_str(), |(_, rest)| rest));
    let mut table = Table::new(["peer"].into_iter().chain(columns));
    for peer in &peers {
        let values = cells.iter().map(|cell| short_or_dash(document.row(cell, peer).and_then(&value)));
        table.row([peer.clone()].into_iter().chain(values));
    }
    (!table.is_empty()).then(|| format!("\n{title}\n\n{table}"))
}

fn distinct(items: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = Vec::new();
    for item in items {
        if !seen.contains(&item) {
            seen.push(item);
        }
    }
    seen
}
