use std::collections::BTreeSet;
use std::mem::take;

use callboard_common::ConnectionId;
use dashmap::DashMap;
use rustc_hash::FxBuildHasher;
use slab::Slab;
use smallvec::SmallVec;
use tokio::task::JoinHandle;

/// The calls that run or wait, by connection, so that those whose callers have gone can be ended.
#[derive(Debug, Default)]
pub(crate) struct Running(DashMap<ConnectionId, Calls, FxBuildHasher>);

/// Those of one connection.
#[derive(Debug, Default)]
struct Calls {
    entries: Slab<Entry>,
    last_number: u64,
    /// There once one was given up among many: it is rare, and no other connection's calls are to pay for it.
    index: Option<Box<Index>>,
    /// Entries that were looked at for one that was given up, ever.
    #[cfg(test)]
    scanned: usize,
}

#[derive(Debug)]
struct Entry {
    /// Tells it from others that stood in the same place.
    number: u64,
    id: CallId,
    /// There once it has started, unless it goes on without its caller.
    task: Option<JoinHandle<()>>,
    /// It goes on without its caller.
    is_aside: bool,
}

/// Where calls stand, by their ids. A tree and not a hash map, since peers choose the ids.
#[derive(Debug)]
struct Index {
    places: BTreeSet<(CallId, usize)>,
    /// Calls that have left since one was looked for.
    unused: usize,
}

/// Has room for the ids of this version's own clients.
pub(crate) type CallId = SmallVec<[u8; 16]>;

/// What has become of calls whose caller waits no longer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct GivenUp {
    /// So many were dropped. They are in flight no longer, and whoever gives this word ends them as requests.
    pub(crate) dropped: usize,
    /// The ids of those that go on, and end themselves.
    pub(crate) go_on: Vec<CallId>,
}

/// Where a call stands while it may be ended from there.
#[derive(Debug)]
pub(crate) struct Standing {
    conn: ConnectionId,
    place: usize,
    number: u64,
}

impl Running {
    /// Enters a call, whose task is started by `start`. A connection's calls are entered and ended by its own handler, one
    /// after the other; only that they leave may come at any time.
    pub(crate) fn start(&self, conn: ConnectionId, id: CallId, start: impl FnOnce(Standing) -> JoinHandle<()>) {
        let (place, number) = self.0.entry(conn).or_default().enter(id, false);
        // Not under the lock: a runtime that ends drops the task at once, and with it what the method's code has made.
        let task = start(Standing { conn, place, number });
        if let Some(mut calls) = self.0.get_mut(&conn)
            && let Some(entry) = calls.get_mut(place, number)
            && !entry.is_aside
        {
            entry.task = Some(task);
        }
    }

    /// Enters a call that goes on without its caller.
    pub(crate) fn enter_aside(&self, conn: ConnectionId, id: CallId) -> Standing {
        let (place, number) = self.0.entry(conn).or_default().enter(id, true);
        Standing { conn, place, number }
    }

    /// From now on it goes on without its caller. `false` if it was ended from there.
    pub(crate) fn step_aside(&self, standing: &Standing) -> bool {
        let Standing { conn, place, number } = *standing;
        self.0.get_mut(&conn).is_some_and(|mut calls| {
            let entry = calls.get_mut(place, number);
            let stands = entry.map(|entry| {
                entry.is_aside = true;
                entry.task = None;
            });
            stands.is_some()
        })
    }

    /// The caller has given this call up; all of them, should it have used the id again.
    #[must_use]
    pub(crate) fn cancel(&self, conn: ConnectionId, id: &[u8]) -> GivenUp {
        let entries = self.0.get_mut(&conn).map_or_else(Vec::new, |mut calls| calls.take(id));
        end(entries)
    }

    /// The connection has ended, or its peer has gone, and all its calls with it.
    #[must_use]
    pub(crate) fn cancel_all(&self, conn: ConnectionId) -> GivenUp {
        let Some((_, calls)) = self.0.remove(&conn) else { return GivenUp::default() };
        end(calls.entries.into_iter().map(|(_, entry)| entry))
    }

    /// A call has ended by itself. `false` if its caller had given it up.
    pub(crate) fn leave(&self, standing: &Standing) -> bool {
        let Standing { conn, place, number } = *standing;
        let left = self.0.get_mut(&conn).and_then(|mut calls| {
            calls.get_mut(place, number)?;
            calls.remove(place)
        });
        left.is_some()
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|calls| calls.entries.is_empty())
    }
}

/// No lock is held here: what a method has made is dropped with its task, perhaps at once.
fn end(entries: impl IntoIterator<Item = Entry>) -> GivenUp {
    let mut given_up = GivenUp::default();
    for entry in entries {
        entry.task.iter().for_each(JoinHandle::abort);
        if entry.is_aside {
            given_up.go_on.push(entry.id);
        } else {
            given_up.dropped += 1;
        }
    }
    given_up
}

impl Calls {
    fn enter(&mut self, id: CallId, is_aside: bool) -> (usize, u64) {
        self.last_number += 1;
        let (place, number) = (self.entries.vacant_key(), self.last_number);
        if let Some(index) = &mut self.index {
            index.places.insert((id.clone(), place));
        }
        self.entries.insert(Entry { number, id, task: None, is_aside });
        (place, number)
    }

    fn get_mut(&mut self, place: usize, number: u64) -> Option<&mut Entry> {
        self.entries.get_mut(place).filter(|entry| entry.number == number)
    }

    /// Takes out all of this id.
    fn take(&mut self, id: &[u8]) -> Vec<Entry> {
        let places = if self.entries.len() > FEW_CALLS { self.find(id) } else { self.scan(id) };
        places.into_iter().filter_map(|place| self.remove(place)).collect()
    }

    fn scan(&mut self, id: &[u8]) -> Vec<usize> {
        #[cfg(test)]
        {
            self.scanned += self.entries.len();
        }
        self.entries.iter().filter(|(_, entry)| *entry.id == *id).map(|(place, _)| place).collect()
    }

    fn find(&mut self, id: &[u8]) -> Vec<usize> {
        #[cfg(test)]
        {
            self.scanned += if self.index.is_none() { self.entries.len() } else { 0 };
        }
        let entries = &self.entries;
        let index = self.index.get_or_insert_with(|| Box::new(Index::new(entries)));
        index.unused = 0;
        let id = CallId::from_slice(id);
        index.places.range((id.clone(), 0)..=(id, usize::MAX)).map(|(_, place)| *place).collect()
    }

    fn remove(&mut self, place: usize) -> Option<Entry> {
        let mut entry = self.entries.try_remove(place)?;
        if let Some(index) = &mut self.index {
            let key = (take(&mut entry.id), place);
            index.places.remove(&key);
            (entry.id, _) = key;
            index.unused += 1;
            if self.entries.is_empty() || index.unused > DISUSED {
                self.index = None;
            }
        }
        if self.entries.is_empty() && self.entries.capacity() > KEPT_CALLS {
            self.entries = Slab::new();
        }
        Some(entry)
    }
}

impl Index {
    fn new(entries: &Slab<Entry>) -> Self {
        let places = entries.iter().map(|(place, entry)| (entry.id.clone(), place)).collect();
        Self { places, unused: 0 }
    }
}

/// So many are looked through one by one.
const FEW_CALLS: usize = 16;
/// The index goes when so many calls have left since it was last of use. Making it anew costs less than these did.
const DISUSED: usize = 4_096;
/// For so many calls a connection keeps memory when none runs.
const KEPT_CALLS: usize = 16;

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::SeqCst;
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;
    use tokio::runtime::Builder;
    use tokio::sync::oneshot;

    use super::*;

    const ID: &[u8] = b"id";
    const CONN: ConnectionId = ConnectionId(1);

    /// Notes in which order such are dropped.
    struct Note(u32, Arc<Mutex<Vec<u32>>>);

    impl Drop for Note {
        fn drop(&mut self) {
            self.1.lock().unwrap().push(self.0);
        }
    }

    /// A call that runs until it is told to end, and then says whether it did so by itself.
    fn start(running: &Arc<Running>, conn: ConnectionId) -> (oneshot::Sender<()>, oneshot::Receiver<bool>) {
        let ((end, ended), (tell, told)) = (oneshot::channel(), oneshot::channel());
        let known = Arc::clone(running);
        running.start(conn, CallId::from_slice(ID), |standing| {
            tokio::spawn(async move {
                let _ = ended.await;
                let _ = tell.send(known.leave(&standing));
            })
        });
        (end, told)
    }

    fn dropped(dropped: usize) -> GivenUp {
        GivenUp { dropped, go_on: Vec::new() }
    }

    fn go_on(count: usize) -> GivenUp {
        GivenUp { dropped: 0, go_on: vec![CallId::from_slice(ID); count] }
    }

    #[tokio::test]
    async fn what_goes_on_without_its_caller_is_told_apart_and_not_ended() {
        let running = Arc::new(Running::default());
        let (mut standings, (end, ended)) = (Vec::new(), oneshot::channel::<()>());
        running.start(CONN, CallId::from_slice(ID), |standing| {
            standings.push(standing);
            tokio::spawn(async move { ended.await.unwrap() })
        });
        standings.push(running.enter_aside(CONN, CallId::from_slice(ID)));
        assert!(standings.iter().all(|standing| running.step_aside(standing)));
        assert_eq!(running.cancel(CONN, ID), go_on(2));
        assert!(!standings.iter().any(|standing| running.leave(standing) || running.step_aside(standing)));
        tokio::task::yield_now().await;
        assert!(end.send(()).is_ok(), "its task was aborted");
        let left = running.enter_aside(CONN, CallId::from_slice(ID));
        assert!(running.leave(&left) && running.is_empty());
        let _gone = running.enter_aside(CONN, CallId::from_slice(ID));
        assert_eq!(running.cancel_all(CONN), go_on(1));
    }

    #[tokio::test]
    async fn a_call_is_ended_once_by_whoever_is_first() {
        let running = Arc::new(Running::default());
        let (end, told) = start(&running, CONN);
        end.send(()).unwrap();
        assert_eq!(told.await, Ok(true));
        assert_eq!(running.cancel(CONN, ID), dropped(0));
        let (end, told) = start(&running, CONN);
        assert_eq!([&b"another"[..], ID, ID].map(|id| running.cancel(CONN, id)), [0, 1, 0].map(dropped));
        assert!(told.await.is_err() && end.send(()).is_err() && running.is_empty());
    }

    #[tokio::test]
    async fn one_that_was_ended_does_not_take_another_out_that_stands_in_its_place() {
        let running = Arc::new(Running::default());
        let mut first = None;
        let task = tokio::spawn(std::future::pending::<()>());
        running.start(CONN, CallId::from_slice(ID), |standing| {
            first = Some(standing);
            task
        });
        assert_eq!(running.cancel(CONN, ID), dropped(1));
        let (end, told) = start(&running, CONN);
        assert!(!running.leave(&first.unwrap()));
        end.send(()).unwrap();
        assert_eq!(told.await, Ok(true));
    }

    #[tokio::test]
    async fn calls_under_one_id_end_one_by_one_or_together() {
        let running = Arc::new(Running::default());
        let [first, second, third] = [(); 3].map(|()| start(&running, CONN));
        let others = start(&running, ConnectionId(2));
        second.0.send(()).unwrap();
        assert_eq!(second.1.await, Ok(true));
        assert_eq!(running.cancel(CONN, ID), dropped(2));
        assert!(first.1.await.is_err() && third.1.await.is_err());
        let last = start(&running, CONN);
        assert_eq!(running.cancel_all(CONN), dropped(1));
        assert!(last.1.await.is_err());
        others.0.send(()).unwrap();
        assert_eq!(others.1.await, Ok(true), "it is another connection's");
        assert!(running.is_empty());
    }

    #[tokio::test]
    async fn all_calls_of_a_connection_end_in_the_same_order_each_time() {
        let (running, order) = (Running::default(), Arc::new(Mutex::new(Vec::new())));
        for n in 0..100_u32 {
            let note = Note(n, Arc::clone(&order));
            running.start(CONN, CallId::from_slice(&n.to_be_bytes()), |_| {
                let task = async move {
                    let _note = note;
                    std::future::pending::<()>().await;
                };
                tokio::spawn(task)
            });
        }
        assert_eq!(running.cancel_all(CONN), dropped(100));
        while order.lock().unwrap().len() < 100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(*order.lock().unwrap(), (0..100).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn an_idle_connection_keeps_little_and_one_that_has_ended_nothing() {
        let (running, ended) = (Arc::new(Running::default()), Arc::new(AtomicUsize::new(0)));
        for n in 0..1_000_u32 {
            let (known, ended) = (Arc::clone(&running), Arc::clone(&ended));
            running.start(CONN, CallId::from_slice(&n.to_be_bytes()), |standing| {
                let task = async move {
                    assert!(known.leave(&standing));
                    ended.fetch_add(1, SeqCst);
                };
                tokio::spawn(task)
            });
        }
        while ended.load(SeqCst) < 1_000 {
            tokio::task::yield_now().await;
        }
        assert!(running.0.get(&CONN).unwrap().entries.capacity() <= KEPT_CALLS);
        assert_eq!(running.cancel_all(CONN), dropped(0));
        assert!(running.0.is_empty());
    }

    /// Calls drop what a method has made, whose code may end others: it must find no lock.
    #[test]
    fn a_call_may_be_dropped_as_it_starts_since_its_runtime_ends() {
        struct Ends(Arc<Running>, Option<Standing>);
        impl Drop for Ends {
            fn drop(&mut self) {
                assert!(self.1.take().is_some_and(|standing| self.0.leave(&standing)));
            }
        }
        let (running, runtime) = (Arc::new(Running::default()), Builder::new_current_thread().build().unwrap());
        let handle = runtime.handle().clone();
        drop(runtime);
        running.start(CONN, CallId::from_slice(ID), |standing| {
            let ends = Ends(Arc::clone(&running), Some(standing));
            handle.spawn(async move { drop(ends) })
        });
        assert!(running.is_empty());
    }

    fn enter(calls: &mut Calls, id: u16) -> (usize, u64) {
        calls.enter(CallId::from_slice(&id.to_be_bytes()), false)
    }

    #[test]
    fn a_flood_of_words_that_calls_are_given_up_costs_no_more_than_they_do() {
        let mut calls = Calls::default();
        let _: Vec<_> = (0..1_024).map(|id| enter(&mut calls, id)).collect();
        for n in 0..100_000_u32 {
            assert!(calls.take(&n.to_le_bytes()).is_empty());
        }
        assert_eq!(calls.scanned, 1_024, "they are looked through once");
        for id in 0..1_024_u16 {
            assert_eq!(calls.take(&id.to_be_bytes()).len(), 1);
        }
        assert!(calls.entries.is_empty() && calls.scanned <= 1_024 + FEW_CALLS * FEW_CALLS);
    }

    #[test]
    fn who_gives_nothing_up_any_more_pays_no_more_for_it() {
        let mut calls = Calls::default();
        let mut known: Vec<_> = (0..100).map(|id| enter(&mut calls, id)).collect();
        assert!(calls.take(b"unknown").is_empty() && calls.index.is_some());
        for _ in 0..=DISUSED {
            let (place, _) = known.remove(0);
            calls.remove(place).unwrap();
            known.push(enter(&mut calls, 7));
        }
        assert!(calls.index.is_none());
        assert_eq!(calls.take(&7_u16.to_be_bytes()).len(), 100);
        assert!(calls.index.is_none(), "nor does one without calls");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Enter(u16),
        Leave(prop::sample::Index),
        GiveUp(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..40_u16).prop_map(Step::Enter),
            2 => any::<prop::sample::Index>().prop_map(Step::Leave),
            1 => (0..40_u16).prop_map(Step::GiveUp),
        ]
    }

    proptest! {
        #[test]
        fn what_is_given_up_is_what_has_the_id(steps in prop::collection::vec(step(), 1..300)) {
            let (mut calls, mut known) = (Calls::default(), Vec::<(u16, usize, u64)>::new());
            for step in steps {
                match step {
                    Step::Enter(id) => {
                        let (place, number) = enter(&mut calls, id);
                        known.push((id, place, number));
                    }
                    Step::Leave(which) if !known.is_empty() => {
                        let (_, place, number) = known.remove(which.index(known.len()));
                        prop_assert!(calls.get_mut(place, number).is_some());
                        calls.remove(place);
                    }
                    Step::Leave(_) => {}
                    Step::GiveUp(id) => {
                        let mut expected: Vec<_> = known.extract_if(.., |call| call.0 == id).map(|call| call.2).collect();
                        let mut given_up: Vec<_> = calls.take(&id.to_be_bytes()).iter().map(|entry| entry.number).collect();
                        expected.sort_unstable();
                        given_up.sort_unstable();
                        prop_assert_eq!(given_up, expected);
                    }
                }
                prop_assert_eq!(calls.entries.len(), known.len());
                prop_assert!(calls.index.as_ref().is_none_or(|index| index.places.len() == known.len()));
            }
        }
    }
}
