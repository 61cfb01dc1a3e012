//! Colours and letters, the same in every plot.
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

pub const INK: RGBColor = RGBColor(40, 44, 52);
pub const FAINT: RGBColor = RGBColor(222, 225, 230);

const OURS: RGBColor = RGBColor(214, 64, 36);
const LIMIT: RGBColor = RGBColor(154, 160, 168);
const PEER: RGBColor = RGBColor(66, 114, 173);

/// Ourselves, the raw limit, or a peer.
pub fn kind(peer: &str) -> RGBColor {
    match peer {
        _ if peer.starts_with("callboard") => OURS,
        _ if peer.starts_with("raw-") => LIMIT,
        _ => PEER,
    }
}

/// A colour of its own for each line of a panel; ourselves always have the same.
pub fn line(peer: &str, index: usize) -> RGBColor {
    if peer == "callboard" {
        return OURS;
    }
    LINES.get(index % LINES.len()).copied().unwrap_or(PEER)
}

pub fn text(size: f64) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

pub fn anchored(size: f64, horizontal: HPos) -> TextStyle<'static> {
    text(size).pos(Pos::new(horizontal, VPos::Center))
}

const LINES: [RGBColor; 15] = [
    RGBColor(31, 119, 180),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(227, 119, 194),
    RGBColor(23, 190, 207),
    RGBColor(188, 189, 34),
    RGBColor(80, 80, 80),
    RGBColor(255, 152, 50),
    RGBColor(57, 73, 171),
    RGBColor(0, 121, 107),
    RGBColor(158, 157, 36),
    RGBColor(121, 85, 72),
    RGBColor(96, 125, 139),
    RGBColor(173, 20, 87),
];
