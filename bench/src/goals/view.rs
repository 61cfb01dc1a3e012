//! A document as the goals look at it.
use super::Gap;
use crate::results::{Document, Row};

/// The product's name among the peers.
pub const OURS: &str = "callboard";

#[derive(Clone, Copy)]
pub struct View<'a> {
    pub document: &'a Document,
    /// Whether the best of several peers may leave out those that were not measured.
    pub partial: bool,
}

/// A median, and where it comes from.
#[derive(Clone, Debug)]
pub struct Figure {
    pub value: f64,
    peer: String,
    cell: String,
    session: usize,
}

/// What is better: more of a rate, or less of a time.
#[derive(Clone, Copy)]
pub enum Better {
    More,
    Less,
}

impl View<'_> {
    /// The median of a figure of a peer at a cell.
    pub fn figure(&self, cell: &str, peer: &str, name: &str) -> Result<Figure, Gap> {
        let row = self.sound(cell, peer)?;
        let value = row.median(name).ok_or_else(|| Gap::NotMeasured(format!("{name} of {peer} at {cell}")))?;
        Ok(Figure { value, peer: peer.into(), cell: cell.into(), session: row.session })
    }

    /// The sum of a figure of ours over all runs.
    pub fn sum(&self, cell: &str, name: &str) -> Result<f64, Gap> {
        Ok(self.sound(cell, OURS)?.sum(name))
    }

    /// Ours by a peer's, at the same cell.
    pub fn by(&self, cell: &str, peer: &str, name: &str) -> Result<f64, Gap> {
        ratio(&self.figure(cell, OURS, name)?, &self.figure(cell, peer, name)?)
    }

    /// Ours by the best of several peers.
    pub fn by_best(&self, cell: &str, peers: &[&str], name: &str, better: Better) -> Result<f64, Gap> {
        ratio(&self.figure(cell, OURS, name)?, &self.best(cell, peers, name, better)?)
    }

    pub fn best(&self, cell: &str, peers: &[&str], name: &str, better: Better) -> Result<Figure, Gap> {
        let mut figures = Vec::new();
        for peer in peers {
            match self.figure(cell, peer, name) {
                Ok(figure) => figures.push(figure),
                Err(Gap::NotMeasured(_)) if self.partial => {}
                Err(gap) => return Err(gap),
            }
        }
        figures.sort_by(|a, b| a.value.total_cmp(&b.value));
        let best = match better {
            Better::More => figures.pop(),
            Better::Less => figures.into_iter().next(),
        };
        best.ok_or_else(|| Gap::NotMeasured(format!("{} at {cell}", peers.join(", "))))
    }

    fn sound(&self, cell: &str, peer: &str) -> Result<&Row, Gap> {
        let at = || format!("{peer} at {cell}");
        let row = self.document.row(cell, peer).ok_or_else(|| Gap::NotMeasured(at()))?;
        if let Some(error) = row.error().filter(|_| peer == OURS) {
            return Err(Gap::Failed(format!("{}: {error}", at())));
        }
        if !row.quiet() {
            return Err(Gap::NotQuiet(at(), row.disturbance()));
        }
        Ok(row)
    }
}

/// The ratio of two medians of one session.
pub fn ratio(ours: &Figure, theirs: &Figure) -> Result<f64, Gap> {
    if ours.session == theirs.session {
        return Ok(ours.value / theirs.value);
    }
    Err(Gap::Apart(format!("{} and {} at {}", ours.peer, theirs.peer, theirs.cell)))
}
