//! Horizontal bars, a panel for each cell, the most at the top.
use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::style::{anchored, kind, text};
use crate::stats::short;

pub struct Bars {
    pub title: String,
    pub bars: Vec<Bar>,
}

pub struct Bar {
    pub peer: String,
    /// Nothing if every run failed.
    pub value: Option<f64>,
    pub note: String,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

pub fn draw(title: &str, panels: &[Bars]) -> Result<String> {
    let most = panels.iter().map(|panel| panel.bars.len()).max().unwrap_or(0);
    let panel_height = PANEL_HEAD + pixels(most) * BAR_PITCH;
    let rows = panels.len().div_ceil(COLUMNS);
    let columns = panels.len().min(COLUMNS);
    let size = (pixels(columns) * PANEL_WIDTH, HEAD + pixels(rows) * panel_height);
    let mut svg = String::new();
    {
        let area =
            SVGBackend::with_string(&mut svg, (size.0.unsigned_abs(), size.1.unsigned_abs())).into_drawing_area();
        area.fill(&WHITE)?;
        area.draw(&Text::new(title.to_owned(), (10, 8), text(16.0)))?;
        for (index, panel) in panels.iter().enumerate() {
            let at = (pixels(index % COLUMNS) * PANEL_WIDTH, HEAD + pixels(index / COLUMNS) * panel_height);
            draw_panel(&area, at, panel)?;
        }
        area.present()?;
    }
    Ok(svg)
}

fn draw_panel(area: &Area<'_>, (left, top): (i32, i32), panel: &Bars) -> Result<()> {
    let longest = panel.bars.iter().filter_map(|bar| bar.value).fold(0.0, f64::max);
    let mut sorted: Vec<&Bar> = panel.bars.iter().collect();
    sorted.sort_by(|a, b| b.value.unwrap_or(-1.0).total_cmp(&a.value.unwrap_or(-1.0)));
    area.draw(&Text::new(panel.title.clone(), (left + LABEL_WIDTH, top), text(13.0)))?;
    for (index, bar) in sorted.into_iter().enumerate() {
        let middle = top + PANEL_HEAD + pixels(index) * BAR_PITCH;
        let start = left + LABEL_WIDTH;
        let end = start + length(bar.value.unwrap_or(0.0), longest);
        let colour = kind(&bar.peer);
        area.draw(&Text::new(bar.peer.clone(), (start - 6, middle), anchored(11.0, HPos::Right)))?;
        area.draw(&Rectangle::new([(start, middle - BAR_HALF), (end, middle + BAR_HALF)], colour.filled()))?;
        let value = bar.value.map_or_else(|| "failed".into(), short) + &bar.note;
        area.draw(&Text::new(value, (end + 5, middle), anchored(11.0, HPos::Left)))?;
    }
    Ok(())
}

#[expect(clippy::cast_possible_truncation, reason = "a length in pixels")]
fn length(value: f64, longest: f64) -> i32 {
    let part = if longest > 0.0 { value / longest } else { 0.0 };
    ((part * f64::from(LONGEST_BAR)).round() as i32).max(1)
}

fn pixels(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

const COLUMNS: usize = 3;
const HEAD: i32 = 36;
const PANEL_HEAD: i32 = 28;
const PANEL_WIDTH: i32 = 380;
const LABEL_WIDTH: i32 = 120;
const LONGEST_BAR: i32 = 150;
const BAR_PITCH: i32 = 17;
const BAR_HALF: i32 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bar_has_its_name_and_value() {
        let bar = |peer: &str, value| Bar { peer: peer.into(), value, note: String::new() };
        let bars = vec![bar("nats", Some(50.0)), bar("callboard", Some(1_234_567.0)), bar("capnp", None)];
        let svg = draw("Rates", &[Bars { title: "add 1x1".into(), bars }]).unwrap();
        for text in ["Rates", "add 1x1", "callboard", "1.23 M", "nats", "50.0", "capnp", "failed"] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(svg.find("callboard") < svg.find("nats"), "the most comes first");
    }

    #[test]
    fn a_bar_is_as_long_as_its_part_of_the_longest() {
        assert_eq!((length(50.0, 100.0), length(0.0, 100.0), length(0.0, 0.0)), (LONGEST_BAR / 2, 1, 1));
    }
}
