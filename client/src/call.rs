use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use callboard_common::{
    CallMeta, Codec, Connection, Decode, Encode, EncodeError, Executed, FLAG_RELAY, Json, Message, MessageType, Raw,
    ResultCode, RpcRequest, RpcResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::calls::Told;
use crate::deadline::Deadline;
use crate::relayed::Relayed;
use crate::request::{Request, Subject, Ticket};
use crate::{CallError, CallErrorKind, IdempotencyKey};

/// A call whose request is queued: a future of its result. It is not driven by being polled, so any number may be kept
/// and awaited later, in any order. Its deadline began when it was started.
///
/// # Errors
/// As [`Client::call`](crate::Client::call).
///
/// # Cancel safety
/// Dropping it forgets the call: its place is free at once, and an answer that comes is ignored. The peer may still
/// execute it.
///
/// # Panics
/// If it is polled after it was done.
#[must_use = "dropping a call forgets it"]
pub struct Call<R> {
    ticket: Ticket,
    method: String,
    deadline: Deadline,
    result: PhantomData<fn() -> R>,
}

impl<R: DeserializeOwned> Call<R> {
    pub(crate) fn new(ticket: Ticket, method: &str, deadline: Deadline) -> Self {
        Self { ticket, method: method.to_owned(), deadline, result: PhantomData }
    }

    /// What is called.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Waits for the answer, which is to be [read](Self::read).
    pub(crate) async fn told(&mut self) -> Option<Told> {
        (&mut self.ticket.answer).await.ok()
    }

    pub(crate) fn read(&mut self, told: Option<Told>) -> Result<R, CallError> {
        let outcome = self.ticket.outcome(told);
        let subject = Subject::Method(&self.method);
        let request = Request { link: &self.ticket.entered.link, subject, deadline: self.deadline };
        let message = request.outcome(outcome, self.ticket.kind)?;
        read_result(request, &message)
    }

    pub(crate) fn peer(&self) -> String {
        self.ticket.entered.link.address.to_string()
    }
}

impl<R: DeserializeOwned> Future for Call<R> {
    type Output = Result<R, CallError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        Pin::new(&mut this.ticket.answer).poll(cx).map(|told| this.read(told.ok()))
    }
}

impl<R> fmt::Debug for Call<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("method", &self.method).field("ticket", &self.ticket).finish_non_exhaustive()
    }
}

/// REQ_RPC with the time that is left when it is written.
pub(crate) struct CallBody<'a, P: ?Sized> {
    pub(crate) method: &'a str,
    pub(crate) params: &'a P,
    /// To a session peer only.
    pub(crate) deadline: Option<Deadline>,
    /// Which provider the peer is to pass it on to.
    pub(crate) to: Option<&'a Relayed>,
    /// To a peer only that knows keys.
    pub(crate) key: Option<&'a IdempotencyKey>,
}

impl<P: Serialize + ?Sized> Encode for CallBody<'_, P> {
    fn kind(&self) -> MessageType {
        MessageType::RpcRequest
    }

    fn flags(&self) -> u8 {
        if self.to.is_some() { FLAG_RELAY } else { 0 }
    }

    fn encode<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        let instance = self.to.map(Relayed::instance);
        let timeout_ms = self.deadline.map(|deadline| deadline.left_ms());
        let idempotency_key = self.key.map(IdempotencyKey::raw);
        let has_meta = timeout_ms.is_some() || instance.is_some() || idempotency_key.is_some();
        // Only for a call that may be made again there it matters which it is.
        let store = self.key.and(self.to).and_then(Relayed::store);
        let meta = has_meta.then_some(CallMeta { timeout_ms, idempotency_key, instance, store, caller: None });
        let start = out.len();
        RpcRequest { method: Cow::Borrowed(self.method), parameters: self.params, meta }.encode::<C>(out)?;
        // Whether a value is null shows only once it is written. A v1 peer expects an object.
        if !has_meta && out.get(start..).is_some_and(|body| body.ends_with(NULL_PARAMETERS)) {
            out.truncate(start);
            let parameters = Raw::new(C::EMPTY_OBJECT);
            RpcRequest { method: Cow::Borrowed(self.method), parameters, meta: None }.encode::<C>(out)?;
        }
        Ok(())
    }
}

/// What the answer to a call means.
pub(crate) fn read_result<R: DeserializeOwned>(request: Request<'_>, answer: &Message) -> Result<R, CallError> {
    let answer = RpcResponse::decode::<Json>(answer.body()).map_err(|why| request.unreadable(why))?;
    if answer.code != ResultCode::Ok {
        return Err(request.remote(answer.code, answer.error));
    }
    let result = answer.result.unwrap_or(NULL);
    Json::read(result).or_else(|why| {
        // Without a session a null travels as `{}`.
        let null = request.link.conn.session().is_none() && is_empty_object(result);
        null.then(|| Json::read(NULL).ok()).flatten().ok_or_else(|| {
            request
                .error(CallErrorKind::Decode, "the result is not of the type that was asked for")
                .with_executed(Executed::Yes)
                .with_source(why)
        })
    })
}

fn is_empty_object(value: Raw<'_>) -> bool {
    let inner = value.bytes().strip_prefix(b"{").and_then(|rest| rest.strip_suffix(b"}"));
    inner.is_some_and(|inner| inner.iter().all(u8::is_ascii_whitespace))
}

/// How a call without parameters ends; within a string its quotes would be escaped.
const NULL_PARAMETERS: &[u8] = br#","parameters":null}"#;
const NULL: Raw<'static> = Raw::new(b"null");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v1_peer_gets_an_object_for_no_parameters() {
        let written = |params: &serde_json::Value, deadline| {
            let mut out = BytesMut::from("before");
            CallBody { method: "m", params, deadline, to: None, key: None }.encode::<Json>(&mut out).unwrap();
            String::from_utf8(out[6..].to_vec()).unwrap()
        };
        let tricky = serde_json::json!({"a": {"parameters": null}});
        assert_eq!(written(&serde_json::Value::Null, None), r#"{"method":"m","parameters":{}}"#);
        assert_eq!(written(&tricky, None), r#"{"method":"m","parameters":{"a":{"parameters":null}}}"#);
        let session = written(&serde_json::Value::Null, Some(Deadline::after(std::time::Duration::from_secs(1))));
        assert!(session.starts_with(r#"{"method":"m","parameters":null,"meta":"#), "{session}");
    }
}
