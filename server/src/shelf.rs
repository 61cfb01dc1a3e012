use std::fmt;
use std::hash::Hasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use siphasher::sip128::{Hasher128, SipHasher};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::answer_store::{Change, Kept};
use crate::book::{Book, CallKey, Digest, Entered};
use crate::caller_id::CallerId;
use crate::kept_answers::{KeptAnswers, Stored};
use crate::kept_metrics::KeptMetrics;
use crate::writer::{Room, Unwritten, Writer, Written};

/// The shell around [`Book`]: the one call under a key that is to run holds a [`First`], others a [`Waiting`].
pub(crate) struct Shelf {
    book: Mutex<Keys>,
    bytes: usize,
    /// Where it is kept beyond the end of the program.
    writer: Option<Writer>,
}

type Keys = Book<oneshot::Sender<Told>>;

/// What becomes of a call under a key.
#[derive(Debug)]
pub(crate) enum Placed {
    First(First),
    Waits(Waiting),
    Ended(Kept),
    Conflict,
}

/// What one that waits is told.
#[derive(Debug)]
pub(crate) enum Told {
    /// The one before it does not run, so it is to.
    Turn(First),
    /// The one before it has ended so.
    Ended(Kept),
}

/// The right to run the call under a key. Where it is dropped before the call has begun, the next one gets it; after that
/// the call counts as cut off.
#[derive(Debug)]
pub(crate) struct First {
    shelf: Arc<Shelf>,
    call: Arc<CallKey>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Unbegun,
    Begun,
    Over,
}

/// A call that waits for what comes of another one under its key, until it is dropped.
#[derive(Debug)]
pub(crate) struct Waiting {
    shelf: Arc<Shelf>,
    call: Arc<CallKey>,
    number: u64,
    told: oneshot::Receiver<Told>,
}

impl Shelf {
    pub(crate) fn new(KeptAnswers { window, stored }: KeptAnswers) -> Self {
        let mut book = Book::new(window);
        let writer = stored.map(|Stored { calls, writer }| {
            let changes = book.restore(calls, Instant::now());
            // Nothing else is in the queue. Where the store fails, the next calls are told; these changes are made again at
            // the next start.
            if !changes.is_empty()
                && let Ok(room) = writer.room()
            {
                drop(room.queue(&mut book, changes));
            }
            writer
        });
        Self { book: Mutex::new(book), bytes: window.bytes, writer }
    }

    /// The name of where it is kept beyond the end of the program.
    pub(crate) fn store_id(&self) -> Option<&str> {
        self.writer.as_ref().map(Writer::id)
    }

    /// A call has come under a key.
    pub(crate) fn enter(self: &Arc<Self>, caller: CallerId, method: &str, key: &str, params: &[u8]) -> Placed {
        let call = CallKey { method: method.into(), key: key.into() };
        let mut receiver = None;
        let wait = || {
            let (sender, told) = oneshot::channel();
            receiver = Some(told);
            sender
        };
        let entered = self.lock().enter(call, digest(params), caller, Instant::now(), wait);
        match (entered, receiver) {
            (Entered::Waits(call, number), Some(told)) => {
                Placed::Waits(Waiting { shelf: Arc::clone(self), call, number, told })
            }
            (Entered::Runs(call) | Entered::Waits(call, _), _) => Placed::First(First::new(self, call)),
            (Entered::Ended(kept), _) => Placed::Ended(kept),
            (Entered::Conflict, _) => Placed::Conflict,
        }
    }

    /// So many bytes the answers may take.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    fn pass_on(self: &Arc<Self>, call: &Arc<CallKey>) {
        loop {
            let Some(next) = self.lock().pass_on(call) else { return self.flush() };
            // One that no longer waits is passed over.
            match next.send(Told::Turn(First::new(self, Arc::clone(call)))) {
                Err(Told::Turn(mut first)) => first.stage = Stage::Over,
                Err(Told::Ended(_)) => {}
                Ok(()) => return,
            }
        }
    }

    /// Has written down what was forgotten, which else waits for the next call that is: that a call was not executed is to be
    /// known after a restart, too. Where there is no room, it waits.
    fn flush(&self) {
        let Some(writer) = &self.writer else { return };
        if self.lock().has_forgotten()
            && let Ok(room) = writer.room()
        {
            drop(self.change(room, |_| None));
        }
    }

    fn end(&self, call: &Arc<CallKey>, kept: &Kept) {
        let waiting = self.lock().end(call, kept.clone(), Instant::now());
        #[cfg(feature = "planted")]
        if callboard_common::Planted::KeyForgotten.is_planted() {
            self.lock().forget_all();
        }
        for waiter in waiting {
            let _ = waiter.send(Told::Ended(kept.clone()));
        }
    }

    /// The call is about to be executed.
    async fn write_begin(&self, writer: &Writer, call: &CallKey, deadline: Option<Instant>) -> Result<(), Unwritten> {
        // A store that can't follow must not hold up what else there is to do.
        let room = writer.room()?;
        let written = self.change(room, |book| book.begin(call));
        written.known(deadline).await
    }

    /// The call was executed.
    async fn write_end(&self, writer: &Writer, call: &CallKey, kept: Kept) -> Result<(), Unwritten> {
        let room = writer.wait_for_room().await?;
        let written = self.change(room, |book| book.ending(call, kept));
        written.known(None).await
    }

    fn change(&self, room: Room<'_>, what: impl FnOnce(&mut Keys) -> Option<Change>) -> Written {
        let mut book = self.lock();
        let forgotten = book.take_forgotten();
        let changes = forgotten.into_iter().chain(what(&mut book)).collect();
        room.queue(&mut book, changes)
    }

    /// What was counted, and what is remembered now.
    pub(crate) fn metrics(&self) -> KeptMetrics {
        self.lock().metrics(Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        self.flush();
    }
}

impl First {
    fn new(shelf: &Arc<Shelf>, call: Arc<CallKey>) -> Self {
        Self { shelf: Arc::clone(shelf), call, stage: Stage::Unbegun }
    }

    /// Where calls are written down before they are executed, this is, at most until the deadline.
    ///
    /// # Errors
    /// It is not known to be written down; the call must not be executed.
    pub(crate) async fn write_down(&mut self, deadline: Option<Instant>) -> Result<(), Unwritten> {
        let Some(writer) = &self.shelf.writer else { return Ok(()) };
        // Calls that are not written down are smaller without it.
        Box::pin(self.shelf.write_begin(writer, &self.call, deadline)).await
    }

    /// From now on it may have been executed.
    pub(crate) fn begin(&mut self) {
        self.stage = Stage::Begun;
    }

    /// It was executed, and this is its answer. Where that is written down, this waits for it.
    pub(crate) async fn end(mut self, answer: Bytes) {
        let kept = Kept::Answer(answer);
        if let Some(writer) = &self.shelf.writer {
            // An answer that can't be written down is true all the same. After a restart a repeat is told that nobody knows.
            let _ = Box::pin(self.shelf.write_end(writer, &self.call, kept.clone())).await;
        }
        self.stage = Stage::Over;
        self.shelf.end(&self.call, &kept);
    }

    /// It turned out that nothing was executed: the next one may.
    pub(crate) fn give_back(mut self) {
        self.stage = Stage::Unbegun;
    }
}

impl Drop for First {
    fn drop(&mut self) {
        match self.stage {
            Stage::Unbegun => self.shelf.pass_on(&self.call),
            Stage::Begun => self.shelf.end(&self.call, &Kept::CutOff),
            Stage::Over => {}
        }
    }
}

impl Waiting {
    /// What all answers may take, in bytes.
    pub(crate) fn bound(&self) -> usize {
        self.shelf.bytes
    }

    /// What comes of the one before it, if that is known before its own caller waits no longer.
    pub(crate) async fn told(mut self, deadline: Option<Instant>) -> Option<Told> {
        let Some(deadline) = deadline else { return (&mut self.told).await.ok() };
        timeout_at(deadline, &mut self.told).await.ok()?.ok()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.shelf.lock().give_up(&self.call, self.number);
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shelf").field("bytes", &self.bytes).field("writer", &self.writer).finish_non_exhaustive()
    }
}

/// Who calls under a key is the only one who could gain by another call that looks the same, so no secret goes into this.
fn digest(params: &[u8]) -> Digest {
    let mut hasher = SipHasher::new();
    hasher.write(params);
    hasher.finish128().as_u128()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::answer_store::{AnswerStore, StoreError, StoredCall};

    /// Remembers in which order it heard that calls begin, and what it was told of calls that it did not know.
    #[derive(Clone, Debug, Default)]
    struct Heard(Arc<Mutex<(Vec<u64>, Vec<Change>)>>);

    impl AnswerStore for Heard {
        fn id(&self) -> &'static str {
            "heard"
        }

        fn load(&mut self) -> Result<Vec<StoredCall>, StoreError> {
            Ok(Vec::new())
        }

        fn write(&mut self, changes: &[Change]) -> Result<(), StoreError> {
            let mut heard = self.0.lock().unwrap();
            for change in changes {
                match change {
                    Change::Began { number, .. } => heard.0.push(*number),
                    Change::Forgotten { number } if !heard.0.contains(number) => heard.1.push(change.clone()),
                    _ => {}
                }
            }
            Ok(())
        }
    }

    /// The compiler sees to it that changes are queued while the book is borrowed; this, that it is the borrow under which they
    /// were made.
    #[test]
    fn a_store_hears_of_what_many_do_at_once_in_the_order_in_which_it_happened() {
        let heard = Heard::default();
        let shelf = Arc::new(Shelf::new(KeptAnswers::default().stored_in(heard.clone()).unwrap()));
        let begin = |first: &First| {
            let room = loop {
                if let Ok(room) = shelf.writer.as_ref().unwrap().room() {
                    break room;
                }
                thread::yield_now();
            };
            drop(shelf.change(room, |book| book.begin(&first.call)));
        };
        thread::scope(|threads| {
            for caller in 0..4 {
                let (shelf, begin) = (&shelf, &begin);
                threads.spawn(move || {
                    for number in 0..4000 {
                        let placed = shelf.enter(CallerId::direct(caller), "m", &format!("{caller} {number}"), b"1");
                        let Placed::First(first) = placed else { panic!("{placed:?}") };
                        begin(&first);
                    }
                });
            }
        });
        // The last is written when the writer has ended.
        let weak = Arc::downgrade(&shelf);
        drop(shelf);
        assert!(weak.upgrade().is_none());
        while Arc::strong_count(&heard.0) > 1 {
            thread::yield_now();
        }
        let (numbers, unknown) = &*heard.0.lock().unwrap();
        assert_eq!(numbers.len(), 16_000);
        assert!(numbers.is_sorted(), "{:?}", numbers.iter().zip(numbers.iter().skip(1)).find(|(one, next)| one > next));
        assert_eq!(*unknown, []);
    }
}
