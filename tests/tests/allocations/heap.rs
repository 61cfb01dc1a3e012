//! What is taken of the heap, and where.

use std::path::PathBuf;

use serde_json::Value;

/// Counts every allocation of the process, on all threads, from its making on.
#[derive(Debug)]
pub(crate) struct Watch {
    file: PathBuf,
    profiler: dhat::Profiler,
}

/// What a watch has seen.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Allocations; one that grows in place counts again.
    pub(crate) blocks: u64,
    file: PathBuf,
}

impl Watch {
    pub(crate) fn start(what: &str) -> Self {
        let name = what.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("allocations-{name}.json"));
        let profiler = dhat::Profiler::builder().trim_backtraces(Some(FRAMES)).file_name(&file).build();
        Self { file, profiler }
    }

    /// Ends the watch; the places are in its file then.
    pub(crate) fn stop(self) -> Seen {
        let blocks = dhat::HeapStats::get().total_blocks;
        drop(self.profiler);
        Seen { blocks, file: self.file }
    }
}

impl Seen {
    /// Where the allocations were made, those of most first, each with the frames of ours that led there.
    pub(crate) fn places(&self) -> String {
        let profile: Value = serde_json::from_slice(&std::fs::read(&self.file).unwrap()).unwrap();
        let mut places: Vec<_> = profile["pps"].as_array().unwrap().iter().map(|place| line(place, &profile)).collect();
        places.sort_by_key(|&(blocks, _)| std::cmp::Reverse(blocks));
        places.truncate(PLACES);
        places.into_iter().map(|(_, line)| line).collect()
    }
}

fn line(place: &Value, profile: &Value) -> (u64, String) {
    let blocks = place["tbk"].as_u64().unwrap();
    let frames = place["fs"].as_array().unwrap().iter();
    let frames = frames.map(|at| profile["ftbl"][usize::try_from(at.as_u64().unwrap()).unwrap()].as_str().unwrap());
    let frames = frames.filter(|frame| !RUNTIME.iter().any(|of| frame.contains(of))).take(SHOWN);
    let names = frames.map(|frame| frame.split_once(": ").map_or(frame, |(_address, name)| name));
    let lines = [format!("{blocks:>8} blocks, {} bytes", place["tb"])].into_iter();
    (blocks, lines.chain(names.map(|name| format!("           {name}"))).map(|line| line + "\n").collect())
}

/// Frames that a backtrace keeps, that a place is shown with, and places that are shown.
const FRAMES: usize = 40;
const SHOWN: usize = 8;
const PLACES: usize = 12;
/// What says nothing about a place.
const RUNTIME: [&str; 4] = ["/rustc/", "/toolchains/", "alloc::", "core::"];
