use callboard_common::Missed;

use crate::News;

/// What a [`Subscription`](crate::Subscription) has to tell: messages, and where some are missing.
///
/// What was received and what was told to be missing is what was published.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A message.
    Message(News),
    /// Messages were left out, since they came faster than they were taken. Where the center gives no numbers, they are
    /// counted from the beginning of the subscription.
    Lagged {
        /// The number of the first that is missing.
        from: u64,
        /// The number of the last.
        to: u64,
    },
    /// The connection was lost, and the client makes it again. What is published meanwhile comes later, or is told to
    /// be missing.
    Disconnected,
    /// It is subscribed again.
    Resumed {
        /// What was published meanwhile and does not come.
        missed: Missed,
    },
}
