use std::time::Duration;

/// How often a call is made again by itself, and after which pauses.
///
/// A call is repeated only if it was not executed, or if it is declared
/// [idempotent](crate::Client::idempotent) and nobody knows whether it was; never after an answer that says that it was.
/// What a repeat can't change, such as parameters that do not fit, is told at once. One deadline bounds all tries, and
/// each is told how much of it is left.
///
/// A pause is drawn at random between nothing and a bound that doubles with each try ("full jitter"); after a peer has
/// said that it is overloaded, between half of the bound and all of it. A call whose pause would outlast its deadline
/// is not repeated.
///
/// A call that never left this program, because its peer could not be reached, or whose peer refuses it since it is about
/// to leave, is no try of this policy: another provider is asked, or the next connection, at once and whatever the policy
/// says. (gRPC calls these transparent retries.)
///
/// Source of the pauses: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
///
/// ```
/// use std::time::Duration;
/// use callboard_client::RetryPolicy;
/// let hurried = RetryPolicy { per_try: Some(Duration::from_millis(200)), ..RetryPolicy::default() };
/// assert_eq!((hurried.tries, RetryPolicy::never().tries), (3, 1));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often a call is made at most, the first time and hedges among them. Default 3; 1 repeats nothing. More
    /// outlast longer trouble, within the deadline and the budget.
    pub tries: u32,
    /// How long a try may wait for its answer once it has a connection. Default `None`: for all that is left of the
    /// deadline. A call whose try ends so may have been executed, so only one that is idempotent is then repeated. Less
    /// than calls usually take makes providers work in vain.
    pub per_try: Option<Duration>,
    /// The bound of the first pause. Default 10 ms.
    pub first: Duration,
    /// The bound that no pause passes. Default 1 s.
    pub longest: Duration,
}

impl RetryPolicy {
    /// Each call is made once.
    pub const fn never() -> Self {
        Self { tries: 1, ..Self::DEFAULT }
    }

    const DEFAULT: Self =
        Self { tries: 3, per_try: None, first: Duration::from_millis(10), longest: Duration::from_secs(1) };

    /// The pause after so many repeats, where `chance` is anything between 0 and 1.
    pub(crate) fn pause(&self, repeats: u32, is_overloaded: bool, chance: f64) -> Duration {
        let bound = doubled(self.first, self.longest, repeats);
        part(bound, if is_overloaded { f64::midpoint(1.0, chance.clamp(0.0, 1.0)) } else { chance })
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// `first`, doubled so many times, up to `longest`.
pub(crate) fn doubled(first: Duration, longest: Duration, times: u32) -> Duration {
    first.saturating_mul(1u32.checked_shl(times).unwrap_or(u32::MAX)).min(longest)
}

/// So much of it, between 0 and 1.
pub(crate) fn part(whole: Duration, share: f64) -> Duration {
    // Rounded up, the longest of all durations is none.
    Duration::try_from_secs_f64(whole.as_secs_f64() * share.clamp(0.0, 1.0)).unwrap_or(whole)
}

/// How many of its calls a client may repeat, so that retries do not become a storm when all of its peers are in trouble:
/// each call earns a part of a repeat, and each repeat or hedge costs a whole one. Where nothing is left, the error is
/// told as it is.
///
/// Sources: the [retry budgets of Finagle](https://twitter.github.io/finagle/guide/Clients.html#retries), whose 20 % these
/// are, and the [retry throttling of gRPC](https://github.com/grpc/proposal/blob/master/A6-client-retries.md).
///
/// ```
/// use callboard_client::RetryBudget;
/// let strict = RetryBudget { percent: 5, ..RetryBudget::default() };
/// assert_eq!((RetryBudget::default().percent, strict.reserve), (20, 10));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// How many repeats a hundred calls earn. Default 20. More get more calls through while few peers fail, and load them
    /// more while all do.
    pub percent: u32,
    /// So many repeats are there at the beginning, and come back by one a second when they were spent, so that a client
    /// that calls seldom may repeat too. Default 10.
    pub reserve: u32,
    /// How many repeats may be saved up. Default 100, and never less than the reserve. More get all calls through that
    /// one lost connection ends at once, and make a larger burst of repeats.
    pub most: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { percent: 20, reserve: 10, most: 100 }
    }
}

/// What a client has counted of its calls and their tries since it began.
///
/// All tries are `calls + passed_on + retries + hedges`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryMetrics {
    /// Calls, each counted once however often it was tried.
    pub calls: u64,
    /// Tries that went on to another peer or connection at once, since the one before had not left this program, or met a
    /// peer that is about to leave.
    pub passed_on: u64,
    /// Tries after a pause, as the policy has it.
    pub retries: u64,
    /// Second tries beside a first one that took long.
    pub hedges: u64,
    /// Tries that the budget did not allow.
    pub budget_refused: u64,
}

impl RetryMetrics {
    /// How often calls were tried in all.
    pub const fn tries(&self) -> u64 {
        self.calls + self.passed_on + self.retries + self.hedges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_bound_of_the_pause_doubles_up_to_the_longest() {
        let policy = RetryPolicy::default();
        let bounds: Vec<_> = (0..9).map(|repeats| policy.pause(repeats, false, 1.0)).collect();
        assert_eq!(bounds, [10, 20, 40, 80, 160, 320, 640, 1000, 1000].map(|ms| ms * MS));
        assert_eq!(policy.pause(u32::MAX, false, 1.0), policy.longest);
    }

    #[test]
    fn a_pause_lies_anywhere_below_its_bound_and_in_its_upper_half_where_the_peer_is_overloaded() {
        let policy = RetryPolicy::default();
        let rows = [(false, 0.0, 0), (false, 0.5, 5), (false, 1.0, 10), (false, 7.0, 10)];
        let overloaded = [(true, 0.0, 5), (true, 0.6, 8), (true, 1.0, 10)];
        let endless = RetryPolicy { first: Duration::MAX, longest: Duration::MAX, ..policy };
        assert_eq!(endless.pause(3, true, 1.0), Duration::MAX);
        for (is_overloaded, chance, ms) in rows.into_iter().chain(overloaded) {
            assert_eq!(policy.pause(0, is_overloaded, chance), ms * MS, "{is_overloaded} {chance}");
        }
    }
}
