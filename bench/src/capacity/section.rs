//! The section on capacity in `docs/performance.md`.
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::departure::Departure;
use super::idle::{Compared, Idle};
use super::methods::Methods;
use super::outcome::{About, Outcome};
use super::plots;
use super::stage::Speed;
use super::topic::Topic;
use crate::report::between_markers;
use crate::stats::short;

/// Puts the plot and the section in their places.
pub fn write(home: &Path, outcome: &Outcome) -> Result<()> {
    let docs = home.parent().context("no directory above")?.join("docs");
    let mut section = markdown(outcome);
    if let Some(svg) = plots::svg(outcome)? {
        fs::create_dir_all(docs.join("performance"))?;
        fs::write(docs.join("performance").join(PLOT), svg)?;
        let _ =
            write!(section, "\n![Memory over idle connections; watchers that know, over time](performance/{PLOT})\n");
    }
    let page = docs.join("performance.md");
    let text = fs::read_to_string(&page).with_context(|| page.display().to_string())?;
    Ok(fs::write(&page, between_markers(&text, "capacity", &section)?)?)
}

/// What was found, for people.
pub fn markdown(outcome: &Outcome) -> String {
    let mut out = String::new();
    let sections = [
        outcome.idle.as_ref().map(idle),
        outcome.topic.as_ref().map(topic),
        outcome.methods.as_ref().map(methods),
        outcome.departure.as_ref().map(departure),
    ];
    for section in sections.into_iter().flatten() {
        out.push_str(&section);
        out.push('\n');
    }
    out
}

fn idle(idle: &Idle) -> String {
    let (connections, first, last) = (grouped(idle.connections), idle.memory.first(), idle.memory.last());
    let (from, to) = (first.map_or(0.0, |point| point.1), last.map_or(0.0, |point| point.1));
    let mut out = format!(
        "**{connections} idle connections**, each with its session, held by {} processes from 127.0.0.2 on. They \
         connected in {:.2} s ({} a second). The center's memory grew from {from:.1} to {to:.1} MiB, {:.2} KB each. \
         Then each of them made a request and got its answer, all in {:.2} s. {} {}\n\n\
         | requests to the center | a second | p50 µs | p99 µs | CPUs that strangers took |\n| --- | --: | --: | --: | --: |\n",
        idle.processes,
        idle.connect_secs,
        short(f64::from(idle.connections) / idle.connect_secs),
        idle.bytes_each() / 1e3,
        idle.ask_all_secs,
        lost(idle.lost, "connection"),
        about(&idle.about),
    );
    for (name, compared) in [("1 x 1", &idle.one), ("16 x 16", &idle.many)] {
        rows(&mut out, name, compared, &connections);
    }
    out
}

fn rows(out: &mut String, name: &str, compared: &Compared, connections: &str) {
    let full = format!("beside {connections} idle connections");
    for (beside, speed) in [("alone", compared.alone), (&full, compared.beside)] {
        let _ = writeln!(out, "| {name}, {beside} | {} |", columns(speed));
    }
}

fn topic(topic: &Topic) -> String {
    let [without, with, most] = topic.memory;
    format!(
        "**{} subscribers of one topic** subscribed in {:.2} s. A message reached the last of them {} ms after it was \
         sent (median of {}; the longest took {} ms). At full speed {} messages a second were delivered. The \
         center's memory: {without:.1} MiB without them, {with:.1} MiB with them, {most:.1} MiB at most. {} {}\n",
        grouped(topic.subscribers),
        topic.subscribe_secs,
        short(topic.median_ms()),
        topic.to_all_ms.len(),
        short(topic.longest_ms()),
        short(topic.delivered_per_second),
        lost(topic.lost + topic.lost_at_full_speed, "message"),
        about(&topic.about),
    )
}

fn methods(methods: &Methods) -> String {
    let [without, with, after] = methods.memory;
    let mut out = format!(
        "**{} registered methods**, by {} connections, were registered in {:.2} s ({} a second). The center's memory \
         grew from {without:.1} to {with:.1} MiB, {:.2} KB each; when they had been taken back it was {after:.1} MiB. \
         {} {}\n\n\
         | requests for a method's hosts, 16 x 16 | a second | p50 µs | p99 µs | CPUs that strangers took |\n\
         | --- | --: | --: | --: | --: |\n",
        grouped(methods.methods),
        methods.connections,
        methods.register_secs,
        short(f64::from(methods.methods) / methods.register_secs),
        methods.bytes_each() / 1e3,
        lost(methods.lost, "connection"),
        about(&methods.about),
    );
    for (count, speed) in [("100".to_owned(), methods.few), (grouped(methods.methods), methods.full)] {
        let _ = writeln!(out, "| of {count} methods | {} |", columns(speed));
    }
    out
}

fn departure(departure: &Departure) -> String {
    let [before, most] = departure.memory;
    format!(
        "**{} providers going at once**, with {} watchers: half of the watchers knew of all after {} ms, and the last \
         after {} ms. The center's memory: {before:.1} MiB before, {most:.1} MiB at most. {} {}\n",
        grouped(departure.providers),
        grouped(departure.watchers),
        short(departure.known_ms(0.5)),
        short(departure.known_ms(1.0)),
        lost(departure.lost, "notice"),
        about(&departure.about),
    )
}

fn columns(speed: Speed) -> String {
    let Speed { per_second, p50_us, p99_us, strangers } = speed;
    format!("{} | {} | {} | {strangers:.2}", short(per_second), short(p50_us), short(p99_us))
}

fn lost(count: u64, what: &str) -> String {
    if count == 0 { format!("No {what} was lost.") } else { format!("**Lost: {count} times a {what}.**") }
}

fn about(about: &About) -> String {
    let day = about.date.split('T').next().unwrap_or_default();
    format!("({day}, {}, {} cores)", about.commit, about.machine.cores)
}

/// With commas, as in 19,000.
fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

const PLOT: &str = "capacity.svg";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, expected) in
            [(0, "0"), (999, "999"), (1_000, "1,000"), (19_000, "19,000"), (1_234_567, "1,234,567")]
        {
            assert_eq!(grouped(number), expected);
        }
    }
}
