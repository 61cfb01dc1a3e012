//! A document as the goals look at it.
use super::Gap;
use crate::cell::{Cell, Growth};
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
                // One that was measured and has no figure failed: it is not to be beaten by being left out.
                Err(Gap::NotMeasured(_)) if self.partial && self.document.row(cell, peer).is_none() => {}
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
        let failed = || row.error().map_or(Ok(()), |error| Err(Gap::Failed(format!("{}: {error}", at()))));
        // Ours must not fail, disturbed or not; of another that was disturbed that is the reason to measure it again.
        if peer == OURS {
            failed()?;
        }
        if !row.quiet() {
            return Err(Gap::NotQuiet(at(), row.disturbance()));
        }
        if !may_fail(row) {
            failed()?;
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

/// Brokers that drop or delay messages at full speed are measured by what they do deliver.
fn may_fail(row: &Row) -> bool {
    let about_topics = matches!(row.cell, Cell::Topics { .. } | Cell::Growth { over: Growth::Subscribers, .. });
    about_topics && BROKERS.contains(&row.peer.as_str())
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

/// The ratio of two medians of one session. Nothing that works has a rate, a time or a cost of 0.
pub fn ratio(ours: &Figure, theirs: &Figure) -> Result<f64, Gap> {
    if ours.session != theirs.session {
        return Err(Gap::Apart(format!("{} and {} at {}", ours.peer, theirs.peer, theirs.cell)));
    }
    let ratio = ours.value / theirs.value;
    if ratio.is_finite() && ratio > 0.0 {
        return Ok(ratio);
    }
    let Figure { value, peer, cell, .. } = if theirs.value > 0.0 { ours } else { theirs };
    Err(Gap::Nothing(format!("{peer} at {cell}: {value}")))
}

/// Through which messages go, and which may lose some.
pub const BROKERS: [&str; 3] = ["nats", "nats-deep", "redis"];
const MEDIAN_OF: usize = 3;
