/// What one subscription has had of its topic, by the numbers of the messages. Pure state.
///
/// Wherever a message was left out, at the center or here, the next number tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sequence {
    /// The number of the next message, if none is left out.
    next: u64,
}

/// What a message is by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    New,
    /// It is new, and these before it were left out.
    After(Gap),
    /// It was heard already, or is from before the subscription.
    Again,
}

/// Messages that were left out, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl Sequence {
    /// It goes on with this number.
    pub(crate) const fn from(next: u64) -> Self {
        Self { next }
    }

    /// One more message.
    pub(crate) const fn hear(&mut self, seq: u64) -> Heard {
        if seq < self.next {
            return Heard::Again;
        }
        let from = self.next;
        self.next = seq + 1;
        if seq == from { Heard::New } else { Heard::After(Gap { from, to: seq - 1 }) }
    }

    /// One more message, if it is the one that follows; whether it is.
    #[inline]
    pub(crate) const fn goes_on_with(&mut self, seq: u64) -> bool {
        let follows = seq == self.next;
        self.next += follows as u64;
        follows
    }

    /// All up to this number was sent or left out.
    pub(crate) fn reach(&mut self, seq: u64) -> Option<Gap> {
        let from = self.next;
        self.next = from.max(seq + 1);
        (from <= seq).then_some(Gap { from, to: seq })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_jump_is_told_once_and_what_was_heard_is_not_heard_again() {
        let mut sequence = Sequence::from(5);
        let gap = |from, to| Heard::After(Gap { from, to });
        let rows =
            [(5, Heard::New), (6, Heard::New), (6, Heard::Again), (1, Heard::Again), (9, gap(7, 8)), (10, Heard::New)];
        for (seq, heard) in rows {
            assert_eq!(sequence.hear(seq), heard, "{seq}");
        }
        assert_eq!(sequence.reach(10), None);
        assert_eq!(sequence.reach(12), Some(Gap { from: 11, to: 12 }));
        assert_eq!((sequence.reach(12), sequence.hear(13)), (None, Heard::New));
        assert_eq!([15, 14, 14, 15].map(|seq| sequence.goes_on_with(seq)), [false, true, false, true]);
    }
}
