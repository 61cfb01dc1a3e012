use std::time::Duration;

use crate::answer_store::{AnswerStore, StoreError, StoredCall};
use crate::book::Window;
use crate::writer::Writer;

/// How many answers to calls with an idempotency key a [`Router`](crate::Router) remembers, and for how long.
///
/// A call under a key that is remembered is not run again: it gets the answer that the first one had, or waits for it. Past
/// any of the bounds the oldest answers are forgotten of the connection that has most, and a repeat that comes later is run
/// as a new call; so keep them for longer than callers repeat. Who makes many calls under keys, or has long answers, so pushes
/// out its own and not those of others, also where they call through one center; all that a [store](Self::stored_in) has
/// brought back counts as one caller's. A call that still runs is never forgotten.
///
/// ```
/// use std::time::Duration;
/// use callboard_server::{KeptAnswers, Router};
/// let kept = KeptAnswers::default().answers(1_000).bytes(1 << 20).age(Duration::from_secs(60));
/// let router = Router::new().kept_answers(kept);
/// ```
///
/// They are kept in memory, unless a [store](Self::stored_in) is given.
#[derive(Debug)]
#[must_use = "it is given to a router"]
pub struct KeptAnswers {
    pub(crate) window: Window,
    pub(crate) stored: Option<Stored>,
}

/// What a store has held, and the way to it.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) calls: Vec<StoredCall>,
    pub(crate) writer: Writer,
}

impl KeptAnswers {
    /// How many answers are remembered. Default 10,000.
    ///
    /// # Panics
    /// `answers` is 0: no repeat would ever be known.
    #[track_caller]
    pub fn answers(mut self, answers: usize) -> Self {
        assert!(answers > 0, "an answer at least has to be remembered");
        self.window.answers = answers;
        self
    }

    /// How many bytes they may take, with the names of their methods, their keys and 256 bytes each. Default 16 MiB. Of an
    /// answer that is larger by itself only is remembered that it was given: a repeat is answered TOO_LARGE, executed yes.
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.window.bytes = bytes;
        self
    }

    /// How long an answer is remembered. Default 10 min.
    pub fn age(mut self, age: Duration) -> Self {
        self.window.age = age;
        self
    }

    /// Keeps them in a store as well, so that a repeat that comes after a restart of the program finds them. Default: in
    /// memory only.
    ///
    /// A call under a key is then written down **before** it is executed, and its answer before it is sent, each together with
    /// what else has come meanwhile; calls without a key are as fast as ever. One that was written down without an answer
    /// when the program ended is not executed again: a repeat is answered INTERNAL_ERROR, executed unknown. While the store can't
    /// be written, or 1,024 calls wait for it, calls under keys are refused, not executed (UNAVAILABLE, OVERLOADED; TIMEOUT
    /// where their own time is over first). An answer that can't be written is given all the same, and remembered in memory.
    ///
    /// What it holds is read here, which blocks; each bound counts for it, too, the age by the time that the store says.
    ///
    /// # Errors
    /// It can't be read, or there can be no thread for it.
    pub fn stored_in(mut self, mut store: impl AnswerStore) -> Result<Self, StoreError> {
        let (place, calls) = (format!("store {}", store.id()), store.load()?);
        let writer = Writer::start(store).map_err(|source| StoreError::Io { place, source })?;
        self.stored = Some(Stored { calls, writer });
        Ok(self)
    }
}

impl Default for KeptAnswers {
    fn default() -> Self {
        Self { window: Window { answers: 10_000, bytes: 16 << 20, age: Duration::from_mins(10) }, stored: None }
    }
}
