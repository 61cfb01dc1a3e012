use std::time::Duration;

use tokio::time::Instant;

use crate::RetryBudget;

/// A bucket of repeats, which calls and time fill. Pure: how many calls there have been and the time come in as values.
#[derive(Debug)]
pub(crate) struct Budget {
    settings: RetryBudget,
    /// In hundredths of a repeat.
    saved: u64,
    /// So many calls have earned what they earn.
    calls: u64,
    /// Until then time has given what it gives.
    until: Instant,
}

impl Budget {
    pub(crate) fn new(settings: RetryBudget, now: Instant) -> Self {
        Self { settings, saved: u64::from(settings.reserve) * WHOLE, calls: 0, until: now }
    }

    /// Takes a repeat out, if there is one; there have been so many calls in all.
    pub(crate) fn spend(&mut self, calls: u64, now: Instant) -> bool {
        self.earn(calls);
        self.refill(now);
        let left = self.saved.checked_sub(WHOLE);
        self.saved = left.unwrap_or(self.saved);
        left.is_some()
    }

    fn earn(&mut self, calls: u64) {
        let RetryBudget { percent, reserve, most } = self.settings;
        let earned = calls.saturating_sub(self.calls).saturating_mul(u64::from(percent));
        self.calls = self.calls.max(calls);
        self.saved = self.saved.saturating_add(earned).min(u64::from(most.max(reserve)) * WHOLE);
    }

    /// Time fills up to the reserve only.
    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.until).as_millis() / STEP.as_millis();
        let steps = u64::try_from(passed).unwrap_or(u64::MAX);
        let missing = (u64::from(self.settings.reserve) * WHOLE).saturating_sub(self.saved);
        self.saved += steps.min(missing);
        // What is left of a step counts the next time.
        self.until = match u32::try_from(steps) {
            Ok(steps) if u64::from(steps) < missing => self.until + STEP * steps,
            _ => self.until.max(now),
        };
    }
}

/// One repeat.
const WHOLE: u64 = 100;
/// In so long a hundredth of a repeat comes back: one a second.
const STEP: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spent(budget: &mut Budget, calls: u64, now: Instant) -> u32 {
        (0..u32::MAX).find(|_| !budget.spend(calls, now)).unwrap()
    }

    #[test]
    fn a_fifth_of_the_calls_may_be_repeated_beyond_the_reserve() {
        let now = Instant::now();
        let mut budget = Budget::new(RetryBudget::default(), now);
        assert_eq!(spent(&mut budget, 0, now), 10, "the reserve");
        assert_eq!(spent(&mut budget, 4, now), 0);
        assert_eq!(spent(&mut budget, 5, now), 1);
        assert_eq!(spent(&mut budget, 505, now), 100, "no more is saved up");
        assert_eq!(spent(&mut budget, 100_505, now), 100);
    }

    #[test]
    fn an_idle_client_has_its_reserve_back_by_one_a_second() {
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        let mut budget = Budget::new(RetryBudget::default(), now);
        spent(&mut budget, 0, now);
        // Whoever looks often gets no less.
        let (mut got, steps) = (0, [0, 300, 605, 999, 1000, 1500, 1999, 2000]);
        for ms in steps {
            got += spent(&mut budget, 0, at(ms));
        }
        assert_eq!(got, 2);
        assert_eq!(spent(&mut budget, 0, at(100_000)), 10);
        assert_eq!(spent(&mut budget, 0, at(100_999)), 0);
    }

    #[test]
    fn a_budget_of_nothing_allows_nothing() {
        let now = Instant::now();
        let mut nothing = Budget::new(RetryBudget { percent: 0, reserve: 0, most: 100 }, now);
        assert_eq!(spent(&mut nothing, 1_000_000, now + Duration::from_hours(1)), 0);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Calls(u64),
        Passes(Duration),
        Spend(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..300u64).prop_map(Step::Calls),
            (0..5_000u64).prop_map(|ms| Step::Passes(Duration::from_millis(ms))),
            any::<u8>().prop_map(Step::Spend),
        ]
    }

    proptest! {
        #[test]
        fn repeats_stay_within_what_calls_and_time_have_earned(
            steps in prop::collection::vec(step(), 0..200), percent in 0..200u32, reserve in 0..50u32, most in 0..200u32,
        ) {
            let (began, settings) = (Instant::now(), RetryBudget { percent, reserve, most });
            let mut budget = Budget::new(settings, began);
            let (mut now, mut calls, mut spent) = (began, 0, 0u64);
            for step in steps {
                match step {
                    Step::Calls(more) => calls += more,
                    Step::Passes(time) => now += time,
                    Step::Spend(times) => {
                        let at_once = (0..times).filter(|_| budget.spend(calls, now)).count();
                        prop_assert!(at_once <= usize::try_from(most.max(reserve)).unwrap());
                        spent += u64::try_from(at_once).unwrap();
                    }
                }
                let by_time = u64::from(reserve).min(1) * (now - began).as_secs();
                let earned = calls * u64::from(percent) / 100 + u64::from(reserve) + by_time + 1;
                prop_assert!(spent <= earned, "{spent} of {earned}");
            }
        }

        #[test]
        fn what_was_earned_can_be_spent(calls in 0..500u64, reserve in 0..50u32) {
            let now = Instant::now();
            let mut budget = Budget::new(RetryBudget { reserve, ..RetryBudget::default() }, now);
            let earned = (u64::from(reserve) * 100 + calls * 20) / 100;
            prop_assert_eq!(u64::from(spent(&mut budget, calls, now)), earned.min(100));
        }
    }
}
