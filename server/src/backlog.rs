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
    /// What calls have taken that were run as they came, less the time since then: meanwhile the connection was not read. And
    /// until when that was counted.
    spent: Duration,
    counted: Instant,
    /// Somebody works it off.
    is_worked_off: bool,
    /// Where those stand that somebody waits for. Centers choose the ids, which this side has connected to.
    places: HashMap<CallId, (CallerId, u64), FxBuildHasher>,
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
            counted: Instant::now(),
            is_worked_off: false,
            places: HashMap::default(),
        }))
    }

    /// Whether a call that has just come is run at once: nobody waits, and such ones have not taken long of late.
    pub(crate) fn may_run_at_once(&self, now: Instant) -> bool {
        let mut state = self.lock();
        state.spent = state.spent.saturating_sub(now.saturating_duration_since(state.counted));
        state.counted = state.counted.max(now);
        !state.is_worked_off && state.spent < SLICE
    }

    /// One that was run as it came took from then until now.
    pub(crate) fn has_run(&self, began: Instant, now: Instant) {
        let mut state = self.lock();
        state.spent += now.saturating_duration_since(began);
        state.counted = now;
    }

    /// A call waits for its turn, if there is room.
    pub(crate) fn push(&self, caller: CallerId, held: Held) -> Pushed {
        #[cfg(feature = "planted")]
        let caller = if callboard_common::Planted::NoTurnsInPlace.is_planted() { CallerId::direct(0) } else { caller };
        let (bytes, mut state) = (held.message.frame().len() + HELD_BYTES, self.lock());
        let (bound, mut gone) = (state.bound, Vec::new());
        while state.queue.load.bytes.saturating_add(bytes) > bound {
            let Some(newest) = state.gives_way(caller, bytes) else {
                // They would have given way in vain.
                gone.into_iter().rev().for_each(|waiting| state.enter(waiting));
                return Pushed { gone: vec![held], bound, is_first: false };
            };
            gone.push(newest);
        }
        state.last_place += 1;
        let place = state.last_place;
        state.enter(Waiting { place, caller, bytes, who: held });
        let is_first = !std::mem::replace(&mut state.is_worked_off, true);
        Pushed { gone: gone.into_iter().map(|waiting| waiting.who).collect(), bound, is_first }
    }

    /// The caller has given up what it calls so. Gives it, if it waits.
    pub(crate) fn give_up(&self, id: &[u8]) -> Option<Held> {
        #[cfg(feature = "planted")]
        if callboard_common::Planted::HeldGivenUp.is_planted() {
            return None;
        }
        let mut state = self.lock();
        let (caller, place) = *state.places.get(id)?;
        state.remove(caller, place).map(|waiting| waiting.who)
    }

    /// All that wait are given up, but for those that nobody waits for.
    pub(crate) fn give_up_all(&self) -> Vec<Held> {
        let mut state = self.lock();
        let places: Vec<_> = state.places.values().copied().collect();
        let given_up = places.into_iter().filter_map(|(caller, place)| state.remove(caller, place));
        given_up.map(|waiting| waiting.who).collect()
    }

    /// Whose turn it is. After `None` somebody else works off what comes.
    pub(crate) fn next(&self) -> Option<Held> {
        let mut state = self.lock();
        let Some(Waiting { who, .. }) = state.queue.pop() else {
            state.is_worked_off = false;
            state.places = HashMap::default();
            return None;
        };
        state.places.remove(who.message.id());
        Some(who)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn enter(&mut self, waiting: Waiting<Held>) {
        if !waiting.who.message.is_one_way() {
            self.places.insert(CallId::from_slice(waiting.who.message.id()), (waiting.caller, waiting.place));
        }
        self.queue.push(waiting);
    }

    fn remove(&mut self, caller: CallerId, place: u64) -> Option<Waiting<Held>> {
        let waiting = self.queue.remove(caller, place)?;
        self.places.remove(waiting.who.message.id());
        Some(waiting)
    }

    /// Takes out the newest call of whoever waits with more than this caller would.
    fn gives_way(&mut self, caller: CallerId, bytes: usize) -> Option<Waiting<Held>> {
        let most = *self.queue.shares.above(&caller, weight(bytes))?;
        let newest = self.queue.newest(most)?;
        self.remove(most, newest)
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

    /// What runs, until nothing waits.
    fn all(backlog: &Backlog) -> Vec<u8> {
        std::iter::from_fn(|| backlog.next()).map(|held| held.message.id()[0]).collect()
    }

    #[test]
    fn a_call_runs_at_once_unless_such_ones_have_taken_long_of_late_or_somebody_waits() {
        let (backlog, begin) = (Backlog::new(usize::MAX), Instant::now());
        let may_at = |parts: u32| backlog.may_run_at_once(begin + SLICE * parts / 4);
        let runs = |from: u32, to: u32| backlog.has_run(begin + SLICE * from / 4, begin + SLICE * to / 4);
        assert!(may_at(0));
        runs(0, 3);
        assert!(may_at(3));
        runs(3, 5);
        // Five parts, of which four are too many.
        assert_eq!([5, 6, 7].map(may_at), [false, false, true]);
        // One that has taken long: as long after it.
        runs(7, 407);
        assert_eq!([408, 806, 807].map(may_at), [false, false, true]);
        let pushed = [1, 2].map(|id| backlog.push(CallerId::behind(1, 1), held(&[id], false)));
        assert_eq!(pushed.map(|pushed| (pushed.is_first, pushed.gone.len())), [(true, 0), (false, 0)]);
        assert!(backlog.next().is_some() && backlog.next().is_some());
        assert!(!may_at(10_000), "the last one may still run");
        assert!(backlog.next().is_none() && may_at(10_000));
    }

    #[test]
    fn callers_take_turns_and_what_is_given_up_is_told() {
        let backlog = Backlog::new(usize::MAX);
        for (caller, id) in [(1, 11), (1, 12), (1, 13), (1, 14), (2, 21), (3, 31), (2, 22)] {
            backlog.push(CallerId::behind(1, caller), held(&[id], id == 14));
        }
        assert_eq!(
            [&[12][..], &[12], &[14], b"nobody's"].map(|id| backlog.give_up(id).is_some()),
            [true, false, false, false]
        );
        assert_eq!(all(&backlog), [11, 21, 31, 13, 22, 14]);
        for id in [15, 16, 17] {
            backlog.push(CallerId::behind(1, 1), held(&[id], id == 16));
        }
        let mut given_up = ids(&backlog.give_up_all());
        given_up.sort_unstable();
        assert_eq!((given_up, all(&backlog)), (vec![15, 17], vec![16]), "nobody waits for that one");
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
        // Where it would not suffice nobody does.
        let large = Recorder::new(1).message(0, &[41], &vec![b' '; 3 * bytes]);
        let large = Held { message: large, ..held(&[41], false) };
        assert_eq!(ids(&backlog.push(CallerId::behind(1, 4), large).gone), [41]);
        assert_eq!(all(&backlog), [11, 21, 31, 12]);
    }

    proptest! {
        /// Whatever comes, is given up and is run: each call comes out once, and no more waits than may.
        #[test]
        fn each_call_comes_out_once(steps in prop::collection::vec((0..4_u8, 0..3_u64), 1..200)) {
            let backlog = Backlog::new(3_000);
            let (mut known, mut out) = (Vec::new(), Vec::new());
            for (id, (step, caller)) in (0..=u8::MAX).zip(steps) {
                match step {
                    0 | 1 => {
                        known.push(id);
                        out.extend(ids(&backlog.push(CallerId::behind(1, caller), held(&[id], false)).gone));
                    }
                    2 => {
                        let some = known.get(usize::from(id) / 2).copied().unwrap_or(id);
                        let is_there = known.contains(&some) && !out.contains(&some);
                        prop_assert_eq!(backlog.give_up(&[some]).is_some(), is_there);
                        out.extend(is_there.then_some(some));
                    }
                    _ => out.extend(backlog.next().map(|held| held.message.id()[0])),
                }
                let state = backlog.lock();
                prop_assert_eq!((state.places.len(), known.len() - out.len()), (state.queue.load.calls, state.queue.load.calls));
                drop(state);
                prop_assert!(backlog.lock().queue.load.bytes <= 3_000);
            }
            out.extend(all(&backlog));
            out.sort_unstable();
            prop_assert_eq!(out, known);
        }
    }
}
