use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use callboard_common::{BodyError, EncodeError, ErrorInfo, Executed, ReadError, ResultCode};
use callboard_net::{AddressError, ConnectError};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::connect::NoSession;

/// Why there is no result: what happened, at which peer, to what, whether it ran there, and what to do.
///
/// It prints as one line for people; [`kind`](CallError::kind) and [`executed`](CallError::executed) are for programs.
///
/// ```
/// use callboard_client::{CallError, CallErrorKind};
/// use callboard_common::Executed;
/// let error = CallError::new(CallErrorKind::Timeout, "tcp://127.0.0.1:7070", "method \"add\"", "no answer within 5s");
/// assert_eq!(error.executed(), Executed::Unknown);
/// assert!(error.to_string().starts_with("method \"add\" at tcp://127.0.0.1:7070: no answer within 5s"));
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub struct CallError(Box<Detail>);

#[derive(Clone, Debug, thiserror::Error)]
#[error("{subject} at {peer}: {what}{} (executed: {executed}); {advice}", LastOf(*tries))]
struct Detail {
    kind: CallErrorKind,
    peer: String,
    subject: String,
    what: Cow<'static, str>,
    executed: Executed,
    advice: Cow<'static, str>,
    tries: u32,
    /// The peer answered with an error and did not say, in a word that we know, whether it was executed.
    is_vague: bool,
    /// Shared, so that one failure can be told to all who waited for it.
    source: Option<Arc<Cause>>,
}

/// Which of several tries an error is of.
struct LastOf(u32);

impl fmt::Display for LastOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 | 1 => Ok(()),
            tries => write!(f, ", the last of {tries} tries"),
        }
    }
}

/// What lies below a [`CallError`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Session(#[from] NoSession),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// What a caller can tell errors apart by.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CallErrorKind {
    /// The deadline passed.
    Timeout,
    /// The connection ended before the answer came, or had ended before the call.
    Disconnected,
    /// The peer could not be reached, or would not open a session that was required.
    Connect,
    /// The peer answered with an error.
    Remote {
        /// What the peer said.
        code: ResultCode,
        /// The handler's own number, with [`ResultCode::Application`].
        app_code: Option<i64>,
        /// The peer's words; empty where it had none.
        message: String,
        /// More, for a program: any JSON.
        data: Option<Box<RawValue>>,
    },
    /// The answer can't be read, or not as the type that was asked for.
    Decode,
    /// The request can't be written, or is over the bound on frames.
    Encode,
    /// A bound on this side is reached.
    Overloaded,
    /// Nobody can be asked at the moment.
    Unavailable,
    /// Nobody provides what was asked for.
    NotFound,
    /// The peer can't do what was asked for: it knows no idempotency keys.
    Unsupported,
    /// A blocking call on a thread that drives asynchronous tasks.
    BlockingInAsync,
}

impl CallError {
    /// An error of this kind. `what` is what happened, in a few words without a full stop; whether it was executed and
    /// the advice follow from the kind, and can be set.
    pub fn new(
        kind: CallErrorKind,
        peer: impl Into<String>,
        subject: impl Into<String>,
        what: impl Into<Cow<'static, str>>,
    ) -> Self {
        let (executed, advice) = (kind.executed(), Cow::Borrowed(kind.advice()));
        let detail = Detail {
            kind,
            peer: peer.into(),
            subject: subject.into(),
            what: what.into(),
            executed,
            advice,
            tries: 1,
            is_vague: false,
            source: None,
        };
        Self(Box::new(detail))
    }

    /// The error that an answer with this code stands for. Where the peer does not say whether it was executed, nobody
    /// knows.
    pub fn remote(
        peer: impl Into<String>,
        subject: impl Into<String>,
        code: ResultCode,
        error: Option<ErrorInfo>,
    ) -> Self {
        let is_vague = error.as_ref().is_none_or(|error| !error.says_executed);
        let executed = error.as_ref().map_or(Executed::Unknown, |error| error.executed);
        let what = error.as_ref().map_or_else(|| code.to_string(), |error| error.text(code));
        let (app_code, message, data) = error.map_or((None, String::new(), None), |e| (e.code, e.message, e.data));
        let kind = CallErrorKind::Remote { code, app_code, message, data };
        let mut error = Self::new(kind, peer, subject, what).with_executed(executed);
        error.0.is_vague = is_vague;
        error
    }

    /// The same with another word on whether it was executed.
    #[must_use]
    pub fn with_executed(mut self, executed: Executed) -> Self {
        self.0.executed = executed;
        self
    }

    /// The same with other advice, lower case and without a full stop.
    #[must_use]
    pub fn with_advice(mut self, advice: impl Into<Cow<'static, str>>) -> Self {
        self.0.advice = advice.into();
        self
    }

    pub(crate) fn with_tries(mut self, tries: u32) -> Self {
        self.0.tries = tries;
        self
    }

    pub(crate) fn with_source(mut self, source: impl Into<Cause>) -> Self {
        self.0.source = Some(Arc::new(source.into()));
        self
    }

    /// What happened, for a program.
    pub fn kind(&self) -> &CallErrorKind {
        &self.0.kind
    }

    /// The address of the peer, for example `tcp://127.0.0.1:7070`.
    pub fn peer(&self) -> &str {
        &self.0.peer
    }

    /// What it was about, for example `method "add"` or `topic "news"`.
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    /// The method, if it was a call.
    pub fn method(&self) -> Option<&str> {
        self.0.subject.strip_prefix("method \"")?.strip_suffix('"')
    }

    /// How often the call was tried before it failed, 1 at least; see [`RetryPolicy`](crate::RetryPolicy).
    pub fn tries(&self) -> u32 {
        self.0.tries
    }

    /// Whether the peer gave an error and not a word on whether anything was executed, as programs do that know v1 alone.
    pub(crate) fn is_vague(&self) -> bool {
        self.0.is_vague
    }

    /// Whether the handler ran, over all tries: after [`Executed::No`] a repeat is safe.
    pub fn executed(&self) -> Executed {
        self.0.executed
    }

    /// What to do.
    pub fn advice(&self) -> &str {
        &self.0.advice
    }

    /// The code, if the peer answered with one.
    pub fn code(&self) -> Option<ResultCode> {
        match self.0.kind {
            CallErrorKind::Remote { code, .. } => Some(code),
            _ => None,
        }
    }
}

impl CallErrorKind {
    /// Whether it was executed, unless something else is known.
    const fn executed(&self) -> Executed {
        match self {
            Self::Timeout | Self::Disconnected | Self::Remote { .. } => Executed::Unknown,
            Self::Decode => Executed::Yes,
            Self::Connect
            | Self::Encode
            | Self::Overloaded
            | Self::Unavailable
            | Self::NotFound
            | Self::Unsupported
            | Self::BlockingInAsync => Executed::No,
        }
    }

    fn advice(&self) -> &'static str {
        match self {
            Self::Timeout => "repeat it if that is safe, or allow it more time",
            Self::Disconnected => "repeat it if that is safe; a client that was not closed connects again by itself",
            Self::Connect => "check the address and that the peer runs",
            Self::Remote { code: ResultCode::TooLarge, data: Some(data), .. } if names_other_than_frames(data) => {
                "keep within the limit that the peer names"
            }
            Self::Remote { code, .. } => remote_advice(*code),
            Self::Decode => "compare the type that was asked for with what the peer sends",
            Self::Encode => "change the parameters, or raise the bound on frames on both sides",
            Self::Overloaded => "wait for answers to calls under way, or raise the limit",
            Self::Unavailable => "try again later",
            Self::NotFound => "check the name, and that a provider runs",
            Self::Unsupported => "update the peer, or call without a key",
            Self::BlockingInAsync => {
                "use the asynchronous client there, call from a thread of your own, or, on a thread that may block (as \
                 those of tokio's spawn_blocking), call within callboard::blocking::allow"
            }
        }
    }
}

/// Whether the data of a TOO_LARGE name a limit that is not the one on frames.
fn names_other_than_frames(data: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Data<'a> {
        #[serde(borrow)]
        limit: Cow<'a, str>,
    }
    serde_json::from_str(data.get()).is_ok_and(|data: Data<'_>| data.limit != "max_frame_bytes")
}

const fn remote_advice(code: ResultCode) -> &'static str {
    match code {
        ResultCode::InvalidParams => "compare the parameters with the method's description",
        ResultCode::NotFoundService => "check the name, and that a provider runs",
        ResultCode::NotFoundTopic => "create the topic first",
        ResultCode::InternalError => "look into the peer's log",
        ResultCode::Timeout => "repeat it if that is safe, or allow it more time",
        ResultCode::Overloaded | ResultCode::Unavailable => "try again later",
        ResultCode::Unauthenticated | ResultCode::PermissionDenied => "ask the peer's operator for access",
        ResultCode::TooLarge => "send less at once, or raise the bound on frames on both sides",
        ResultCode::Conflict => "choose another name, or a new idempotency key",
        _ => "see what the peer says",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_on_what_is_too_large_fits_the_limit_that_the_peer_names() {
        let (keep, frames) = ("keep within the limit that the peer names", "raise the bound on frames");
        let rows = [
            (Some(r#"{"limit":"max_name_bytes","bound":4096}"#), keep),
            (Some(r#"{"limit":"max_frame_bytes","bound":4096}"#), frames),
            (Some(r#"{"bound":4096}"#), frames),
            (Some(r#"{"limit":7}"#), frames),
            (Some("[1]"), frames),
            (None, frames),
        ];
        for (data, expected) in rows {
            let mut info = ErrorInfo::not_executed("too large");
            info.data = data.map(|data| RawValue::from_string(data.to_owned()).unwrap());
            let error = CallError::remote("tcp://c:1", "topic \"news\"", ResultCode::TooLarge, Some(info));
            assert!(error.advice().contains(expected), "{data:?}: {error}");
        }
    }
}
