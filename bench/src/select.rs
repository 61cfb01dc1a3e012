//! `--only`: which part of a plan is measured.
use std::convert::Infallible;
use std::str::FromStr;

use crate::cell::Cell;

/// A part of the plan: every word between slashes names something of the cell, or the peer.
#[derive(Clone, Debug)]
pub struct Selector(Vec<String>);

impl FromStr for Selector {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.split('/').map(Into::into).collect()))
    }
}

impl Selector {
    pub fn selects(&self, cell: &Cell, peer: &str) -> bool {
        let id = cell.to_string();
        self.0.iter().all(|word| word == peer || id.split('/').any(|part| part == word))
    }
}

/// Whether any of them asks for this job by its name.
pub fn named(only: &[Selector], job: &str) -> bool {
    only.iter().any(|selector| selector.0.iter().any(|word| word == job))
}

/// Whether any of them selects it; without any, everything is selected.
pub fn selected(only: &[Selector], cell: &Cell, peer: &str) -> bool {
    only.is_empty() || only.iter().any(|selector| selector.selects(cell, peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors() {
        let cell = Cell::Topics { subscribers: 10, size: 64, rate: 0 };
        let rows = [
            ("topics", true),
            ("topics/nats", true),
            ("nats", true),
            ("topics/64/full", true),
            ("10/nats", true),
            ("calls/nats", false),
            ("topics/redis", false),
            ("topics/1024", false),
        ];
        for (text, expected) in rows {
            let only = [text.parse().unwrap()];
            assert_eq!(selected(&only, &cell, "nats"), expected, "{text}");
        }
        assert!(selected(&[], &cell, "nats"));
    }
}
