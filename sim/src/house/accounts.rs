//! Whether what a subscriber was given is what was published. Pure.

use std::collections::BTreeSet;

use callboard_common::Missed;

/// What became of messages as their publisher knows it; they are numbered in the order in which they were published.
#[derive(Clone, Copy, Debug)]
pub(super) struct Published<'a> {
    /// A center has taken them.
    pub(super) acknowledged: &'a BTreeSet<u64>,
    /// Of these it was said that none has.
    pub(super) unpublished: &'a BTreeSet<u64>,
    /// From this one on no fault was met.
    pub(super) peace: u64,
    /// The number of the next one.
    pub(super) next: u64,
    /// How many centers there are.
    pub(super) centers: u64,
    /// A center that runs on keeps all that was published there.
    pub(super) all_is_kept: bool,
}

/// What a subscriber was given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account<'a> {
    /// The first message that was published after it had subscribed.
    pub(super) first: u64,
    /// How often a center had been started until then.
    pub(super) starts: u64,
    /// In this order.
    pub(super) heard: &'a [Heard],
    pub(super) has_ended: bool,
}

/// One thing that it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Message(u64),
    /// It was told that messages are missing, when those before this one had been published, and a center had been started
    /// so often.
    Missed {
        missed: Missed,
        before: u64,
        starts: u64,
    },
}

impl Published<'_> {
    /// What was received and what was told to be missing is what was published.
    pub(super) fn check(&self, account: &Account<'_>) -> Result<(), String> {
        self.is_known(account)?;
        if self.centers == 1 { self.at_one_center(account) } else { self.at_several(account) }
    }

    /// What is missing is known, but for once each time that a center was started anew, and for each center that took the
    /// subscription after the first. And where all is kept, nothing is missing.
    fn is_known(&self, account: &Account<'_>) -> Result<(), String> {
        let mut unknown = 0;
        for heard in account.heard {
            let Heard::Missed { missed, starts, .. } = *heard else { continue };
            match missed {
                Missed::Exactly(told) if told > 0 && self.all_is_kept => {
                    return Err(format!("{told} messages were told to be missing, and the center had kept them"));
                }
                Missed::Exactly(_) => {}
                Missed::Unknown => unknown += 1,
            }
            let reasons = starts - account.starts + self.centers - 1;
            if unknown > reasons {
                return Err(format!(
                    "it was told {unknown} times that nobody knows what is missing, for {reasons} reasons"
                ));
            }
        }
        Ok(())
    }

    /// Each acknowledged message was heard, in order, or a gap was told in its place that is large enough, and no larger
    /// than what may have been published. One that was not acknowledged may have come all the same, once, at any time: the
    /// connection that it was sent over may outlive the publisher's patience. The subscriber may have ended before more
    /// came.
    fn at_one_center(&self, account: &Account<'_>) -> Result<(), String> {
        let Account { first, heard, has_ended, .. } = *account;
        let messages = self.each_once(heard)?;
        let mut perhaps = self.perhaps_missed(first, &messages);
        // Who has ended owes nothing beyond the last one that came.
        let up_to = if has_ended { messages.last().copied() } else { Some(u64::MAX) };
        let mut due = self.acknowledged.range(first..).filter(|n| up_to.is_some_and(|up_to| **n <= up_to));
        let mut told = Missed::Exactly(0);
        for heard in heard {
            let n = match heard {
                Heard::Message(n) => n,
                Heard::Missed { missed, .. } => {
                    told = sum(told, *missed);
                    continue;
                }
            };
            if *n < first || !self.acknowledged.contains(n) {
                continue;
            }
            if due.clone().next().is_none_or(|next| next > n) {
                return Err(format!("message {n} comes after later ones"));
            }
            let lost = due.by_ref().take_while(|next| *next != n).count() as u64;
            perhaps = left_over(told, lost, perhaps).map_err(|why| format!("before message {n} {why}"))?;
            told = Missed::Exactly(0);
        }
        match due.count() {
            0 if has_ended => Ok(()),
            0 => left_over(told, 0, perhaps).map(drop).map_err(|why| format!("in the end {why}")),
            lost => Err(format!("the last {lost} messages never came")),
        }
    }

    /// How many were published for all that is known, and need not have been heard.
    fn perhaps_missed(&self, first: u64, messages: &BTreeSet<u64>) -> u64 {
        // The one before the first may have been under way when the subscription was.
        let is_owed = |n: u64| self.acknowledged.contains(&n) && n + 1 != first;
        let is_open = |n: &u64| !messages.contains(n) && !self.unpublished.contains(n) && !is_owed(*n);
        (0..self.next).filter(is_open).count() as u64
    }

    /// Of several centers each has an order of its own, and what waits at one may come after what another has brought: each
    /// acknowledged message was heard, at any time, or a gap was told after it was published that is large enough. What
    /// was published in peace comes in order. What still waited for a subscriber that has ended nobody knows.
    fn at_several(&self, account: &Account<'_>) -> Result<(), String> {
        let Account { first, heard, has_ended, .. } = *account;
        let messages = self.each_once(heard)?;
        self.is_peaceful(heard)?;
        if has_ended {
            return Ok(());
        }
        let lost: Vec<_> = self.acknowledged.range(first..).filter(|n| !messages.contains(n)).copied().collect();
        let mut told_of = 0;
        for heard in heard {
            let Heard::Missed { missed, before, .. } = heard else { continue };
            let by_then = lost.partition_point(|n| n < before);
            told_of = match missed {
                Missed::Exactly(told) => by_then.min(told_of + usize::try_from(*told).unwrap_or(usize::MAX)),
                Missed::Unknown => by_then,
            }
            .max(told_of);
        }
        match lost.get(told_of..) {
            None | Some([]) => Ok(()),
            Some(lost) => Err(format!("messages {lost:?} never came, of which nothing was told")),
        }
    }

    /// All messages that came, none of them twice, and none that was said not to be published.
    fn each_once(&self, heard: &[Heard]) -> Result<BTreeSet<u64>, String> {
        let mut messages = BTreeSet::new();
        for n in numbers(heard) {
            if !messages.insert(n) {
                return Err(format!("message {n} came twice"));
            }
            if self.unpublished.contains(&n) {
                return Err(format!("message {n} came, and its publisher was told that it was not published"));
            }
        }
        Ok(messages)
    }

    fn is_peaceful(&self, heard: &[Heard]) -> Result<(), String> {
        let peaceful: Vec<_> = numbers(heard).filter(|n| *n >= self.peace).collect();
        if peaceful.is_sorted() { Ok(()) } else { Err(format!("in peace messages came in this order: {peaceful:?}")) }
    }
}

fn numbers(heard: &[Heard]) -> impl Iterator<Item = u64> {
    heard.iter().filter_map(|heard| if let Heard::Message(n) = heard { Some(*n) } else { None })
}

fn sum(one: Missed, other: Missed) -> Missed {
    match (one, other) {
        (Missed::Exactly(one), Missed::Exactly(other)) => Missed::Exactly(one + other),
        _ => Missed::Unknown,
    }
}

/// Of those that are perhaps missing the ones that were not told to be.
fn left_over(told: Missed, lost: u64, perhaps: u64) -> Result<u64, String> {
    let Missed::Exactly(told) = told else { return Ok(perhaps) };
    let more = told.checked_sub(lost).ok_or_else(|| format!("{lost} are missing, of which {told} were told"))?;
    perhaps
        .checked_sub(more)
        .ok_or_else(|| format!("{told} were told to be missing, and {lost} are, {perhaps} more at most"))
}

#[cfg(test)]
mod tests {
    use super::Heard::Message;
    use super::*;

    const ONE: Missed = Missed::Exactly(1);
    const TWO: Missed = Missed::Exactly(2);
    const UNKNOWN: Missed = Missed::Unknown;

    const fn gap(missed: Missed, before: u64) -> Heard {
        Heard::Missed { missed, before, starts: 2 }
    }

    /// Of the messages 1 to 6 the third was not acknowledged, and the sixth was said not to be published. A center was
    /// started anew.
    fn check(centers: u64, first: u64, heard: &[Heard], has_ended: bool) -> Result<(), String> {
        let (acknowledged, unpublished) = ([1, 2, 4, 5].into(), [0, 6].into());
        let (acknowledged, unpublished) = (&acknowledged, &unpublished);
        let published = Published { acknowledged, unpublished, peace: 4, next: 7, centers, all_is_kept: false };
        published.check(&Account { first, starts: 1, heard, has_ended })
    }

    #[test]
    fn what_is_lost_is_found_unless_it_was_told() {
        let (one, unknown) = (gap(ONE, 6), gap(UNKNOWN, 6));
        let rows: [(&[Heard], bool); 15] = [
            (&[Message(1), Message(2), Message(4), Message(5)], true),
            (&[Message(1), Message(3), Message(2), Message(4), Message(5)], true),
            (&[Message(1), Message(4), Message(5)], false),
            (&[Message(1), one, Message(4), Message(5)], true),
            (&[one, Message(1), Message(4), Message(5)], false),
            (&[Message(1), one, Message(5)], false),
            (&[Message(1), one, Message(3), one, Message(5)], true),
            (&[Message(1), unknown, Message(5)], true),
            (&[unknown, Message(5)], true),
            (&[Message(1), Message(2), Message(4)], false),
            (&[Message(1), Message(2), Message(2), Message(4), Message(5)], false),
            (&[Message(1), unknown, Message(4), Message(2), Message(5)], false),
            (&[Message(1), unknown, Message(5), Message(4)], false),
            (&[Message(1), Message(2), Message(4), Message(5), Message(6)], false),
            (&[Message(1), Message(2), unknown, Message(4), unknown, Message(5)], false),
        ];
        for (heard, is_right) in rows {
            let outcome = check(1, 1, heard, false);
            assert_eq!(outcome.is_ok(), is_right, "{heard:?}: {outcome:?}");
        }
    }

    #[test]
    fn no_more_is_told_to_be_missing_than_may_be() {
        let (one, two) = (gap(ONE, 6), gap(TWO, 6));
        let rows: [(&[Heard], bool); 6] = [
            (&[Message(1), one, Message(2), Message(4), Message(5)], true),
            (&[Message(1), two, Message(4), Message(5)], true),
            (&[Message(1), Message(2), Message(4), Message(5), one], true),
            (&[Message(1), Message(2), Message(4), Message(5), two], false),
            (&[Message(1), two, Message(2), Message(4), Message(5)], false),
            (&[Message(1), one, Message(2), one, Message(4), Message(5)], false),
        ];
        for (heard, is_right) in rows {
            let outcome = check(1, 1, heard, false);
            assert_eq!(outcome.is_ok(), is_right, "{heard:?}: {outcome:?}");
        }
        let under_way = [gap(TWO, 6), Message(4), Message(5)];
        assert!(check(1, 3, &under_way, false).is_ok(), "the second was on its way when the subscription was, too");
        assert!(check(1, 4, &under_way, false).is_err(), "the second was there before");
    }

    #[test]
    fn what_is_kept_is_not_missing_and_what_is_missing_is_known_unless_a_center_was_started_anew() {
        let (acknowledged, unpublished) = ([1, 2].into(), [0].into());
        let (acknowledged, unpublished) = (&acknowledged, &unpublished);
        let published = Published { acknowledged, unpublished, peace: 0, next: 3, centers: 1, all_is_kept: true };
        let told = |missed, starts, centers| {
            let heard = [Message(1), Heard::Missed { missed, before: 2, starts }, Message(2)];
            let account = Account { first: 1, starts: 1, heard: &heard, has_ended: false };
            Published { centers, ..published }.check(&account).is_ok()
        };
        assert!(told(Missed::Exactly(0), 1, 1) && !told(ONE, 2, 1));
        assert!(!told(UNKNOWN, 1, 1) && told(UNKNOWN, 2, 1) && told(UNKNOWN, 1, 2));
    }

    #[test]
    fn of_several_centers_each_has_its_order_and_a_gap_is_told_later() {
        let rows: [(&[Heard], bool); 12] = [
            (&[Message(4), Message(2), Message(5), Message(1)], true),
            (&[Message(1), Message(2), Message(5), Message(4)], false),
            (&[Message(4), Message(2), Message(5)], false),
            (&[Message(4), Message(2), Message(5), gap(ONE, 2)], true),
            (&[gap(ONE, 2), Message(4), Message(2), Message(5)], true),
            (&[gap(ONE, 1), Message(4), Message(2), Message(5)], false),
            (&[gap(UNKNOWN, 2), Message(5), Message(2)], false),
            (&[gap(UNKNOWN, 2), Message(5), Message(2), gap(ONE, 5)], true),
            (&[gap(ONE, 5), Message(2), Message(5), gap(ONE, 5)], true),
            (&[gap(UNKNOWN, 5), Message(5)], true),
            (&[Message(1), Message(2), Message(4), Message(5), Message(2)], false),
            (&[Message(1), Message(2), Message(4), Message(5), Message(6)], false),
        ];
        for (heard, is_right) in rows {
            let outcome = check(2, 1, heard, false);
            assert_eq!(outcome.is_ok(), is_right, "{heard:?}: {outcome:?}");
        }
    }

    #[test]
    fn who_has_ended_or_began_later_need_not_have_heard_all() {
        let rows: [(&[Heard], bool, bool); 4] = [
            (&[Message(1), Message(2)], true, true),
            (&[], true, true),
            (&[Message(2)], false, true),
            (&[Message(2), Message(2)], false, false),
        ];
        for (heard, at_one, at_several) in rows {
            for (centers, is_right) in [(1, at_one), (2, at_several)] {
                let outcome = check(centers, 1, heard, true);
                assert_eq!(outcome.is_ok(), is_right, "{heard:?}: {outcome:?}");
            }
        }
        assert!(check(1, 4, &[Message(4), Message(5)], false).is_ok());
        assert!(check(2, 4, &[Message(1), Message(5), Message(4)], false).is_err());
        assert!(check(2, 4, &[Message(4), Message(1), Message(5)], false).is_ok());
    }
}
