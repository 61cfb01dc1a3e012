//! The thread that writes to a store, and the way to it.

use std::io;
use std::thread;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::answer_store::{AnswerStore, Change};
use crate::book::Book;

/// Hands changes to a store, which has a thread of its own: it may block. The thread ends when this is dropped and all has
/// been written.
#[derive(Debug)]
pub(crate) struct Writer {
    id: String,
    queue: mpsc::Sender<Job>,
}

#[derive(Debug)]
struct Job {
    changes: Vec<Change>,
    written: oneshot::Sender<bool>,
}

/// Room for changes that must not wait for it.
pub(crate) struct Room<'a>(mpsc::Permit<'a, Job>);

/// Changes that were queued. They are written, though this is dropped.
#[must_use]
pub(crate) struct Written(oneshot::Receiver<bool>);

/// Why changes are not known to have been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unwritten {
    /// So many others wait, and no more may.
    Full { bound: usize },
    /// Not in time.
    Late,
    /// The store has failed.
    Failed,
}

impl Writer {
    /// # Errors
    /// There can be no other thread.
    pub(crate) fn start(store: impl AnswerStore) -> io::Result<Self> {
        let (id, (queue, jobs)) = (store.id().to_owned(), mpsc::channel(QUEUE));
        thread::Builder::new().name(THREAD.to_owned()).spawn(move || write_all(store, jobs))?;
        Ok(Self { id, queue })
    }

    /// The store's name.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Never waits.
    pub(crate) fn room(&self) -> Result<Room<'_>, Unwritten> {
        match self.queue.try_reserve() {
            Ok(permit) => Ok(Room(permit)),
            Err(mpsc::error::TrySendError::Full(())) => Err(Unwritten::Full { bound: QUEUE }),
            Err(mpsc::error::TrySendError::Closed(())) => Err(Unwritten::Failed),
        }
    }

    /// Waits until there is some.
    pub(crate) async fn wait_for_room(&self) -> Result<Room<'_>, Unwritten> {
        self.queue.reserve().await.map(Room).map_err(|_| Unwritten::Failed)
    }
}

impl Room<'_> {
    /// What is queued later is written later. `_book` is where the changes come from: as long as it is borrowed nobody else
    /// changes it, so that the store hears of all in the order in which it happened.
    pub(crate) fn queue<B>(self, _book: &mut Book<B>, changes: Vec<Change>) -> Written {
        let (written, told) = oneshot::channel();
        self.0.send(Job { changes, written });
        Written(told)
    }
}

impl Written {
    /// Waits until all of it is written, at most until the deadline; then it may still be.
    pub(crate) async fn known(self, deadline: Option<Instant>) -> Result<(), Unwritten> {
        let outcome = match deadline {
            None => self.0.await,
            Some(deadline) => timeout_at(deadline, self.0).await.map_err(|_| Unwritten::Late)?,
        };
        if !outcome.unwrap_or(false) {
            return Err(Unwritten::Failed);
        }
        // What is there already is taken though its time is over, where the loop is late.
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) { Err(Unwritten::Late) } else { Ok(()) }
    }
}

/// What has come meanwhile is written together, since each time takes about as long.
fn write_all(mut store: impl AnswerStore, mut jobs: mpsc::Receiver<Job>) {
    let (mut batch, mut changes, mut has_failed) = (Vec::new(), Vec::new(), false);
    while jobs.blocking_recv_many(&mut batch, QUEUE) > 0 {
        changes.clear();
        changes.extend(batch.iter_mut().flat_map(|job| job.changes.drain(..)));
        let outcome = store.write(&changes);
        let is_written = outcome.is_ok();
        match outcome {
            Err(error) if !has_failed => {
                tracing::error!(error = %Told(&error), "calls under idempotency keys are refused: they can't be written down");
            }
            Ok(()) if has_failed => tracing::info!("calls under idempotency keys are taken again"),
            _ => {}
        }
        has_failed = !is_written;
        for job in batch.drain(..) {
            // One that no longer waits need not know.
            let _ = job.written.send(is_written);
        }
    }
}

/// An error with what lies behind it.
struct Told<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        self.0.source().map_or(Ok(()), |source| write!(f, ": {source}"))
    }
}

/// So many calls may wait for the store.
const QUEUE: usize = 1_024;
const THREAD: &str = "callboard-answers";
