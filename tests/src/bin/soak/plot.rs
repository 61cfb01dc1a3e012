//! The course of a soak, as an SVG.

use anyhow::{Result, bail};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::samples::{Sample, Verdict};

/// A row of the picture.
struct Panel<'a> {
    title: &'a str,
    of: fn(&Sample) -> f64,
    /// Heights at which a line is drawn.
    bounds: &'a [f64],
}

pub(crate) fn draw(samples: &[Sample], verdict: &Verdict) -> Result<String> {
    let settled = verdict.settled_memory / MIB;
    let panels = [
        Panel {
            title: "memory of the center, MiB (grey: 10 % more and less than after the first minute)",
            of: |sample| sample.look.memory as f64 / MIB,
            bounds: &[settled * 0.9, settled * 1.1],
        },
        Panel {
            title: "open file descriptors of the center",
            of: |sample| sample.look.descriptors as f64,
            bounds: &[],
        },
        Panel {
            title: "requests in flight at the center",
            of: |sample| sample.look.tables.in_flight as f64,
            bounds: &[],
        },
        Panel {
            title: "what clients have done, thousands",
            of: |sample| sample.done.kinds.iter().map(|(.., count)| count.good).sum::<u64>() as f64 / 1e3,
            bounds: &[],
        },
        Panel {
            title: "clients that have come and gone, thousands",
            of: |sample| sample.done.lives as f64 / 1e3,
            bounds: &[],
        },
    ];
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (900, 200 * 5)).into_drawing_area();
        area.fill(&WHITE)?;
        let areas = area.split_evenly((panels.len(), 1));
        for (panel, area) in panels.iter().zip(&areas) {
            draw_panel(panel, area, samples)?;
        }
        area.present()?;
    }
    Ok(svg)
}

fn draw_panel(panel: &Panel<'_>, area: &DrawingArea<SVGBackend<'_>, Shift>, samples: &[Sample]) -> Result<()> {
    let points: Vec<_> = samples.iter().map(|sample| (sample.seconds / 60.0, (panel.of)(sample))).collect();
    let Some((last, _)) = points.last().copied() else { bail!("nothing was seen") };
    let most = points.iter().map(|(_, value)| *value).chain(panel.bounds.iter().copied()).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(panel.title, ("sans-serif", 14).into_font().color(&INK))
        .margin(10)
        .margin_right(RIGHT)
        .x_label_area_size(24)
        .y_label_area_size(52)
        .build_cartesian_2d(0.0..last, 0.0..most * 1.1)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .label_style(("sans-serif", 11).into_font().color(&INK))
        .x_label_formatter(&|minutes| format!("{minutes:.0} min"))
        .y_label_formatter(&|value| format!("{value:.0}"))
        .draw()?;
    for bound in panel.bounds {
        chart.draw_series(LineSeries::new([(0.0, *bound), (last, *bound)], &MIDDLE))?;
    }
    chart.draw_series(LineSeries::new(points, OURS.stroke_width(2)))?;
    Ok(())
}

/// So that half of the last label has room beside the axis.
const RIGHT: u32 = 32;
const MIB: f64 = 1024.0 * 1024.0;
const INK: RGBColor = RGBColor(40, 44, 52);
const FAINT: RGBColor = RGBColor(222, 225, 230);
const MIDDLE: RGBColor = RGBColor(154, 160, 168);
const OURS: RGBColor = RGBColor(214, 64, 36);
