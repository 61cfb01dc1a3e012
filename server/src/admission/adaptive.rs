use std::time::Duration;

/// A limit on calls that run at once which finds itself: it grows by one with each round of calls that end within their
/// time, and shrinks by a tenth with each round in which one takes longer. A round is as many calls as may run.
///
/// That is additive increase and multiplicative decrease, which TCP takes from Chiu and Jain, "Analysis of the Increase and
/// Decrease Algorithms for Congestion Avoidance in Computer Networks" (1989). It is told which time is too long, since what
/// calls take on average says nothing where they wait for each other all the time. In that paper a resource that has room
/// says so; a call that fails at once has not said so, and the limit does not grow with it.
#[derive(Debug)]
pub(crate) struct Adaptive {
    limit: f64,
    least: f64,
    most: f64,
    target: Duration,
    /// Calls that have ended since the limit shrank.
    since_shrunk: f64,
}

/// How long a call took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Took {
    /// From its beginning to its end.
    Whole(Duration),
    /// Until it was dropped before its end, or failed, or as one that did nothing.
    Part(Duration),
}

/// So much is left of the limit when it shrinks.
const BACK_OFF: f64 = 0.9;

impl Adaptive {
    /// It begins at `least`.
    #[expect(clippy::cast_precision_loss, reason = "limits are small numbers")]
    pub(crate) fn new(least: usize, most: usize, target: Duration) -> Self {
        let least = least.max(1) as f64;
        Self { limit: least, least, most: least.max(most as f64), target, since_shrunk: 0.0 }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it lies between two bounds of its own"
    )]
    pub(crate) const fn limit(&self) -> usize {
        self.limit as usize
    }

    /// A call took so long, while so many ran, itself among them.
    #[expect(clippy::cast_precision_loss, reason = "limits are small numbers")]
    pub(crate) fn took(&mut self, took: Took, running: usize) {
        let took = match took {
            Took::Whole(took) => took,
            Took::Part(took) if took > self.target => took,
            // Nobody knows how long it would have taken.
            Took::Part(_) => return,
        };
        self.since_shrunk += 1.0;
        // With few under way their time says nothing of the limit.
        let is_in_use = running as f64 >= self.limit / 2.0;
        if took <= self.target {
            self.limit += if is_in_use { self.limit.recip() } else { 0.0 };
        } else if self.since_shrunk >= self.limit {
            (self.limit, self.since_shrunk) = (self.limit * BACK_OFF, 0.0);
        }
        self.limit = self.limit.clamp(self.least, self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Duration = Duration::from_millis(20);

    /// A method on a machine that runs so many calls at a time in 10 ms, and more by turns, for so many calls.
    fn work(adaptive: &mut Adaptive, cores: f64, calls: usize) {
        for _ in 0..calls {
            let running = adaptive.limit();
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let slower = (running as f64 / cores).max(1.0);
            adaptive.took(Took::Whole(Duration::from_millis(10).mul_f64(slower)), running);
        }
    }

    fn settled(cores: f64, least: usize, most: usize) -> usize {
        let mut adaptive = Adaptive::new(least, most, TARGET);
        work(&mut adaptive, cores, 50_000);
        adaptive.limit()
    }

    #[test]
    fn it_finds_how_many_calls_still_end_in_time_and_stays_there() {
        // Twice as many as run at once take twice the time.
        for cores in [4.0, 32.0, 100.0] {
            let limit = settled(cores, 1, 10_000);
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let by_right = limit as f64 / (2.0 * cores);
            assert!((0.85..=1.1).contains(&by_right), "{limit} for {cores}");
        }
    }

    #[test]
    fn it_stays_within_its_bounds() {
        assert_eq!(settled(1e9, 1, 50), 50);
        assert_eq!(settled(0.1, 3, 50), 3);
        assert_eq!([Adaptive::new(0, 0, TARGET).limit(), Adaptive::new(5, 2, TARGET).limit()], [1, 5]);
    }

    #[test]
    fn it_shrinks_when_the_machine_gets_slower_and_grows_again_with_it() {
        let mut adaptive = Adaptive::new(1, 1_000, TARGET);
        work(&mut adaptive, 100.0, 50_000);
        work(&mut adaptive, 10.0, 5_000);
        assert!((15..25).contains(&adaptive.limit()), "{}", adaptive.limit());
        work(&mut adaptive, 100.0, 50_000);
        assert!((150..225).contains(&adaptive.limit()), "{}", adaptive.limit());
    }

    #[test]
    fn one_late_call_costs_a_tenth_and_those_of_the_same_round_nothing_more() {
        let mut adaptive = Adaptive::new(1, 1_000, TARGET);
        work(&mut adaptive, 1e9, 10_000);
        let before = adaptive.limit();
        for _ in 0..before / 2 {
            adaptive.took(Took::Whole(TARGET * 2), before);
        }
        assert!(
            (before * 9 / 10..=before * 9 / 10 + 1).contains(&adaptive.limit()),
            "{} of {before}",
            adaptive.limit()
        );
    }

    #[test]
    fn a_call_that_was_dropped_counts_only_where_it_had_taken_too_long() {
        let mut adaptive = Adaptive::new(1, 100, TARGET);
        for _ in 0..1_000 {
            adaptive.took(Took::Part(Duration::ZERO), adaptive.limit());
        }
        assert_eq!(adaptive.limit(), 1, "what did no work is not quick");
        work(&mut adaptive, 1e9, 10_000);
        assert_eq!(adaptive.limit(), 100);
        for _ in 0..100 {
            adaptive.took(Took::Part(TARGET * 2), 100);
        }
        assert!(adaptive.limit() < 100, "what is given up since it takes too long is slow");
    }

    #[test]
    fn an_idle_method_says_nothing_of_its_limit() {
        let mut adaptive = Adaptive::new(10, 100, TARGET);
        for _ in 0..100 {
            adaptive.took(Took::Whole(Duration::from_millis(1)), 1);
        }
        assert_eq!(adaptive.limit(), 10);
    }
}
