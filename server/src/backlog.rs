//! Calls that come over one connection from many, of methods that run in place: none of those who make them keeps the others
//! waiting.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use callboard_common::{ConnectionId, Message};
use dashmap::DashMap;
use rustc_hash::FxBuildHasher;
use tokio::time::Instant;

use crate::admission::{Queue, Room, Waiting, weight};
use crate::caller_id::CallerId;
use crate::running::CallId;

/// The backlogs of the connections over which centers pass calls on.
#[derive(Debug, Default)]
pub(crate) struct Backlogs(DashMap<ConnectionId, Arc<Backlog>, FxBuildHasher>);

/// The calls of one connection that wait for their turn in place. Whoever calls through a center comes over the same stream as
/// all others there: so it is read on, whatever the calls in it take, and who waits in here takes turns.
#[derive(Debug)]
pub(crate) struct Backlog(Mutex<State>);

#[derive(Debug)]
struct State {
    queue: Queue<Held>,
    bound: usize,
    last_place: u64,
    /// What calls have taken that were run as they came, since nobody waited.
    spent: Duration,
    /// Somebody works it off.
    is_worked_off: bool,
    /// Those that somebody waits for, and whether they were given up meanwhile. Centers choose the ids, which this side has
    /// connected to.
    is_given_up: HashMap<CallId, bool, FxBuildHasher>,
}

/// A call that waits.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) message: Message,
    /// Which method it is for.
    pub(crate) method: usize,
    pub(crate) since: Instant,
    pub(crate) deadline: Option<Instant>,
}

/// What becomes of a call that has come.
#[derive(Debug)]
pub(crate) struct Pushed {
    /// Calls for which there is no room: those that give way, since their callers wait with more, or this one.
    pub(crate) gone: Vec<Held>,
    /// So many bytes may wait.
    pub(crate) bound: usize,
    /// Nobody works off what waits yet.
    pub(crate) is_first: bool,
}

/// The next call of those that wait.
#[derive(Debug)]
pub(crate) enum Next {
    Run(Held),
    /// It was given up.
    Drop(Held),
}

impl Backlogs {
    /// The one of this connection, in which so many bytes may wait.
    pub(crate) fn of(&self, conn: ConnectionId, bound: usize) -> Arc<Backlog> {
        if let Some(known) = self.known(conn) {
            return known;
        }
        Arc::clone(&self.0.entry(conn).or_insert_with(|| Arc::new(Backlog::new(bound))))
    }

    pub(crate) fn known(&self, conn: ConnectionId) -> Option<Arc<Backlog>> {
        self.0.get(&conn).map(|known| Arc::clone(&known))
    }

    /// The connection has ended. What waits is left to whoever works it off.
    pub(crate) fn forget(&self, conn: ConnectionId) -> Option<Arc<Backlog>> {
        self.0.remove(&conn).map(|(_, backlog)| backlog)
    }
}

impl Backlog {
    fn new(bound: usize) -> Self {
        Self(Mutex::new(State {
            queue: Queue::new(Room { calls: usize::MAX, bytes: bound }),
            bound,
            last_place: 0,
            spent: Duration::ZERO,
            is_worked_off: false,
            is_given_up: HashMap::default(),
        }))
    }

    /// Whether a call that has just come is run at once: nobody waits, and such ones have not taken long.
    pub(crate) fn may_run_at_once(&self) -> bool {
        let state = self.lock();
        !state.is_worked_off && state.spent < SLICE
    }

    /// One that was run as it came took so long.
    pub(crate) fn has_spent(&self, time: Duration) {
        self.lock().spent += time;
    }

    /// A call waits for its turn, if there is room.
    pub(crate) fn push(&self, caller: CallerId, held: Held) -> Pushed {
        let (bytes, mut state) = (held.message.frame().len() + HELD_BYTES, self.lock());
        let (bound, mut gone) = (state.bound, Vec::new());
        while state.queue.load.bytes.saturating_add(bytes) > bound {
            let Some(newest) = state.gives_way(caller, bytes) else {
                gone.push(held);
                return Pushed { gone, bound, is_first: false };
            };
            state.is_given_up.remove(newest.message.id());
            gone.push(newest);
        }
        state.last_place += 1;
        let place = state.last_place;
        if !held.message.is_one_way() {
            state.is_given_up.insert(CallId::from_slice(held.message.id()), false);
        }
        state.queue.push(Waiting { place, caller, bytes, who: held });
        let is_first = !std::mem::replace(&mut state.is_worked_off, true);
        Pushed { gone, bound, is_first }
    }

    /// The caller has given up what it calls so, if that waits.
    pub(crate) fn give_up(&self, id: &[u8]) {
        if let Some(is_given_up) = self.lock().is_given_up.get_mut(id) {
            *is_given_up = true;
        }
    }

    /// All that wait are given up, but for those that nobody waits for.
    pub(crate) fn give_up_all(&self) -> Vec<Held> {
        let (mut state, mut kept, mut given_up) = (self.lock(), Vec::new(), Vec::new());
        while let Some(waiting) = state.queue.pop() {
            if waiting.who.message.is_one_way() { kept.push(waiting) } else { given_up.push(waiting.who) }
        }
        state.is_given_up.clear();
        for waiting in kept {
            state.queue.push(waiting);
        }
        given_up
    }

    /// Whose turn it is. After `None` somebody else works off what comes.
    pub(crate) fn next(&self) -> Option<Next> {
        let mut state = self.lock();
        let Some(Waiting { who, .. }) = state.queue.pop() else {
            state.is_worked_off = false;
            state.spent = Duration::ZERO;
            state.is_given_up = HashMap::default();
            return None;
        };
        let is_given_up = state.is_given_up.remove(who.message.id());
        Some(if is_given_up == Some(true) { Next::Drop(who) } else { Next::Run(who) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes out the newest call of whoever waits with more than this caller would.
    fn gives_way(&mut self, caller: CallerId, bytes: usize) -> Option<Held> {
        let most = *self.queue.shares.above(&caller, weight(bytes))?;
        let newest = self.queue.newest(most)?;
        self.queue.remove(most, newest).map(|waiting| waiting.who)
    }
}

/// For so long calls are run in a row before others have the thread.
pub(crate) const SLICE: Duration = Duration::from_micros(250);
/// What a call takes beside its frame while it waits, roughly.
const HELD_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use callboard_common::{Connection, Recorder};
    use proptest::prelude::*;

    use super::*;

    fn held(id: &[u8], is_one_way: bool) -> Held {
        let message = Recorder::new(1).message(if is_one_way { 1 << 24 } else { 0 }, id, b"{}");
        Held { message, method: 0, since: Instant::now(), deadline: None }
    }

    fn ids(held: &[Held]) -> Vec<u8> {
        held.iter().map(|held| held.message.id()[0]).collect()
    }

    /// What runs and what is dropped, until nothing waits.
    fn all(backlog: &Backlog) -> Vec<(u8, bool)> {
        std::iter::from_fn(|| backlog.next())
            .map(|next| match next {
                Next::Run(held) => (held.message.id()[0], true),
                Next::Drop(held) => (held.message.id()[0], false),
            })
            .collect()
    }

    #[test]
    fn a_call_runs_at_once_until_such_ones_have_taken_long_and_again_when_all_is_worked_off() {
        let backlog = Backlog::new(usize::MAX);
        assert!(backlog.may_run_at_once());
        backlog.has_spent(SLICE / 2);
        assert!(backlog.may_run_at_once());
        backlog.has_spent(SLICE / 2);
        assert!(!backlog.may_run_at_once());
        let pushed = [1, 2].map(|id| backlog.push(CallerId::behind(1, 1), held(&[id], false)));
        assert_eq!(pushed.map(|pushed| (pushed.is_first, pushed.gone.len())), [(true, 0), (false, 0)]);
        assert!(matches!(backlog.next(), Some(Next::Run(_))) && matches!(backlog.next(), Some(Next::Run(_))));
        assert!(!backlog.may_run_at_once(), "the last one may still run");
        assert!(backlog.next().is_none() && backlog.may_run_at_once());
    }

    #[test]
    fn callers_take_turns_and_what_is_given_up_is_told() {
        let backlog = Backlog::new(usize::MAX);
        for (caller, id) in [(1, 11), (1, 12), (1, 13), (1, 14), (2, 21), (3, 31), (2, 22)] {
            backlog.push(CallerId::behind(1, caller), held(&[id], id == 14));
        }
        backlog.give_up(&[12]);
        backlog.give_up(b"nobody's");
        assert_eq!(
            all(&backlog),
            [(11, true), (21, true), (31, true), (12, false), (22, true), (13, true), (14, true)]
        );
        backlog.give_up(&[15]);
        for id in [15, 16] {
            backlog.push(CallerId::behind(1, 1), held(&[id], id == 16));
        }
        assert_eq!(ids(&backlog.give_up_all()), [15], "nobody waits for the other one");
        assert_eq!(all(&backlog), [(16, true)]);
    }

    #[test]
    fn where_no_more_may_wait_the_newest_of_whoever_waits_with_most_gives_way() {
        let conn = Recorder::new(1);
        let bytes = conn.message(0, &[1], b"{}").frame().len() + HELD_BYTES;
        let backlog = Backlog::new(4 * bytes);
        let push = |caller, id| ids(&backlog.push(CallerId::behind(conn.id().0, caller), held(&[id], false)).gone);
        assert_eq!(
            [(1, 11), (1, 12), (1, 13), (1, 14)].map(|(caller, id)| push(caller, id)),
            [const { Vec::<u8>::new() }; 4]
        );
        assert_eq!(push(1, 15), [15], "nobody has more");
        assert_eq!([(2, 21), (3, 31), (2, 22)].map(|(caller, id)| push(caller, id)), [vec![14], vec![13], vec![22]]);
        assert_eq!(all(&backlog), [(11, true), (21, true), (31, true), (12, true)]);
    }

    proptest! {
        /// Whatever comes, is given up and is run: each call comes out once, and no more waits than may.
        #[test]
        fn each_call_comes_out_once(steps in prop::collection::vec((0..4_u8, 0..3_u64), 1..200)) {
            let backlog = Backlog::new(3_000);
            let (mut known, mut out, mut given_up) = (Vec::new(), Vec::new(), Vec::new());
            for (id, (step, caller)) in (0..=u8::MAX).zip(steps) {
                match step {
                    0 | 1 => {
                        known.push(id);
                        out.extend(ids(&backlog.push(CallerId::behind(1, caller), held(&[id], false)).gone));
                    }
                    2 => {
                        if let Some(last) = known.last().filter(|last| !out.contains(*last)) {
                            backlog.give_up(&[*last]);
                            given_up.push(*last);
                        }
                    }
                    _ => match backlog.next() {
                        Some(Next::Run(held)) => {
                            let id = held.message.id()[0];
                            prop_assert!(!given_up.contains(&id));
                            out.push(id);
                        }
                        Some(Next::Drop(held)) => {
                            let id = held.message.id()[0];
                            prop_assert!(given_up.contains(&id));
                            out.push(id);
                        }
                        None => {}
                    },
                }
                prop_assert!(backlog.lock().queue.load.bytes <= 3_000);
            }
            out.extend(all(&backlog).into_iter().map(|(id, _)| id));
            out.sort_unstable();
            prop_assert_eq!(out, known);
        }
    }
}
