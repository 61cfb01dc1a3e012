//! Calls under an idempotency key: each is executed once, and once it has begun it goes on to its end.

use std::future::pending;
use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use callboard_common::Connection;
use tokio::time::{Instant, timeout};

use super::{Later, Work};
use crate::answer::{BadKey, Failure};
use crate::answer_store::Kept;
use crate::gatekeeper::{Admitted, Left, Pass, Repeat, Waited};
use crate::handler::Contained;
use crate::shelf::{First, Told, Waiting};

/// When a call under a key is to run.
pub(crate) enum Turn {
    /// Now, as far as the key goes.
    First(First),
    /// Perhaps, if another one does not.
    After(Waiting, Repeat),
}

/// The ways of a call into its method, once it is the one to run.
pub(crate) struct Path<Enter, Begin> {
    /// Whether there is room for it; `None` where none is needed.
    pub(crate) enter: Enter,
    /// Reads the parameters, and makes what runs it.
    pub(crate) begin: Begin,
}

impl<C: Connection> Later<C> {
    /// Runs a call under a key, or waits for what comes of another one.
    pub(crate) fn run_once<Enter, Begin>(self, turn: Turn, deadline: Option<Instant>, path: Path<Enter, Begin>)
    where
        Enter: Fn() -> Option<Admitted> + Send + Sync + 'static,
        Begin: FnOnce() -> Result<Work, Failure> + Send + 'static,
    {
        let one_way = self.one_way;
        self.start(one_way, |mut call| async move {
            match turn {
                Turn::First(first) => call.run_first(first, deadline, path).await,
                Turn::After(waiting, repeat) => {
                    let bound = waiting.bound();
                    let told = waiting.told(deadline).await;
                    drop(repeat);
                    match told {
                        Some(Told::Turn(first)) => call.run_first(first, deadline, path).await,
                        Some(Told::Ended(kept)) => call.end(answer_of(kept, bound)).await,
                        None => call.end::<Bytes>(Err(Failure::Key(BadKey::StillRuns))).await,
                    }
                }
            }
        });
    }

    /// Gives the answer of another call from within the connection's own handler. `bound` is what answers may take.
    pub(crate) fn repeat(&self, kept: Kept, bound: usize) {
        match (answer_of(kept, bound), self.method()) {
            (Ok(body), Some(method)) => self.caller(method).repeat(&body),
            (Ok(_), None) => {}
            (Err(failure), _) => self.fail(failure),
        }
    }

    async fn run_first<Enter, Begin>(&mut self, mut first: First, deadline: Option<Instant>, path: Path<Enter, Begin>)
    where
        Enter: Fn() -> Option<Admitted> + Sync,
        Begin: FnOnce() -> Result<Work, Failure>,
    {
        let ready = self.ready(&mut first, deadline, &path.enter).await;
        if !self.step_aside() {
            // Its caller gave it up a moment before it would have begun: this task is about to be dropped. It may have been
            // written down, and is forgotten then.
            drop(first);
            return pending().await;
        }
        // The store's time is not the method's.
        self.pass.iter_mut().for_each(Pass::begin_again);
        let outcome = match ready {
            Ok(()) => {
                first.begin();
                self.outcome((path.begin)(), deadline).await
            }
            Err(failure) => Err(failure),
        };
        let has_run = outcome.as_ref().err().is_none_or(Failure::has_run);
        match self.told(outcome) {
            Ok(answer) => {
                first.end(answer.clone()).await;
                self.end(Ok(answer)).await;
            }
            Err(failure) => {
                if !has_run {
                    first.give_back();
                }
                self.end::<Bytes>(Err(failure)).await;
            }
        }
    }

    /// Waits for room, and until it is written down where there is a store.
    async fn ready<Enter>(&mut self, first: &mut First, deadline: Option<Instant>, enter: &Enter) -> Result<(), Failure>
    where
        Enter: Fn() -> Option<Admitted> + Sync,
    {
        self.admit(enter(), deadline).await?;
        let mut writing = pin!(first.write_down(deadline));
        let (written, has_place) = if let Ok(written) = timeout(LONG, &mut writing).await {
            (written, true)
        } else {
            // The disk stands still, perhaps for good: others are not to wait for the place.
            self.give_place(Left::Before);
            (writing.await, false)
        };
        written.map_err(|why| Failure::Key(BadKey::Unwritten(why)))?;
        if has_place { Ok(()) } else { self.admit(enter(), deadline).await }
    }

    async fn outcome(&mut self, begun: Result<Work, Failure>, deadline: Option<Instant>) -> Result<BytesMut, Failure> {
        match begun? {
            Work::Task(task) => {
                let outcome = Contained::new(task).await;
                self.give_place(Left::with(&outcome));
                outcome
            }
            Work::Job(job) => self.job(job, deadline).await,
        }
    }

    /// The answer of one that was executed, which is remembered as it is.
    fn told(&self, outcome: Result<BytesMut, Failure>) -> Result<Bytes, Failure> {
        match outcome {
            Ok(body) => Ok(body.freeze()),
            Err(failure) if failure.has_run() => {
                let Some(method) = self.method() else { return Err(failure) };
                failure.note(&self.conn, method);
                failure.into_body(method)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Waits for room, at most until the caller waits no longer.
    async fn admit(&mut self, admitted: Option<Admitted>, deadline: Option<Instant>) -> Result<(), Failure> {
        let turn = match admitted {
            None => Ok(()),
            Some(Admitted::Now(pass)) => {
                self.let_in(Some(pass));
                Ok(())
            }
            Some(Admitted::Later(mut queued)) => {
                let turn = queued.turn(deadline).await.map_err(Failure::Waited);
                turn.map(|permit| self.let_in(permit.into_pass()))
            }
            Some(Admitted::Never(full)) => Err(Failure::Full(full)),
        };
        let is_over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if is_over { Err(Failure::Waited(Waited::Expired)) } else { turn }
    }
}

fn answer_of(kept: Kept, bound: usize) -> Result<Bytes, Failure> {
    match kept {
        Kept::Answer(body) => Ok(body),
        Kept::TooLarge(bytes) => Err(Failure::Key(BadKey::NotKept { bytes, bound })),
        Kept::CutOff => Err(Failure::Key(BadKey::CutOff)),
    }
}

/// Whose disk takes longer has its place among those that run given to others meanwhile.
const LONG: Duration = Duration::from_millis(50);
