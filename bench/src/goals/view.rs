//! A document as the goals look at it.
use super::Gap;
use crate::plan;
use crate::results::{Document, Row};
use crate::stats::median;

/// The product's name among the peers.
pub const OURS: &str = "callboard";

#[derive(Clone, Copy)]
pub struct View<'a> {
    pub document: &'a Document,
    /// Whether it is a quick run's: the best of several peers may leave out those that were not measured.
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
        let values = values(row, name, self.wanted(row))?;
        let value = median(values).ok_or_else(|| not_measured(row, name))?;
        Ok(Figure { value, peer: peer.into(), cell: cell.into(), session: row.session })
    }

    /// What a figure of ours is away from 0, over all runs together: a run's surplus makes up for no other's loss.
    pub fn deviation(&self, cell: &str, name: &str) -> Result<f64, Gap> {
        let row = self.sound(cell, OURS)?;
        let values = values(row, name, self.wanted(row).max(row.samples.len()))?;
        Ok(values.into_iter().map(f64::abs).sum())
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

    /// Runs that a median needs: three, unless the session was told to do fewer, or one is enough for the cell.
    fn wanted(&self, row: &Row) -> usize {
        let once = if self.partial { plan::once_in_quick } else { plan::once };
        let session = self.document.sessions.get(row.session);
        let runs = session.map_or(MEDIAN_OF, |session| session.runs as usize);
        if once(&row.cell) { 1 } else { runs.min(MEDIAN_OF) }
    }
}

/// A figure of each run, if there are as many as are wanted.
fn values(row: &Row, name: &str, wanted: usize) -> Result<Vec<f64>, Gap> {
    let values: Vec<_> = row.values(name).collect();
    match values.len() {
        0 => Err(not_measured(row, name)),
        runs if runs < wanted => Err(Gap::TooFew(of(row, name), runs, wanted)),
        _ => Ok(values),
    }
}

fn not_measured(row: &Row, name: &str) -> Gap {
    Gap::NotMeasured(of(row, name))
}

fn of(row: &Row, name: &str) -> String {
    format!("{name} of {} at {}", row.peer, row.cell)
}

/// The ratio of two medians of one session.
pub fn ratio(ours: &Figure, theirs: &Figure) -> Result<f64, Gap> {
    if ours.session == theirs.session {
        return Ok(ours.value / theirs.value);
    }
    Err(Gap::Apart(format!("{} and {} at {}", ours.peer, theirs.peer, theirs.cell)))
}

const MEDIAN_OF: usize = 3;
