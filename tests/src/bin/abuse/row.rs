//! What an attack has shown.

use std::collections::BTreeMap;

use callboard_center::Config;
use clap::ValueEnum;
use serde::Serialize;

use crate::attack::{Attack, Done};
use crate::figures::{Figures, Kind};

/// A row of the table.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) attack: Attack,
    pub(crate) connections: usize,
    /// Whether anybody looked for times at which the machine stood still, of which what is due is left out.
    pub(crate) is_watched: bool,
    #[serde(flatten)]
    pub(crate) done: Done,
    /// The center's, in bytes.
    pub(crate) quiet_memory: u64,
    pub(crate) peak_memory: u64,
    pub(crate) later_memory: u64,
    /// That were busy with the center.
    pub(crate) cores: f64,
    /// How much of its cores' time other machines had, when it was quiet or attacked.
    pub(crate) stolen: f64,
    pub(crate) quiet: Figures,
    pub(crate) attacked: Figures,
    pub(crate) later: Figures,
    /// What the center counted, of which something was.
    pub(crate) counted: BTreeMap<String, u64>,
}

/// What a row must keep to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    memory: u64,
    delay_ms: Option<f64>,
    ratio: Option<f64>,
}

impl Bounds {
    pub(crate) fn new(memory_mib: Option<u64>, delay_ms: Option<f64>, ratio: Option<f64>) -> Self {
        Self { memory: memory_mib.map_or_else(permitted, |mib| mib << 20), delay_ms, ratio }
    }

    /// What the center may take, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        self.memory
    }
}

impl Row {
    pub(crate) const HEAD: &str = "\
| attack | connections made | ended by the center | memory: quiet, peak, after | cores | stolen | left out, quiet and attacked | p50, quiet and attacked | p99 | times | longest | newcomers' p50, p99 | errors | disconnected | counted |
| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --- |";

    pub(crate) fn line(&self) -> String {
        let Self { done, quiet, attacked, .. } = self;
        let mib = |bytes: u64| bytes >> 20;
        let memory = format!("{}, {}, {} MiB", mib(self.quiet_memory), mib(self.peak_memory), mib(self.later_memory));
        let left_out = [quiet, attacked].map(|figures| format!("{:.0}", figures.part_left_out() * 100.0)).join(", ");
        let left_out = if self.is_watched { format!("{left_out} %") } else { "not looked for".to_owned() };
        let newcomers = attacked.kinds.get(&Kind::Connect).copied().unwrap_or_default();
        let counted: Vec<_> = self.counted.iter().filter(|(name, _)| TOLD.contains(&name.as_str())).collect();
        let counted: Vec<_> = counted.iter().map(|(name, count)| format!("{count} {name}")).collect();
        format!(
            "| {} | {} | {} | {memory} | {:.1} | {:.0} % | {left_out} | {:.2}, {:.2} ms | {:.2}, {:.2} ms | {:.1} | {:.1} ms | {:.1}, {:.1} ms | {} | {} | {} |",
            self.name(),
            done.opened,
            done.closed,
            self.cores,
            self.stolen * 100.0,
            quiet.all.p50,
            attacked.all.p50,
            quiet.all.p99,
            attacked.all.p99,
            self.times(),
            attacked.all.max,
            newcomers.p50,
            newcomers.p99,
            attacked.errors + self.later.errors,
            attacked.disconnects + self.later.disconnects,
            counted.join(", "),
        )
    }

    /// The promises that it breaks, but for those on delays.
    pub(crate) fn broken(&self, bounds: &Bounds) -> Vec<String> {
        let mut broken = Vec::new();
        let mut check = |holds: bool, what: String| {
            if !holds {
                broken.push(format!("{}: {what}", self.name()));
            }
        };
        let phases = [&self.quiet, &self.attacked, &self.later];
        let (errors, disconnects) =
            phases.iter().fold((0, 0), |(e, d), phase| (e + phase.errors, d + phase.disconnects));
        check(self.peak_memory <= bounds.memory, format!("{} bytes of memory", self.peak_memory));
        check(errors == 0, format!("{errors} errors of normal clients"));
        check(disconnects == 0, format!("{disconnects} normal clients were disconnected"));
        check(phases.iter().all(|phase| phase.due > 0), "normal clients did nothing".to_owned());
        check(self.done.opened > 0, "nothing was attacked".to_owned());
        broken
    }

    /// The promises on delays that it breaks.
    pub(crate) fn late(&self, bounds: &Bounds) -> Vec<String> {
        let mut broken = Vec::new();
        let mut check = |holds: bool, what: String| {
            if !holds {
                broken.push(format!("{}: {what}", self.name()));
            }
        };
        if bounds.delay_ms.or(bounds.ratio).is_none() {
            return broken;
        }
        let kept = [&self.quiet, &self.attacked].map(Figures::kept).into_iter().min().unwrap_or_default();
        check(
            kept >= ENOUGH,
            format!("{kept} operations count, which is too few to tell how long one in a hundred takes"),
        );
        let p99 = self.attacked.all.p99;
        check(bounds.delay_ms.is_none_or(|bound| p99 <= bound), format!("a p99 of {p99:.1} ms"));
        let times = self.times();
        check(bounds.ratio.is_none_or(|bound| times <= bound), format!("a p99 of {times:.1} times that of quiet"));
        broken
    }

    /// How much of what normal clients did does not count, when it was quiet or attacked.
    pub(crate) fn left_out(&self) -> f64 {
        self.quiet.part_left_out().max(self.attacked.part_left_out())
    }

    fn times(&self) -> f64 {
        self.attacked.all.p99 / self.quiet.all.p99
    }

    fn name(&self) -> String {
        self.attack.to_possible_value().map(|value| value.get_name().replace('-', " ")).unwrap_or_default()
    }
}

/// What a center with default settings may take of memory, as `docs/configuration.md` adds it up: its totals, a quarter
/// more for what the allocator has at hand and what is about to be freed, and what the program takes by itself, for relayed
/// calls and for connections.
fn permitted() -> u64 {
    let Config { limits, registry, relay, topics, .. } = Config::default();
    let totals = [
        limits.total_queue_bytes,
        limits.total_partial_bytes,
        registry.total_bytes,
        topics.total_bytes,
        topics.total_ring_bytes,
        relay.waiting_bytes,
    ];
    totals.iter().map(|bytes| *bytes as u64).sum::<u64>() / 4 * 5 + ITSELF
}

/// Of so many, one is not much more than a hundredth.
const ENOUGH: u64 = 50;
const ITSELF: u64 = 64 << 20;
/// Counters that say something of attackers.
const TOLD: [&str; 10] = [
    "turned_away",
    "accept_pauses",
    "protocol_errors",
    "frame_timeouts",
    "slow_readers",
    "evicted",
    "refused",
    "overloaded",
    "holds",
    "crowded_out",
];
