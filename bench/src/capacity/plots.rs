//! Plots of what one center holds.
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;

use super::outcome::Outcome;

/// Where they lie, seen from `docs/performance.md`.
pub const MEMORY: &str = "plots/capacity-memory.svg";
pub const DEPARTURE: &str = "plots/capacity-departure.svg";

/// A line through points that begins at zero on both axes.
struct Plot {
    title: String,
    x: &'static str,
    y: &'static str,
    points: Vec<(f64, f64)>,
}

pub fn draw(home: &Path, outcome: &Outcome) -> Result<()> {
    let docs = home.parent().context("no directory above")?.join("docs");
    if let Some(idle) = &outcome.idle {
        let plot = Plot {
            title: "Memory of a center over idle connections".into(),
            x: "connections",
            y: "MiB",
            points: idle.memory.iter().map(|&(connections, mib)| (f64::from(connections), mib)).collect(),
        };
        plot.draw(&docs.join(MEMORY))?;
    }
    if let Some(departure) = &outcome.departure {
        let count = 1..=u32::try_from(departure.known_ms.len())?;
        let plot = Plot {
            title: format!("Watchers that know that {} providers went", departure.providers),
            x: "ms after they went",
            y: "watchers",
            points: std::iter::zip(departure.known_ms.iter().copied(), count.map(f64::from)).collect(),
        };
        plot.draw(&docs.join(DEPARTURE))?;
    }
    Ok(())
}

impl Plot {
    fn draw(&self, path: &Path) -> Result<()> {
        std::fs::create_dir_all(path.parent().context("no directory")?)?;
        self.try_draw(path).map_err(|error| anyhow!("{}: {error}", path.display()))
    }

    fn try_draw(&self, path: &Path) -> Result<(), Box<dyn std::error::Error + '_>> {
        let most = |of: fn(&(f64, f64)) -> f64| self.points.iter().map(of).fold(0.0, f64::max) * 1.05;
        let area = SVGBackend::new(path, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..most(|point| point.0), 0.0..most(|point| point.1))?;
        chart
            .configure_mesh()
            .x_desc(self.x)
            .y_desc(self.y)
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.1))
            .draw()?;
        chart.draw_series(LineSeries::new(self.points.iter().copied(), BLUE.stroke_width(2)))?;
        Ok(area.present()?)
    }
}

const SIZE: (u32, u32) = (720, 360);
