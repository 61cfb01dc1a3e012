/// What a [`Router`](crate::Router) has counted of its calls under idempotency keys since it was made, and what it remembers
/// of them now.
///
/// What was stored, and what a [store](crate::KeptAnswers::stored_in) had held at the beginning, is remembered now, or was
/// evicted or has expired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeptMetrics {
    /// Calls that have ended, and were remembered for repeats: with their answers, or without where these were too large or
    /// the calls were cut off.
    pub stored: u64,
    /// Repeats that were not executed, and told what the first call was, at once or after they had waited for it.
    pub repeated: u64,
    /// Calls that were refused, since their key was that of a call with other parameters.
    pub conflicts: u64,
    /// Calls that were forgotten before their time, since there was no room for them.
    pub evicted: u64,
    /// Answers that were given up for lack of room, of calls that are remembered still.
    pub shortened: u64,
    /// Calls that were forgotten since they had been remembered for as long as they are to be.
    pub expired: u64,
    /// Calls that run now, or are about to.
    pub running: u64,
    /// Calls that are remembered now.
    pub remembered: u64,
    /// What these take, in bytes, as it counts against [`KeptAnswers::bytes`](crate::KeptAnswers::bytes).
    pub bytes: u64,
}
