use std::time::Duration;

use crate::retry::{doubled, part};

/// How a connection that was lost is made again: after a pause drawn at random between nothing and a bound that doubles
/// with each failure ("full jitter"), so that a thousand clients of a center that comes back do not come all at once.
///
/// Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
///
/// ```
/// use std::time::Duration;
/// use callboard_client::Reconnect;
/// let patient = Reconnect { longest: Duration::from_secs(30), ..Reconnect::default() };
/// let stubborn = Reconnect { attempts: Some(3), ..Reconnect::default() };
/// assert_eq!(Reconnect::never().attempts, Some(0));
/// # let _ = (patient, stubborn);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconnect {
    /// The bound of the first pause. Default 50 ms.
    pub first: Duration,
    /// The bound that no pause passes. Default 5 s.
    pub longest: Duration,
    /// So many attempts in a row may fail; then the client is closed for good. Default `None`: it never gives up.
    pub attempts: Option<u32>,
}

impl Reconnect {
    /// A connection that is lost is not made again: the client is closed.
    pub const fn never() -> Self {
        Self { attempts: Some(0), ..Self::DEFAULT }
    }

    const DEFAULT: Self = Self { first: Duration::from_millis(50), longest: Duration::from_secs(5), attempts: None };
}

impl Default for Reconnect {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The pauses of one loss. Pure: chance comes in as a number.
#[derive(Debug)]
pub(crate) struct Backoff {
    settings: Reconnect,
    failures: u32,
}

impl Backoff {
    pub(crate) const fn new(settings: Reconnect) -> Self {
        Self { settings, failures: 0 }
    }

    /// How long to wait before the next attempt, where `chance` is anything between 0 and 1; `None` gives up.
    pub(crate) fn next(&mut self, chance: f64) -> Option<Duration> {
        if self.settings.attempts.is_some_and(|attempts| self.failures >= attempts) {
            return None;
        }
        let bound = doubled(self.settings.first, self.settings.longest, self.failures);
        self.failures = self.failures.saturating_add(1);
        Some(part(bound, chance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: f64 = 1.0;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn the_bound_doubles_up_to_the_longest() {
        let mut backoff = Backoff::new(Reconnect::default());
        let bounds: Vec<_> = (0..9).filter_map(|_| backoff.next(FULL)).collect();
        assert_eq!(bounds, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000].map(ms));
        (0..100).for_each(|_| assert_eq!(backoff.next(FULL), Some(ms(5000))));
    }

    #[test]
    fn a_pause_lies_anywhere_below_its_bound() {
        let pause = |chance| Backoff::new(Reconnect::default()).next(chance).unwrap();
        assert_eq!((pause(0.0), pause(0.5), pause(1.0)), (ms(0), ms(25), ms(50)));
    }

    #[test]
    fn a_bound_may_be_as_long_as_any() {
        let mut endless = Backoff::new(Reconnect { first: Duration::MAX, longest: Duration::MAX, attempts: None });
        assert_eq!(endless.next(FULL), Some(Duration::MAX));
        assert!(endless.next(0.5).unwrap() > Duration::from_secs(u64::MAX / 3));
    }

    #[test]
    fn a_limit_of_attempts_ends_it() {
        let mut two = Backoff::new(Reconnect { attempts: Some(2), ..Reconnect::default() });
        assert!(two.next(FULL).is_some() && two.next(FULL).is_some());
        assert_eq!(two.next(FULL), None);
        assert_eq!(Backoff::new(Reconnect::never()).next(FULL), None);
    }
}
