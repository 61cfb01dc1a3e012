//! What comes of a call, and how its caller is told.

use std::cell::Cell;

use bytes::{Bytes, BytesMut};
use callboard_common::{
    Codec, Connection, Encode, EncodeError, ErrorInfo, Event, Executed, Head, Json, MessageType, ResultCode, RpcAnswer,
    RpcError, SendError,
};
use serde::Serialize;

use crate::admission::{Closed, Full, Passes};
use crate::gatekeeper::Waited;
use crate::method::{Method, Type};
use crate::method_error::MethodError;
use crate::parameters::{BadParameters, shorten};
use crate::writer::Unwritten;

/// Why a call has no result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The handler was not asked.
    Parameters(BadParameters),
    /// The handler was not asked: too many others are.
    Full(Full),
    /// The handler was not asked: the caller had no time left for it.
    Late,
    /// The handler was not asked: it was not the call's turn in time.
    Waited(Waited),
    /// The handler's own error.
    Method(MethodError),
    /// The handler panicked, with this text.
    Panicked(String),
    /// The handler's result is not what its description says, or can't be written.
    BadResult(String),
    /// The answer would be over the bound on a frame.
    TooLarge(EncodeError),
    /// The call's idempotency key has been given before.
    Key(BadKey),
}

/// Why a call has no answer whose idempotency key has been given before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadKey {
    /// To a call with other parameters.
    Conflict,
    /// To a call that had not ended when this one's time was over.
    StillRuns,
    /// To a call that was cut off.
    CutOff,
    /// To a call whose answer had so many bytes, more than are kept.
    NotKept { bytes: usize, bound: usize },
    /// Or it may not have been, but the call is not written down.
    Unwritten(Unwritten),
}

/// How a method's result is written for one caller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResultForm {
    pub(crate) returns: Type,
    pub(crate) v1: bool,
}

impl ResultForm {
    /// Appends the body of the answer. This runs code of the result's type.
    pub(crate) fn write<R: Serialize>(self, result: &R, out: &mut BytesMut) -> Result<(), EncodeError> {
        RpcAnswer { result, v1: self.v1 }.encode::<Json>(out)
    }

    /// The checked body in a buffer of its own.
    pub(crate) fn written<R: Serialize>(self, result: &R) -> Result<BytesMut, Failure> {
        self.check(result)?;
        let mut out = BytesMut::with_capacity(LEAST_RESULT_BYTES);
        self.write(result, &mut out).map_err(Failure::unsendable)?;
        Ok(out)
    }

    /// Holds the result against its description, in debug builds only: it is written once more for this.
    pub(crate) fn check<R: Serialize>(self, result: &R) -> Result<(), Failure> {
        if !cfg!(debug_assertions) || self.returns == Type::Any {
            return Ok(());
        }
        let mut out = BytesMut::new();
        Json::write(result, &mut out).map_err(Failure::unsendable)?;
        let shape = Json::check(&out).map(Json::shape).map_err(|why| Failure::BadResult(why.to_string()))?;
        if self.returns.accepts(shape) {
            return Ok(());
        }
        Err(Failure::BadResult(format!("result: expected {}, got {shape}", self.returns)))
    }
}

impl Failure {
    pub(crate) fn unsendable(why: EncodeError) -> Self {
        match why {
            EncodeError::TooLarge { .. } => Self::TooLarge(why),
            other => Self::BadResult(format!("result: {other}")),
        }
    }

    /// Whether the handler was asked.
    pub(crate) const fn has_run(&self) -> bool {
        matches!(self, Self::Method(_) | Self::Panicked(_) | Self::BadResult(_) | Self::TooLarge(_))
    }

    /// What its caller is told of whether the handler ran.
    const fn executed(&self) -> Executed {
        match self {
            Self::Key(BadKey::StillRuns | BadKey::CutOff) => Executed::Unknown,
            Self::Key(BadKey::NotKept { .. }) => Executed::Yes,
            _ if self.has_run() => Executed::Yes,
            _ => Executed::No,
        }
    }

    /// The body of the answer to a peer with a session.
    pub(crate) fn into_body(self, method: &Method) -> Result<Bytes, Self> {
        let (code, error) = self.into_answer(method);
        let mut body = BytesMut::new();
        RpcError { code, error: &error, v1: false }.encode::<Json>(&mut body).map_err(Self::unsendable)?;
        Ok(body.freeze())
    }

    /// Counts it and tells the log what the caller is not told or can't do anything about.
    pub(crate) fn note<C: Connection>(&self, conn: &C, method: &Method) {
        let method = method.name();
        match self {
            Self::Parameters(_) | Self::Key(BadKey::Conflict | BadKey::Unwritten(Unwritten::Failed)) => {
                conn.count(Event::Refused);
            }
            Self::Full(_)
            | Self::Waited(Waited::TooLong(_) | Waited::Displaced(_))
            | Self::Key(BadKey::Unwritten(Unwritten::Full { .. })) => {
                conn.count(Event::Overloaded);
            }
            Self::Late | Self::Waited(Waited::Expired) | Self::Key(BadKey::Unwritten(Unwritten::Late)) => {
                conn.count(Event::Expired);
            }
            Self::Method(_) | Self::Key(_) => {}
            Self::Panicked(text) => {
                conn.count(Event::Panicked);
                tracing::error!(method, peer = conn.peer(), panic = %text, "a method panicked");
            }
            Self::BadResult(why) => {
                tracing::error!(method, peer = conn.peer(), why = %why, "a method's result can't be sent");
            }
            Self::TooLarge(why) => {
                tracing::warn!(method, peer = conn.peer(), %why, "a method's answer is too large to be sent");
            }
        }
    }

    fn into_answer(self, method: &Method) -> (ResultCode, ErrorInfo) {
        match self {
            Self::Parameters(why) => (ResultCode::InvalidParams, why.into_info()),
            Self::Full(full) => (ResultCode::Overloaded, full_info(full, method)),
            Self::Late => {
                let text = format!("the caller's deadline had passed when this call of {:?} came", method.name());
                (ResultCode::Timeout, ErrorInfo::not_executed(text))
            }
            Self::Waited(waited) => waited_info(waited, method),
            #[cfg(feature = "planted")]
            Self::Method(_) if callboard_common::Planted::RanUnsaid.is_planted() => {
                (ResultCode::Application, ErrorInfo::not_executed("planted"))
            }
            Self::Method(why) => (ResultCode::Application, why.into_info()),
            Self::Panicked(_) => {
                let message = format!("method {:?} panicked; its provider's log says why", method.name());
                (ResultCode::InternalError, ErrorInfo::executed(message))
            }
            Self::BadResult(why) => (ResultCode::InternalError, ErrorInfo::executed(shorten(&why))),
            Self::TooLarge(why) => {
                let error = ErrorInfo::executed(format!("the answer can't be sent: {why}")).with_limit_of(&why);
                (ResultCode::TooLarge, error)
            }
            Self::Key(why) => key_info(why, method),
        }
    }
}

fn full_info(full: Full, method: &Method) -> ErrorInfo {
    let name = method.name();
    let (text, limit, bound) = match full {
        Full::Gate(closed) => full_gate(closed, name),
        Full::Method { running, waiting } => {
            (format!("method {name:?} is full (calls that run: {running}, that wait: {waiting})"), "queue", waiting)
        }
        Full::Total { waiting } => {
            (format!("this provider is full (calls that wait: {waiting})"), "total_queue", waiting)
        }
        Full::MethodBytes { bound } | Full::Bytes { bound } => {
            (format!("method {name:?} is busy, and no more than {bound} bytes of calls may wait"), "queue_bytes", bound)
        }
    };
    ErrorInfo::not_executed(text + "; call again later").with_limit(limit, bound)
}

/// What a call is told that may not wait, with the name of the limit and its value.
fn full_gate(Closed { passes, running }: Closed, name: &str) -> (String, &'static str, usize) {
    let (what, limit) = match passes {
        Passes::Method => (format!("method {name:?} is full (calls that run: {running})"), "concurrency"),
        Passes::Blocking => (format!("all threads for methods that block are taken ({running})"), "blocking_threads"),
        Passes::All => (format!("this provider is full (calls that run: {running})"), "total_concurrency"),
    };
    (what + ", and none of its calls may wait", limit, running)
}

fn waited_info(waited: Waited, method: &Method) -> (ResultCode, ErrorInfo) {
    let name = method.name();
    match waited {
        Waited::Expired => {
            let text = format!("method {name:?} is busy: the caller's deadline passed before it was this call's turn");
            (ResultCode::Timeout, ErrorInfo::not_executed(text))
        }
        Waited::TooLong(age) => {
            let text = format!("method {name:?} is busy: it was not this call's turn within {age:?}; call again later");
            let bound = usize::try_from(age.as_millis()).unwrap_or(usize::MAX);
            (ResultCode::Overloaded, ErrorInfo::not_executed(text).with_limit("queue_age_ms", bound))
        }
        Waited::Displaced(full) => (ResultCode::Overloaded, full_info(full, method)),
    }
}

fn key_info(why: BadKey, method: &Method) -> (ResultCode, ErrorInfo) {
    let name = method.name();
    let unknown = |text| ErrorInfo { executed: Executed::Unknown, ..ErrorInfo::executed(text) };
    match why {
        BadKey::Conflict => {
            let text =
                format!("method {name:?} was called under this idempotency key with other parameters; take a new key");
            (ResultCode::Conflict, ErrorInfo::not_executed(text))
        }
        BadKey::StillRuns => {
            let text =
                format!("method {name:?} still runs for the first call under this idempotency key; ask again later");
            (ResultCode::Timeout, unknown(text))
        }
        BadKey::CutOff => {
            let text = format!(
                "its provider ended after method {name:?} may have begun for the first call under this idempotency key and \
                 before it had answered, and does not run it again; find out what it did, then call under a new key if need be"
            );
            (ResultCode::InternalError, unknown(text))
        }
        BadKey::NotKept { bytes, bound } => {
            let text = format!(
                "method {name:?} was executed for the first call under this idempotency key, but its answer of {bytes} bytes \
                 was too large to be kept"
            );
            (ResultCode::TooLarge, ErrorInfo::executed(text).with_limit("kept_answer_bytes", bound))
        }
        BadKey::Unwritten(why) => unwritten_info(why, name),
    }
}

fn unwritten_info(why: Unwritten, name: &str) -> (ResultCode, ErrorInfo) {
    match why {
        Unwritten::Full { bound } => {
            let text = format!(
                "method {name:?} was not run: {bound} calls under idempotency keys wait to be written down; call again later"
            );
            (ResultCode::Overloaded, ErrorInfo::not_executed(text).with_limit("answer_store_queue", bound))
        }
        Unwritten::Late => {
            let text = format!(
                "method {name:?} was not run: the caller's deadline passed before its idempotency key was written down"
            );
            (ResultCode::Timeout, ErrorInfo::not_executed(text))
        }
        Unwritten::Failed => {
            let text = format!(
                "method {name:?} was not run: its idempotency key can't be written down, and the log of this provider says \
                 why; call another one, or again later"
            );
            (ResultCode::Unavailable, ErrorInfo::not_executed(text))
        }
    }
}

/// Whom a call's answer goes to, once.
#[derive(Debug)]
pub(crate) struct Caller<'a, C> {
    conn: &'a C,
    id: &'a [u8],
    method: &'a Method,
    /// Whether there is still an answer to give.
    waits: Cell<bool>,
}

/// An answer that waits for room.
pub(crate) struct Waits {
    pub(crate) frame: Bytes,
    pub(crate) executed: Executed,
}

/// Appends the body of an answer that carries a result.
pub(crate) type WriteResult<'a> = dyn Fn(&mut BytesMut) -> Result<(), EncodeError> + 'a;

impl<'a, C: Connection> Caller<'a, C> {
    pub(crate) const fn new(conn: &'a C, id: &'a [u8], method: &'a Method, one_way: bool) -> Self {
        Self { conn, id, method, waits: Cell::new(!one_way) }
    }

    /// Queues a result from within the connection's own handler.
    pub(crate) fn answer(&self, result: &WriteResult<'_>) -> Result<(), Failure> {
        self.give(&Answer::Result(result), |answer| self.conn.answer(self.id, answer)).map(drop)
    }

    /// Queues an answer that was given before from within the connection's own handler.
    pub(crate) fn repeat(&self, body: &[u8]) {
        let given = self.give(&Answer::Written(body), |answer| self.conn.answer(self.id, answer));
        if let Err(failure) = given {
            self.fail(failure);
        }
    }

    /// Queues an error from within the connection's own handler.
    pub(crate) fn fail(&self, failure: Failure) {
        self.give_error(failure, |answer| self.conn.answer(self.id, answer));
    }

    /// Queues the answer from a task of the call's own. Gives one that has to wait for room.
    pub(crate) fn queue<B: AsRef<[u8]>>(&self, outcome: Result<B, Failure>) -> Option<Waits> {
        let executed = outcome.as_ref().err().map_or(Executed::Yes, Failure::executed);
        let queue = |answer: &Answer<'_>| match self.conn.try_answer(self.id, answer) {
            Err(SendError::Full) => Ok(Some(self.conn.encode(Head::new(MessageType::RpcResponse, self.id), answer)?)),
            queued => queued.map(|()| None),
        };
        let given = outcome.and_then(|body| self.give(&Answer::Written(body.as_ref()), queue));
        let frame = given.unwrap_or_else(|failure| self.give_error(failure, queue)).flatten();
        frame.map(|frame| Waits { frame, executed })
    }

    /// Tells the caller that its answer could not wait for room.
    pub(crate) fn drop_answer(&self, executed: Executed) {
        self.conn.count(Event::Overloaded);
        let text = "its answer finds no room: so much waits for you already; read faster, or ask for less at once";
        let error =
            ErrorInfo { executed, ..ErrorInfo::not_executed(text) }.with_limit("unread_bytes", self.conn.queue_bound());
        let v1 = self.conn.session().is_none();
        // The peer may have gone meanwhile; then there is nobody to tell.
        let _ = self.conn.answer(self.id, &RpcError { code: ResultCode::Overloaded, error: &error, v1 });
    }

    fn give<T>(&self, answer: &Answer<'_>, put: impl Fn(&Answer<'_>) -> Put<T>) -> Result<Option<T>, Failure> {
        if !self.waits.get() {
            return Ok(None);
        }
        match put(answer) {
            Err(SendError::Encode(why)) => Err(Failure::unsendable(why)),
            given => {
                // Had the peer gone meanwhile, there would be nobody to tell.
                self.waits.set(false);
                Ok(given.ok())
            }
        }
    }

    fn give_error<T>(&self, failure: Failure, put: impl Fn(&Answer<'_>) -> Put<T>) -> Option<T> {
        failure.note(self.conn, self.method);
        let v1 = self.conn.session().is_none();
        let (code, error) = failure.into_answer(self.method);
        let given = self.give(&Answer::Error(RpcError { code, error: &error, v1 }), &put);
        given
            .or_else(|too_large| {
                let (code, short) = too_large.into_answer(self.method);
                let error = ErrorInfo { executed: error.executed, ..short };
                self.give(&Answer::Error(RpcError { code, error: &error, v1 }), &put)
            })
            .ok()
            .flatten()
    }
}

/// Holds most results. An empty buffer grows with every few bytes that are written.
const LEAST_RESULT_BYTES: usize = 128;

/// What comes of queueing or encoding an answer.
type Put<T> = Result<T, SendError>;

/// The body of an answer. It is JSON, the one codec that a session can agree on.
enum Answer<'a> {
    Result(&'a WriteResult<'a>),
    Written(&'a [u8]),
    Error(RpcError<'a>),
}

impl Encode for Answer<'_> {
    fn kind(&self) -> MessageType {
        MessageType::RpcResponse
    }

    fn encode<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        match self {
            Self::Result(write) => write(out),
            Self::Written(body) => {
                out.extend_from_slice(body);
                Ok(())
            }
            Self::Error(error) => error.encode::<C>(out),
        }
    }
}
