//! Which cells are measured, and in which order.
use crate::cell::{Cell, Growth, Transport};

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub runs: u32,
    pub warm: f64,
    pub secs: f64,
}

pub const QUICK: Pace = Pace { runs: 3, warm: 0.2, secs: 0.7 };
pub const FULL: Pace = Pace { runs: 3, warm: 0.3, secs: 1.5 };

/// What one look at the state of things needs.
pub fn quick() -> Vec<Cell> {
    let mut cells = calls("add", &SIZES, Transport::Tcp);
    cells.extend(calls("echo1k", &[(16, 16)], Transport::Tcp));
    cells.extend(calls("echo64k", &[(16, 16)], Transport::Tcp));
    cells.extend([1, 10, 100].map(|subscribers| Cell::Topics { subscribers, size: 64, rate: 0 }));
    cells
}

/// Everything.
pub fn full() -> Vec<Cell> {
    let mut cells = Vec::new();
    for method in ["add", "echo1k", "echo64k"] {
        cells.extend(calls(method, &SIZES, Transport::Tcp));
    }
    cells.extend(calls("add", &SIZES, Transport::Unix));
    for method in ["echo1k", "echo64k"] {
        cells.extend(calls(method, &[(16, 16)], Transport::Unix));
    }
    cells.extend(topics());
    cells.extend(registry());
    cells.extend([1_000, 10_000].map(|connections| Cell::Idle { connections }));
    cells.extend(growth());
    cells.push(Cell::Start);
    cells
}

/// Memory and sizes hardly differ between runs, and building takes long.
pub fn once(cell: &Cell) -> bool {
    matches!(cell, Cell::Idle { .. } | Cell::Start | Cell::Build)
}

/// One look at the large calls is enough for a quick run.
pub fn once_in_quick(cell: &Cell) -> bool {
    once(cell) || matches!(cell, Cell::Calls { method, .. } if method != "add")
}

fn calls(method: &str, sizes: &[(u32, u32)], transport: Transport) -> Vec<Cell> {
    let cell = |&(connections, outstanding)| Cell::Calls { method: method.into(), connections, outstanding, transport };
    sizes.iter().map(cell).collect()
}

fn topics() -> Vec<Cell> {
    let full = [64, 1024].into_iter().flat_map(|size| [1, 10, 100].map(|subscribers| (subscribers, size, 0)));
    let paced = [(1, 64, 10_000), (10, 64, 10_000), (10, 1024, 10_000), (100, 64, 1_000)];
    full.chain(paced).map(|(subscribers, size, rate)| Cell::Topics { subscribers, size, rate }).collect()
}

fn registry() -> Vec<Cell> {
    let mut cells = Vec::new();
    for operation in ["register", "discover"] {
        for (connections, outstanding) in [(1, 1), (16, 16)] {
            cells.push(Cell::Registry { operation: operation.into(), connections, outstanding });
        }
    }
    cells.push(Cell::Notices { watchers: 100 });
    cells
}

fn growth() -> Vec<Cell> {
    let steps: [(Growth, &[u32]); 4] = [
        (Growth::Methods, &[1, 100, 10_000]),
        (Growth::Connections, &[16, 1_000, 10_000]),
        (Growth::Subscribers, &[1, 10, 100, 1_000]),
        (Growth::Watchers, &[1, 10, 100, 1_000]),
    ];
    steps.into_iter().flat_map(|(over, counts)| counts.iter().map(move |&count| Cell::Growth { over, count })).collect()
}

/// Connections by calls in flight on each.
const SIZES: [(u32, u32); 3] = [(1, 1), (1, 64), (16, 16)];
