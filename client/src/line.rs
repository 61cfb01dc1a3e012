use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use callboard_common::{
    BodyError, Connection, Encode, ErrorInfo, FLAG_ONE_WAY, Head, Message, PublishId, ResultCode, SendError, Session,
};
use callboard_net::{Address, Conn};

use crate::CallError;
use crate::deadline::Deadline;
use crate::link::Link;
use crate::request::{Request, Subject};

/// What a layer above does again on a connection that was made anew: subscribe, discover, register.
///
/// It runs before other requests of the client go on. Where the connection ends meanwhile, it runs again on the next
/// one.
pub trait Resume: Send + Sync {
    /// Asks again. What the peer refuses is the layer's own affair; an error says that the connection is of no use, and
    /// it is made anew.
    fn resume<'a>(&'a self, line: &'a Line) -> Resuming<'a>;
}

/// What [`Resume::resume`] does.
pub type Resuming<'a> = Pin<Box<dyn Future<Output = Result<(), CallError>> + Send + 'a>>;

/// One connection of a [`Client`](crate::Client): the one that is being resumed, or that of a moment.
#[derive(Clone)]
pub struct Line {
    pub(crate) link: Arc<Link>,
    pub(crate) timeout: Duration,
}

/// A [`Line`] that does not keep its connection.
#[derive(Clone)]
pub struct WeakLine {
    link: Weak<Link>,
    timeout: Duration,
}

impl WeakLine {
    /// The line, as long as somebody else keeps its connection.
    pub fn upgrade(&self) -> Option<Line> {
        Some(Line { link: self.link.upgrade()?, timeout: self.timeout })
    }
}

impl Line {
    /// The same, not keeping the connection: for what works in the background.
    pub fn downgrade(&self) -> WeakLine {
        WeakLine { link: Arc::downgrade(&self.link), timeout: self.timeout }
    }

    /// The peer that was connected to.
    pub fn address(&self) -> &Address {
        &self.link.address
    }

    /// The session; `None` where the peer speaks v1.
    pub fn session(&self) -> Option<&Session> {
        self.link.conn.session()
    }

    /// Whether there is no session though one was offered, or would have been: the peer did not say that it knows none, so
    /// it may only have stood still.
    pub fn may_know_sessions(&self) -> bool {
        self.link.doubts_v1()
    }

    /// The connection itself.
    pub fn conn(&self) -> &Conn {
        &self.link.conn
    }

    /// Whether it still takes requests.
    pub fn is_online(&self) -> bool {
        !self.link.conn.is_closed() && !self.link.is_leaving()
    }

    /// Queues a request that the peer leaves unanswered, if nothing has to be waited for; whether it did. Up to
    /// `gather` bytes wait for company, until something else is sent or they are told to leave.
    pub fn queue_one_way<B: Encode>(&self, body: &B, gather: usize) -> bool {
        self.link.queue_one_way_now(body, gather)
    }

    /// Waits until it takes no more requests: it has ended, or the peer is about to leave.
    ///
    /// # Cancel safety
    /// It only watches.
    pub async fn lost(&self) {
        tokio::select! {
            biased;
            () = self.link.conn.closed() => {}
            () = self.link.dispatch.leaving().told() => {}
        }
    }

    /// Whether the peer leaves requests unanswered that ask for it.
    pub fn knows_one_way(&self) -> bool {
        self.link.knows_one_way()
    }

    /// Queues a publish under its own id, which the peer leaves unanswered. Up to `gather` bytes wait for company.
    ///
    /// # Errors
    /// `Full`: there is no room now. It can't be written, or the connection has ended.
    pub fn publish_one_way<B: Encode>(&self, id: PublishId, body: &B, gather: usize) -> Result<(), SendError> {
        self.link.queue_head(Head { kind: body.kind(), flags: FLAG_ONE_WAY, id: &id.to_wire() }, body, gather).map(drop)
    }

    /// As [`exchange_in_order`](Self::exchange_in_order), for a publish that has an id of its own.
    ///
    /// # Errors
    /// As [`exchange_in_order`](Self::exchange_in_order).
    pub fn publish_in_order<B: Encode>(
        &self,
        id: PublishId,
        subject: &str,
        body: &B,
        done: impl FnOnce(Result<Message, CallError>) + Send + 'static,
    ) -> Result<(), CallError> {
        self.request(subject).send_named_in_order(Some(id), body, |_, answer| done(answer))
    }

    /// As [`Client::exchange`](crate::Client::exchange), on this connection only.
    ///
    /// # Errors
    /// What keeps the request from being sent, or its answer from coming.
    ///
    /// # Cancel safety
    /// As [`Client::call`](crate::Client::call).
    pub async fn exchange<B: Encode + Sync>(&self, subject: &str, body: &B) -> Result<Message, CallError> {
        let request = self.request(subject);
        let ticket = request.send(body, false).await?;
        request.answer(ticket).await
    }

    /// As [`Client::exchange_in_order`](crate::Client::exchange_in_order), on this connection only.
    ///
    /// # Errors
    /// What keeps the request from being sent at once; then `done` is not called.
    pub fn exchange_in_order<B: Encode>(
        &self,
        subject: &str,
        body: &B,
        done: impl FnOnce(Result<Message, CallError>) + Send + 'static,
    ) -> Result<(), CallError> {
        self.request(subject).send_in_order(body, |_, answer| done(answer))
    }

    /// The error that an answer with a code other than OK stands for.
    pub fn refused(&self, subject: &str, code: ResultCode, error: Option<ErrorInfo>) -> CallError {
        self.request(subject).remote(code, error)
    }

    /// The error that an answer stands for whose body can't be read.
    pub fn unreadable(&self, subject: &str, why: BodyError) -> CallError {
        self.request(subject).unreadable(why)
    }

    fn request<'a>(&'a self, subject: &'a str) -> Request<'a> {
        Request { link: &self.link, subject: Subject::Other(subject), deadline: Deadline::after(self.timeout) }
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("link", &self.link).finish_non_exhaustive()
    }
}

impl fmt::Debug for WeakLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakLine").finish_non_exhaustive()
    }
}
