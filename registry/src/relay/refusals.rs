//! What callers are told of calls that are not passed on.

use callboard_common::{Connection, EncodeError, ErrorInfo, ResultCode, SendError};

use super::book::Full;
use super::lobby::NoRoom;

/// Why a call was not passed on; it did not run.
pub(super) type NotPassed = (ResultCode, ErrorInfo);

pub(super) fn unnamed() -> NotPassed {
    let text = "a call that is to be passed on names its provider: \"instance\" in \"meta\" is missing or no text";
    (ResultCode::InvalidMessage, ErrorInfo::not_executed(text))
}

pub(super) fn gone(method: &str, instance: &str) -> NotPassed {
    let text = format!(
        "no connection of provider {instance:?} offers {:?} at the moment: call another one, or again later",
        method.chars().take(NAMED_CHARS).collect::<String>()
    );
    (ResultCode::Unavailable, ErrorInfo::not_executed(text))
}

/// Of a call to one who had called.
pub(super) fn caller_gone() -> NotPassed {
    let text = "the connection of that caller has ended";
    (ResultCode::Disconnected, ErrorInfo::not_executed(text))
}

/// The same.
pub(super) fn serves_not() -> NotPassed {
    let text = "the caller offers no methods within a session: it is to connect with `serves`";
    (ResultCode::NotFoundService, ErrorInfo::not_executed(text))
}

/// The same.
pub(super) fn reads_slowly() -> NotPassed {
    let text = "the caller reads too slowly: so much waits for it already that it is not called back; call again later";
    (ResultCode::Overloaded, ErrorInfo::not_executed(text))
}

pub(super) fn another(instance: &str) -> NotPassed {
    let text = format!(
        "provider {instance:?} is another one now, which keeps its answers to calls under keys elsewhere: discover again"
    );
    (ResultCode::Unavailable, ErrorInfo::not_executed(text))
}

pub(super) fn knows_no_keys<C: Connection>(provider: &C) -> NotPassed {
    let instance = provider.session().map_or("", |session| &session.instance);
    let text = format!(
        "provider {instance:?} knows no idempotency keys, so that a repeat might be executed twice: call it without one"
    );
    (ResultCode::InvalidMessage, ErrorInfo::not_executed(text))
}

pub(super) fn in_flight<C: Connection>(conn: &C) -> NotPassed {
    let bound = conn.session().map_or(0, |session| usize::try_from(session.limits.in_flight).unwrap_or(usize::MAX));
    let text = "too many calls in flight on this connection: wait for answers before calling again";
    (ResultCode::Overloaded, ErrorInfo::not_executed(text).with_limit("in_flight", bound))
}

pub(super) fn full(full: Full) -> NotPassed {
    let (text, limit, bound) = match full {
        Full::Total { bound } => {
            (format!("this center is full (calls that it passes on: {bound})"), "relayed_calls", bound)
        }
        Full::Provider { bound } => {
            (format!("as many calls wait for this provider as it permits ({bound})"), "provider_in_flight", bound)
        }
        Full::Share { bound } => {
            let text = format!(
                "of the calls that may wait for this provider ({bound}) your connection, or all of this method, have their \
                 share: the others are for others"
            );
            (text, "provider_in_flight", bound)
        }
        Full::Bytes { bound } => {
            let text = format!(
                "the provider reads too slowly: your calls that wait for its answers may have no more than the {bound} bytes \
                 that are free of what may wait to be written to it"
            );
            (text, "provider_queued_bytes", bound)
        }
    };
    (ResultCode::Overloaded, ErrorInfo::not_executed(text + "; call again later").with_limit(limit, bound))
}

/// Of a call that would have waited for its provider to come back.
pub(super) fn no_room(why: NoRoom) -> NotPassed {
    let (what, limit, bound) = match why {
        NoRoom::Calls { bound } => ("calls", "relay_waiting_calls", bound),
        NoRoom::Bytes { bound } => ("bytes of calls", "relay_waiting_bytes", bound),
        NoRoom::Closed => return draining(),
    };
    let text = format!(
        "its provider may be back soon, but so much waits for such ones already ({what}: {bound}) that this call may not; \
         call again later"
    );
    (ResultCode::Overloaded, ErrorInfo::not_executed(text).with_limit(limit, bound))
}

/// Of a call that has waited for its provider to come back.
pub(super) fn made_room() -> NotPassed {
    let text = "as many calls as may wait for providers to come back, and you had most of them: your last one has given \
                way to another caller's; call again later";
    (ResultCode::Overloaded, ErrorInfo::not_executed(text))
}

pub(super) fn draining() -> NotPassed {
    let text =
        "this center is about to end, and the provider is not connected to it: call through another center, or again";
    (ResultCode::Unavailable, ErrorInfo::not_executed(text))
}

pub(super) fn too_large(why: &EncodeError) -> NotPassed {
    let error = ErrorInfo::not_executed(format!("the call can't be passed on: {why}")).with_limit_of(why);
    (ResultCode::TooLarge, error)
}

pub(super) fn out_of_time() -> NotPassed {
    let text = "the caller's deadline had passed before the call could be passed on";
    (ResultCode::Timeout, ErrorInfo::not_executed(text))
}

/// What the provider's outbox did not take.
pub(super) fn unsent(why: &SendError) -> NotPassed {
    match why {
        SendError::Full => {
            let text = "the provider reads too slowly: what waits for it has no more room; call again later";
            (ResultCode::Overloaded, ErrorInfo::not_executed(text))
        }
        SendError::Encode(why) => too_large(why),
        _ => (ResultCode::Disconnected, ErrorInfo::not_executed("the connection of its provider has just ended")),
    }
}

/// So much of a name an error repeats.
const NAMED_CHARS: usize = 100;
