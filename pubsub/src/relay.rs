use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use callboard_client::{CallError, CallErrorKind, Centers, Line, deadline_after, spawn};
use callboard_common::{Executed, PublishId};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::hub::subject;
use crate::outgoing::Outgoing;
use crate::unconfirmed::{TakenOut, Unconfirmed};

mod pump;
mod shunned;
mod signs;

/// Publishes to one of several centers: to the first that is there, and as long as it is there. What it does not confirm
/// is published again, under the same ids, at the next.
///
/// A task sends, so that this goes on whether or not anybody publishes; it ends when all that was published is confirmed
/// and nobody has the relay any more, or [`LAST_WORDS`] after that.
pub(crate) struct Relay(Arc<Shared>);

struct Shared {
    run: [u8; 16],
    centers: Centers,
    state: Mutex<State>,
    /// Tells the task that there is something to do.
    work: Notify,
    /// Tells the task that something waits to be confirmed.
    begins_to_wait: Notify,
    /// Nobody has the relay any more.
    dropped: watch::Sender<bool>,
    progress: watch::Sender<Progress>,
    /// What a center takes, as far as is known.
    max_frame_bytes: AtomicUsize,
}

struct State {
    queue: Unconfirmed<Arc<Outgoing>>,
    /// Counts the connections over which it published.
    turn: u64,
    asks: Asks,
    /// The center has given a sign of life of late, while something waited to be confirmed.
    lives: bool,
}

/// The PINGs that will confirm what was sent before them.
#[derive(Debug, Default)]
struct Asks {
    under_way: usize,
    /// Something was sent since that nobody will confirm by itself, and so much.
    is_due: bool,
    bytes: usize,
}

impl Asks {
    fn sent(&mut self, bytes: usize) {
        self.is_due |= bytes > 0;
        self.bytes += bytes;
    }

    /// Whether one is to be sent, which is under way then.
    fn begin(&mut self) -> bool {
        let is_much = self.bytes >= pump::ASK_BYTES && self.under_way < MOST_ASKS;
        let begins = self.is_due && (self.under_way == 0 || is_much);
        if begins {
            *self = Self { under_way: self.under_way + 1, is_due: false, bytes: 0 };
        }
        begins
    }

    const fn end(&mut self, is_handled: bool) {
        self.under_way -= 1;
        self.is_due |= !is_handled;
    }
}

/// What those who wait are told; also that the center takes some of what waits, which changes nothing here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    confirmed: u64,
    /// No center is left.
    ended: bool,
}

/// What a peer takes.
fn bound_of(line: &Line) -> usize {
    let bound = line.session().and_then(|session| usize::try_from(session.limits.max_frame_bytes).ok());
    bound.unwrap_or(usize::MAX)
}

/// So many PINGs may be under way: one each [`pump::ASK_BYTES`] of all that may wait.
const MOST_ASKS: usize = 16;
/// How long what was published may take to leave once nobody has the relay any more.
const LAST_WORDS: Duration = Duration::from_secs(5);

impl Relay {
    /// # Panics
    /// Outside of a tokio runtime.
    pub(crate) fn start(centers: &Centers) -> Self {
        let state = State { queue: Unconfirmed::new(), turn: 0, asks: Asks::default(), lives: false };
        let shared = Arc::new(Shared {
            run: uuid::Uuid::new_v4().into_bytes(),
            centers: centers.clone(),
            state: Mutex::new(state),
            work: Notify::new(),
            begins_to_wait: Notify::new(),
            dropped: watch::Sender::new(false),
            progress: watch::Sender::default(),
            max_frame_bytes: AtomicUsize::new(centers.online().map_or(usize::MAX, |center| bound_of(&center.line()))),
        });
        spawn(pump::run(Arc::clone(&shared)));
        Self(shared)
    }

    /// Publishes a message, which may leave later; gives its number. Waits as long as too much is not confirmed yet.
    ///
    /// # Errors
    /// `Encode`: it is too large. `Timeout`: nothing was confirmed, or taken of what waits, for so long. `Disconnected`: no center is left.
    pub(crate) async fn publish(&self, outgoing: Outgoing, time: Duration) -> Result<u64, CallError> {
        consume_budget().await;
        self.push(outgoing, time).await
    }

    /// Publishes a message, and waits until a center has handled it.
    ///
    /// # Errors
    /// Those of [`publish`](Self::publish), within this time, and what the center answers.
    pub(crate) async fn publish_and_wait(
        &self,
        topic: &Arc<str>,
        value: Bytes,
        time: Duration,
    ) -> Result<(), CallError> {
        let until = deadline_after(time);
        let (told, answer) = oneshot::channel();
        let pushing = timeout_at(until, self.push(Outgoing::new(topic, value, Some(told)), time));
        let number = pushing.await.unwrap_or_else(|_| Err(self.late(topic, time, Executed::No)))?;
        match timeout_at(until, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(self.ended(topic).with_executed(Executed::Unknown)),
            Err(_) => {
                let is_unsent = self.0.take_back(number);
                Err(self.late(topic, time, if is_unsent { Executed::No } else { Executed::Unknown }))
            }
        }
    }

    /// Waits until all up to this number is confirmed.
    ///
    /// # Errors
    /// `Timeout`: nothing was confirmed, or taken of what waits, for so long. `Disconnected`: no center is left.
    pub(crate) async fn settled(&self, topic: &Arc<str>, number: u64, time: Duration) -> Result<(), CallError> {
        let mut progress = self.0.progress.subscribe();
        loop {
            let Progress { confirmed, ended, .. } = *progress.borrow_and_update();
            if confirmed >= number {
                return Ok(());
            }
            if ended {
                return Err(self.ended(topic).with_executed(Executed::Unknown));
            }
            let changed = timeout(time, progress.changed()).await;
            changed.map_err(|_| self.late(topic, time, Executed::Unknown))?.unwrap_or_default();
        }
    }

    async fn push(&self, outgoing: Outgoing, time: Duration) -> Result<u64, CallError> {
        let (topic, bytes) = (Arc::clone(outgoing.topic()), outgoing.frame_bytes());
        let max_frame_bytes = self.0.max_frame_bytes.load(Relaxed);
        if bytes > max_frame_bytes {
            let what = format!("the message takes {bytes} bytes, and the center takes {max_frame_bytes} at most");
            return Err(self.error(CallErrorKind::Encode, &topic, what));
        }
        let outgoing = Arc::new(outgoing);
        if let Some(number) = self.try_push(&outgoing, bytes) {
            return Ok(number);
        }
        let mut progress = self.0.progress.subscribe();
        loop {
            if progress.borrow_and_update().ended {
                return Err(self.ended(&topic));
            }
            if let Some(number) = self.try_push(&outgoing, bytes) {
                return Ok(number);
            }
            let changed = timeout(time, progress.changed()).await;
            changed.map_err(|_| self.late(&topic, time, Executed::No))?.unwrap_or_default();
        }
    }

    fn try_push(&self, outgoing: &Arc<Outgoing>, bytes: usize) -> Option<u64> {
        let mut state = self.0.lock();
        if state.queue.is_full() || self.0.progress.borrow().ended {
            return None;
        }
        let number = state.queue.push(Arc::clone(outgoing), bytes);
        drop(state);
        self.0.work.notify_one();
        Some(number)
    }
}

/// Errors.
impl Relay {
    fn error(&self, kind: CallErrorKind, topic: &str, what: impl Into<String>) -> CallError {
        let centers: Vec<_> = self.0.centers.iter().map(|center| center.address().to_string()).collect();
        CallError::new(kind, centers.join(","), subject(topic), what.into())
    }

    fn late(&self, topic: &str, time: Duration, executed: Executed) -> CallError {
        let (what, advice) = if self.0.lock().lives {
            let what = format!("what was published was not confirmed within {time:?}, though the center lives");
            (
                what,
                "slow subscribers hold it up: publish less, or allow more time; what was queued is published in its turn",
            )
        } else {
            let what = format!("no center has confirmed what was published within {time:?}");
            (what, "check that one of the centers runs; what was queued is published once one is there")
        };
        self.error(CallErrorKind::Timeout, topic, what).with_executed(executed).with_advice(advice)
    }

    fn ended(&self, topic: &str) -> CallError {
        let what = "the connections to all centers are closed";
        self.error(CallErrorKind::Disconnected, topic, what).with_executed(Executed::No)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.0.dropped.send_replace(true);
        self.0.work.notify_one();
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("progress", &*self.0.progress.borrow()).finish_non_exhaustive()
    }
}

impl Shared {
    /// What a message is known by.
    const fn id(&self, number: u64) -> PublishId {
        PublishId { run: self.run, number }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one back that was not sent; whether it did.
    fn take_back(&self, number: u64) -> bool {
        let (is_unsent, confirmed) = {
            let mut state = self.lock();
            (state.queue.take_back(number, Instant::now()), state.queue.confirmed_up_to())
        };
        self.confirmed(confirmed);
        is_unsent
    }

    /// It can't be sent, and never will be.
    fn undeliverable(&self, number: u64, outgoing: &Outgoing, why: CallError) {
        let (taken, was_sent, confirmed) = {
            let mut state = self.lock();
            let was_sent = state.queue.was_sent(number);
            (state.queue.take_out(number, Instant::now()), was_sent, state.queue.confirmed_up_to())
        };
        // One that is confirmed has arrived; it only can't be repeated.
        if taken == TakenOut::Waiting {
            tracing::error!(topic = %outgoing.topic(), %why, "a message can't be published, and is dropped");
            outgoing.lost(if was_sent { why.with_executed(Executed::Unknown) } else { why });
        }
        // Afterwards: who hears that all is settled asks what was lost.
        self.confirmed(confirmed);
    }

    /// Tells those who wait; what was told later is not taken back.
    fn confirmed(&self, up_to: u64) {
        self.progress.send_modify(|progress| progress.confirmed = progress.confirmed.max(up_to));
    }

    /// Whether nobody has the relay any more, and all is confirmed.
    fn is_done(&self) -> bool {
        let dropped = *self.dropped.borrow();
        dropped && self.lock().queue.is_settled()
    }

    /// Waits until nobody has the relay any more, and, if it has any, as long as its last words may take after that.
    async fn given_up(&self) {
        let mut dropped = self.dropped.subscribe();
        // The sender lives as long as this.
        let _ = dropped.wait_for(|dropped| *dropped).await;
        if !self.is_done() {
            sleep(LAST_WORDS).await;
        }
    }
}

#[cfg(test)]
mod tests;
