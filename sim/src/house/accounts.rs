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
}

/// What a subscriber was given, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Message(u64),
    /// It was told that messages are missing, when those before this one had been published.
    Missed {
        missed: Missed,
        before: u64,
    },
}

impl Published<'_> {
    /// Each acknowledged message was heard, in order, or a gap that is large enough was told in its place. One that was
    /// not acknowledged may have come all the same, once, at any time: the connection that it was sent over may outlive
    /// the publisher's patience. The subscriber may have ended before more came.
    pub(super) fn at_one_center(&self, first: u64, heard: &[Heard], has_ended: bool) -> Result<(), String> {
        let messages = self.each_once(heard)?;
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
            if !covers(told, lost) {
                return Err(format!("before message {n} {lost} are missing, of which was told: {told:?}"));
            }
            told = Missed::Exactly(0);
        }
        match due.count() {
            0 => Ok(()),
            lost => Err(format!("the last {lost} messages never came")),
        }
    }

    /// Of several centers each has an order of its own, and what waits at one may come after what another has brought: each
    /// acknowledged message was heard, at any time, or a gap was told after it was published that is large enough. What
    /// was published in peace comes in order. What still waited for a subscriber that has ended nobody knows.
    pub(super) fn at_several(&self, first: u64, heard: &[Heard], has_ended: bool) -> Result<(), String> {
        let messages = self.each_once(heard)?;
        self.is_peaceful(heard)?;
        if has_ended {
            return Ok(());
        }
        let lost: Vec<_> = self.acknowledged.range(first..).filter(|n| !messages.contains(n)).copied().collect();
        let mut told_of = 0;
        for heard in heard {
            let Heard::Missed { missed, before } = heard else { continue };
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

fn covers(told: Missed, lost: u64) -> bool {
    match told {
        Missed::Exactly(told) => lost <= told,
        Missed::Unknown => true,
    }
}

#[cfg(test)]
mod tests {
    use super::Heard::Message;
    use super::*;

    const fn gap(missed: Missed, before: u64) -> Heard {
        Heard::Missed { missed, before }
    }

    /// Of the messages 1 to 6 the third was not acknowledged, and the sixth was said not to be published.
    fn check(of: impl Fn(Published<'_>) -> Result<(), String>) -> Result<(), String> {
        let (acknowledged, unpublished) = ([1, 2, 4, 5].into(), [6].into());
        of(Published { acknowledged: &acknowledged, unpublished: &unpublished, peace: 4 })
    }

    #[test]
    fn what_is_lost_is_found_unless_it_was_told() {
        let (one, unknown) = (gap(Missed::Exactly(1), 6), gap(Missed::Unknown, 6));
        let rows: [(&[Heard], bool); 14] = [
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
            (&[Message(1), unknown, Message(5), unknown, Message(4)], false),
            (&[Message(1), Message(2), Message(4), Message(5), Message(6)], false),
        ];
        for (heard, is_right) in rows {
            let outcome = check(|published| published.at_one_center(1, heard, false));
            assert_eq!(outcome.is_ok(), is_right, "{heard:?}: {outcome:?}");
        }
    }

    #[test]
    fn of_several_centers_each_has_its_order_and_a_gap_is_told_later() {
        let (one, unknown) = (Missed::Exactly(1), Missed::Unknown);
        let rows: [(&[Heard], bool); 12] = [
            (&[Message(4), Message(2), Message(5), Message(1)], true),
            (&[Message(1), Message(2), Message(5), Message(4)], false),
            (&[Message(4), Message(2), Message(5)], false),
            (&[Message(4), Message(2), Message(5), gap(one, 2)], true),
            (&[gap(one, 2), Message(4), Message(2), Message(5)], true),
            (&[gap(one, 1), Message(4), Message(2), Message(5)], false),
            (&[gap(unknown, 2), Message(5), Message(2)], false),
            (&[gap(unknown, 2), Message(5), Message(2), gap(one, 5)], true),
            (&[gap(one, 5), Message(2), Message(5), gap(one, 5)], true),
            (&[gap(unknown, 5), Message(5)], true),
            (&[Message(1), Message(2), Message(4), Message(5), Message(2)], false),
            (&[Message(1), Message(2), Message(4), Message(5), Message(6)], false),
        ];
        for (heard, is_right) in rows {
            let outcome = check(|published| published.at_several(1, heard, false));
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
            let outcome = check(|published| published.at_one_center(1, heard, true));
            assert_eq!(outcome.is_ok(), at_one, "{heard:?}: {outcome:?}");
            let outcome = check(|published| published.at_several(1, heard, true));
            assert_eq!(outcome.is_ok(), at_several, "{heard:?}: {outcome:?}");
        }
        assert!(check(|published| published.at_one_center(4, &[Message(4), Message(5)], false)).is_ok());
        assert!(check(|published| published.at_several(4, &[Message(1), Message(5), Message(4)], false)).is_err());
        assert!(check(|published| published.at_several(4, &[Message(4), Message(1), Message(5)], false)).is_ok());
    }
}
