//! The plot of what one center holds.
use anyhow::Result;

use super::outcome::Outcome;
use crate::plots::lines::{Line, Lines, Scale, draw};

/// Draws what is known; `None` if that is nothing.
pub fn svg(outcome: &Outcome) -> Result<Option<String>> {
    let panels: Vec<Lines> = [memory(outcome), departure(outcome)].into_iter().flatten().collect();
    if panels.is_empty() { Ok(None) } else { draw("What one center holds", &panels).map(Some) }
}

fn memory(outcome: &Outcome) -> Option<Lines> {
    let points = outcome.idle.as_ref()?.memory.iter().map(|&(connections, mib)| (f64::from(connections), mib));
    Some(panel("MiB over idle connections", points.collect()))
}

fn departure(outcome: &Outcome) -> Option<Lines> {
    let departure = outcome.departure.as_ref()?;
    let points = (0..=STEPS).map(|step| {
        let part = f64::from(step) / f64::from(STEPS);
        (departure.known_ms(part), part * f64::from(departure.watchers))
    });
    Some(panel("Watchers that know, over ms after the providers went", points.collect()))
}

fn panel(title: &str, points: Vec<(f64, f64)>) -> Lines {
    let line = Line { peer: "callboard".into(), points };
    Lines { title: title.into(), x: Scale::FromZero, y: Scale::FromZero, series: vec![line] }
}

const STEPS: u32 = 50;
