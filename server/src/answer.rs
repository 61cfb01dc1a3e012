//! What comes of a call, and how its caller is told.

mod failure;

use std::cell::Cell;

use bytes::{Bytes, BytesMut};
use callboard_common::{
    Codec, Connection, Encode, EncodeError, ErrorInfo, Event, Executed, Head, Json, MessageType, ResultCode, RpcAnswer,
    RpcError, SendError,
};
use serde::Serialize;

pub(crate) use self::failure::{BadKey, Failure};
use crate::method::{Method, Type};

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
