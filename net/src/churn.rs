use std::time::Duration;

use tokio::time::Instant;

/// How many connections come and go: where more end in a second than may, nobody new is let in for a moment. Pure: time comes
/// in.
///
/// To let one in and to end it is work of the system above all, which comes before any turn of a loop. Those who stay cost
/// nothing here: after a restart all may come back at once.
///
/// The generic cell rate algorithm (ITU-T I.371), of which each connection that has ended is a cell.
#[derive(Debug)]
pub(crate) struct Churn {
    /// What each of them takes.
    each: Duration,
    /// Those seen so far.
    ended: u64,
    /// By when all of them are paid for.
    paid: Instant,
}

/// So much may end at once without a pause.
const BURST: Duration = Duration::from_millis(200);
/// So much is owed at most, however many have ended at once.
const DEBT: Duration = Duration::from_secs(1);
/// Who comes need not be one of those who come and go.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

impl Churn {
    pub(crate) fn new(per_second: usize, now: Instant) -> Self {
        let per_second = u32::try_from(per_second).unwrap_or(u32::MAX).max(1);
        let each = Duration::from_secs(1) / per_second;
        Self { each, ended: 0, paid: now.checked_sub(BURST).unwrap_or(now) }
    }

    /// How many to let in before it is asked again: if they are about to end, the longest pause pays for them.
    pub(crate) fn at_once(&self) -> usize {
        let at_once = LONGEST_PAUSE.as_nanos() / self.each.as_nanos().max(1);
        usize::try_from(at_once).unwrap_or(usize::MAX).max(1)
    }

    /// Until when to let nobody in, now that so many were let in since it was asked, and so many have ended in all.
    pub(crate) fn pauses_until(&mut self, let_in: usize, ended: u64, now: Instant) -> Option<Instant> {
        let new = u32::try_from(ended.saturating_sub(self.ended)).unwrap_or(u32::MAX);
        self.ended = self.ended.max(ended);
        // Where nobody asked for long, they ended in all of that time.
        let paid = self.paid.checked_add(self.each.saturating_mul(new));
        let (earliest, latest) = (now.checked_sub(BURST).unwrap_or(now), now + DEBT);
        self.paid = paid.map_or(latest, |paid| paid.clamp(earliest, latest));
        // Whatever is owed, so many may come in a second.
        let theirs = self.each.saturating_mul(u32::try_from(let_in).unwrap_or(u32::MAX)).min(LONGEST_PAUSE);
        (self.paid > now).then(|| self.paid.min(now + theirs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_burst_may_end_at_once_and_then_so_many_in_a_second() {
        let mut now = Instant::now();
        let mut churn = Churn::new(1000, now);
        assert_eq!(churn.pauses_until(1, 0, now), None);
        assert_eq!(churn.pauses_until(1, 200, now), None);
        assert_eq!(churn.pauses_until(1, 201, now), Some(now + MS));
        let (begin, mut ended) = (now, 201);
        while let Some(until) = churn.pauses_until(3, ended, now)
            && ended < 2201
        {
            now = until;
            ended += 3;
        }
        assert!(now - begin >= 1990 * MS && now - begin <= 2010 * MS, "{:?}", now - begin);
        // What was not used is there again, but no more than a burst.
        now += 100 * BURST;
        assert_eq!(churn.pauses_until(1, ended, now), None);
        assert_eq!(churn.pauses_until(1, ended + 200, now), None);
        assert_eq!(churn.pauses_until(1, ended + 201, now), Some(now + MS));
    }

    /// Lets in so many at a time, of which a thousand end together, until there were ten thousand. How long that takes.
    fn waves(at_a_time: usize) -> Duration {
        let (begin, mut let_in, mut ended) = (Instant::now(), 0, 0);
        let (mut now, mut churn) = (begin, Churn::new(1000, begin));
        while let_in < 10_000 {
            let_in += at_a_time as u64;
            if let_in - ended >= 1000 {
                ended = let_in;
            }
            now = churn.pauses_until(at_a_time, ended, now).unwrap_or(now);
        }
        now - begin
    }

    #[test]
    fn who_come_and_go_in_waves_are_let_in_at_the_rate_too_and_no_slower() {
        for at_a_time in [1, 5, 20] {
            let took = waves(at_a_time);
            assert!(took >= 8000 * MS && took <= 10_000 * MS, "{at_a_time} at a time: {took:?}");
        }
    }

    #[test]
    fn those_that_ended_while_nobody_asked_are_not_charged_as_if_it_were_now() {
        let (now, later) = (Instant::now(), Instant::now() + 600_000 * MS);
        let mut churn = Churn::new(1000, now);
        assert_eq!(churn.pauses_until(1, 500_000, later), None);
        assert_eq!(churn.pauses_until(1, 500_200, later), None);
        assert!(churn.pauses_until(1, 500_201, later).is_some());
    }

    #[test]
    fn what_is_let_in_at_once_is_paid_by_a_pause() {
        for (per_second, at_once) in [(50, 1), (100, 2), (5000, 100), (usize::MAX, 20_000_000)] {
            assert_eq!(Churn::new(per_second, Instant::now()).at_once(), at_once, "{per_second}");
        }
    }

    #[test]
    fn nobody_waits_for_long_however_many_ended_at_once() {
        let now = Instant::now();
        for (per_second, ended) in [(0, 100_000), (50, 100_000), (5000, u64::MAX), (usize::MAX, u64::MAX)] {
            for let_in in [0, 1, 100, usize::MAX] {
                let mut churn = Churn::new(per_second, now);
                let until = churn.pauses_until(let_in, ended, now);
                assert!(until.is_none_or(|until| until <= now + LONGEST_PAUSE), "{per_second}: {until:?}");
                assert_eq!(churn.pauses_until(let_in, ended, now + DEBT), None, "{per_second}");
            }
        }
    }
}
