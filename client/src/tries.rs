use std::time::Duration;

use callboard_common::{Executed, ResultCode};

use crate::{CallError, CallErrorKind, RetryPolicy};

/// What has become of one call over all of its tries, and what comes next. Pure: errors, the time left and chance come in
/// as values.
///
/// For the layers above, which choose whom the next try goes to.
#[derive(Clone, Copy, Debug)]
pub struct Tries {
    policy: RetryPolicy,
    is_idempotent: bool,
    /// Whether a provider that had it knows it again.
    is_keyed: bool,
    /// Tries that the policy counts, the one that is being made among them.
    counted: u32,
    /// Tries that are over.
    over: u32,
    /// Of those that went on elsewhere at once, so many had met a peer that refused them.
    refused: u32,
    /// Whether any of those that have ended may have been executed.
    executed: Executed,
}

/// What comes after a try that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The caller is told.
    Tell,
    /// Another peer or connection is asked at once.
    PassOn {
        /// The budget has to allow it: refusals would else multiply where all peers refuse.
        costs: bool,
    },
    /// It is made again after this pause, if the budget allows it.
    Again(Duration),
}

impl Tries {
    /// A call whose first try is being made.
    pub const fn new(policy: RetryPolicy, is_idempotent: bool) -> Self {
        Self { policy, is_idempotent, is_keyed: false, counted: 1, over: 0, refused: 0, executed: Executed::No }
    }

    /// The same for a call under an idempotency key, if it has one.
    #[must_use]
    pub const fn keyed(self, is_keyed: bool) -> Self {
        Self { is_keyed, ..self }
    }

    /// Whether a call of which nobody knows whether it was executed is safe only where it was before.
    pub const fn stays(&self) -> bool {
        self.is_keyed
    }

    /// How long one try may take.
    pub const fn per_try(&self) -> Option<Duration> {
        self.policy.per_try
    }

    /// What comes after this error, with `left` until the deadline. `has_others` tells whether another peer, or another
    /// connection, may be asked at once.
    pub fn next(&self, error: &CallError, has_others: bool, left: Duration, chance: impl FnOnce() -> f64) -> Next {
        if left.is_zero() {
            return Next::Tell;
        }
        if has_others && goes_on_at_once(error) {
            return Next::PassOn { costs: error.code().is_some() && self.refused > 0 };
        }
        if !self.may_repeat(error) || !self.has_more() {
            return Next::Tell;
        }
        let pause = self.policy.pause(self.counted - 1, is_overloaded(error), chance());
        if pause < left { Next::Again(pause) } else { Next::Tell }
    }

    /// Whether a repeat of a call that has failed so may be answered, and harms nobody.
    pub fn may_repeat(&self, error: &CallError) -> bool {
        let is_safe = match error.executed() {
            Executed::No => true,
            #[cfg(feature = "planted")]
            Executed::Unknown if callboard_common::Planted::RepeatedInDoubt.is_planted() => true,
            Executed::Unknown => (self.is_idempotent || self.is_keyed) && !error.is_vague(),
            Executed::Yes => false,
        };
        is_safe && passes(error)
    }

    /// Whether the policy allows another try, beside one that is under way or after it.
    pub const fn has_more(&self) -> bool {
        self.counted < self.policy.tries
    }

    /// Another try goes out, which the policy counts.
    pub const fn count(&mut self) {
        self.counted += 1;
    }

    /// Another try goes out at once, in place of one that was refused, or never arrived.
    pub(crate) const fn pass_on(&mut self, refused: bool) {
        if refused {
            self.refused += 1;
        }
    }

    /// A try is over, or left to itself, of which this is known.
    pub const fn note(&mut self, executed: Executed) {
        self.over += 1;
        self.executed = worse(self.executed, executed);
    }

    /// What the caller is told: the last error, how many tries there were, and what holds over all of them.
    pub fn told(&self, last: CallError) -> CallError {
        let executed = worse(self.executed, last.executed());
        #[cfg(feature = "planted")]
        let executed = if callboard_common::Planted::ToldOfLastTry.is_planted() { last.executed() } else { executed };
        let is_new = executed != last.executed();
        let told = last.with_tries(self.over.max(self.counted)).with_executed(executed);
        if is_new {
            told.with_advice("repeat it if that is safe: one of its tries may have been executed")
        } else {
            told
        }
    }
}

/// Where any try was executed the call was, and where nobody knows of one, nobody knows of the call.
const fn worse(one: Executed, other: Executed) -> Executed {
    match (one, other) {
        (Executed::Yes, _) | (_, Executed::Yes) => Executed::Yes,
        (Executed::Unknown, _) | (_, Executed::Unknown) => Executed::Unknown,
        (Executed::No, Executed::No) => Executed::No,
    }
}

/// Whether a call was not executed since it never reached its peer, or since that is about to leave.
pub(crate) fn goes_on_at_once(error: &CallError) -> bool {
    let is_gone = match error.kind() {
        CallErrorKind::Connect | CallErrorKind::Disconnected => true,
        // A center says the latter of a provider to which it passes calls on.
        CallErrorKind::Remote { code, .. } => matches!(code, ResultCode::Unavailable | ResultCode::Disconnected),
        _ => false,
    };
    is_gone && error.executed() == Executed::No
}

/// Whether it may be gone in a moment, or elsewhere.
fn passes(error: &CallError) -> bool {
    match error.kind() {
        CallErrorKind::Timeout
        | CallErrorKind::Disconnected
        | CallErrorKind::Connect
        | CallErrorKind::Overloaded
        | CallErrorKind::Unavailable => true,
        CallErrorKind::Remote { code, .. } => matches!(
            code,
            ResultCode::Disconnected | ResultCode::Timeout | ResultCode::Overloaded | ResultCode::Unavailable
        ),
        _ => false,
    }
}

fn is_overloaded(error: &CallError) -> bool {
    matches!(error.kind(), CallErrorKind::Overloaded) || error.code() == Some(ResultCode::Overloaded)
}

#[cfg(test)]
mod tests;
