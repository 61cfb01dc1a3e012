use std::cell::RefCell;
use std::mem::{replace, take};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::panicking;

use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinHandle};

/// Tasks that can be held and ended together, as the programs of one machine are by its user: for simulations.
///
/// A task that [`run`](Self::run) puts into a group is in it with all that it starts by [`spawn`] and [`spawn_on`], as
/// all of Callboard does. Clones are the same group.
///
/// ```
/// use callboard_net::{TaskGroup, spawn};
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let group = TaskGroup::default();
/// group.hold();
/// let sum = tokio::spawn(group.run(async { spawn(async { 1 + 2 }).await.unwrap() }));
/// tokio::task::yield_now().await;
/// assert!(!sum.is_finished());
/// group.go_on();
/// assert_eq!(sum.await.unwrap(), 3);
/// # }); Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct TaskGroup(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    is_held: bool,
    has_panicked: bool,
    /// Tasks that were woken while the group was held.
    waiting: Vec<Waker>,
    tasks: Vec<AbortHandle>,
    sweep_at: usize,
}

thread_local! {
    /// The group of the task that this thread polls.
    static CURRENT: RefCell<Option<TaskGroup>> = const { RefCell::new(None) };
}

/// Starts a task on the current runtime, in the group of the task that starts it, if that has one.
///
/// # Panics
/// Outside of a runtime.
pub fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    match TaskGroup::current() {
        None => tokio::spawn(task),
        Some(group) => group.keep(tokio::spawn(group.run(boxed(task)))),
    }
}

/// The same on that runtime.
pub fn spawn_on<T: Send + 'static>(runtime: &Handle, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    match TaskGroup::current() {
        None => runtime.spawn(task),
        Some(group) => group.keep(runtime.spawn(group.run(boxed(task)))),
    }
}

/// So that there is one form of a grouped task for each result, and none for each task.
fn boxed<T>(task: impl Future<Output = T> + Send + 'static) -> Pin<Box<dyn Future<Output = T> + Send>> {
    Box::pin(task)
}

impl TaskGroup {
    /// Runs this in the group.
    pub fn run<F: Future>(&self, task: F) -> impl Future<Output = F::Output> + use<F> {
        Grouped { group: self.clone(), task: Box::pin(task) }
    }

    /// From now on none of its tasks gets to run, however long it takes: their timers pass unseen.
    pub fn hold(&self) {
        self.state().is_held = true;
    }

    /// Its tasks go on with what has come meanwhile, with all timers late.
    pub fn go_on(&self) {
        let waiting = {
            let mut state = self.state();
            state.is_held = false;
            take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Ends the tasks that were started in it. What [`run`](Self::run) gave is not among them.
    pub fn end(&self) {
        let tasks = take(&mut self.state().tasks);
        tasks.iter().for_each(AbortHandle::abort);
        self.go_on();
    }

    /// How many of the tasks that were started in it have not ended.
    pub fn tasks(&self) -> usize {
        let mut state = self.state();
        state.tasks.retain(|task| !task.is_finished());
        state.tasks.len()
    }

    /// Whether one of its tasks panicked.
    pub fn has_panicked(&self) -> bool {
        self.state().has_panicked
    }

    fn current() -> Option<Self> {
        CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
    }

    fn keep<T>(&self, task: JoinHandle<T>) -> JoinHandle<T> {
        let mut state = self.state();
        if state.tasks.len() >= state.sweep_at {
            state.tasks.retain(|task| !task.is_finished());
            state.sweep_at = (2 * state.tasks.len()).max(LEAST_SWEPT);
        }
        state.tasks.push(task.abort_handle());
        task
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Grouped<F> {
    group: TaskGroup,
    task: Pin<Box<F>>,
}

impl<F: Future> Future for Grouped<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        {
            let mut state = self.group.state();
            if state.is_held {
                state.waiting.push(cx.waker().clone());
                return Poll::Pending;
            }
        }
        let _restored = Restored(CURRENT.replace(Some(self.group.clone())));
        self.task.as_mut().poll(cx)
    }
}

/// Sets the group of before, also where the task panics.
struct Restored(Option<TaskGroup>);

impl Drop for Restored {
    fn drop(&mut self) {
        let current = CURRENT.with_borrow_mut(|current| replace(current, self.0.take()));
        if let Some(group) = current.filter(|_| panicking()) {
            group.state().has_panicked = true;
        }
    }
}

/// Ended tasks are looked for when there may be so many, and then when there may be twice as many as lived.
const LEAST_SWEPT: usize = 64;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_group_that_is_held_sees_its_timers_late() {
        let (group, began) = (TaskGroup::default(), Instant::now());
        let sleeping = || async {
            sleep(Duration::from_secs(1)).await;
            Instant::now()
        };
        let (outer, other) =
            (tokio::spawn(group.run(async move { spawn(sleeping()).await })), tokio::spawn(sleeping()));
        tokio::task::yield_now().await;
        group.hold();
        sleep(Duration::from_secs(3)).await;
        assert!(other.is_finished() && !outer.is_finished());
        group.go_on();
        let woken = outer.await.unwrap().unwrap();
        assert_eq!(woken - began, Duration::from_secs(3));
    }

    #[tokio::test]
    async fn a_group_knows_what_lives_in_it_and_ends_it() {
        let group = TaskGroup::default();
        let (started,) = group.run(async { (spawn(std::future::pending::<()>()),) }).await;
        assert_eq!(group.tasks(), 1);
        group.hold();
        group.end();
        assert!(started.await.unwrap_err().is_cancelled());
        assert_eq!(group.tasks(), 0);
        assert!(!group.has_panicked());
        let (panicking,) = group.run(async { (spawn(async { panic!("on purpose") }),) }).await;
        assert!(panicking.await.unwrap_err().is_panic());
        assert!(group.has_panicked());
    }
}
