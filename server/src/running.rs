use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use callboard_common::ConnectionId;
use dashmap::DashMap;
use rustc_hash::FxBuildHasher;
use slab::Slab;
use smallvec::SmallVec;
use tokio::task::JoinHandle;

/// The calls that run or wait, by connection, so that those whose callers have gone can be ended.
#[derive(Debug, Default)]
pub(crate) struct Running(DashMap<ConnectionId, Arc<Calls>, FxBuildHasher>);

/// Those of one connection. Nothing is looked for by its id but what is given up, which is rare and then looked for among as
/// many as may be in flight; so no call pays for an index.
#[derive(Debug, Default)]
struct Calls(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    entries: Slab<Entry>,
    last_number: u64,
}

struct Entry {
    /// Tells it from others that stood in the same place.
    number: u64,
    id: CallId,
    task: JoinHandle<()>,
    /// Gone with the entry: a caller that gives up a call may send another one at once, while the task is still to end.
    in_flight: InFlight,
}

/// Counts a request in flight, on whatever sort of connection.
pub(crate) type InFlight = Box<dyn Send>;

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("number", &self.number).field("id", &self.id).finish_non_exhaustive()
    }
}

/// Has room for the ids of this version's own clients.
pub(crate) type CallId = SmallVec<[u8; 16]>;

/// Where a call stands while it may be ended from there.
#[derive(Debug)]
pub(crate) struct Standing {
    calls: Arc<Calls>,
    place: usize,
    number: u64,
}

impl Running {
    /// Enters a call, whose task is started by `start`.
    pub(crate) fn start(
        &self,
        conn: ConnectionId,
        id: CallId,
        in_flight: InFlight,
        start: impl FnOnce(Standing) -> JoinHandle<()>,
    ) {
        let calls = self.of(conn);
        // All of it under the lock, so that the call can't leave before it stands there.
        let mut state = calls.lock();
        state.last_number += 1;
        let (place, number) = (state.entries.vacant_key(), state.last_number);
        let task = start(Standing { calls: Arc::clone(&calls), place, number });
        state.entries.insert(Entry { number, id, task, in_flight });
    }

    /// The caller has given this call up; all of them, should it have used the id again. How many there were.
    pub(crate) fn cancel(&self, conn: ConnectionId, id: &[u8]) -> usize {
        let calls = self.0.get(&conn).map(|calls| Arc::clone(&calls));
        let entries = calls.map_or_else(Vec::new, |calls| calls.lock().take(id));
        end(entries)
    }

    /// The connection has ended, or its peer has gone, and all its calls with it. How many there were.
    pub(crate) fn cancel_all(&self, conn: ConnectionId) -> usize {
        let Some((_, calls)) = self.0.remove(&conn) else { return 0 };
        let entries = std::mem::take(&mut calls.lock().entries);
        end(entries.into_iter().map(|(_, entry)| entry))
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|calls| calls.lock().entries.is_empty())
    }

    fn of(&self, conn: ConnectionId) -> Arc<Calls> {
        if let Some(calls) = self.0.get(&conn) {
            return Arc::clone(&calls);
        }
        Arc::clone(&self.0.entry(conn).or_default())
    }
}

fn end(entries: impl IntoIterator<Item = Entry>) -> usize {
    entries.into_iter().map(|entry| entry.task.abort()).count()
}

impl Calls {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, id: &[u8]) -> Vec<Entry> {
        let places: Vec<_> = self.entries.iter().filter(|(_, entry)| *entry.id == *id).map(|(at, _)| at).collect();
        places.into_iter().filter_map(|at| self.entries.try_remove(at)).collect()
    }
}

impl Standing {
    /// It has ended by itself, or is to be left alone, and is still in flight with what this gives. `None` if it was ended
    /// from there.
    pub(crate) fn leave(&self) -> Option<InFlight> {
        let mut state = self.calls.lock();
        state.entries.get(self.place).filter(|entry| entry.number == self.number)?;
        let entry = state.entries.try_remove(self.place)?;
        if state.entries.is_empty() && state.entries.capacity() > KEPT_CALLS {
            state.entries = Slab::new();
        }
        Some(entry.in_flight)
    }
}

/// For so many calls a connection keeps memory when none runs.
const KEPT_CALLS: usize = 16;

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::SeqCst;

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
    fn start(running: &Running, conn: ConnectionId) -> (oneshot::Sender<()>, oneshot::Receiver<bool>) {
        let ((end, ended), (tell, told)) = (oneshot::channel(), oneshot::channel());
        running.start(conn, CallId::from_slice(ID), Box::new(()), |standing| {
            tokio::spawn(async move {
                let _ = ended.await;
                let _ = tell.send(standing.leave().is_some());
            })
        });
        (end, told)
    }

    #[tokio::test]
    async fn a_call_is_ended_once_by_whoever_is_first() {
        let running = Running::default();
        let (end, told) = start(&running, CONN);
        end.send(()).unwrap();
        assert_eq!(told.await, Ok(true));
        running.cancel(CONN, ID);
        let (end, told) = start(&running, CONN);
        assert_eq!([&b"another"[..], ID, ID].map(|id| running.cancel(CONN, id)), [0, 1, 0]);
        assert!(told.await.is_err() && end.send(()).is_err() && running.is_empty());
    }

    #[tokio::test]
    async fn one_that_was_ended_does_not_take_another_out_that_stands_in_its_place() {
        let running = Running::default();
        let mut first = None;
        let task = tokio::spawn(std::future::pending::<()>());
        running.start(CONN, CallId::from_slice(ID), Box::new(()), |standing| {
            first = Some(standing);
            task
        });
        running.cancel(CONN, ID);
        let (end, told) = start(&running, CONN);
        assert!(first.unwrap().leave().is_none());
        end.send(()).unwrap();
        assert_eq!(told.await, Ok(true));
    }

    #[tokio::test]
    async fn calls_under_one_id_end_one_by_one_or_together() {
        let running = Running::default();
        let [first, second, third] = [(); 3].map(|()| start(&running, CONN));
        let others = start(&running, ConnectionId(2));
        second.0.send(()).unwrap();
        assert_eq!(second.1.await, Ok(true));
        assert_eq!(running.of(CONN).lock().entries.len(), 2);
        assert_eq!(running.cancel(CONN, ID), 2);
        assert!(first.1.await.is_err() && third.1.await.is_err());
        let last = start(&running, CONN);
        assert_eq!(running.cancel_all(CONN), 1);
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
            running.start(CONN, CallId::from_slice(&n.to_be_bytes()), Box::new(()), |_| {
                let task = async move {
                    let _note = note;
                    std::future::pending::<()>().await;
                };
                tokio::spawn(task)
            });
        }
        running.cancel_all(CONN);
        while order.lock().unwrap().len() < 100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(*order.lock().unwrap(), (0..100).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn an_idle_connection_keeps_little_and_one_that_has_ended_nothing() {
        let (running, ended) = (Running::default(), Arc::new(AtomicUsize::new(0)));
        for n in 0..1_000_u32 {
            let ended = Arc::clone(&ended);
            running.start(CONN, CallId::from_slice(&n.to_be_bytes()), Box::new(()), |standing| {
                let task = async move {
                    assert!(standing.leave().is_some());
                    ended.fetch_add(1, SeqCst);
                };
                tokio::spawn(task)
            });
        }
        while ended.load(SeqCst) < 1_000 {
            tokio::task::yield_now().await;
        }
        assert!(running.of(CONN).lock().entries.capacity() <= KEPT_CALLS);
        running.cancel_all(CONN);
        assert!(running.0.is_empty());
    }
}
