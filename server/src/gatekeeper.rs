use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use callboard_net::later;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::admission::{Admission, Arrival, Entered, Full, Gates, Place, Repeats, Room, Took};
use crate::asides::Asides;
use crate::caller_id::CallerId;
use crate::method::Method;
use crate::running::Running;

/// The shell around [`Admission`]: calls that run hold a [`Pass`], those that wait a [`Queued`].
pub(crate) struct Gatekeeper {
    gates: Arc<Gates>,
    admission: Mutex<Admission<Turn>>,
    repeats: Mutex<Repeats>,
    /// So long a call waits at most.
    queue_age: Duration,
    /// All methods, those that never wait among them. Calls know theirs by its place here, and so share one count of
    /// references with each other and not several: all event loops write to that.
    methods: Vec<Arc<Method>>,
    /// The calls that run or wait.
    pub(crate) running: Running,
    /// Those of them that nobody waits for.
    pub(crate) asides: Asides,
}

/// Tells a call that waits that it is let in, or refused.
type Turn = oneshot::Sender<Result<Permit, Full>>;

/// That a call is among those that run. Whoever has it gives it back: see [`Gatekeeper::leave`] and [`Permit`].
#[must_use]
pub(crate) struct Pass {
    since: Option<Instant>,
}

/// A pass that gives itself back when it is dropped.
pub(crate) struct Permit {
    keeper: Arc<Gatekeeper>,
    method: usize,
    pass: Option<Pass>,
}

/// A call's place among those that wait, until it is dropped.
pub(crate) struct Queued {
    keeper: Arc<Gatekeeper>,
    call: Arrival,
    place: Place,
    since: Instant,
    told: oneshot::Receiver<Result<Permit, Full>>,
}

/// A call that takes so many bytes while it waits for what comes of another one under its key, until this is dropped.
pub(crate) struct Repeat {
    keeper: Arc<Gatekeeper>,
    caller: CallerId,
    bytes: usize,
}

/// What becomes of a call.
pub(crate) enum Admitted {
    Now(Pass),
    Later(Queued),
    Never(Full),
}

/// How a call was that leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// The method ran to its end, and has a result.
    AtItsEnd,
    /// It was dropped before its end, did nothing, or failed: had it not, it might have taken longer.
    Before,
}

impl Left {
    /// A method has ended so.
    pub(crate) const fn with<T, E>(outcome: &Result<T, E>) -> Self {
        if outcome.is_ok() { Self::AtItsEnd } else { Self::Before }
    }
}

/// Why one that waited does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// Its caller's deadline has passed.
    Expired,
    /// It waited for as long as any may.
    TooLong(Duration),
    /// It gave way to another one, since this is full.
    Displaced(Full),
}

impl Gatekeeper {
    /// With room for so many that wait, in all and of each of the methods.
    pub(crate) fn new(
        gates: Gates,
        room: Room,
        methods: impl IntoIterator<Item = (Arc<Method>, Room)>,
        queue_age: Duration,
    ) -> Arc<Self> {
        let (methods, rooms): (_, Vec<_>) = methods.into_iter().unzip();
        let gates = Arc::new(gates);
        let admission = Mutex::new(Admission::new(Arc::clone(&gates), room, rooms));
        let repeats = Mutex::new(Repeats::new(room.bytes));
        Arc::new(Self {
            gates,
            admission,
            repeats,
            queue_age,
            methods,
            running: Running::default(),
            asides: Asides::default(),
        })
    }

    /// The method at this place.
    pub(crate) fn method(&self, at: usize) -> Option<&Arc<Method>> {
        self.methods.get(at)
    }

    /// A call has come.
    pub(crate) fn enter(self: &Arc<Self>, call: Arrival) -> Admitted {
        // Where nobody waits, nobody is overtaken.
        if !self.gates.somebody_waits() && self.gates.enter(call.method).is_ok() {
            return Admitted::Now(self.pass(call.method));
        }
        self.enter_in_turn(call)
    }

    fn enter_in_turn(self: &Arc<Self>, call: Arrival) -> Admitted {
        let mut receiver = None;
        let wait = || {
            let (sender, told) = oneshot::channel();
            receiver = Some(told);
            sender
        };
        // From here on who leaves looks here for those that wait.
        self.gates.announce();
        let mut admission = self.lock();
        let (let_in, mut gone) = (admission.let_in(), Vec::new());
        let entered = admission.enter(call, wait, &mut gone);
        drop(admission);
        self.gates.retract();
        self.tell(let_in);
        for (displaced, full) in gone {
            // It may wait no longer; then it is refused either way.
            let _ = displaced.send(Err(full));
        }
        match (entered, receiver) {
            (Entered::Waits(place), Some(told)) => {
                Admitted::Later(Queued { keeper: Arc::clone(self), call, place, since: Instant::now(), told })
            }
            (Entered::Refused(full), _) => Admitted::Never(full),
            (Entered::Runs | Entered::Waits(_), _) => Admitted::Now(self.pass(call.method)),
        }
    }

    /// A call with a frame of so many bytes is to wait for what comes of another one under its key.
    ///
    /// # Errors
    /// There is no room for it.
    pub(crate) fn enter_repeat(self: &Arc<Self>, caller: CallerId, frame_bytes: usize) -> Result<Repeat, Full> {
        let bytes = Repeats::weight(frame_bytes);
        let mut repeats = self.repeats();
        let has_room = repeats.enter(caller, bytes);
        let bound = repeats.bound();
        drop(repeats);
        if has_room { Ok(Repeat { keeper: Arc::clone(self), caller, bytes }) } else { Err(Full::Bytes { bound }) }
    }

    /// A call has ended that ran.
    pub(crate) fn leave(self: &Arc<Self>, method: usize, pass: &Pass, how: Left) {
        let took = if how == Left::AtItsEnd { Took::Whole } else { Took::Part };
        let took = pass.since.map(|since| took(since.elapsed()));
        let let_in = if self.gates.somebody_waits() {
            // In one step, so that no other call is quicker at the place than those that wait for it.
            self.lock().leave(method, took)
        } else {
            self.gates.leave(method, took);
            if !self.gates.somebody_waits() {
                return;
            }
            self.lock().let_in()
        };
        self.tell(let_in);
    }

    fn tell(self: &Arc<Self>, let_in: Vec<(usize, Turn)>) {
        for (method, next) in let_in {
            // One that no longer waits gives its place back at once, as the permit is dropped.
            drop(next.send(Ok(Permit::new(self, method, self.pass(method)))));
        }
    }

    fn pass(&self, method: usize) -> Pass {
        // The others spare themselves the clock.
        Pass { since: self.gates.is_timed(method).then(Instant::now) }
    }

    fn repeats(&self) -> MutexGuard<'_, Repeats> {
        self.repeats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Admission<Turn>> {
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// What has passed until now was not the method's time.
    pub(crate) fn begin_again(&mut self) {
        if let Some(since) = &mut self.since {
            *since = Instant::now();
        }
    }
}

impl Permit {
    pub(crate) fn new(keeper: &Arc<Gatekeeper>, method: usize, pass: Pass) -> Self {
        Self { keeper: Arc::clone(keeper), method, pass: Some(pass) }
    }

    /// It gets its thread only now.
    pub(crate) fn begin_again(&mut self) {
        self.pass.iter_mut().for_each(Pass::begin_again);
    }

    /// The pass for one who gives it back without this.
    pub(crate) fn into_pass(mut self) -> Option<Pass> {
        self.pass.take()
    }

    /// The method has ended so.
    pub(crate) fn end(mut self, how: Left) {
        self.leave(how);
    }

    fn leave(&mut self, how: Left) {
        if let Some(pass) = self.pass.take() {
            self.keeper.leave(self.method, &pass, how);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.leave(Left::Before);
    }
}

impl Queued {
    /// Waits for its turn, at most until its caller waits no longer.
    ///
    /// # Errors
    /// It is not to be run.
    pub(crate) async fn turn(&mut self, deadline: Option<Instant>) -> Result<Permit, Waited> {
        #[cfg(feature = "planted")]
        let deadline = deadline.filter(|_| !callboard_common::Planted::ExpiredRun.is_planted());
        let age = self.keeper.queue_age;
        let oldest = later(self.since, age);
        let until = deadline.map_or(oldest, |deadline| deadline.min(oldest));
        let turn = timeout_at(until, &mut self.told).await;
        let is_over = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
        match turn {
            // It may have been let in at the last moment.
            Ok(Ok(Ok(permit))) if !is_over() => Ok(permit),
            _ if is_over() => Err(Waited::Expired),
            Ok(Ok(Err(full))) => Err(Waited::Displaced(full)),
            _ => Err(Waited::TooLong(age)),
        }
    }
}

impl Drop for Repeat {
    fn drop(&mut self) {
        self.keeper.repeats().leave(self.caller, self.bytes);
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let given_up = self.keeper.lock().give_up(self.call.method, self.call.caller, self.place);
        drop(given_up);
    }
}

impl fmt::Debug for Gatekeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gatekeeper").field("queue_age", &self.queue_age).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::admission::{Concurrency, Passes};

    fn room(calls: usize) -> Room {
        Room { calls, bytes: usize::MAX }
    }

    fn method(name: &str, queue: usize) -> (Arc<Method>, Room) {
        (Arc::new(Method::new(name)), room(queue))
    }

    /// Of one method.
    fn keeper_of(concurrency: Concurrency, queue: usize) -> Arc<Gatekeeper> {
        let mut gates = Gates::default();
        let own = gates.add(Passes::Method, concurrency);
        gates.add_method(vec![own]);
        Gatekeeper::new(gates, room(100), [method("only", queue)], Duration::from_secs(10))
    }

    fn keeper(concurrency: usize, queue: usize) -> Arc<Gatekeeper> {
        keeper_of(Concurrency::Fixed(concurrency), queue)
    }

    fn call(method: usize) -> Arrival {
        Arrival { method, caller: CallerId::direct(1), bytes: 1 }
    }

    fn now(keeper: &Arc<Gatekeeper>) -> Permit {
        match keeper.enter(call(0)) {
            Admitted::Now(pass) => Permit::new(keeper, 0, pass),
            _ => panic!("it runs at once"),
        }
    }

    fn later(keeper: &Arc<Gatekeeper>) -> Queued {
        match keeper.enter(call(0)) {
            Admitted::Later(queued) => queued,
            _ => panic!("it waits"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_runs_when_another_ends_and_gives_its_place_on() {
        let keeper = keeper(1, 3);
        let first = now(&keeper);
        let (mut second, gone, third) = (later(&keeper), later(&keeper), later(&keeper));
        assert!(matches!(keeper.enter(call(0)), Admitted::Never(Full::Method { running: 1, waiting: 3 })));
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

    #[test]
    fn where_nobody_waits_calls_come_and_go_without_the_lock() {
        let (keeper, (tell, told)) = (keeper(2, 3), mpsc::channel());
        let locked = keeper.lock();
        let other = Arc::clone(&keeper);
        thread::spawn(move || {
            drop([now(&other), now(&other)]);
            now(&other).end(Left::AtItsEnd);
            tell.send(()).unwrap();
        });
        told.recv_timeout(Duration::from_secs(20)).expect("they wait for the lock");
        drop(locked);
        assert_eq!(keeper.lock().load(0), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_that_a_call_waits_for_its_thread_does_not_count() {
        let target = Duration::from_millis(20);
        let keeper = keeper_of(Concurrency::Adaptive { least: 1, most: 10, target }, 0);
        let run = async |waits: Duration, runs: Duration| {
            let mut permit = now(&keeper);
            tokio::time::advance(waits).await;
            permit.begin_again();
            tokio::time::advance(runs).await;
            permit.end(Left::AtItsEnd);
        };
        run(Duration::from_secs(1), Duration::from_millis(1)).await;
        let both = [now(&keeper), now(&keeper)];
        assert!(matches!(keeper.enter(call(0)), Admitted::Never(_)), "there is one place more");
        drop(both);
        // A round of two that were slow.
        run(Duration::ZERO, Duration::from_secs(1)).await;
        run(Duration::ZERO, Duration::from_secs(1)).await;
        let _one = now(&keeper);
        assert!(matches!(keeper.enter(call(0)), Admitted::Never(_)), "and one less");
    }

    /// Of three methods, two of which share threads; all share a gate. Counts who runs.
    struct Crowd {
        keeper: Arc<Gatekeeper>,
        running: [AtomicUsize; 3],
    }

    impl Crowd {
        const LIMITS: [usize; 3] = [2, 2, 1];
        const THREADS: usize = 2;
        const ALL: usize = 3;

        fn new() -> Self {
            let mut gates = Gates::default();
            let all = gates.add(Passes::All, Concurrency::Fixed(Self::ALL));
            let threads = gates.add(Passes::Blocking, Concurrency::Fixed(Self::THREADS));
            for (limit, shared) in Self::LIMITS.into_iter().zip([&[all][..], &[all, threads], &[all, threads]]) {
                let own = gates.add(Passes::Method, Concurrency::Fixed(limit));
                gates.add_method([own].into_iter().chain(shared.iter().copied()).collect());
            }
            let methods = ["a", "b", "c"].map(|name| method(name, 100));
            let keeper = Gatekeeper::new(gates, room(100), methods, Duration::from_hours(1));
            Self { keeper, running: [const { AtomicUsize::new(0) }; 3] }
        }

        async fn call(&self, method: usize, number: usize) {
            let permit = match self.keeper.enter(call(method)) {
                Admitted::Now(pass) => Permit::new(&self.keeper, method, pass),
                // Some do not wait for long enough.
                Admitted::Later(queued) if number.is_multiple_of(7) => return drop(queued),
                Admitted::Later(mut queued) => queued.turn(None).await.unwrap(),
                Admitted::Never(full) => panic!("all of them may wait, and not: {full:?}"),
            };
            // Counted after it was let in and before it leaves, so never above what really runs.
            self.running[method].fetch_add(1, SeqCst);
            let running = self.running.each_ref().map(|count| count.load(SeqCst));
            assert!(running[method] <= Self::LIMITS[method] && running[1] + running[2] <= Self::THREADS, "{running:?}");
            assert!(running.iter().sum::<usize>() <= Self::ALL, "{running:?}");
            if number.is_multiple_of(3) {
                tokio::task::yield_now().await;
            }
            self.running[method].fetch_sub(1, SeqCst);
            permit.end(Left::AtItsEnd);
        }
    }

    #[test]
    fn who_finds_a_gate_closed_that_is_left_at_that_moment_is_let_in() {
        const MANY: usize = 20_000;
        // To leave so many gates takes longer than to find the last of them closed.
        let mut gates = Gates::default();
        let last = gates.add(Passes::All, Concurrency::Fixed(1));
        let many: Vec<_> = (0..MANY).map(|_| gates.add(Passes::Method, Concurrency::Unlimited)).collect();
        let before_last = many[MANY - 1];
        for passed in [many.into_iter().chain([last]).collect(), vec![last], vec![before_last]] {
            gates.add_method(passed);
        }
        let methods = ["leaves", "comes", "shows how far the first has come"].map(|name| method(name, 1));
        let keeper = Gatekeeper::new(gates, room(100), methods, Duration::from_hours(1));

        let ((to_leave, passes), (has_left, left)) = (mpsc::channel::<Pass>(), mpsc::channel());
        let leaving = Arc::clone(&keeper);
        thread::spawn(move || {
            for pass in passes {
                leaving.leave(0, &pass, Left::AtItsEnd);
                has_left.send(()).unwrap();
            }
        });
        let mut met = 0;
        for _ in 0..10_000 {
            let Admitted::Now(pass) = keeper.enter(call(0)) else { panic!("it is alone") };
            to_leave.send(pass).unwrap();
            while keeper.gates.running(0) > 0 {
                std::hint::spin_loop();
            }
            // The other thread has looked whether somebody waits, and found nobody, and is on its way to the last gate.
            let admitted = keeper.enter(call(1));
            let is_met = keeper.gates.running(2) > 0;
            left.recv().unwrap();
            match admitted {
                Admitted::Now(pass) => keeper.leave(1, &pass, Left::AtItsEnd),
                Admitted::Later(mut queued) => {
                    drop(queued.told.try_recv().expect("it waits for ever"));
                    met += usize::from(is_met);
                }
                Admitted::Never(full) => panic!("it may wait: {full:?}"),
            }
            if met == 3 {
                return;
            }
        }
        panic!("they have met {met} times only");
    }

    /// Three callers on a loop of their own.
    #[tokio::main(flavor = "current_thread")]
    async fn call_from_a_thread(crowd: &Arc<Crowd>) {
        let callers = [0, 1, 2].map(|caller| {
            let crowd = Arc::clone(crowd);
            tokio::spawn(async move {
                for number in 0..2_000 {
                    crowd.call((caller + number) % 3, number).await;
                }
            })
        });
        for caller in callers {
            tokio::time::timeout(Duration::from_mins(2), caller).await.expect("somebody waits for ever").unwrap();
        }
    }

    #[test]
    fn of_many_threads_none_passes_a_limit_and_none_is_left_waiting() {
        let crowd = Arc::new(Crowd::new());
        let threads = [(); 4].map(|()| {
            let crowd = Arc::clone(&crowd);
            thread::spawn(move || call_from_a_thread(&crowd))
        });
        for thread in threads {
            thread.join().unwrap();
        }
        let admission = crowd.keeper.lock();
        assert_eq!([0, 1, 2].map(|method| admission.load(method)), [(0, 0); 3]);
        assert!(!crowd.keeper.gates.somebody_waits());
    }
}
