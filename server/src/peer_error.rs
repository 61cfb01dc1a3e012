use std::borrow::Cow;

use callboard_common::{ErrorInfo, Executed, ResultCode};
use serde_json::value::RawValue;

/// Why a call to a [`Peer`](crate::Peer) has no result: what happened, to which method of whom, and whether it ran there.
///
/// It prints as one line for people; [`kind`](Self::kind) and [`executed`](Self::executed) are for programs.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub struct PeerError(Box<Detail>);

#[derive(Clone, Debug, thiserror::Error)]
#[error("method {method:?} of the caller at {peer}: {what} (executed: {executed})")]
struct Detail {
    kind: PeerErrorKind,
    peer: String,
    method: String,
    what: Cow<'static, str>,
    executed: Executed,
}

/// What [`PeerError`]s can be told apart by.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PeerErrorKind {
    /// It offers no methods: it opened no session, or none in which it serves.
    NotServing,
    /// The deadline passed.
    Timeout,
    /// The connection has ended.
    Disconnected,
    /// As many calls wait for its answers as it permits, or it reads too slowly.
    Overloaded,
    /// It answered with an error.
    Remote {
        /// What it said.
        code: ResultCode,
        /// The method's own number, with [`ResultCode::Application`].
        app_code: Option<i64>,
        /// More, for a program: any JSON.
        data: Option<Box<RawValue>>,
    },
    /// The answer can't be read, or not as the type that was asked for.
    Decode,
    /// The call can't be written, or is larger than the peer permits.
    Encode,
}

impl PeerError {
    pub(crate) fn new(
        kind: PeerErrorKind,
        peer: String,
        method: &str,
        what: impl Into<Cow<'static, str>>,
        executed: Executed,
    ) -> Self {
        Self(Box::new(Detail { kind, peer, method: method.to_owned(), what: what.into(), executed }))
    }

    /// What an answer with a code other than OK says. Where it does not say whether the method ran, nobody knows.
    pub(crate) fn remote(peer: String, method: &str, code: ResultCode, error: Option<ErrorInfo>) -> Self {
        let executed = error.as_ref().map_or(Executed::Unknown, |error| error.executed);
        let what = error.as_ref().map_or_else(|| code.to_string(), |error| error.text(code));
        let (app_code, data) = error.map_or((None, None), |e| (e.code, e.data));
        Self::new(PeerErrorKind::Remote { code, app_code, data }, peer, method, what, executed)
    }

    /// What happened, for a program.
    pub fn kind(&self) -> &PeerErrorKind {
        &self.0.kind
    }

    /// The address of the peer, for example `tcp://127.0.0.1:41522`.
    pub fn peer(&self) -> &str {
        &self.0.peer
    }

    /// What was called.
    pub fn method(&self) -> &str {
        &self.0.method
    }

    /// Whether the peer's method ran: after [`Executed::No`] a repeat is safe.
    pub fn executed(&self) -> Executed {
        self.0.executed
    }

    /// The code, if the peer answered with one.
    pub fn code(&self) -> Option<ResultCode> {
        match self.0.kind {
            PeerErrorKind::Remote { code, .. } => Some(code),
            _ => None,
        }
    }
}
