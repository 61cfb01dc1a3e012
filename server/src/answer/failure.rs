//! Why a call has no result, and what its caller is told of that.

use bytes::{Bytes, BytesMut};
use callboard_common::{Connection, Encode, EncodeError, ErrorInfo, Event, Executed, Json, ResultCode, RpcError};

use crate::admission::{Closed, Full, Passes};
use crate::gatekeeper::Waited;
use crate::method::Method;
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
    /// The handler was not asked: the runtime ends, and no thread has taken the call.
    Stopped,
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
    pub(super) const fn executed(&self) -> Executed {
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
            Self::Method(_) | Self::Key(_) | Self::Stopped => {}
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

    pub(super) fn into_answer(self, method: &Method) -> (ResultCode, ErrorInfo) {
        match self {
            Self::Parameters(why) => (ResultCode::InvalidParams, why.into_info()),
            Self::Full(full) => (ResultCode::Overloaded, full_info(full, method)),
            Self::Late => {
                let text = format!("the caller's deadline had passed when this call of {:?} came", method.name());
                (ResultCode::Timeout, ErrorInfo::not_executed(text))
            }
            Self::Stopped => {
                let text = format!("this side stops: no thread has taken this call of {:?}", method.name());
                (ResultCode::Unavailable, ErrorInfo::not_executed(text))
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
