//! What happens in one house.

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;
use tempfile::TempDir;

use crate::part::Part;

/// How far calls have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Point {
    /// Some wait in the caller for room in its connections; before the center is killed, they wait for its answer to where
    /// the providers are.
    BeforeSend,
    /// All lie in the sockets of providers that stand still.
    Sent,
    /// All wait in the providers for their turn, but for one at each that runs.
    Queued,
    /// All have begun and none has ended.
    Running,
    /// All have ended, and all answers lie in the sockets of callers that stand still.
    Answered,
    /// All have ended, and the answers are too long for the sockets of callers that stand still.
    AnswerInFlight,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Victim {
    /// One of the two; the other one lives.
    Provider,
    /// One of the two.
    Caller,
    /// It is started anew at once.
    Center,
}

/// How calls are made and run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Way {
    Plain,
    /// Each under an idempotency key, with tries that are shorter than it takes: repeats meet the first.
    Keyed,
    /// The same, and the providers keep their answers in a file. One that was killed is started anew at once.
    Stored,
    /// The providers listen nowhere: all goes through the center.
    Relayed,
    /// The same as those that are stored.
    RelayedStored,
    /// Declared idempotent, with hedges: they may run more often than once.
    Hedged,
    /// What has begun goes on though its caller has gone.
    MustFinish,
    /// On threads that block.
    Blocking,
    /// Every other one is given up by its caller just before the kill.
    GivenUp,
}

/// What has to hold of such calls, beside that what is told of them is true.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rules {
    pub(crate) may_run_again: bool,
    /// What has begun at a provider that lives, ends there.
    pub(crate) must_end: bool,
}

/// What happens in one house.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) point: Point,
    pub(crate) victim: Victim,
    pub(crate) way: Way,
    /// Of each caller.
    pub(crate) calls: usize,
    /// What stands still goes on before the kill, not after it: then the two race.
    pub(crate) races: bool,
    /// The callers repeat what may have run: a bug, to see it found.
    pub(crate) careless: bool,
}

impl Plan {
    /// It listens at this port, too.
    pub(crate) async fn center(self, folder: &TempDir, port: u16) -> Result<Part> {
        Part::start("center", folder.path().join("none"), &[address(folder), format!("tcp://127.0.0.1:{port}")]).await
    }

    /// Listens at this port, if it does.
    pub(crate) async fn provider(self, folder: &TempDir, center: &str, name: &str, port: u16) -> Result<Part> {
        let ledger = folder.path().join(name);
        let concurrency = if self.point == Point::Queued { 1 } else { MANY };
        let mut arguments =
            vec![center.to_owned(), ledger.display().to_string(), concurrency.to_string(), self.answers().to_string()];
        arguments.extend(["--way".to_owned(), self.way.name(), "--port".to_owned(), port.to_string()]);
        if self.way.is_stored() {
            arguments.extend(["--store".to_owned(), folder.path().join(format!("{name}.redb")).display().to_string()]);
        }
        Part::start("provider", ledger, &arguments).await
    }

    pub(crate) async fn caller(self, folder: &TempDir, center: &str, name: &str) -> Result<Part> {
        let ledger = folder.path().join(name);
        let (calls, bytes) = (self.calls.to_string(), self.parameters().to_string());
        let mut arguments = vec![center.to_owned(), ledger.display().to_string(), name.to_owned(), calls, bytes];
        arguments.extend(["--way".to_owned(), self.way.name()]);
        // Else they know where the providers are, and need no center.
        if (self.point, self.victim) != (Point::BeforeSend, Victim::Center) {
            arguments.push("--warm".to_owned());
        }
        if self.careless {
            arguments.push("--careless".to_owned());
        }
        Part::start("caller", ledger, &arguments).await
    }

    pub(crate) fn parameters(self) -> usize {
        if self.point == Point::BeforeSend { LONG } else { SHORT }
    }

    pub(crate) fn answers(self) -> usize {
        if self.point == Point::AnswerInFlight { LONG } else { SHORT }
    }
}

impl Way {
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    pub(crate) const fn rules(self) -> Rules {
        Rules {
            may_run_again: matches!(self, Self::Hedged),
            must_end: self.is_keyed() || matches!(self, Self::MustFinish | Self::Blocking),
        }
    }

    pub(crate) const fn is_keyed(self) -> bool {
        matches!(self, Self::Keyed) || self.is_stored()
    }

    pub(crate) const fn is_stored(self) -> bool {
        matches!(self, Self::Stored | Self::RelayedStored)
    }

    pub(crate) const fn is_relayed(self) -> bool {
        matches!(self, Self::Relayed | Self::RelayedStored)
    }
}

pub(crate) fn address(folder: &TempDir) -> String {
    format!("unix://{}", folder.path().join("center").display())
}

/// Calls that may run at once: more than are made.
pub(crate) const MANY: usize = 4096;
/// Bytes of which those of all calls of a connection fit into its sockets.
const SHORT: usize = 500;
/// And of which they do not.
const LONG: usize = 256 << 10;
