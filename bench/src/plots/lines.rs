//! Lines, a panel for each cell: latency curves and growth.
use std::f64::consts::LOG10_2;
use std::ops::Range;

use anyhow::Result;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::style::{FAINT, anchored, line, text};

pub struct Lines {
    pub title: String,
    pub x: Scale,
    pub y: Scale,
    pub series: Vec<Line>,
}

pub struct Line {
    pub peer: String,
    pub points: Vec<(f64, f64)>,
}

/// How an axis is divided.
#[derive(Clone, Copy, PartialEq)]
pub enum Scale {
    FromZero,
    Log,
    /// Each further nine as far from the last.
    Percentile,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

pub fn draw(title: &str, panels: &[Lines]) -> Result<String> {
    let columns = panels.len().clamp(1, COLUMNS);
    let rows = panels.len().div_ceil(COLUMNS);
    let size = (pixels(columns) * PANEL.0, HEAD + pixels(rows) * PANEL.1);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE)?;
        area.draw(&Text::new(title.to_owned(), (10, 8), text(16.0)))?;
        let (_, below) = area.split_vertically(HEAD);
        for (panel, area) in panels.iter().zip(below.split_evenly((rows, columns))) {
            draw_panel(&area, panel)?;
        }
        area.present()?;
    }
    Ok(svg)
}

fn draw_panel(area: &Area<'_>, panel: &Lines) -> Result<()> {
    let (chart_area, legend) = area.split_horizontally(i32::try_from(PANEL.0)? - LEGEND_WIDTH);
    let points = || panel.series.iter().flat_map(|line| &line.points);
    let x = Axis::over(panel.x, points().map(|point| point.0));
    let y = Axis::over(panel.y, points().map(|point| point.1));
    let mut chart = ChartBuilder::on(&chart_area)
        .caption(&panel.title, text(13.0))
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(52)
        .build_cartesian_2d(x.clone(), y.clone())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .label_style(text(10.0))
        .x_label_formatter(&|at| x.label(*at))
        .y_label_formatter(&|at| y.label(*at))
        .draw()?;
    // The first of them, ourselves, is drawn over all others.
    for (index, one) in panel.series.iter().enumerate().rev() {
        let width = if one.peer == "callboard" { 4 } else { 2 };
        let style = line(&one.peer).stroke_width(width);
        let placed: Vec<_> = one.points.iter().map(|point| (x.place(point.0), y.place(point.1))).collect();
        chart.draw_series(placed.iter().map(|at| Circle::new(*at, 2, style.filled())))?;
        chart.draw_series(LineSeries::new(placed, style))?;
        let height = 40 + i32::try_from(index)? * 16;
        legend.draw(&Rectangle::new([(4, height - 2), (20, height + 2)], style.filled()))?;
        legend.draw(&Text::new(one.peer.clone(), (26, height), anchored(11.0, HPos::Left)))?;
    }
    Ok(())
}

/// An axis, on which places are linear.
#[derive(Clone)]
struct Axis {
    scale: Scale,
    range: Range<f64>,
    marks: Vec<f64>,
}

impl Axis {
    fn over(scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        let (least, most) =
            values.fold((f64::INFINITY, 0.0_f64), |(least, most), value| (least.min(value), most.max(value)));
        match scale {
            Scale::FromZero => {
                let step = step(most);
                let marks: Vec<f64> =
                    (0..=10).map(|i| f64::from(i) * step).take_while(|mark| *mark <= most * 1.1).collect();
                Self { scale, range: 0.0..most * 1.1, marks }
            }
            Scale::Log => {
                let range = (least.max(MIN).log10() - 0.05)..(most.max(MIN).log10() + 0.05);
                let marks = decades(&range);
                Self { scale, range, marks }
            }
            Scale::Percentile => Self { scale, range: 0.0..4.05, marks: vec![LOG10_2, 1.0, 2.0, 3.0, 4.0] },
        }
    }

    fn place(&self, value: f64) -> f64 {
        match self.scale {
            Scale::FromZero => value,
            Scale::Log => value.max(MIN).log10(),
            Scale::Percentile => -(1.0 - value / 100.0).max(1e-5).log10(),
        }
    }

    fn label(&self, at: f64) -> String {
        match self.scale {
            Scale::FromZero => trimmed(at),
            Scale::Log => trimmed(10_f64.powf(at)),
            Scale::Percentile => format!("{}%", trimmed(100.0 - 10_f64.powf(2.0 - at))),
        }
    }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (start, end): (i32, i32)) -> i32 {
        let part = (value - self.range.start) / (self.range.end - self.range.start).max(f64::MIN_POSITIVE);
        #[expect(clippy::cast_possible_truncation, reason = "a place in pixels")]
        let offset = (part * f64::from(end - start)).round() as i32;
        start + offset
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// Powers of ten, and their multiples where there are few.
fn decades(range: &Range<f64>) -> Vec<f64> {
    let multiples: &[f64] = match range.end - range.start {
        2.5.. => &[1.0],
        0.8.. => &[1.0, 2.0, 5.0],
        _ => &[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0],
    };
    let powers = (-3..10).flat_map(|power| multiples.iter().map(move |times| times.log10() + f64::from(power)));
    powers.filter(|mark| range.contains(mark)).collect()
}

/// A round distance that divides the range in about five.
fn step(most: f64) -> f64 {
    let rough = (most / 5.0).max(MIN);
    let power = 10_f64.powf(rough.log10().floor());
    let times = [1.0, 2.0, 5.0, 10.0].into_iter().find(|times| times * power >= rough);
    times.unwrap_or(10.0) * power
}

/// Without needless decimals.
fn trimmed(value: f64) -> String {
    let (scaled, unit) = match value {
        1e6.. => (value / 1e6, "M"),
        1e3.. => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = format!("{scaled:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned() + unit
}

fn pixels(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

const COLUMNS: usize = 2;
const HEAD: u32 = 36;
const PANEL: (u32, u32) = (560, 320);
const LEGEND_WIDTH: i32 = 140;
const MIN: f64 = 1e-3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_spread_by_their_nines() {
        let axis = Axis::over(Scale::Percentile, std::iter::empty());
        for (percentile, place, label) in
            [(0.0, 0.0, "0%"), (90.0, 1.0, "90%"), (99.0, 2.0, "99%"), (99.99, 4.0, "99.99%")]
        {
            assert!((axis.place(percentile) - place).abs() < 1e-6, "{percentile}");
            assert_eq!(axis.label(place), label);
        }
    }

    #[test]
    fn marks_are_round() {
        assert_eq!(Axis::over(Scale::FromZero, [830.0].into_iter()).marks, [0.0, 200.0, 400.0, 600.0, 800.0]);
        let logs = Axis::over(Scale::Log, [10.0, 1e6].into_iter());
        let labels: Vec<_> = logs.marks.iter().map(|mark| logs.label(*mark)).collect();
        assert_eq!(labels, ["10", "100", "1k", "10k", "100k", "1M"]);
    }

    #[test]
    fn every_line_is_named() {
        let lines =
            ["callboard", "nats"].map(|peer| Line { peer: peer.into(), points: vec![(50.0, 7.0), (99.0, 20.0)] });
        let panel = Lines { title: "add 1x1".into(), x: Scale::Percentile, y: Scale::Log, series: lines.into() };
        let svg = draw("Latency", &[panel]).unwrap();
        for text in ["Latency", "add 1x1", "callboard", "nats", "99%"] {
            assert!(svg.contains(text), "{text}");
        }
    }
}
