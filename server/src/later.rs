//! Calls whose answers come later: each is a task, which keeps the connection but not the frame.

mod keyed;

use std::future::pending;
use std::mem::replace;
use std::sync::Arc;

use bytes::BytesMut;
use callboard_common::{Connection, Message, SendError};
use callboard_net::{allow_blocking, spawn};
use tokio::task::{AbortHandle, JoinError, spawn_blocking};
use tokio::time::Instant;

use crate::answer::{Caller, Failure, Waits};
use crate::caller_id::CallerId;
use crate::gatekeeper::{Gatekeeper, Left, Pass, Permit, Queued, Waited};
use crate::handler::{Contained, Job, Task, contain};
use crate::method::Method;
use crate::running::{CallId, Standing};

pub(crate) use self::keyed::{Path, Turn};

/// A call whose answer comes later. It is a request in flight until this is dropped, or its caller gives it up.
pub(crate) struct Later<C: Connection> {
    conn: C,
    id: CallId,
    one_way: bool,
    keeper: Arc<Gatekeeper>,
    method: usize,
    /// While it runs.
    pass: Option<Pass>,
    place: Place,
}

/// Whether a call is dropped if its caller has gone.
enum Place {
    /// It has not begun, or is a one-way call.
    Apart,
    /// Yes.
    Stands(Standing),
    /// No: it goes on.
    Aside(Standing),
    /// It was, and is in flight no longer.
    Gone,
}

/// What runs a call once it is let in.
pub(crate) enum Work {
    Task(Task),
    Job(Job),
}

/// A task that goes with this.
struct Owned(AbortHandle);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<C: Connection> Later<C> {
    /// For a request that was entered.
    pub(crate) fn new(conn: &C, message: &Message, keeper: &Arc<Gatekeeper>, method: usize) -> Self {
        Self {
            conn: conn.clone(),
            id: CallId::from_slice(message.id()),
            one_way: message.is_one_way(),
            keeper: Arc::clone(keeper),
            method,
            pass: None,
            place: Place::Apart,
        }
    }

    /// Answers from within the connection's own handler.
    pub(crate) fn fail(&self, failure: Failure) {
        if let Some(method) = self.method() {
            self.caller(method).fail(failure);
        }
    }

    /// It is among those that run.
    pub(crate) fn let_in(&mut self, pass: Option<Pass>) {
        self.pass = pass;
    }

    /// Runs what is left of a call that has begun.
    pub(crate) fn run(self, work: Work, deadline: &dyn Fn() -> Option<Instant>) {
        let goes_on = self.goes_on();
        match work {
            // In place, not by a function: what is handed over stands twice in a future, and one of over 1,000 bytes costs
            // an allocation of another kind.
            Work::Task(task) => self.start(goes_on, |mut call| async move {
                let outcome = Contained::new(task).await;
                call.give_place(Left::with(&outcome));
                call.end(outcome).await;
            }),
            Work::Job(job) => {
                let deadline = deadline();
                self.start(goes_on, |mut call| async move { call.run_job(job, deadline).await });
            }
        }
    }

    /// Begins a call when its turn has come, if that is before its caller's deadline.
    pub(crate) fn run_in_turn<Begin>(self, mut queued: Queued, deadline: Option<Instant>, begin: Begin)
    where
        Begin: FnOnce() -> Result<Work, Failure> + Send + 'static,
    {
        let one_way = self.one_way;
        self.start(one_way, |mut call| async move {
            let turn = queued.turn(deadline).await;
            drop(queued);
            if call.goes_on() && !call.step_aside() {
                // Its caller gave it up a moment before it would have begun: this task is about to be dropped.
                return pending().await;
            }
            let work = turn.map_err(Failure::Waited).and_then(|permit| {
                call.let_in(permit.into_pass());
                begin()
            });
            match work {
                Ok(Work::Task(task)) => {
                    let outcome = Contained::new(task).await;
                    call.give_place(Left::with(&outcome));
                    call.end(outcome).await;
                }
                Ok(Work::Job(job)) => call.run_job(job, deadline).await,
                Err(failure) => call.end::<BytesMut>(Err(failure)).await,
            }
        });
    }

    /// Whether it goes on once it has begun, though its caller has gone. The end of a one-way call is awaited by nobody
    /// anyway.
    fn goes_on(&self) -> bool {
        self.one_way || self.method().is_some_and(|method| method.limits().must_finish)
    }

    fn start<Fut>(mut self, is_left_alone: bool, task: impl FnOnce(Self) -> Fut)
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        let (keeper, conn, id) = (Arc::clone(&self.keeper), self.conn.id(), self.id.clone());
        if is_left_alone {
            if !self.one_way {
                self.place = Place::Aside(keeper.running.enter_aside(conn, id));
            }
            drop(spawn(task(self)));
            return;
        }
        keeper.running.start(conn, id, |standing| {
            self.place = Place::Stands(standing);
            spawn(task(self))
        });
    }

    /// It leaves its place among those that run to others, before its answer waits for room.
    fn give_place(&mut self, how: Left) {
        if let Some(pass) = self.pass.take() {
            self.keeper.leave(self.method, &pass, how);
        }
    }

    async fn run_job(&mut self, job: Job, deadline: Option<Instant>) {
        let outcome = self.job(job, deadline).await;
        self.end(outcome).await;
    }

    async fn job(&mut self, job: Job, deadline: Option<Instant>) -> Result<BytesMut, Failure> {
        let mut permit = self.pass.take().map(|pass| Permit::new(&self.keeper, self.method, pass));
        // A thread is taken until the job has ended, even if nobody waits for it any more.
        let run = move || {
            // All threads of the runtime may have been taken by others.
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(Failure::Waited(Waited::Expired));
            }
            permit.iter_mut().for_each(Permit::begin_again);
            let outcome = allow_blocking(|| contain(job));
            if let Some(permit) = permit {
                permit.end(Left::with(&outcome));
            }
            outcome
        };
        let job = spawn_blocking(run);
        // As long as no thread has taken it, it goes with its call.
        let owned = Owned(job.abort_handle());
        let outcome = job.await.unwrap_or_else(|stopped| Err(not_ended(&stopped)));
        drop(owned);
        outcome
    }

    fn end<B: AsRef<[u8]>>(&mut self, outcome: Result<B, Failure>) -> impl Future<Output = ()> {
        self.give_place(Left::Before);
        let waits = self.method().and_then(|method| self.caller(method).queue(outcome));
        async move {
            if let Some(waits) = waits {
                // In a box: it is rare, and no other call is to have room for it.
                Box::pin(self.wait_for_room(waits)).await;
            }
        }
    }

    async fn wait_for_room(&self, Waits { frame, executed }: Waits) {
        // Had the peer gone meanwhile, there would be nobody to tell.
        let sent = self.conn.send(frame).await;
        if let (Err(SendError::Full), Some(method)) = (sent, self.method()) {
            self.caller(method).drop_answer(executed);
        }
    }

    /// From now on it is not dropped if its caller has gone. `false` if that was quicker.
    fn step_aside(&mut self) -> bool {
        self.place = match replace(&mut self.place, Place::Gone) {
            Place::Stands(standing) if self.keeper.running.step_aside(&standing) => Place::Aside(standing),
            Place::Stands(_) => Place::Gone,
            place => place,
        };
        !matches!(self.place, Place::Gone)
    }

    /// Nobody has waited for it.
    fn end_aside(&self) {
        let caller = CallerId::of_call(&self.conn, &self.id);
        if caller.is_behind_center() {
            self.keeper.asides.leave(caller);
        }
        self.conn.end_aside();
    }

    fn caller<'a>(&'a self, method: &'a Method) -> Caller<'a, C> {
        Caller::new(&self.conn, &self.id, method, self.one_way)
    }

    fn method(&self) -> Option<&Method> {
        self.keeper.method(self.method).map(|method| &**method)
    }
}

impl<C: Connection> Drop for Later<C> {
    fn drop(&mut self) {
        self.give_place(Left::Before);
        match replace(&mut self.place, Place::Gone) {
            Place::Apart if self.one_way => self.end_aside(),
            // Who gives a call up ends it as a request, so that its caller may send another one at once.
            Place::Stands(standing) if !self.keeper.running.leave(&standing) => {}
            Place::Aside(standing) if !self.keeper.running.leave(&standing) => self.end_aside(),
            Place::Apart | Place::Stands(_) | Place::Aside(_) => self.conn.end_request(),
            Place::Gone => {}
        }
    }
}

/// Why a job has no outcome. What panics in it is contained there: so one that has begun has one.
fn not_ended(why: &JoinError) -> Failure {
    if why.is_cancelled() { Failure::Stopped } else { Failure::Panicked(why.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_job_that_no_thread_has_taken_has_not_run() {
        let never = tokio::spawn(pending::<()>());
        never.abort();
        assert!(!not_ended(&never.await.unwrap_err()).has_run());
        let panicked = tokio::spawn(async { panic!("it was asked") });
        assert!(not_ended(&panicked.await.unwrap_err()).has_run());
    }
}
