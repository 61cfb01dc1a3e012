use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use callboard_common::SlowPolicy;

use crate::progress::Resumed;

/// What has come for one subscription and was not yet taken, bounded. Pure state, generic over the messages, one or
/// several at a time.
///
/// With the policy `Hold` it is [behind](Backlog::is_behind) above a soft bound, until it has come down a step below:
/// while it is, its connection need not be read. Past the hard bound its policy decides.
#[derive(Debug)]
pub(crate) struct Backlog<T> {
    bounds: Bounds,
    waiting: VecDeque<Next<T>>,
    load: Load,
    marks: usize,
    behind: bool,
    /// Messages up to this one were left out, and none was taken in since.
    left_out: Option<u64>,
    end: Option<End>,
}

/// Messages that came together.
pub(crate) trait Portion: Sized {
    fn load(&self) -> Load;
    /// Takes the first message; `None` if none is left.
    fn take_first(&mut self) -> Option<Self>;
    /// The number of the last message.
    fn last(&self) -> u64;
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next<T> {
    Messages(T),
    Mark(Mark),
}

/// What lies between messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// All up to this number has come or was left out.
    Reached(u64),
    /// The connection was lost.
    Lost,
    /// It goes on over another one.
    Resumed(Resumed),
}

/// How much something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) policy: SlowPolicy,
    pub(crate) hold_bytes: usize,
    pub(crate) hold_messages: usize,
    pub(crate) max_bytes: usize,
    pub(crate) max_messages: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            policy: SlowPolicy::Hold,
            hold_bytes: 64 << 10,
            hold_messages: 8 << 10,
            max_bytes: 64 << 20,
            max_messages: usize::MAX,
        }
    }
}

/// How far below a soft bound one has caught up, at most half of it. Small, so that one who is slow but steady is seen
/// to take something again and again: the center does not wait for those who pause.
const STEP_BYTES: usize = 64 << 10;
const STEP_MESSAGES: usize = 1 << 10;
/// So many losses of the connection, resumptions and gaps may wait to be told.
const MAX_MARKS: usize = 1 << 10;

/// Why no more comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Disconnected,
    TopicRemoved,
    /// The center did not take it again after a loss of the connection.
    Refused {
        why: Arc<str>,
    },
    TooSlow(Bound),
}

/// What would wait that may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    Bytes(usize),
    Messages(usize),
    /// Marks between messages.
    Marks(usize),
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "over {bytes} bytes of messages"),
            Self::Messages(messages) => write!(f, "over {messages} messages"),
            Self::Marks(marks) => write!(f, "word of over {marks} losses of the connection and gaps"),
        }
    }
}

impl<T: Portion> Backlog<T> {
    pub(crate) const fn new(bounds: Bounds) -> Self {
        let load = Load { messages: 0, bytes: 0 };
        Self { bounds, waiting: VecDeque::new(), load, marks: 0, behind: false, left_out: None, end: None }
    }

    /// Takes more; after the end it is dropped. Near the hard bound each message counts, and one always fits.
    pub(crate) fn push(&mut self, mut messages: T) {
        if self.bounds.policy == SlowPolicy::Latest {
            while messages.load().messages > 1 && messages.take_first().is_some() {}
            self.clear_messages();
        }
        if self.end.is_some() || self.fits(messages.load()) {
            return self.enter(messages);
        }
        while let Some(message) = messages.take_first() {
            self.push_one(message);
        }
    }

    /// What comes next: the messages in order, then the end, again and again; `None` asks to wait.
    pub(crate) fn pop(&mut self) -> Option<Result<Next<T>, End>> {
        let next = self.waiting.pop_front().or_else(|| self.left_out.take().map(|seq| Next::Mark(Mark::Reached(seq))));
        match &next {
            Some(Next::Messages(messages)) => self.taken(messages.load()),
            Some(Next::Mark(_)) => self.marks = self.marks.saturating_sub(1),
            None => return self.end.clone().map(Err),
        }
        next.map(Ok)
    }

    /// Lays something between what has come and what comes.
    pub(crate) fn mark(&mut self, mark: Mark) {
        if self.end.is_some() {
            return;
        }
        let left_out = self.left_out.take().map(Mark::Reached);
        for mark in left_out.into_iter().chain([mark]) {
            self.waiting.push_back(Next::Mark(mark));
            self.marks += 1;
        }
        if self.marks > MAX_MARKS {
            self.end(End::TooSlow(Bound::Marks(MAX_MARKS)));
        }
    }

    /// Nothing more comes; what waits can still be taken. The first end counts.
    pub(crate) fn end(&mut self, end: End) {
        self.end.get_or_insert(end);
    }

    /// Drops what waits.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
        (self.load, self.marks, self.left_out, self.behind) = (Load::default(), 0, None, false);
    }

    /// Whether more should be kept from coming.
    pub(crate) const fn is_behind(&self) -> bool {
        self.behind && self.end.is_none()
    }

    /// Whether so much more stays within the hard bound.
    const fn fits(&self, load: Load) -> bool {
        self.load.bytes.saturating_add(load.bytes) <= self.bounds.max_bytes
            && self.load.messages.saturating_add(load.messages) <= self.bounds.max_messages
    }

    fn push_one(&mut self, message: T) {
        if self.bounds.policy == SlowPolicy::DropOldest {
            while !self.fits(message.load()) && self.drop_oldest() {}
        }
        if self.load.messages == 0 || self.fits(message.load()) {
            return self.enter(message);
        }
        match self.bounds.policy {
            SlowPolicy::DropNewest => self.left_out = Some(message.last()),
            _ => self.end(End::TooSlow(self.bound_over(message.load()))),
        }
    }

    fn enter(&mut self, messages: T) {
        let load = messages.load();
        if self.end.is_some() || load.messages == 0 {
            return;
        }
        self.left_out = None; // the next number tells
        self.waiting.push_back(Next::Messages(messages));
        self.load.messages += load.messages;
        self.load.bytes += load.bytes;
        let over = self.load.bytes > self.bounds.hold_bytes || self.load.messages > self.bounds.hold_messages;
        self.behind |= over && self.bounds.policy == SlowPolicy::Hold;
    }

    fn taken(&mut self, load: Load) {
        self.load.messages -= load.messages;
        self.load.bytes -= load.bytes;
        let Bounds { hold_bytes, hold_messages, .. } = self.bounds;
        self.behind &=
            self.load.bytes > below(hold_bytes, STEP_BYTES) || self.load.messages > below(hold_messages, STEP_MESSAGES);
    }

    /// Leaves out the oldest message that waits; `false` if there is none.
    fn drop_oldest(&mut self) -> bool {
        let Some(at) = self.waiting.iter().position(|next| matches!(next, Next::Messages(_))) else { return false };
        let Some(Next::Messages(oldest)) = self.waiting.get_mut(at) else { return false };
        let before = oldest.load();
        drop(oldest.take_first());
        let after = oldest.load();
        if after.messages == 0 {
            self.waiting.remove(at);
            self.taken(before);
        } else {
            self.taken(Load { messages: before.messages - after.messages, bytes: before.bytes - after.bytes });
        }
        true
    }

    fn clear_messages(&mut self) {
        self.waiting.retain(|next| matches!(next, Next::Mark(_)));
        (self.load, self.behind) = (Load::default(), false);
    }

    /// Which hard bound keeps so much more from waiting.
    const fn bound_over(&self, load: Load) -> Bound {
        let Bounds { max_bytes, max_messages, .. } = self.bounds;
        if self.load.bytes.saturating_add(load.bytes) > max_bytes {
            Bound::Bytes(max_bytes)
        } else {
            Bound::Messages(max_messages)
        }
    }
}

const fn below(bound: usize, step: usize) -> usize {
    if step < bound / 2 { bound - step } else { bound.div_ceil(2) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use callboard_common::Missed;

    const BOUNDS: Bounds =
        Bounds { policy: SlowPolicy::Hold, hold_bytes: 100, hold_messages: 4, max_bytes: 200, max_messages: 50 };

    /// Messages with these numbers, each of so many bytes.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Few(std::ops::Range<u64>, usize);

    impl Portion for Few {
        fn load(&self) -> Load {
            let messages = self.0.clone().count();
            Load { messages, bytes: messages * self.1 }
        }

        fn take_first(&mut self) -> Option<Self> {
            self.0.next().map(|first| Self(first..first + 1, self.1))
        }

        fn last(&self) -> u64 {
            self.0.end - 1
        }
    }

    fn backlog(policy: SlowPolicy) -> Backlog<Few> {
        Backlog::new(Bounds { policy, ..BOUNDS })
    }

    /// Pushes messages of these sizes.
    fn holding(sizes: &[usize]) -> Backlog<Few> {
        let mut backlog = backlog(SlowPolicy::Hold);
        for (at, bytes) in (0..).zip(sizes) {
            backlog.push(Few(at..at + 1, *bytes));
        }
        backlog
    }

    /// All that can be taken: numbers of messages, marks in words, the end.
    fn taken(backlog: &mut Backlog<Few>) -> Vec<String> {
        let mut taken = Vec::new();
        while let Some(next) = backlog.pop() {
            match next {
                Ok(Next::Messages(messages)) => taken.extend(messages.0.map(|seq| seq.to_string())),
                Ok(Next::Mark(Mark::Reached(seq))) => taken.push(format!("reached {seq}")),
                Ok(Next::Mark(Mark::Lost)) => taken.push("lost".to_owned()),
                Ok(Next::Mark(Mark::Resumed(_))) => taken.push("resumed".to_owned()),
                Err(End::TooSlow(bound)) => return [taken, vec![format!("too slow: {bound}")]].concat(),
                Err(end) => return [taken, vec![format!("{end:?}")]].concat(),
            }
        }
        taken
    }

    #[test]
    fn messages_come_in_order_and_then_it_waits() {
        let mut backlog = holding(&[1, 1]);
        assert_eq!(taken(&mut backlog), ["0", "1"]);
        assert_eq!(backlog.pop(), None);
    }

    #[test]
    fn several_at_a_time_count_as_many() {
        let mut backlog = backlog(SlowPolicy::Hold);
        for at in [0, 3] {
            assert!(!backlog.is_behind());
            backlog.push(Few(at..at + 3, 1));
        }
        assert!(backlog.is_behind());
        for behind in [true, false] {
            assert!(matches!(backlog.pop(), Some(Ok(Next::Messages(_)))));
            assert_eq!(backlog.is_behind(), behind);
        }
    }

    #[test]
    fn it_is_behind_from_above_a_soft_bound_down_to_a_step_below() {
        // Sizes, and after how many were taken it is behind no more.
        let rows: [(&[usize], usize); 6] = [
            (&[50, 50], 0),
            (&[50, 50, 1], 2),
            (&[101], 1),
            (&[40, 40, 40], 2),
            (&[1, 1, 1, 1], 0),
            (&[1, 1, 1, 1, 1], 3),
        ];
        for (sizes, taken) in rows {
            let mut backlog = holding(sizes);
            for _ in 0..taken {
                assert!(backlog.is_behind(), "{sizes:?}");
                backlog.pop();
            }
            assert!(!backlog.is_behind(), "{sizes:?}");
        }
    }

    #[test]
    fn the_hard_bound_ends_it_after_what_waits_and_one_message_always_fits() {
        let mut backlog = holding(&[150, 50]);
        backlog.push(Few(2..3, 1));
        assert!(!backlog.is_behind(), "nobody waits for a subscription that has ended");
        backlog.push(Few(3..4, 0));
        let ended = "too slow: over 200 bytes of messages";
        assert_eq!(taken(&mut backlog), ["0", "1", ended]);
        assert_eq!(taken(&mut backlog), [ended], "again and again");
        assert_eq!(taken(&mut holding(&[1000])), ["0"]);
    }

    #[test]
    fn each_policy_does_what_it_says_when_six_come_and_four_fit() {
        let rows: [(SlowPolicy, &[&str]); 5] = [
            (SlowPolicy::Hold, &["1", "2", "3", "4", "too slow"]),
            (SlowPolicy::Disconnect, &["1", "2", "3", "4", "too slow"]),
            (SlowPolicy::DropNewest, &["1", "2", "3", "4", "reached 6"]),
            (SlowPolicy::DropOldest, &["3", "4", "5", "6"]),
            (SlowPolicy::Latest, &["6"]),
        ];
        for (policy, expected) in rows {
            let bounds = [(40, 50, "too slow: over 40 bytes of messages"), (200, 4, "too slow: over 4 messages")];
            for (max_bytes, max_messages, ended) in bounds {
                let expected: Vec<_> =
                    expected.iter().map(|one| if *one == "too slow" { ended } else { *one }).collect();
                for together in [1, 2, 3, 6] {
                    let mut backlog = Backlog::new(Bounds { policy, max_bytes, max_messages, ..BOUNDS });
                    for first in (1..7).step_by(together) {
                        backlog.push(Few(first..first + together as u64, 10));
                        assert_eq!(backlog.is_behind(), policy == SlowPolicy::Hold && backlog.load.messages > 4);
                    }
                    assert_eq!(taken(&mut backlog), expected, "{policy:?} {together}");
                    assert_eq!(backlog.load, Load::default());
                }
            }
        }
    }

    #[test]
    fn what_lies_between_messages_stays_where_it_is() {
        let resumed = Mark::Resumed(Resumed { before: 9, missed: Missed::Unknown, next: 20 });
        let rows: [(SlowPolicy, &[&str]); 3] = [
            (SlowPolicy::DropNewest, &["1", "2", "3", "4", "reached 9", "lost", "resumed", "reached 24"]),
            (SlowPolicy::DropOldest, &["lost", "resumed", "21", "22", "23", "24"]),
            (SlowPolicy::Latest, &["lost", "resumed", "24"]),
        ];
        for (policy, expected) in rows {
            let mut backlog = Backlog::new(Bounds { policy, max_messages: 4, ..BOUNDS });
            backlog.push(Few(1..10, 1));
            backlog.mark(Mark::Lost);
            backlog.mark(resumed);
            backlog.push(Few(20..25, 1));
            assert_eq!(taken(&mut backlog), expected, "{policy:?}");
        }
        let mut flapping = backlog(SlowPolicy::Latest);
        (0..=MAX_MARKS).for_each(|_| flapping.mark(Mark::Lost));
        let ended = "too slow: word of over 1024 losses of the connection and gaps";
        assert_eq!(taken(&mut flapping).last().unwrap(), ended);
    }

    #[test]
    fn the_first_end_counts_and_what_waits_comes_before_it() {
        let mut backlog = holding(&[1]);
        backlog.end(End::TopicRemoved);
        backlog.end(End::Disconnected);
        backlog.push(Few(1..2, 1));
        backlog.mark(Mark::Lost);
        assert_eq!(taken(&mut backlog), ["0", "TopicRemoved"]);
    }

    #[test]
    fn clearing_forgets_the_load_too() {
        let mut backlog = holding(&[150]);
        backlog.clear();
        assert!(!backlog.is_behind());
        assert_eq!(backlog.pop(), None);
    }
}
