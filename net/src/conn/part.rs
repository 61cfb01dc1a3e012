//! What a connection holds of a frame that is not whole.

use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;

use callboard_common::Protocol;
use tokio::time::Instant;

use crate::Conn;

/// Of which connection it is does not matter here.
#[derive(Debug, Default)]
pub(super) struct Part {
    bytes: usize,
    /// When the last of them came.
    since: Option<Instant>,
    /// The connection was chosen to end, since all together hold too much: its bytes are about to be free.
    gives_way: bool,
}

impl<P: Protocol> Conn<P> {
    /// What it holds of an unfinished frame takes so many bytes now.
    pub(crate) fn hold_part(&self, bytes: usize) {
        let shared = self.shared();
        let before = {
            let mut part = self.0.part.lock().unwrap_or_else(PoisonError::into_inner);
            let before = std::mem::replace(&mut part.bytes, bytes);
            if part.gives_way {
                shared.partial_going.fetch_add(bytes, Relaxed);
                shared.partial_going.fetch_sub(before, Relaxed);
            }
            before
        };
        shared.partial(before, bytes);
    }

    /// When the last byte of it came, if there is one.
    pub(crate) fn set_part_since(&self, since: Option<Instant>) {
        self.0.part.lock().unwrap_or_else(PoisonError::into_inner).since = since;
    }

    /// When the last byte of its part came, if it holds so many and is not to give way already.
    pub(crate) fn part_since(&self, least: usize) -> Option<Instant> {
        let part = self.0.part.lock().unwrap_or_else(PoisonError::into_inner);
        part.since.filter(|_| part.bytes >= least && !part.gives_way)
    }

    /// What it holds counts no more for who else has to go: it is about to end.
    pub(crate) fn give_way(&self) {
        let mut part = self.0.part.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut part.gives_way, true) {
            self.shared().partial_going.fetch_add(part.bytes, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use callboard_common::{Connection, LengthValue};

    use super::*;
    use crate::shared_state::SharedState;
    use crate::{Ends, Limits};

    /// Of a server whose unfinished frames may take 1,000 bytes.
    fn conns<const N: usize>() -> [Conn; N] {
        let limits = Limits { total_partial_bytes: 1000, ..Limits::default() };
        let shared = Arc::new(SharedState::new(LengthValue::new(limits.max_frame_bytes), limits, true));
        [(); N].map(|()| {
            let conn = Conn::new(Arc::clone(&shared), Ends::default());
            shared.connections.insert(conn.id(), conn.clone());
            conn
        })
    }

    #[test]
    fn past_the_total_the_stalest_part_of_those_that_are_not_small_goes() {
        let [modest, stale, fresh] = conns();
        let now = Instant::now();
        for (conn, bytes, second) in [(&modest, 100, 0), (&stale, 500, 1), (&fresh, 500, 2)] {
            conn.set_part_since(Some(now + std::time::Duration::from_secs(second)));
            conn.hold_part(bytes);
        }
        assert_eq!([&modest, &stale, &fresh].map(Conn::is_closed), [false, true, false]);
    }

    #[test]
    fn one_for_which_something_has_come_since_all_were_looked_at_is_not_the_stalest() {
        let [first, second, third, fourth] = conns();
        let (all, now) = ([&first, &second, &third, &fourth], Instant::now());
        for (conn, second) in all.into_iter().zip(1..) {
            conn.set_part_since(Some(now + std::time::Duration::from_secs(second)));
            conn.hold_part(300);
        }
        assert_eq!(all.map(Conn::is_closed), [true, false, false, false]);
        second.set_part_since(Some(now + std::time::Duration::from_secs(9)));
        fourth.hold_part(500);
        assert_eq!(all.map(Conn::is_closed), [true, false, true, false], "the second has gone on");
        // All are looked at again, since the fourth has gone on too.
        fourth.set_part_since(Some(now + std::time::Duration::from_secs(10)));
        second.hold_part(600);
        assert_eq!(all.map(Conn::is_closed), [true, true, true, false]);
    }

    #[test]
    fn of_very_many_the_stalest_go_first_whenever_all_were_looked_at() {
        const MANY: usize = 150;
        let (conns, now) = (conns::<MANY>(), Instant::now());
        // In an order that is not that of their names.
        let mut stalest: Vec<usize> = (0..MANY).collect();
        stalest.sort_by_key(|n| (n * 37) % MANY);
        for (second, n) in (0..).zip(&stalest) {
            conns[*n].set_part_since(Some(now + std::time::Duration::from_secs(second)));
        }
        for bytes in 1..=20 {
            for conn in conns.iter().filter(|conn| !conn.is_closed()) {
                conn.hold_part(bytes);
            }
            let gone = conns.iter().filter(|conn| conn.is_closed()).count();
            assert!(stalest[..gone].iter().all(|n| conns[*n].is_closed()), "{gone} are gone");
            assert_eq!(gone, MANY - MANY.min(1_000 / bytes));
        }
    }

    #[test]
    fn several_threads_that_pass_the_bound_together_end_one_where_that_is_enough() {
        for _ in 0..200 {
            let [stale, staler, first, second] = conns();
            for (conn, second) in [(&stale, 2), (&staler, 1), (&first, 3), (&second, 4)] {
                conn.set_part_since(Some(Instant::now() + std::time::Duration::from_secs(second)));
            }
            stale.hold_part(495);
            staler.hold_part(495);
            let start = std::sync::Barrier::new(2);
            std::thread::scope(|scope| {
                for conn in [&first, &second] {
                    let start = &start;
                    scope.spawn(move || {
                        start.wait();
                        conn.hold_part(15);
                    });
                }
            });
            assert_eq!([&stale, &staler, &first, &second].map(Conn::is_closed), [false, true, false, false]);
        }
    }

    #[test]
    fn what_is_about_to_go_is_not_waited_for_and_nobody_goes_for_it() {
        let [first, second, third] = conns();
        for conn in [&first, &second, &third] {
            conn.set_part_since(Some(Instant::now()));
        }
        first.hold_part(600);
        second.hold_part(600);
        assert_eq!([&first, &second, &third].map(Conn::is_closed), [true, false, false]);
        // The first one's task has not ended, and may even have read on.
        first.hold_part(700);
        third.hold_part(300);
        assert_eq!([&second, &third].map(Conn::is_closed), [false, false]);
        third.hold_part(500);
        assert_eq!([&second, &third].map(Conn::is_closed), [true, false]);
        for conn in [&first, &second, &third] {
            conn.hold_part(0);
        }
        assert_eq!((first.shared().snapshot().partial_bytes, first.shared().partial_going.load(Relaxed)), (0, 0));
    }
}
