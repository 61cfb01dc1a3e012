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

/// A colour of its own for each peer that is drawn as a line, the same in every plot.
pub fn line(peer: &str) -> RGBColor {
    LINES.iter().find(|(name, _)| *name == peer).map_or_else(|| kind(peer), |(_, colour)| *colour)
}

pub fn text(size: f64) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

pub fn anchored(size: f64, horizontal: HPos) -> TextStyle<'static> {
    text(size).pos(Pos::new(horizontal, VPos::Center))
}

const LINES: [(&str, RGBColor); 12] = [
    ("raw-json", RGBColor(120, 126, 134)),
    ("raw-hub", RGBColor(120, 126, 134)),
    ("tarpc-json", RGBColor(123, 82, 171)),
    ("tarpc-bincode", RGBColor(186, 150, 222)),
    ("tonic", RGBColor(227, 119, 194)),
    ("jsonrpsee-ws", RGBColor(23, 170, 207)),
    ("volo-thrift-mux", RGBColor(168, 170, 34)),
    ("capnp", RGBColor(44, 130, 60)),
    ("nats", RGBColor(31, 90, 180)),
    ("redis", RGBColor(128, 78, 62)),
    ("mosquitto", RGBColor(0, 140, 120)),
    ("etcd", RGBColor(240, 160, 40)),
];
