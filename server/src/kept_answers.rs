use std::time::Duration;

use crate::book::Window;

/// How many answers to calls with an idempotency key a [`Router`](crate::Router) remembers, and for how long.
///
/// A call under a key that is remembered is not run again: it gets the answer that the first one had, or waits for it. Past
/// any of the bounds the oldest answers are forgotten, and a repeat that comes later is run as a new call; so keep them for
/// longer than callers repeat. A call that still runs is never forgotten.
///
/// ```
/// use std::time::Duration;
/// use callboard_server::{KeptAnswers, Router};
/// let kept = KeptAnswers::default().answers(1_000).bytes(1 << 20).age(Duration::from_secs(60));
/// let router = Router::new().kept_answers(kept);
/// ```
#[derive(Debug)]
#[must_use = "it is given to a router"]
pub struct KeptAnswers {
    pub(crate) window: Window,
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
}

impl Default for KeptAnswers {
    fn default() -> Self {
        Self { window: Window { answers: 10_000, bytes: 16 << 20, age: Duration::from_mins(10) } }
    }
}
