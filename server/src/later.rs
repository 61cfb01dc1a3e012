//! Calls whose answers come later: each is a task, which keeps the connection but not the frame.

mod keyed;

use std::future::pending;
use std::sync::Arc;

use bytes::BytesMut;
use callboard_common::{Connection, Message};
use callboard_net::{allow_blocking, spawn};
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::Instant;

use crate::answer::{Caller, Failure};
use crate::gatekeeper::{Permit, Queued, Waited};
use crate::handler::{Contained, Job, Task, contain};
use crate::method::Method;
use crate::running::{CallId, InFlight, Running, Standing};

pub(crate) use self::keyed::{Path, Turn};

/// A call whose answer comes later.
pub(crate) struct Later<C: Connection> {
    conn: C,
    id: CallId,
    method: Arc<Method>,
    one_way: bool,
    /// Its place among those that run, while it runs.
    permit: Option<Permit>,
    /// While it is dropped if its caller has gone.
    standing: Option<Standing>,
    /// It counts as a request until this is gone; while it stands there, it is kept there.
    in_flight: Option<InFlight>,
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
    pub(crate) fn new(conn: &C, message: &Message, method: &Arc<Method>, in_flight: C::InFlight) -> Self {
        Self {
            conn: conn.clone(),
            id: CallId::from_slice(message.id()),
            method: Arc::clone(method),
            one_way: message.is_one_way(),
            permit: None,
            standing: None,
            in_flight: Some(Box::new(in_flight)),
        }
    }

    /// Answers from within the connection's own handler.
    pub(crate) fn fail(&self, failure: Failure) {
        self.caller().fail(failure);
    }

    /// Runs what is left of a call that has begun.
    pub(crate) fn run(mut self, running: &Running, permit: Permit, work: Work, deadline: &dyn Fn() -> Option<Instant>) {
        self.permit = Some(permit);
        let goes_on = self.goes_on();
        match work {
            // In place, not by a function: what is handed over stands twice in a future, and one of over 1,000 bytes costs
            // an allocation of another kind.
            Work::Task(task) => self.start(running, goes_on, |mut call| async move {
                let outcome = Contained::new(task).await;
                call.has_run();
                call.end(outcome).await;
            }),
            Work::Job(job) => {
                let deadline = deadline();
                self.start(running, goes_on, |mut call| async move { call.run_job(job, deadline).await });
            }
        }
    }

    /// Begins a call when its turn has come, if that is before its caller's deadline.
    pub(crate) fn run_in_turn<Begin>(
        self,
        running: &Running,
        mut queued: Queued,
        deadline: Option<Instant>,
        begin: Begin,
    ) where
        Begin: FnOnce() -> Result<Work, Failure> + Send + 'static,
    {
        let one_way = self.one_way;
        self.start(running, one_way, |mut call| async move {
            let turn = queued.turn(deadline).await;
            drop(queued);
            if call.goes_on() && !call.leave() {
                // Its caller gave it up a moment before it would have begun: this task is about to be dropped.
                return pending().await;
            }
            let work = turn.map_err(Failure::Waited).and_then(|permit| {
                call.permit = Some(permit);
                begin()
            });
            match work {
                Ok(Work::Task(task)) => {
                    let outcome = Contained::new(task).await;
                    call.has_run();
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
        self.one_way || self.method.limits().must_finish
    }

    fn start<Fut>(mut self, running: &Running, is_left_alone: bool, task: impl FnOnce(Self) -> Fut)
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        if is_left_alone {
            drop(spawn(task(self)));
            return;
        }
        let (conn, id) = (self.conn.id(), self.id.clone());
        let Some(in_flight) = self.in_flight.take() else { return };
        running.start(conn, id, in_flight, |standing| {
            self.standing = Some(standing);
            spawn(task(self))
        });
    }

    /// The method has ended, and leaves its place to others before its answer waits for room.
    fn has_run(&mut self) {
        if let Some(permit) = self.permit.take() {
            permit.end();
        }
    }

    async fn run_job(&mut self, job: Job, deadline: Option<Instant>) {
        let outcome = self.job(job, deadline).await;
        self.end(outcome).await;
    }

    async fn job(&mut self, job: Job, deadline: Option<Instant>) -> Result<BytesMut, Failure> {
        let mut permit = self.permit.take();
        // A thread is taken until the job has ended, even if nobody waits for it any more.
        let run = move || {
            // All threads of the runtime may have been taken by others.
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(Failure::Waited(Waited::Expired));
            }
            permit.iter_mut().for_each(Permit::begin_again);
            let outcome = allow_blocking(|| contain(job));
            permit.into_iter().for_each(Permit::end);
            outcome
        };
        let job = spawn_blocking(run);
        // As long as no thread has taken it, it goes with its call.
        let owned = Owned(job.abort_handle());
        let outcome = job.await.unwrap_or_else(|stopped| Err(Failure::Panicked(stopped.to_string())));
        drop(owned);
        outcome
    }

    fn end<B: AsRef<[u8]>>(&mut self, outcome: Result<B, Failure>) -> impl Future<Output = ()> {
        drop(self.permit.take());
        let frame = self.caller().queue(outcome);
        async move {
            if let Some(frame) = frame {
                // The peer may have gone meanwhile; then there is nobody to tell.
                let _ = self.conn.send(frame).await;
            }
            self.leave();
        }
    }

    /// From now on it is not dropped if its caller has gone. `false` if that was quicker.
    fn leave(&mut self) -> bool {
        if let Some(standing) = self.standing.take() {
            self.in_flight = standing.leave();
        }
        self.in_flight.is_some()
    }

    fn caller(&self) -> Caller<'_, C> {
        Caller::new(&self.conn, &self.id, &self.method, self.one_way)
    }
}
