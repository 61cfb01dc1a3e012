//! Calls of providers to those who have called them through a center.

use std::borrow::Cow;
use std::sync::Arc;

use callboard_common::{CallerTag, Codec as _, Connection, Json, Message, Raw, RpcRequest};

use super::refusals::{NotPassed, caller_gone, out_of_time, reads_slowly, serves_not};
use super::{Asked, Asking, Relay, check, pass_on_one_way, permits};

impl<C: Connection> Relay<C> {
    /// A provider calls one of those that have called it through here.
    pub(super) fn pass_back(
        &self,
        conn: &C,
        message: &Message,
        request: &RpcRequest<'_>,
        to: Raw<'_>,
    ) -> Result<(), NotPassed> {
        let asked = Asked { request, instance: Cow::Borrowed(""), store: None };
        let number = Json::text(to).and_then(|text| CallerTag::read_digits(text.as_bytes()));
        let caller = number.and_then(|number| self.desk().callers.find(number).cloned());
        let caller = caller.ok_or_else(caller_gone)?;
        if caller.session().is_none_or(|session| session.serving.is_none()) {
            return Err(serves_not());
        }
        check(&caller, message, asked.is_keyed())?;
        if caller.queued_bytes() > CALL_BACK_BYTES {
            // What others answer it goes the same way.
            return Err(reads_slowly());
        }
        if asked.is_out_of_time() {
            return Err(out_of_time());
        }
        if message.is_one_way() {
            let tag = self.desk().tag_for(&caller, conn, true);
            return pass_on_one_way(&caller, conn, tag, message);
        }
        // How many methods it offers nobody has said, so none of them has to leave places to others.
        let permits = permits(&caller, 1);
        let asking =
            Asking { method: Arc::from(&*request.method), permits, deadline: asked.deadline(), goes_back: true };
        self.enter(conn, message, &caller, asking)
    }
}

/// A caller for which more than so many bytes wait is not called back.
pub(super) const CALL_BACK_BYTES: usize = 1 << 20;
