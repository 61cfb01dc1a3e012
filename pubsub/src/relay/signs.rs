//! Whether a center lives.

use callboard_client::Line;
use callboard_common::Connection;

/// Which signs of life a center gives, by what its connection has brought and taken. Pure.
///
/// Silence is counted in looks, not by the clock: who stood still itself has heard no less than before when it looks again.
#[derive(Debug)]
pub(super) struct Signs {
    last: Look,
    missing: u32,
}

/// What a connection has brought and taken so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) reads: usize,
    pub(super) taken_bytes: u64,
    pub(super) waiting_bytes: usize,
}

impl Look {
    pub(super) fn at(line: &Line) -> Self {
        let conn = line.conn();
        Self { reads: conn.reads(), taken_bytes: conn.sent_bytes(), waiting_bytes: conn.queued_bytes() }
    }
}

impl Signs {
    pub(super) const fn new(last: Look) -> Self {
        Self { last, missing: 0 }
    }

    /// Looks once more; whether some of what waited was taken.
    pub(super) fn look(&mut self, now: Look) -> bool {
        let last = std::mem::replace(&mut self.last, now);
        // What the socket has room for says nothing of the center.
        let has_taken = now.waiting_bytes > 0 && now.taken_bytes != last.taken_bytes;
        self.missing = if has_taken || now.reads != last.reads { 0 } else { self.missing + 1 };
        has_taken
    }

    /// So many looks in a row have found none.
    pub(super) const fn missing(&self) -> u32 {
        self.missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_and_what_is_taken_of_what_waits_are_signs_of_life() {
        let look = |reads, taken_bytes, waiting_bytes| Look { reads, taken_bytes, waiting_bytes };
        let mut signs = Signs::new(look(7, 1_000, 0));
        let rows = [
            ("nothing", look(7, 1_000, 0), (false, 1)),
            ("the socket had room", look(7, 2_000, 0), (false, 2)),
            ("what waits is not taken", look(7, 2_000, 500), (false, 3)),
            ("some of it is taken", look(7, 2_100, 400), (true, 0)),
            ("no more of it", look(7, 2_100, 400), (false, 1)),
            ("something comes", look(8, 2_100, 400), (false, 0)),
            ("nothing again", look(8, 2_100, 400), (false, 1)),
            ("the count has wrapped", look(0, 2_100, 400), (false, 0)),
        ];
        for (what, look, expected) in rows {
            assert_eq!((signs.look(look), signs.missing()), expected, "{what}");
        }
    }
}
