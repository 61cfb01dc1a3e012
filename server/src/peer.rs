use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use callboard_common::{
    CallMeta, CallerTag, Cancel, Codec, Connection, ConnectionId, Decode, Encode, EncodeError, Executed, FLAG_ONE_WAY,
    FLAG_RELAY, Feature, HEADER_BYTES, Head, Json, Limits, Message, MessageType, Raw, RequestId, ResultCode,
    RpcRequest, RpcResponse, SendError, Session, Verbatim,
};
use callboard_net::deadline_after;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::time::timeout_at;

use crate::asked::Asked;
use crate::peer_error::{PeerError, PeerErrorKind};
use crate::running::CallId;

/// The program that called a method, at the other end of its connection: where it offers methods of its own, they can be
/// called, over that same connection.
///
/// A method gets it from its [`Context`](crate::Context::caller) and may keep it for as long as it likes: it does not keep
/// the connection, and calls fail honestly once that has ended. A client offers methods with `Client::builder().serves(..)`.
///
/// ```
/// use callboard_server::{MethodError, Router};
///
/// // Works through a list, and tells its caller how far it is.
/// let router = Router::new().method_async_with("work", |context, items: Vec<String>| async move {
///     let caller = context.caller();
///     for (done, _item) in items.iter().enumerate() {
///         if caller.serves() {
///             caller.call::<()>("progress", &done).await?;
///         }
///     }
///     Ok::<_, MethodError>(items.len())
/// });
/// ```
#[derive(Clone)]
pub struct Peer {
    line: Arc<dyn Line>,
    asked: Arc<Asked>,
    /// Which of those it is that call through the center at the other end.
    behind: Option<CallerTag>,
    timeout: Duration,
}

/// What a [`Peer`] does with its connection, of whatever sort that is.
pub(crate) trait Line: fmt::Debug + Send + Sync {
    fn id(&self) -> ConnectionId;
    fn address(&self) -> String;
    fn session(&self) -> Option<&Session>;
    /// Where in the stream of all bytes the request begins.
    fn request(&self, head: Head<'_>, body: &[u8]) -> Result<u64, SendError>;
    fn sent_bytes(&self) -> u64;
}

impl<C: Connection> Line for C {
    fn id(&self) -> ConnectionId {
        Connection::id(self)
    }

    fn address(&self) -> String {
        self.peer()
    }

    fn session(&self) -> Option<&Session> {
        Connection::session(self)
    }

    fn request(&self, head: Head<'_>, body: &[u8]) -> Result<u64, SendError> {
        Connection::request(self, head, &Verbatim { kind: head.kind, body })
    }

    fn sent_bytes(&self) -> u64 {
        Connection::sent_bytes(self)
    }
}

/// A call that waits for its answer. Dropped before that, the peer is told that nobody waits.
struct Waiting<'a> {
    peer: &'a Peer,
    id: RequestId,
    answer: oneshot::Receiver<Message>,
    /// Where in the stream of all bytes the call begins.
    at: u64,
}

impl Peer {
    pub(crate) fn new(line: Arc<dyn Line>, asked: Arc<Asked>, behind: Option<CallerTag>) -> Self {
        Self { line, asked, behind, timeout: DEFAULT_TIMEOUT }
    }

    /// Its address, for example `tcp://127.0.0.1:41522`: of one that calls through a center, that of the center.
    pub fn address(&self) -> String {
        self.line.address()
    }

    /// Which run of its program it says to be; `None` without a session, and of one that calls through a center.
    pub fn instance(&self) -> Option<&str> {
        let session = self.line.session().filter(|_| self.behind.is_none());
        session.map(|session| &*session.instance)
    }

    /// Whether it offers methods.
    pub fn serves(&self) -> bool {
        self.serving().is_some()
    }

    /// The same with another deadline for each call, in place of 5 s. A shorter one fails earlier, a longer one keeps one
    /// of the places for calls that the peer permits for longer.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// Calls one of its methods and waits for the result.
    ///
    /// Nothing is waited for but the answer: where the peer permits no more calls at once, or reads too slowly, this fails
    /// at once.
    ///
    /// # Errors
    /// [`PeerError`] says what happened, and whether the method ran.
    ///
    /// # Cancel safety
    /// Dropping the future gives the call up, and the peer is told so; it may run all the same.
    ///
    /// # Panics
    /// Outside of a tokio runtime with a timer.
    pub async fn call<R: DeserializeOwned>(
        &self,
        method: &str,
        params: &(impl Serialize + ?Sized),
    ) -> Result<R, PeerError> {
        let (until, limits) = (deadline_after(self.timeout), self.limits(method)?);
        let body = self.body(method, params)?;
        let mut waiting = self.send(method, &body, limits)?;
        match timeout_at(until, &mut waiting.answer).await {
            Ok(Ok(answer)) => self.read(method, &answer),
            Ok(Err(_)) => {
                let has_left = waiting.at < self.line.sent_bytes();
                Err(self.disconnected(method, if has_left { Executed::Unknown } else { Executed::No }))
            }
            Err(_) => {
                let what = format!("no answer within {:?}", self.timeout);
                Err(self.error(PeerErrorKind::Timeout, method, what, Executed::Unknown))
            }
        }
    }

    /// Calls one of its methods and wants no answer. When this returns, the call is queued; whether it is ever executed is
    /// not known.
    ///
    /// # Errors
    /// What keeps the call from being sent; it was not executed.
    pub fn notify(&self, method: &str, params: &(impl Serialize + ?Sized)) -> Result<(), PeerError> {
        let limits = self.limits(method)?;
        let body = self.body(method, params)?;
        self.fits(method, &body, limits)?;
        // One that knows no such calls answers, which is ignored.
        let one_way = if self.knows(Feature::OneWay) { FLAG_ONE_WAY } else { 0 };
        let id = RequestId::unanswered(0);
        self.queue(method, Head { flags: one_way | self.flags(), ..Head::new(MessageType::RpcRequest, &id) }, &body)
            .map(drop)
    }

    /// What must be kept within by who calls it.
    fn serving(&self) -> Option<Limits> {
        let session = self.line.session()?;
        match self.behind {
            // Its center knows its own.
            Some(tag) => tag.serves().then_some(session.limits),
            None => session.serving,
        }
    }

    fn flags(&self) -> u8 {
        if self.behind.is_some() { FLAG_RELAY } else { 0 }
    }

    /// What a call is called on the connection.
    fn call_id(&self, id: RequestId) -> CallId {
        if self.behind.is_some() { CallId::from_slice(&id.to_wire_back()) } else { CallId::from_slice(&id.to_wire()) }
    }

    fn limits(&self, method: &str) -> Result<Limits, PeerError> {
        let what = "it offers no methods within a session: it is to connect with `serves`";
        self.serving().ok_or_else(|| self.error(PeerErrorKind::NotServing, method, what, Executed::No))
    }

    fn knows(&self, feature: Feature) -> bool {
        self.line.session().is_some_and(|session| session.features.has(feature))
    }

    fn body(&self, method: &str, params: &(impl Serialize + ?Sized)) -> Result<BytesMut, PeerError> {
        let timeout_ms = CallMeta::time_left(self.timeout);
        let digits = self.behind.map(|tag| CallerTag::digits(tag.number()));
        let caller = digits.map(|digits| [&b"\""[..], &digits, b"\""].concat());
        let caller = caller.as_deref().map(Raw::new);
        let meta = Some(CallMeta { timeout_ms: Some(timeout_ms), caller, ..CallMeta::default() });
        let mut body = BytesMut::new();
        let request = RpcRequest { method: Cow::Borrowed(method), parameters: params, meta };
        request.encode::<Json>(&mut body).map_err(|why| self.unwritable(method, &why))?;
        Ok(body)
    }

    fn send(&self, method: &str, body: &[u8], limits: Limits) -> Result<Waiting<'_>, PeerError> {
        self.fits(method, body, limits)?;
        let (conn, bound) = (self.line.id(), usize::try_from(limits.in_flight).unwrap_or(usize::MAX));
        let (id, answer) = self.asked.begin(conn, bound, self.behind).ok_or_else(|| {
            let what = if self.behind.is_some() {
                format!(
                    "as many calls wait for its answers as may, beside those to others behind its center (in all {bound})"
                )
            } else {
                format!("as many calls wait for its answers as it permits ({bound})")
            };
            self.error(PeerErrorKind::Overloaded, method, what, Executed::No)
        })?;
        let mut waiting = Waiting { peer: self, id, answer, at: u64::MAX };
        let call = self.call_id(id);
        match self.queue(method, Head { flags: self.flags(), ..Head::new(MessageType::RpcRequest, &call) }, body) {
            Ok(at) => {
                waiting.at = at;
                Ok(waiting)
            }
            Err(error) => {
                // A connection that goes on goes on with its numbers: an answer to a call that was given up may still come.
                if matches!(error.kind(), PeerErrorKind::Disconnected) {
                    self.asked.forget_ended(conn, id);
                } else {
                    self.asked.forget(conn, id);
                }
                Err(error)
            }
        }
    }

    /// Whether the peer takes a frame of such a size.
    fn fits(&self, method: &str, body: &[u8], limits: Limits) -> Result<(), PeerError> {
        let frame_bytes =
            HEADER_BYTES - LENGTH_BYTES + RequestId::WIRE_BYTES + usize::from(self.behind.is_some()) + body.len();
        let max_frame_bytes = usize::try_from(limits.max_frame_bytes).unwrap_or(usize::MAX);
        if frame_bytes > max_frame_bytes {
            return Err(self.unwritable(method, &EncodeError::TooLarge { frame_bytes, max_frame_bytes }));
        }
        Ok(())
    }

    fn queue(&self, method: &str, head: Head<'_>, body: &[u8]) -> Result<u64, PeerError> {
        self.line.request(head, body).map_err(|why| match why {
            SendError::Full => {
                let what = "it reads too slowly: its outbox is full";
                self.error(PeerErrorKind::Overloaded, method, what, Executed::No)
            }
            SendError::Encode(why) => self.unwritable(method, &why),
            _ => self.disconnected(method, Executed::No),
        })
    }

    fn read<R: DeserializeOwned>(&self, method: &str, answer: &Message) -> Result<R, PeerError> {
        let unread = |what, executed| self.error(PeerErrorKind::Decode, method, what, executed);
        let answer = RpcResponse::decode::<Json>(answer.body())
            .map_err(|why| unread(format!("its answer can't be read: {}", why.message), Executed::Unknown))?;
        if answer.code == ResultCode::Disconnected && self.behind.is_some() {
            // So its center says.
            let executed = answer.error.map_or(Executed::Unknown, |error| error.executed);
            return Err(self.disconnected(method, executed));
        }
        if answer.code != ResultCode::Ok {
            return Err(PeerError::remote(self.address(), method, answer.code, answer.error));
        }
        Json::read(answer.result.unwrap_or(NULL))
            .map_err(|why| unread(format!("its result is not of the type that was asked for: {why}"), Executed::Yes))
    }

    fn unwritable(&self, method: &str, why: &EncodeError) -> PeerError {
        self.error(PeerErrorKind::Encode, method, format!("the call can't be written: {why}"), Executed::No)
    }

    fn disconnected(&self, method: &str, executed: Executed) -> PeerError {
        self.error(PeerErrorKind::Disconnected, method, "its connection has ended", executed)
    }

    fn error(
        &self,
        kind: PeerErrorKind,
        method: &str,
        what: impl Into<Cow<'static, str>>,
        executed: Executed,
    ) -> PeerError {
        PeerError::new(kind, self.address(), method, what, executed)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let (line, id) = (&self.peer.line, self.id);
        // An answer, or the end of the connection, has taken it out.
        let waits = self.peer.asked.forget(line.id(), id);
        if waits && self.peer.knows(Feature::Cancel) {
            // Where there is no room the peer is not told, and executes the call in vain.
            let _ = line.request(Head::new(Cancel.kind(), &self.peer.call_id(id)), &[]);
        }
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("line", &self.line).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// The part of a header that its length field does not count.
const LENGTH_BYTES: usize = 4;
const NULL: Raw<'static> = Raw::new(b"null");

#[cfg(test)]
mod tests;
