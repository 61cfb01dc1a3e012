use std::fmt;
use std::io;

use bytes::Bytes;

/// Keeps what a [`Router`](crate::Router) knows of calls under idempotency keys beyond the end of its program, so that a
/// repeat that comes after a restart finds what it would have found before.
///
/// `AnswerFile`, with the feature `store`, is one. A thread of its own calls [`write`](Self::write), so it may block; calls
/// wait for it twice: before they are executed, and before they are answered. What comes while it writes is given to it
/// together.
///
/// Two programs must never use one store at the same time, nor may it go back to what it held before: callers repeat a call at
/// whoever names the [`id`](Self::id) of the store that has it.
pub trait AnswerStore: fmt::Debug + Send + 'static {
    /// A name that no other store has, and that this one has had from its beginning: a UUID. Sessions tell it.
    fn id(&self) -> &str;

    /// All that it holds, in any order. It is asked once, before the first call.
    ///
    /// # Errors
    /// It can't be read.
    fn load(&mut self) -> Result<Vec<StoredCall>, StoreError>;

    /// Changes all of this, in this order, or nothing. When it returns, the changes outlast the end of the program and of the
    /// machine.
    ///
    /// Of each call it hears in this order, over all that it is given: that it has begun, that it has ended, perhaps once more
    /// that it has (see [`Change::Ended`]), and that it is forgotten. Any but the first may be left out.
    ///
    /// # Errors
    /// It can't be written: calls that were about to begin are refused, not executed, and those that have ended are answered
    /// all the same; after a restart repeats of these are told that nobody knows. The next call asks it again.
    fn write(&mut self, changes: &[Change]) -> Result<(), StoreError>;
}

/// A call under a key, as a store holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCall {
    /// What [`Change`]s know it by.
    pub number: u64,
    /// The method's name.
    pub method: String,
    /// Its key.
    pub key: String,
    /// Stands for its parameters.
    pub params: u128,
    /// How it has ended, and how long ago; `None` where it had begun and is not known to have ended.
    pub end: Option<(Kept, std::time::Duration)>,
}

/// What a store is to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A call is about to be executed.
    Began {
        /// Greater than all before it, those that [`load`](AnswerStore::load) gave among them.
        number: u64,
        /// The method's name.
        method: String,
        /// Its key.
        key: String,
        /// Stands for its parameters.
        params: u128,
    },
    /// The call of this number has just ended. Or it has before, and its answer is to be remembered no longer, while the call
    /// is: then this is told a second time, with [`Kept::TooLarge`], and the call is as old as it was.
    Ended {
        /// One that has begun.
        number: u64,
        /// How.
        kept: Kept,
    },
    /// The call of this number is not to be remembered any longer. It may not be there.
    Forgotten {
        /// Which.
        number: u64,
    },
}

/// How a call under a key has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// With an answer of this body, a result or an error of its handler.
    Answer(Bytes),
    /// With an answer of so many bytes, which are more than may be kept or than others leave room for.
    TooLarge(usize),
    /// It was cut off, and nobody knows what it did.
    CutOff,
}

/// Why a store can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another program has it, or this one has it twice.
    #[error("the answers in {place} are in use by another provider: each needs a store of its own")]
    InUse {
        /// Where the store is.
        place: String,
    },
    /// What is there is something else, or damaged.
    #[error(
        "{place} holds no answers, or is damaged ({why}): move it away to begin with none, if no call is going to be repeated \
         that was made before"
    )]
    Unreadable {
        /// Where the store is.
        place: String,
        /// What is wrong with it.
        why: String,
    },
    /// The system does not let it be read or written.
    #[error("the answers in {place} can't be read or written")]
    Io {
        /// Where the store is.
        place: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The store itself does not go on.
    #[error("the answers in {place} can't be read or written: {why}")]
    Failed {
        /// Where the store is.
        place: String,
        /// What it says.
        why: String,
    },
}
