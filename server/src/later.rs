//! Calls whose answers come later: each is a task, which keeps the connection but not the frame.

use std::future::pending;
use std::sync::Arc;

use bytes::BytesMut;
use callboard_common::{Connection, Event, Message};
use callboard_net::{allow_blocking, spawn};
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::Instant;

use crate::answer::{Caller, Failure};
use crate::gatekeeper::{Permit, Queued};
use crate::handler::{Contained, Job, Task, contain};
use crate::method::Method;
use crate::running::{CallId, Running, Standing};

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
    _in_flight: C::InFlight,
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
            _in_flight: in_flight,
        }
    }

    /// Answers from within the connection's own handler.
    pub(crate) fn fail(&self, failure: Failure) {
        self.caller().fail(failure);
    }

    /// Runs what is left of a call that has begun.
    pub(crate) fn run(mut self, running: &Running, permit: Permit, work: Work) {
        self.permit = Some(permit);
        let goes_on = self.goes_on();
        match work {
            // In place, not by a function: what is handed over stands twice in a future, and one of over 1,000 bytes costs
            // an allocation of another kind.
            Work::Task(task) => self.start(running, goes_on, |mut call| async move {
                let outcome = Contained(task).await;
                call.end(outcome).await;
            }),
            Work::Job(job) => self.start(running, goes_on, |mut call| async move { call.run_job(job).await }),
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
                    let outcome = Contained(task).await;
                    call.end(outcome).await;
                }
                Ok(Work::Job(job)) => call.run_job(job).await,
                Err(failure) => call.end(Err(failure)).await,
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
        running.start(conn, id, |standing| {
            self.standing = Some(standing);
            spawn(task(self))
        });
    }

    async fn run_job(&mut self, job: Job) {
        let permit = self.permit.take();
        let run = move || {
            // A thread is taken until the job has ended, even if nobody waits for it any more.
            let _permit = permit;
            allow_blocking(|| contain(job))
        };
        let job = spawn_blocking(run);
        // As long as no thread has taken it, it goes with its call.
        let owned = Owned(job.abort_handle());
        let outcome = job.await.unwrap_or_else(|stopped| Err(Failure::Panicked(stopped.to_string())));
        drop(owned);
        self.end(outcome).await;
    }

    fn end(&mut self, outcome: Result<BytesMut, Failure>) -> impl Future<Output = ()> {
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
        let Some(standing) = &self.standing else { return true };
        let was_there = standing.leave();
        if was_there {
            self.standing = None;
        }
        was_there
    }

    fn caller(&self) -> Caller<'_, C> {
        Caller::new(&self.conn, &self.id, &self.method, self.one_way)
    }
}

impl<C: Connection> Drop for Later<C> {
    fn drop(&mut self) {
        if self.standing.is_some() {
            self.conn.count(Event::Cancelled);
        }
    }
}
