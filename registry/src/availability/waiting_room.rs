use std::collections::BTreeSet;
use std::sync::Arc;

use callboard_common::Host;
use tokio::time::Instant;

/// When what is held back may be announced. One that is gone before stays until then; who has too much of that is held back
/// no longer.
#[derive(Debug, Default)]
pub(super) struct WaitingRoom {
    due: BTreeSet<(Instant, Arc<str>, Host)>,
    /// What it takes.
    bytes: usize,
}

const MAX_BYTES: usize = 8 << 20;
const ENTRY_BYTES: usize = 100;

impl WaitingRoom {
    pub(super) const fn has_room(&self) -> bool {
        self.bytes <= MAX_BYTES
    }

    pub(super) fn enter(&mut self, until: Instant, method: Arc<str>, host: Host) {
        let bytes = ENTRY_BYTES + method.len();
        if self.due.insert((until, method, host)) {
            self.bytes += bytes;
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.due.first().map(|(until, ..)| *until)
    }

    /// One whose time has come.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(Arc<str>, Host)> {
        if self.next_deadline().is_none_or(|until| now < until) {
            return None;
        }
        let (_, method, host) = self.due.pop_first()?;
        self.bytes -= ENTRY_BYTES + method.len();
        Some((method, host))
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.due.is_empty() && self.bytes == 0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn names_without_end_are_held_back_up_to_a_bound_and_leave_nothing() {
        let (mut room, now, host) = (WaitingRoom::default(), Instant::now(), "127.0.0.1:1".parse().unwrap());
        let mut names = 0_usize;
        while room.has_room() {
            let until = now + Duration::from_millis((names % 7) as u64);
            room.enter(until, format!("{names:04000}").into(), host);
            names += 1;
        }
        assert_eq!(names, MAX_BYTES / 4100 + 1);
        room.enter(now, format!("{:04000}", 0).into(), host);
        let mut left = 0;
        while room.pop_due(now + Duration::from_millis(6)).is_some() {
            left += 1;
        }
        assert_eq!((left, room.is_empty()), (names, true), "the same again was the same");
    }
}
