//! Which cells are measured, and in which order.
use std::fmt;

use crate::cell::{Cell, Growth, Transport};

/// How long and how often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    pub runs: u32,
    pub warm: f64,
    pub secs: f64,
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, warm, secs } = self;
        write!(f, "--runs {runs} --warm {warm} --secs {secs}")
    }
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
    for transport in [Transport::Tcp, Transport::Unix] {
        cells.extend(["add", "echo1k", "echo64k"].into_iter().flat_map(|method| calls(method, &SIZES, transport)));
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

/// So many seconds a cell is measured where others are for `secs`: of changes there are 50 a second, and fewer than some
/// hundred of them say little of a p99.
pub fn seconds(cell: &Cell, secs: f64) -> f64 {
    match cell {
        Cell::Notices { .. } | Cell::Growth { over: Growth::Watchers, .. } => secs.max(LEAST_NOTICES),
        _ => secs,
    }
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
    full.chain(PACED).map(|(subscribers, size, rate)| Cell::Topics { subscribers, size, rate }).collect()
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

/// Subscribers, bytes, and publishes a second. What 100 subscribers get at 10,000 a second is more than some brokers
/// deliver at full speed, and would tell the length of their queues.
pub const PACED: [(u32, u32, u32); 6] =
    [(1, 64, 10_000), (1, 1024, 10_000), (10, 64, 10_000), (10, 1024, 10_000), (100, 64, 1_000), (100, 1024, 1_000)];

const LEAST_NOTICES: f64 = 4.0;

/// Connections by calls in flight on each.
const SIZES: [(u32, u32); 3] = [(1, 1), (1, 64), (16, 16)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_called_at_every_size_over_every_transport() {
        let ids: Vec<_> = full().iter().map(ToString::to_string).collect();
        for method in ["add", "echo1k", "echo64k"] {
            for size in ["1x1", "1x64", "16x16"] {
                for transport in ["tcp", "unix"] {
                    assert!(ids.contains(&format!("calls/{method}/{size}/{transport}")));
                }
            }
        }
    }

    #[test]
    fn topics_of_every_size_run_at_full_speed_and_at_a_fixed_rate() {
        let cells = full();
        for (subscribers, size) in
            [1, 10, 100].into_iter().flat_map(|subscribers| [(subscribers, 64), (subscribers, 1024)])
        {
            for paced in [false, true] {
                let wanted = |cell: &Cell| matches!(cell, Cell::Topics { subscribers: s, size: b, rate } if (*s, *b, *rate > 0) == (subscribers, size, paced));
                assert!(cells.iter().any(wanted), "{subscribers} {size} {paced}");
            }
        }
    }

    #[test]
    fn notices_are_measured_for_longer_than_what_comes_often() {
        let notices = |secs| seconds(&Cell::Notices { watchers: 100 }, secs);
        assert!(notices(0.5) > 3.0 && notices(8.0) > 7.0);
        assert!(seconds(&Cell::Start, 0.5) < 1.0);
    }

    #[test]
    fn no_cell_is_measured_twice() {
        let cells = full();
        let distinct: std::collections::HashSet<_> = cells.iter().collect();
        assert_eq!(distinct.len(), cells.len());
    }
}
