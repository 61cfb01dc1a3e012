use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use callboard_common::{
    BodyError, Encode, ErrorInfo, Executed, Feature, Message, MessageType, PublishId, ResultCode, SendError,
};
use tokio::sync::oneshot;
use tokio::time::timeout_at;

use crate::calls::{Outcome, Place, Rejected, Told, Waiter};
use crate::deadline::Deadline;
use crate::link::Link;
use crate::{CallError, CallErrorKind, IdempotencyKey, RequestId, key};

/// One request on its way: where it goes, what its errors name, and when it is over.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) link: &'a Arc<Link>,
    pub(crate) subject: Subject<'a>,
    pub(crate) deadline: Deadline,
}

/// What an error names; made into text only where there is an error.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Subject<'a> {
    Method(&'a str),
    Other(&'a str),
}

/// A request that was queued, and the end at which its answer comes. Dropping it forgets the call.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) entered: Entered,
    pub(crate) answer: oneshot::Receiver<Told>,
    pub(crate) kind: MessageType,
    /// Where in the stream of all bytes the request begins.
    at: u64,
}

/// A call that waits; dropping it forgets the call.
#[derive(Debug)]
pub(crate) struct Entered {
    pub(crate) link: Arc<Link>,
    id: RequestId,
    /// A call was queued: where it is forgotten, its peer is told.
    is_call: bool,
    is_over: bool,
}

/// What a request's frame had seen when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing of it went out.
    Unsent,
    /// It was queued.
    Sent,
}

impl Request<'_> {
    /// Queues the request, after a wait for a place and for room where need be.
    pub(crate) async fn send<B: Encode>(self, body: &B, kept: bool) -> Result<Ticket, CallError> {
        if kept {
            take_turns().await;
        }
        self.queue(body, kept, 0).await
    }

    /// The same; up to `gather` bytes do not leave before they are told to.
    pub(crate) async fn queue<B: Encode>(self, body: &B, kept: bool, gather: usize) -> Result<Ticket, CallError> {
        self.look_first().await;
        let (ticket, waiter) = Waiter::task(kept);
        let entered = self.enter_in_turn(waiter, body.kind()).await?;
        let at = self.queue_in_time(|link| link.queue(entered.id, body, gather)).await?;
        Ok(Ticket::new(entered, ticket, body.kind(), at))
    }

    /// Queues it at once; `None` where something has to be waited for, or nothing can be sent.
    pub(crate) fn queue_now<B: Encode>(self, body: &B) -> Option<Ticket> {
        if self.link.conn.idle_for(self.deadline.began()) > PAUSE {
            return None;
        }
        let (answer, waiter) = Waiter::task(false);
        let entered = self.enter(waiter, body.kind(), Place::Free).ok()?;
        let at = self.link.queue(entered.id, body, 0).ok()?;
        Some(Ticket::new(entered, answer, body.kind(), at))
    }

    /// Queues a request whose answer nobody wants.
    pub(crate) async fn send_one_way<B: Encode>(self, body: &B) -> Result<(), CallError> {
        take_turns().await;
        if self.link.knows_one_way() {
            return self.queue_in_time(|link| link.queue_one_way(body, 0)).await.map(drop);
        }
        let entered = self.enter_in_turn(Waiter::Nobody, body.kind()).await?;
        self.queue_in_time(|link| link.queue(entered.id, body, 0)).await?;
        entered.leave();
        Ok(())
    }

    /// Queues the request, or fails where it would have to wait; `done` hears the answer on the connection's task, and
    /// is not called if this fails.
    pub(crate) fn send_in_order<B, D>(self, body: &B, done: D) -> Result<(), CallError>
    where
        B: Encode,
        D: FnOnce(Request<'_>, Result<Message, CallError>) + Send + 'static,
    {
        self.send_named_in_order(None, body, done)
    }

    /// The same, for a publish that has an id of its own.
    pub(crate) fn send_named_in_order<B, D>(self, name: Option<PublishId>, body: &B, done: D) -> Result<(), CallError>
    where
        B: Encode,
        D: FnOnce(Request<'_>, Result<Message, CallError>) + Send + 'static,
    {
        let (link, deadline) = (Arc::clone(self.link), self.deadline);
        let (is_method, subject): (_, Box<str>) = match self.subject {
            Subject::Method(method) => (true, method.into()),
            Subject::Other(subject) => (false, subject.into()),
        };
        let kind = body.kind().answer();
        let waiter = Waiter::InOrder(Box::new(move |outcome| {
            let subject = if is_method { Subject::Method(&subject) } else { Subject::Other(&subject) };
            let request = Request { link: &link, subject, deadline };
            done(request, request.outcome(outcome, kind));
        }));
        let overdue = self.link.calls.overdue();
        let entered = self.enter_now(waiter, body.kind())?;
        let queued = match name {
            None => self.link.queue(entered.id, body, 0),
            Some(name) => self.link.queue_named(name, entered.id, body),
        };
        let id = entered.leave();
        match queued {
            // If the connection has just ended, `done` has heard of it and it must not be told twice.
            Err(e) if self.link.forget(id).is_some() => Err(self.unsendable(e)),
            Err(_) => Ok(()),
            Ok(_) => {
                // Its time may have been up before it was queued: then the word of that was too early.
                let is_call = body.kind() == MessageType::RpcRequest;
                if is_call && self.link.calls.overdue() != overdue && !self.link.calls.waits(id) {
                    self.link.cancel(id);
                }
                Ok(())
            }
        }
    }

    /// Waits for the answer.
    pub(crate) async fn answer(self, mut ticket: Ticket) -> Result<Message, CallError> {
        let told = (&mut ticket.answer).await;
        let kind = ticket.kind;
        self.outcome(ticket.outcome(told.ok()), kind)
    }

    /// What a caller is told.
    pub(crate) fn outcome(self, outcome: Outcome, kind: MessageType) -> Result<Message, CallError> {
        match outcome {
            Outcome::Answered(message) if message.kind() == kind => Ok(message),
            Outcome::Answered(message) => {
                let what = format!("it was answered with {} in place of {kind}", message.kind());
                Err(self.error(CallErrorKind::Decode, what).with_executed(Executed::Unknown))
            }
            Outcome::Disconnected(stage) => Err(self.disconnected(stage)),
            Outcome::Late => Err(self.late(Stage::Sent)),
        }
    }

    /// After a pause the peer's end may be in the socket and not yet seen: the runtime looks before a request goes out,
    /// which could then not be told from one that was executed.
    async fn look_first(self) {
        if self.link.conn.idle_for(self.deadline.began()) > PAUSE {
            tokio::task::yield_now().await;
        }
    }

    /// Enters the call, after a wait for a place where need be.
    async fn enter_in_turn(self, waiter: Waiter, kind: MessageType) -> Result<Entered, CallError> {
        let waiter = match self.enter(waiter, kind, Place::Free) {
            Err(Rejected::Full(waiter)) => waiter,
            entered => return entered.map_err(|why| self.not_entered(&why)),
        };
        let place = self.in_time(self.link.calls.place()).await?.ok_or_else(|| self.disconnected(Stage::Unsent))?;
        self.enter(waiter, kind, Place::Handed(place)).map_err(|why| self.not_entered(&why))
    }

    /// Enters the call, or fails where it would have to wait.
    fn enter_now(self, waiter: Waiter, kind: MessageType) -> Result<Entered, CallError> {
        self.enter(waiter, kind, Place::Free).map_err(|why| self.not_entered(&why))
    }

    #[inline]
    fn enter(self, waiter: Waiter, kind: MessageType, place: Place<'_>) -> Result<Entered, Rejected> {
        let id = self.link.calls.enter(&self.link.conn, waiter, kind, self.deadline.at(), place)?;
        Ok(Entered { link: Arc::clone(self.link), id, is_call: false, is_over: false })
    }

    async fn queue_in_time(self, queue: impl Fn(&Link) -> Result<u64, SendError>) -> Result<u64, CallError> {
        loop {
            match queue(self.link) {
                Ok(at) => return Ok(at),
                Err(SendError::Full) => {}
                Err(e) => return Err(self.unsendable(e)),
            }
            self.in_time(self.link.conn.room()).await?.map_err(|e| self.unsendable(e))?;
        }
    }

    /// What comes before the request is queued.
    async fn in_time<F: Future>(self, wait: F) -> Result<F::Output, CallError> {
        timeout_at(self.deadline.at(), wait).await.map_err(|_| self.late(Stage::Unsent))
    }
}

/// Errors.
impl Request<'_> {
    pub(crate) fn error(self, kind: CallErrorKind, what: impl Into<Cow<'static, str>>) -> CallError {
        CallError::new(kind, self.link.address.to_string(), self.subject.to_string(), what)
    }

    pub(crate) fn late(self, stage: Stage) -> CallError {
        let given = whole_ms(self.deadline.given());
        match stage {
            #[cfg(feature = "planted")]
            Stage::Sent if callboard_common::Planted::SaidNotExecuted.is_planted() => {
                self.error(CallErrorKind::Timeout, "planted").with_executed(Executed::No)
            }
            Stage::Sent => self.error(CallErrorKind::Timeout, format!("no answer within {given:?}")),
            Stage::Unsent => self
                .error(CallErrorKind::Timeout, format!("it could not be sent within {given:?}"))
                .with_executed(Executed::No)
                .with_advice("repeat it later, or allow it more time"),
        }
    }

    /// Whether a call under this key may be sent.
    pub(crate) fn permits(self, key: &IdempotencyKey) -> Result<(), CallError> {
        if !key.is_valid() {
            let what = format!("its idempotency key is not of 1 to {} bytes", key::MAX_BYTES);
            return Err(self.error(CallErrorKind::Encode, what).with_advice("take another one, for example a UUID"));
        }
        if !self.link.knows(Feature::Keys) {
            let what = "the peer knows no idempotency keys, so that a repeat might be executed twice";
            return Err(self.error(CallErrorKind::Unsupported, what));
        }
        Ok(())
    }

    /// A call under a key may have been executed, and this is not the peer that would know.
    pub(crate) fn stranger(self) -> CallError {
        let what = "nobody knows whether it was executed, and the peer is another one now, which does not know its key";
        self.error(CallErrorKind::Disconnected, what)
            .with_executed(Executed::Unknown)
            .with_advice("find out whether it was executed, then call under a new key if need be")
    }

    /// Another connection was waited for in vain.
    pub(crate) fn lost(self) -> CallError {
        let (reason, given) = (self.link.end(), whole_ms(self.deadline.given()));
        let what = format!("the connection was lost ({reason}), and could not be made again within {given:?}");
        self.error(CallErrorKind::Disconnected, what)
            .with_executed(Executed::No)
            .with_advice("check that the peer runs and can be reached; the client goes on trying")
    }

    pub(crate) fn disconnected(self, stage: Stage) -> CallError {
        let error = self.error(CallErrorKind::Disconnected, format!("the connection is closed: {}", self.link.end()));
        match stage {
            #[cfg(feature = "planted")]
            Stage::Sent if callboard_common::Planted::SentTwice.is_planted() => error.with_executed(Executed::No),
            Stage::Sent => error,
            Stage::Unsent => error
                .with_executed(Executed::No)
                .with_advice("repeat it; a client that was not closed connects again by itself"),
        }
    }

    pub(crate) fn remote(self, code: ResultCode, error: Option<ErrorInfo>) -> CallError {
        // A center that passes calls on says so of its provider. What did not run may be called elsewhere, where a
        // connection that has ended would be waited for.
        let is_gone = |error: &&ErrorInfo| code == ResultCode::Disconnected && error.executed == Executed::Unknown;
        if let Some(gone) = error.as_ref().filter(is_gone) {
            return self.error(CallErrorKind::Disconnected, gone.message.clone());
        }
        CallError::remote(self.link.address.to_string(), self.subject.to_string(), code, error)
    }

    pub(crate) fn unreadable(self, why: BodyError) -> CallError {
        self.error(CallErrorKind::Decode, "the answer can't be read").with_executed(Executed::Unknown).with_source(why)
    }

    fn not_entered(self, why: &Rejected) -> CallError {
        match why {
            Rejected::Closed => self.disconnected(Stage::Unsent),
            Rejected::Full(_) => {
                self.error(CallErrorKind::Overloaded, "as many calls as may wait for their answers already")
            }
        }
    }

    pub(crate) fn unsendable(self, why: SendError) -> CallError {
        match why {
            SendError::Encode(why) => {
                self.error(CallErrorKind::Encode, "the request can't be written").with_source(why)
            }
            SendError::Full => self
                .error(CallErrorKind::Overloaded, "the peer reads too slowly: the outbox is full")
                .with_advice("wait before more is sent, or raise queue_bytes"),
            _ => self.disconnected(Stage::Unsent),
        }
    }
}

/// Lets other tasks run now and then: who sends in a loop and waits for no answer, or fails at once, has no other place to. On a runtime of
/// one thread the connection's task, which writes what was sent, would get no turn.
pub(crate) async fn take_turns() {
    tokio::task::coop::consume_budget().await;
}

/// Longer than calls that follow each other are apart.
const PAUSE: Duration = Duration::from_millis(1);

/// A duration as people read it.
fn whole_ms(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_micros().div_ceil(1000)).unwrap_or(u64::MAX))
}

impl Ticket {
    #[inline]
    fn new(mut entered: Entered, answer: oneshot::Receiver<Told>, kind: MessageType, at: u64) -> Self {
        entered.is_call = kind == MessageType::RpcRequest;
        // Its time was up before it was queued: the word of that was too early.
        if entered.is_call && !answer.is_empty() {
            entered.link.cancel(entered.id);
        }
        Self { entered, answer, kind: kind.answer(), at }
    }

    /// How the wait has ended, if this is what was told. Without a word the connection has ended: a request of which the
    /// socket took nothing did not leave.
    pub(crate) fn outcome(&mut self, told: Option<Told>) -> Outcome {
        self.entered.finish();
        match told {
            Some(Told::Answer(message)) => Outcome::Answered(message),
            Some(Told::Late) => Outcome::Late,
            None if self.at < self.entered.link.conn.sent_bytes() => Outcome::Disconnected(Stage::Sent),
            None => Outcome::Disconnected(Stage::Unsent),
        }
    }
}

impl Entered {
    /// The wait is over: there is nothing left to forget.
    fn finish(&mut self) {
        self.is_over = true;
    }

    /// The call goes on waiting without this.
    fn leave(mut self) -> RequestId {
        self.is_over = true;
        self.id
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        // Before its place is free: whoever takes that must not be one too many for the peer.
        if self.is_call && self.link.calls.waits(self.id) {
            self.link.cancel(self.id);
        }
        self.link.forget(self.id);
    }
}

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method(method) => write!(f, "method \"{method}\""),
            Self::Other(subject) => f.write_str(subject),
        }
    }
}
