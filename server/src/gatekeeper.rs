use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use callboard_net::later;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::admission::{Admission, Entered, Full, Place, Took};

/// The shell around [`Admission`]: calls that run hold a [`Permit`], those that wait a [`Queued`].
pub(crate) struct Gatekeeper {
    admission: Mutex<Admission<oneshot::Sender<Permit>>>,
    /// So long a call waits at most.
    queue_age: Duration,
    /// Of which methods, by number, the time counts that their calls take. The others spare themselves the clock.
    timed: Vec<bool>,
}

/// A call's place among those that run, until it is dropped.
pub(crate) struct Permit {
    keeper: Arc<Gatekeeper>,
    method: usize,
    since: Option<Instant>,
    has_ended: bool,
}

/// A call's place among those that wait, until it is dropped.
pub(crate) struct Queued {
    keeper: Arc<Gatekeeper>,
    method: usize,
    place: Place,
    since: Instant,
    let_in: oneshot::Receiver<Permit>,
}

/// What becomes of a call.
pub(crate) enum Admitted {
    Now(Permit),
    Later(Queued),
    Never(Full),
}

/// Why one that waited does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// Its caller's deadline has passed.
    Expired,
    /// It waited for as long as any may.
    TooLong(Duration),
}

impl Gatekeeper {
    pub(crate) fn new(
        admission: Admission<oneshot::Sender<Permit>>,
        queue_age: Duration,
        timed: Vec<bool>,
    ) -> Arc<Self> {
        Arc::new(Self { admission: Mutex::new(admission), queue_age, timed })
    }

    /// A call of this method has come, of so many bytes.
    pub(crate) fn enter(self: &Arc<Self>, method: usize, bytes: usize) -> Admitted {
        let mut receiver = None;
        let wait = || {
            let (sender, let_in) = oneshot::channel();
            receiver = Some(let_in);
            sender
        };
        let entered = self.lock().enter(method, bytes, wait);
        match (entered, receiver) {
            (Entered::Waits(place), Some(let_in)) => {
                Admitted::Later(Queued { keeper: Arc::clone(self), method, place, since: Instant::now(), let_in })
            }
            (Entered::Refused(full), _) => Admitted::Never(full),
            (Entered::Runs | Entered::Waits(_), _) => Admitted::Now(Permit::new(self, method)),
        }
    }

    fn leave(self: &Arc<Self>, method: usize, took: Option<Took>) {
        let let_in = self.lock().leave(method, took);
        for (method, next) in let_in {
            // One that no longer waits gives its place back at once, as the permit is dropped.
            drop(next.send(Permit::new(self, method)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Admission<oneshot::Sender<Permit>>> {
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    fn new(keeper: &Arc<Gatekeeper>, method: usize) -> Self {
        let is_timed = keeper.timed.get(method).is_some_and(|timed| *timed);
        Self { keeper: Arc::clone(keeper), method, since: is_timed.then(Instant::now), has_ended: false }
    }

    /// It gets its thread only now.
    pub(crate) fn begin_again(&mut self) {
        self.since = self.since.map(|_| Instant::now());
    }

    /// The method ran to its end.
    pub(crate) fn end(mut self) {
        self.has_ended = true;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let took = if self.has_ended { Took::Whole } else { Took::Part };
        self.keeper.leave(self.method, self.since.map(|since| took(since.elapsed())));
    }
}

impl Queued {
    /// Waits for its turn, at most until its caller waits no longer.
    ///
    /// # Errors
    /// It is not to be run.
    pub(crate) async fn turn(&mut self, deadline: Option<Instant>) -> Result<Permit, Waited> {
        let age = self.keeper.queue_age;
        let oldest = later(self.since, age);
        let until = deadline.map_or(oldest, |deadline| deadline.min(oldest));
        let turn = timeout_at(until, &mut self.let_in).await;
        let is_over = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
        match turn {
            // It may have been let in at the last moment.
            Ok(Ok(permit)) if !is_over() => Ok(permit),
            _ if is_over() => Err(Waited::Expired),
            _ => Err(Waited::TooLong(age)),
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        drop(self.keeper.lock().give_up(self.method, self.place));
    }
}

impl fmt::Debug for Gatekeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gatekeeper").field("queue_age", &self.queue_age).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::{Concurrency, Room};

    fn keeper(concurrency: usize, queue: usize) -> Arc<Gatekeeper> {
        let room = |calls| Room { calls, bytes: usize::MAX };
        let mut admission = Admission::new(room(100));
        admission.add_method(Concurrency::Fixed(concurrency), &[], room(queue));
        Gatekeeper::new(admission, Duration::from_secs(10), vec![false])
    }

    fn now(keeper: &Arc<Gatekeeper>) -> Permit {
        match keeper.enter(0, 1) {
            Admitted::Now(permit) => permit,
            _ => panic!("it runs at once"),
        }
    }

    fn later(keeper: &Arc<Gatekeeper>) -> Queued {
        match keeper.enter(0, 1) {
            Admitted::Later(queued) => queued,
            _ => panic!("it waits"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_runs_when_another_ends_and_gives_its_place_on() {
        let keeper = keeper(1, 3);
        let first = now(&keeper);
        let (mut second, gone, third) = (later(&keeper), later(&keeper), later(&keeper));
        assert!(matches!(keeper.enter(0, 1), Admitted::Never(Full::Method { running: 1, waiting: 3 })));
        drop(gone);
        drop(first);
        let second = second.turn(None).await.unwrap();
        assert_eq!(keeper.lock().load(0), (1, 1));
        drop(second);
        // Let in, and gone before it has heard of it.
        drop(third);
        assert_eq!(keeper.lock().load(0), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_longer_than_its_caller_or_than_any_may() {
        let keeper = keeper(1, 3);
        let _first = now(&keeper);
        let began = Instant::now();
        for (deadline, expected, after) in [
            (Some(3), Waited::Expired, 3),
            (Some(30), Waited::TooLong(Duration::from_secs(10)), 10),
            (None, Waited::TooLong(Duration::from_secs(10)), 10),
        ] {
            let began = Instant::now();
            let deadline = deadline.map(|s| began + Duration::from_secs(s));
            assert_eq!(later(&keeper).turn(deadline).await.err(), Some(expected));
            assert_eq!(began.elapsed().as_secs(), after);
        }
        assert_eq!(began.elapsed().as_secs(), 23);
        assert_eq!(keeper.lock().load(0), (1, 0));
    }
}
