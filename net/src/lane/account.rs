use std::mem::take;
use std::time::Duration;

/// What a connection has used of its event loop lately, and its place while it waits for a turn.
#[derive(Debug)]
pub(crate) struct Account {
    usage: Usage,
    /// What was used since, not yet part of it: a logarithm for each short turn would take its share of that turn.
    more: Duration,
    pub(super) place: Option<Place>,
}

/// Who has used least comes first; among equals, who has waited for longest.
pub(super) type Place = (Usage, u64);

/// The logarithm of the time that was used, where what was used a [half-life](HALF_LIFE) later counts twice. So two of
/// them compare alike at whatever time, and none has to be made smaller as time passes. ("Forward decay", Cormode,
/// Shkapenyuk, Srivastava and Xu, ICDE 2009.) In units of 2^-20.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Usage(i64);

/// After so long what was used counts half.
const HALF_LIFE: Duration = Duration::from_secs(1);

/// A new connection counts as one that has used so much, lest whoever connects anew for each request comes first.
const NEWCOMER: Duration = Duration::from_micros(500);

/// What was used is made part of the usage once it is so much.
const FOLDED: Duration = Duration::from_micros(50);

/// It has never run.
const NONE: Usage = Usage(i64::MIN);

const UNIT: f64 = 1_048_576.0;

impl Usage {
    #[expect(clippy::cast_possible_truncation, reason = "a cast of a float saturates")]
    fn new(log: f64) -> Self {
        Self((log * UNIT) as i64)
    }

    /// The same after so much was used by somebody on a loop of that age.
    #[expect(clippy::cast_precision_loss, reason = "2^32 half-lives are less than 2^53 units")]
    fn and(self, used: Duration, age: Duration) -> Self {
        let (before, more) = (self.0 as f64 / UNIT, log(used, age));
        let (less, most) = if before < more { (before, more) } else { (more, before) };
        Self::new(most + (less - most).exp2().ln_1p() / std::f64::consts::LN_2)
    }
}

fn log(used: Duration, age: Duration) -> f64 {
    // Less than a nanosecond is none, and none has no logarithm.
    used.as_secs_f64().max(1e-9).log2() + age.as_secs_f64() / HALF_LIFE.as_secs_f64()
}

impl Default for Account {
    fn default() -> Self {
        Self { usage: NONE, more: Duration::ZERO, place: None }
    }
}

impl Account {
    /// What it has used of a loop of that age.
    pub(super) fn usage(&mut self, age: Duration) -> Usage {
        if !self.more.is_zero() {
            self.usage = self.usage.and(take(&mut self.more), age);
        }
        self.usage
    }

    /// Has used so much of a loop of that age.
    pub(super) fn charge(&mut self, used: Duration, age: Duration) {
        self.more += used;
        if self.more >= FOLDED {
            self.usage(age);
        }
    }

    /// The first time that it comes to a loop, which has that age.
    pub(super) fn begin(&mut self, age: Duration) {
        if self.usage == NONE {
            self.usage = NONE.and(NEWCOMER, age);
        }
    }
}
