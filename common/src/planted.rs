use std::cell::Cell;

/// A bug that is there on purpose, on the thread that [plants](Planted::plant) it: what is to find bugs must find these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// A provider does not register again over a new connection.
    NotAnnouncedAgain,
    /// The list that the center gives anew after a reconnect is thrown away.
    RenewalIgnored,
    /// A subscription comes back without a word of what it has heard, and takes it that nothing was missed.
    ResumedBlindly,
    /// A subscription that comes back asks for the last message that it has heard once more.
    HeardAgain,
    /// A subscription that comes back throws away what it is told of what it has missed.
    MissedForgotten,
    /// A subscription that comes back says of one message more that it was missed.
    MissedTooMany,
    /// A peer that says nothing is never taken for dead.
    NeverDead,
    /// The center keeps a subscriber whose connection has ended.
    SubscriberKept,
    /// A call that had left goes over the next connection again.
    SentTwice,
    /// A call without an answer in time is said not to be executed.
    SaidNotExecuted,
    /// The center announces a provider before it has reached it.
    Unprobed,
    /// An answer goes to the call that was made last.
    AnsweredAnother,
    /// A connection that nobody has any longer is not closed.
    ConnectionKept,
    /// A provider says of a call whose handler has failed that it was not executed.
    RanUnsaid,
    /// A call is made again though it may have been executed and is not idempotent.
    RepeatedInDoubt,
    /// A provider forgets a key as soon as its call has ended.
    KeyForgotten,
    /// A call under a key that may have been executed is made again at whichever provider comes next.
    RepeatedElsewhere,
    /// What is told of a call's last try is told of all of them.
    ToldOfLastTry,
    /// Retries are not asked whether they are within their budget.
    BudgetIgnored,
    /// A call is executed though its caller's deadline passed while it waited.
    ExpiredRun,
    /// A provider does not hear that a call was given up.
    CancelIgnored,
    /// A call that waits to run in place is executed though its caller's deadline passed meanwhile.
    HeldTooLong,
    /// A call that waits to run in place is executed though it was given up meanwhile.
    HeldGivenUp,
    /// Those whose calls wait to run in place behind a center take no turns.
    NoTurnsInPlace,
    /// A center says of the calls that it has passed on over a connection which has ended that they were not executed.
    PassedOnUnsaid,
}

thread_local! {
    static PLANTED: Cell<Option<Planted>> = const { Cell::new(None) };
}

impl Planted {
    /// From now on this thread has this bug, or none, in place of any other.
    pub fn plant(bug: Option<Self>) {
        PLANTED.set(bug);
    }

    /// Whether this thread has it.
    pub fn is_planted(self) -> bool {
        PLANTED.get() == Some(self)
    }
}
