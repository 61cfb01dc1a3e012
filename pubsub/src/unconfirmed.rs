use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// What was published and may have to be published again, at another center: all that the center has not confirmed, and
/// what it confirmed a moment ago, which a center that is killed may not have passed on yet. Pure state.
///
/// Its messages are numbered from 1 on, and sent and confirmed in this order.
#[derive(Debug)]
pub(crate) struct Unconfirmed<T> {
    entries: VecDeque<Entry<T>>,
    /// The number of the first entry.
    first: u64,
    /// So many entries, from the first on, are confirmed.
    confirmed: usize,
    /// So many were sent over the connection of the moment.
    sent: usize,
    /// Up to this number they were sent over any, and over an earlier one.
    ever_sent: u64,
    sent_before: u64,
    /// Up to this number somebody is about to send them.
    in_hand: u64,
    kept_bytes: usize,
    waiting_bytes: usize,
}

#[derive(Debug)]
struct Entry<T> {
    /// Gone if it was taken back, or can't be sent.
    what: Option<T>,
    bytes: usize,
    confirmed_at: Option<Instant>,
}

/// What [`Unconfirmed::take_out`] has taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TakenOut {
    /// It is not there.
    Nothing,
    /// One that nobody has confirmed.
    Waiting,
    /// One that was only kept.
    Confirmed,
}

/// So much may wait to be confirmed; a single message always may.
const WAITING_MESSAGES: usize = 1 << 13;
const WAITING_BYTES: usize = 1 << 20;
/// So much of what is confirmed is kept, for so long.
const KEPT_MESSAGES: usize = 1 << 14;
const KEPT_BYTES: usize = 1 << 20;
const KEPT_TIME: Duration = Duration::from_secs(5);

impl<T> Unconfirmed<T> {
    pub(crate) const fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            first: 1,
            confirmed: 0,
            sent: 0,
            ever_sent: 0,
            sent_before: 0,
            in_hand: 0,
            kept_bytes: 0,
            waiting_bytes: 0,
        }
    }

    /// Whether as much waits as may.
    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() - self.confirmed >= WAITING_MESSAGES || self.waiting_bytes >= WAITING_BYTES
    }

    /// Takes one more; gives its number.
    pub(crate) fn push(&mut self, what: T, bytes: usize) -> u64 {
        self.entries.push_back(Entry { what: Some(what), bytes, confirmed_at: None });
        self.waiting_bytes += bytes;
        self.last()
    }

    /// The number of the last one.
    pub(crate) fn last(&self) -> u64 {
        self.first + self.entries.len() as u64 - 1
    }

    /// What is to be sent next, with its numbers, so many at most. Until [`sent`](Self::sent) tells how far that went, none
    /// of it is taken back.
    pub(crate) fn next(&mut self, most: usize) -> impl Iterator<Item = (u64, Option<&T>)> {
        let end = self.sent.saturating_add(most).min(self.entries.len());
        let first = self.first + self.sent as u64;
        self.in_hand = self.first + end as u64 - 1;
        (first..).zip(self.entries.range(self.sent..end)).map(|(number, entry)| (number, entry.what.as_ref()))
    }

    /// All up to this number were sent over the connection of the moment, and nothing else is in hand.
    pub(crate) fn sent(&mut self, up_to: u64) {
        self.sent = self.sent.max(self.count_up_to(up_to));
        self.ever_sent = self.ever_sent.max(up_to);
        self.in_hand = 0;
    }

    /// Whether it was sent over any connection.
    pub(crate) const fn was_sent(&self, number: u64) -> bool {
        number <= self.ever_sent
    }

    /// Whether it was sent over a connection before that of the moment.
    pub(crate) const fn was_sent_before(&self, number: u64) -> bool {
        number <= self.sent_before
    }

    /// The center of the moment does not want it: it is not sent again, unless it is confirmed, which another center has
    /// done. Whether another one may have handled it.
    pub(crate) fn refuse(&mut self, number: u64, now: Instant) -> bool {
        if number > self.confirmed_up_to() {
            self.take_out(number, now);
        }
        self.was_sent_before(number)
    }

    /// The last number that was sent over the connection of the moment.
    pub(crate) fn sent_up_to(&self) -> u64 {
        self.first + self.sent as u64 - 1
    }

    /// The center has handled all up to this number.
    pub(crate) fn confirm(&mut self, up_to: u64, now: Instant) {
        let mut confirmed = self.confirmed;
        let end = self.count_up_to(up_to).max(confirmed);
        for entry in self.entries.range_mut(confirmed..) {
            // Nobody confirms what is not sent: it counts as soon as all before it does.
            if confirmed >= end && entry.what.is_some() {
                break;
            }
            entry.confirmed_at = Some(now);
            self.kept_bytes += entry.bytes;
            self.waiting_bytes -= entry.bytes;
            confirmed += 1;
        }
        self.confirmed = confirmed;
        self.trim(now);
    }

    /// Up to this number all is confirmed.
    pub(crate) fn confirmed_up_to(&self) -> u64 {
        self.first + self.confirmed as u64 - 1
    }

    /// Whether nothing waits to be confirmed.
    pub(crate) fn is_settled(&self) -> bool {
        self.confirmed == self.entries.len()
    }

    /// How many wait to be confirmed.
    pub(crate) fn waiting(&self) -> usize {
        self.entries.range(self.confirmed..).filter(|entry| entry.what.is_some()).count()
    }

    /// The connection of the moment is another one: what is kept is to be sent over it.
    pub(crate) fn start_over(&mut self, now: Instant) {
        self.trim(now);
        (self.sent, self.in_hand, self.sent_before) = (0, 0, self.ever_sent);
    }

    /// Takes one back, unless it was sent or is about to be; whether it did.
    pub(crate) fn take_back(&mut self, number: u64, now: Instant) -> bool {
        let is_unsent = number > self.ever_sent.max(self.in_hand);
        is_unsent && self.take_out(number, now) == TakenOut::Waiting
    }

    /// Takes one out that can't be sent; gives what it was.
    pub(crate) fn take_out(&mut self, number: u64, now: Instant) -> TakenOut {
        let at = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok()).unwrap_or(usize::MAX);
        let Some(entry) = self.entries.get_mut(at).filter(|entry| entry.what.is_some()) else {
            return TakenOut::Nothing;
        };
        entry.what = None;
        let bytes = std::mem::take(&mut entry.bytes);
        let is_confirmed = at < self.confirmed;
        *(if is_confirmed { &mut self.kept_bytes } else { &mut self.waiting_bytes }) -= bytes;
        self.confirm(self.confirmed_up_to(), now);
        if is_confirmed { TakenOut::Confirmed } else { TakenOut::Waiting }
    }

    /// How many entries there are up to this number.
    fn count_up_to(&self, number: u64) -> usize {
        let count = usize::try_from((number + 1).saturating_sub(self.first)).unwrap_or(usize::MAX);
        count.min(self.entries.len())
    }

    /// Lets go of what was confirmed long ago, or is too much.
    fn trim(&mut self, now: Instant) {
        while let Some(confirmed_at) = self.entries.front().and_then(|entry| entry.confirmed_at) {
            let is_old = now.saturating_duration_since(confirmed_at) > KEPT_TIME;
            if !(is_old || self.confirmed > KEPT_MESSAGES || self.kept_bytes > KEPT_BYTES) {
                return;
            }
            self.kept_bytes -= self.entries.pop_front().map_or(0, |entry| entry.bytes);
            self.first += 1;
            self.confirmed -= 1;
            self.sent = self.sent.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::repeats::REPEATED_NUMBERS;

    fn numbers(queue: &mut Unconfirmed<u64>) -> Vec<u64> {
        queue.next(usize::MAX).map(|(number, _)| number).collect()
    }

    fn filled(count: u64) -> Unconfirmed<u64> {
        let mut queue = Unconfirmed::new();
        for number in 1..=count {
            assert_eq!(queue.push(number, 100), number);
        }
        queue
    }

    #[test]
    fn over_another_connection_goes_all_that_is_not_confirmed_and_what_was_a_moment_ago() {
        let now = Instant::now();
        let mut queue = filled(6);
        queue.sent(5);
        assert_eq!((numbers(&mut queue), queue.sent_up_to()), (vec![6], 5));
        queue.confirm(2, now);
        queue.confirm(4, now + KEPT_TIME / 2);
        assert_eq!((queue.confirmed_up_to(), queue.is_settled()), (4, false));
        let mut later = now + KEPT_TIME;
        queue.start_over(later);
        assert_eq!(numbers(&mut queue), [1, 2, 3, 4, 5, 6]);
        queue.sent(3);
        later += KEPT_TIME / 4;
        queue.start_over(later);
        assert_eq!(numbers(&mut queue), [3, 4, 5, 6], "the first two were confirmed long ago");
        queue.confirm(3, later);
        assert_eq!(queue.confirmed_up_to(), 4, "what is confirmed stays so");
        queue.sent(6);
        queue.confirm(6, later);
        assert!(queue.is_settled() && !queue.is_full());
        queue.start_over(later + 2 * KEPT_TIME);
        assert_eq!((numbers(&mut queue), queue.push(7, 1)), (vec![], 7));
    }

    #[test]
    fn what_was_not_sent_can_be_taken_back() {
        let mut queue = filled(3);
        queue.sent(1);
        let now = Instant::now();
        assert_eq!([1, 2, 2, 9].map(|number| queue.take_back(number, now)), [false, true, false, false]);
        queue.start_over(now);
        assert!(!queue.take_back(1, now), "it may have been handled");
        assert_eq!(queue.next(9).map(|(_, what)| what.copied()).collect::<Vec<_>>(), [Some(1), None, Some(3)]);
    }

    #[test]
    fn what_somebody_is_about_to_send_is_not_taken_back() {
        let (mut queue, now) = (filled(3), Instant::now());
        assert_eq!(queue.next(2).count(), 2);
        assert_eq!([1, 2].map(|number| queue.take_back(number, now)), [false, false]);
        queue.sent(1);
        assert_eq!((queue.was_sent(1), queue.was_sent(2), queue.was_sent_before(1)), (true, false, false));
        queue.start_over(now);
        assert_eq!((queue.was_sent_before(1), queue.was_sent_before(2)), (true, false));
        assert!(queue.take_back(2, now), "there was no room for it");
    }

    #[test]
    fn what_is_refused_is_not_sent_again_unless_another_center_has_confirmed_it() {
        let (mut queue, now) = (filled(4), Instant::now());
        queue.sent(3);
        queue.confirm(1, now);
        assert!(!queue.refuse(2, now), "nobody else has heard of it");
        queue.start_over(now);
        let wanted =
            |queue: &mut Unconfirmed<u64>| queue.next(9).filter_map(|(_, what)| what.copied()).collect::<Vec<_>>();
        assert_eq!(wanted(&mut queue), [1, 3, 4]);
        queue.sent(4);
        assert_eq!([1, 3, 4].map(|number| queue.refuse(number, now)), [true, true, false]);
        queue.start_over(now);
        assert_eq!(wanted(&mut queue), [1]);
        assert!(queue.is_settled());
    }

    #[test]
    fn what_is_not_sent_takes_no_room_and_waits_for_no_confirmation() {
        let (mut queue, now) = (Unconfirmed::new(), Instant::now());
        queue.push(1, WAITING_BYTES);
        assert!(queue.is_full() && queue.take_back(1, now));
        assert!(!queue.is_full() && queue.is_settled());
        for number in 2..2 + WAITING_MESSAGES as u64 {
            assert_eq!(queue.push(number, 1), number);
        }
        assert!(queue.is_full());
        for number in (2..=queue.last()).rev() {
            assert!(queue.take_back(number, now));
        }
        assert!(queue.is_settled() && queue.confirmed_up_to() == queue.last());
        let number = queue.push(0, 7);
        queue.sent(number);
        queue.confirm(number, now);
        assert_eq!((queue.take_out(number, now), queue.kept_bytes), (TakenOut::Confirmed, 0));
        assert_eq!(queue.take_out(number, now), TakenOut::Nothing);
    }

    #[test]
    fn both_what_waits_and_what_is_kept_is_bounded() {
        let now = Instant::now();
        let mut large = Unconfirmed::new();
        large.push(1, 100 << 20);
        assert!(large.is_full());
        large.sent(1);
        large.confirm(1, now);
        assert!(!large.is_full() && large.entries.is_empty());
        let mut many = Unconfirmed::new();
        for round in 0..10 {
            while !many.is_full() {
                many.push(round, 1);
            }
            many.sent(many.last());
            many.confirm(many.last(), now);
            assert!(many.entries.len() <= KEPT_MESSAGES);
        }
        assert!((KEPT_MESSAGES + WAITING_MESSAGES) as u64 <= REPEATED_NUMBERS);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize),
        Send(usize),
        Confirm(usize),
        Lose,
        Wait(u64),
        TakeBack(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1..10_usize).prop_map(Step::Push),
            4 => (1..10_usize).prop_map(Step::Send),
            4 => (0..12_usize).prop_map(Step::Confirm),
            1 => Just(Step::Lose),
            1 => (0..7000_u64).prop_map(Step::Wait),
            1 => (1..200_u64).prop_map(Step::TakeBack),
        ]
    }

    proptest! {
        #[test]
        fn all_is_sent_in_order_over_each_connection_until_it_is_confirmed(steps in prop::collection::vec(step(), 1..300)) {
            let mut now = Instant::now();
            let mut queue = Unconfirmed::new();
            let (mut last, mut confirmed, mut sent) = (0_u64, 0_u64, 0_u64);
            let mut taken = std::collections::BTreeSet::new();
            for step in steps {
                match step {
                    Step::Push(count) => for _ in 0..count {
                        last += 1;
                        prop_assert_eq!(queue.push(last, 50), last);
                    },
                    Step::Send(count) => {
                        let next: Vec<_> = queue.next(count).map(|(number, _)| number).collect();
                        for number in next {
                            // Only what was confirmed long ago may be left out.
                            let follows = number == sent + 1 || (number > sent && number <= confirmed + 1);
                            prop_assert!(follows, "{} {}", number, sent);
                            sent = number;
                        }
                        queue.sent(sent);
                    }
                    Step::Confirm(count) => {
                        let up_to = (confirmed + count as u64).min(sent.max(confirmed));
                        queue.confirm(up_to, now);
                        confirmed = confirmed.max(up_to);
                    }
                    Step::Lose => {
                        queue.start_over(now);
                        sent = 0;
                    }
                    Step::Wait(ms) => now += Duration::from_millis(ms),
                    Step::TakeBack(number) => {
                        if queue.take_back(number, now) {
                            taken.insert(number);
                        }
                    }
                }
                while taken.contains(&(confirmed + 1)) {
                    confirmed += 1;
                }
                let waiting = (confirmed + 1..=last).filter(|number| !taken.contains(number)).count();
                prop_assert_eq!((queue.last(), queue.confirmed_up_to()), (last, confirmed));
                prop_assert_eq!(queue.is_settled(), last == confirmed);
                prop_assert_eq!((queue.waiting(), queue.waiting_bytes), (waiting, waiting * 50));
            }
        }
    }
}
