use std::collections::VecDeque;

/// What has come for one subscription and was not yet taken, bounded. Pure state, generic over the messages, one or
/// several at a time.
///
/// Above a soft bound it is [behind](Backlog::is_behind), until it has come down a step below: while it is, its
/// connection need not be read. Past the hard bound it ends.
#[derive(Debug)]
pub(crate) struct Backlog<T> {
    bounds: Bounds,
    waiting: VecDeque<(T, Load)>,
    load: Load,
    behind: bool,
    end: Option<End>,
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
    pub(crate) hold_bytes: usize,
    pub(crate) hold_messages: usize,
    pub(crate) max_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { hold_bytes: 64 << 10, hold_messages: 8 << 10, max_bytes: 64 << 20 }
    }
}

/// How far below a soft bound one has caught up, at most half of it. Small, so that one who is slow but steady is seen to
/// take something again and again: the center does not wait for those who pause.
const STEP_BYTES: usize = 64 << 10;
const STEP_MESSAGES: usize = 1 << 10;

/// Why no more comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Disconnected,
    TopicRemoved,
    Lagged { max_bytes: usize },
}

impl<T> Backlog<T> {
    pub(crate) const fn new(bounds: Bounds) -> Self {
        Self { bounds, waiting: VecDeque::new(), load: Load { messages: 0, bytes: 0 }, behind: false, end: None }
    }

    /// Whether so many bytes more stay within the hard bound.
    pub(crate) const fn fits(&self, bytes: usize) -> bool {
        self.load.bytes.saturating_add(bytes) <= self.bounds.max_bytes
    }

    /// Takes one more. After the end it is dropped; past the hard bound it ends the backlog, unless nothing else waits.
    pub(crate) fn push(&mut self, message: T, load: Load) {
        if self.end.is_some() {
            return;
        }
        if !self.waiting.is_empty() && !self.fits(load.bytes) {
            return self.end(End::Lagged { max_bytes: self.bounds.max_bytes });
        }
        self.waiting.push_back((message, load));
        self.load.messages += load.messages;
        self.load.bytes += load.bytes;
        self.behind |= self.load.bytes > self.bounds.hold_bytes || self.load.messages > self.bounds.hold_messages;
    }

    /// What comes next: the messages in order, then the end, again and again; `None` asks to wait.
    pub(crate) fn pop(&mut self) -> Option<Result<T, End>> {
        let Some((message, load)) = self.waiting.pop_front() else { return self.end.map(Err) };
        self.load.messages -= load.messages;
        self.load.bytes -= load.bytes;
        let Bounds { hold_bytes, hold_messages, .. } = self.bounds;
        self.behind &=
            self.load.bytes > below(hold_bytes, STEP_BYTES) || self.load.messages > below(hold_messages, STEP_MESSAGES);
        Some(Ok(message))
    }

    /// Nothing more comes; what waits can still be taken. The first end counts.
    pub(crate) fn end(&mut self, end: End) {
        self.end.get_or_insert(end);
    }

    /// Drops what waits.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
        self.load = Load::default();
        self.behind = false;
    }

    /// Whether more should be kept from coming.
    pub(crate) const fn is_behind(&self) -> bool {
        self.behind && self.end.is_none()
    }
}

const fn below(bound: usize, step: usize) -> usize {
    if step < bound / 2 { bound - step } else { bound.div_ceil(2) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { hold_bytes: 100, hold_messages: 4, max_bytes: 200 };

    fn one(bytes: usize) -> Load {
        Load { messages: 1, bytes }
    }

    /// Pushes messages of these sizes.
    fn holding(sizes: &[usize]) -> Backlog<usize> {
        let mut backlog = Backlog::new(BOUNDS);
        for (at, bytes) in sizes.iter().enumerate() {
            backlog.push(at, one(*bytes));
        }
        backlog
    }

    #[test]
    fn messages_come_in_order_and_then_it_waits() {
        let mut backlog = holding(&[1, 1]);
        assert_eq!([backlog.pop(), backlog.pop(), backlog.pop()], [Some(Ok(0)), Some(Ok(1)), None]);
    }

    #[test]
    fn several_at_a_time_count_as_many() {
        let mut backlog = Backlog::new(BOUNDS);
        for at in 0..2 {
            assert!(!backlog.is_behind());
            backlog.push(at, Load { messages: 3, bytes: 3 });
        }
        assert!(backlog.is_behind() && backlog.fits(194) && !backlog.fits(195));
        assert_eq!((backlog.pop(), backlog.is_behind()), (Some(Ok(0)), true));
        assert_eq!((backlog.pop(), backlog.is_behind()), (Some(Ok(1)), false));
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
        backlog.push(2, one(1));
        assert!(!backlog.is_behind(), "nobody waits for a subscription that has ended");
        backlog.push(3, one(0));
        let lagged = Some(Err(End::Lagged { max_bytes: 200 }));
        assert_eq!(
            [backlog.pop(), backlog.pop(), backlog.pop(), backlog.pop()],
            [Some(Ok(0)), Some(Ok(1)), lagged, lagged]
        );
        assert_eq!(holding(&[1000]).pop(), Some(Ok(0)));
    }

    #[test]
    fn the_first_end_counts_and_what_waits_comes_before_it() {
        let mut backlog = holding(&[1]);
        backlog.end(End::TopicRemoved);
        backlog.end(End::Disconnected);
        assert_eq!([backlog.pop(), backlog.pop()], [Some(Ok(0)), Some(Err(End::TopicRemoved))]);
    }

    #[test]
    fn clearing_forgets_the_load_too() {
        let mut backlog = holding(&[150]);
        backlog.clear();
        assert!(!backlog.is_behind());
        assert_eq!(backlog.pop(), None);
    }
}
