//! What a center says to those over whose connections it passes calls on.

use callboard_common::{
    CallerTag, Cancel, Connection, Encode, EncodeError, ErrorInfo, Event, Executed, FLAG_ONE_WAY, Feature,
    HEADER_BYTES, Head, InFlight, Limits, Message, MessageType, RequestId, ResultCode, RpcError, SendError, Session,
    Verbatim,
};

use super::book::{Call, CallerId, Number, Permits};
use super::lobby::Waiting;
use super::refusals::{NotPassed, knows_no_keys, too_large, unsent};
use super::waiting::Held;

/// Why this provider can't be passed this call.
pub(super) fn check<C: Connection>(provider: &C, message: &Message, is_keyed: bool) -> Result<(), NotPassed> {
    if is_keyed && !knows(provider, Feature::Keys) {
        return Err(knows_no_keys(provider));
    }
    let max_frame_bytes = usize::try_from(serving(provider).max_frame_bytes).unwrap_or(usize::MAX);
    let id_bytes = Number::id_bytes(learns_callers(provider));
    let frame_bytes = HEADER_BYTES - LENGTH_BYTES + id_bytes + message.body().len();
    if frame_bytes > max_frame_bytes {
        return Err(too_large(&EncodeError::TooLarge { frame_bytes, max_frame_bytes }));
    }
    Ok(())
}

/// What a provider permits that offers so many methods.
pub(super) fn permits<C: Connection>(provider: &C, methods: usize) -> Permits {
    let calls = usize::try_from(serving(provider).in_flight).unwrap_or(usize::MAX);
    let (queued, most) = (provider.queued_bytes(), provider.max_queued_bytes());
    Permits { calls, methods, bytes: if queued > most / 4 { most.saturating_sub(queued) } else { usize::MAX } }
}

fn serving<C: Connection>(provider: &C) -> Limits {
    provider.session().and_then(|session| session.serving).unwrap_or_default()
}

/// The call as it came.
pub(super) fn request_of(message: &Message) -> Verbatim<'_> {
    Verbatim { kind: MessageType::RpcRequest, body: message.body() }
}

pub(super) fn pass_on_one_way<C: Connection>(
    provider: &C,
    caller: &C,
    tag: Option<CallerTag>,
    message: &Message,
) -> Result<(), NotPassed> {
    // Nobody's share bounds them.
    if provider.queued_bytes() > provider.max_queued_bytes() / 2 {
        return Err(unsent(&SendError::Full));
    }
    // One that knows no such calls answers, which is ignored.
    let flags = if knows(provider, Feature::OneWay) { FLAG_ONE_WAY } else { 0 };
    let mut id = CallerId::from_slice(&RequestId::unanswered(0));
    id.extend_from_slice(tag.map(CallerTag::to_wire).as_ref().map_or(&[], |tag| &tag[..]));
    let head = Head { flags, ..Head::new(MessageType::RpcRequest, &id) };
    send_unshared(provider, caller, head, &request_of(message)).map_err(|why| unsent(&why))
}

/// Queues what no share of its caller's bounds. Where more waits for the provider than it reads, the caller is not read for
/// moments, so that it can't put any amount before what others send there.
fn send_unshared<C: Connection, B: Encode>(
    provider: &C,
    caller: &C,
    head: Head<'_>,
    body: &B,
) -> Result<(), SendError> {
    if provider.queued_bytes() <= READ_ON_BYTES {
        return provider.request(head, body).map(drop);
    }
    let frame = provider.encode(head, body)?;
    provider.push(&provider.share(frame), Some(caller))
}

/// Tells the provider that nobody waits for a call any longer, if it knows that. Where there is no room it is not told, and
/// executes the call in vain.
pub(super) fn cancel<C: Connection>(call: &Call<C, InFlight<C>>, number: Number) {
    cancel_at(&call.provider, &number.id_of(call.tag));
}

pub(super) fn cancel_at<C: Connection>(provider: &C, id: &[u8]) {
    if knows(provider, Feature::Cancel) {
        let _ = provider.request(Head::new(MessageType::Cancel, id), &Cancel);
    }
}

/// Their callers have given them up.
pub(super) fn cancel_all<C: Connection>(given_up: &[(Number, Call<C, InFlight<C>>)]) {
    for (number, call) in given_up {
        call.caller.count(Event::Cancelled);
        if knows(&call.provider, Feature::Cancel) {
            let id = number.id_of(call.tag);
            // Its place is free by now.
            let _ = send_unshared(&call.provider, &call.caller, Head::new(MessageType::Cancel, &id), &Cancel);
        }
    }
}

/// The same of calls that had been passed on to nobody.
pub(super) fn count_given_up<C: Connection>(waited: &[Waiting<C, Held<C>>]) {
    for waiting in waited {
        waiting.caller.count(Event::Cancelled);
    }
}

/// Whether it is to be told whose calls it gets.
pub(super) fn learns_callers<C: Connection>(provider: &C) -> bool {
    provider.session().is_some_and(Session::learns_callers)
}

pub(super) fn knows<C: Connection>(conn: &C, feature: Feature) -> bool {
    conn.session().is_some_and(|session| session.features.has(feature))
}

/// Answers a call that was passed on.
pub(super) fn tell<C: Connection>(
    call: &Call<C, InFlight<C>>,
    code: ResultCode,
    text: impl Into<String>,
    executed: Executed,
) {
    let error = ErrorInfo { executed, ..ErrorInfo::not_executed(text) };
    // The caller may have gone meanwhile; then there is nobody to tell.
    let _ = call.caller.answer(&call.id, &RpcError { code, error: &error, v1: false });
}

/// Who was to answer it, as its caller knows it.
pub(super) const fn asked_of<C: Connection>(call: &Call<C, InFlight<C>>) -> &'static str {
    if call.goes_back { "the caller that was called back" } else { "its provider" }
}

/// So much may wait for a provider before anybody is held back for it: then pushing holds whoever it is told.
const READ_ON_BYTES: usize = 1 << 20;
/// The part of a header that its length field does not count.
const LENGTH_BYTES: usize = 4;
