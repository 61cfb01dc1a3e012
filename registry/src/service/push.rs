//! What watchers are told, and those whose registrations wait.

use std::borrow::Cow;
use std::collections::BTreeSet;

use callboard_common::{
    Connection, EncodeError, Feature, Head, Host, MessageType, SendError, ServiceOp, ServiceRequest, Shared,
};
use tokio::time::Instant;
use uuid::Uuid;

use super::{is_told_revisions, knows};
use crate::availability::{NotEntered, Outcomes};
use crate::ticket::Ticket;
use crate::{Effects, Notice};

/// Queues notices as the table tells them.
pub(super) struct Push<'a, C> {
    /// Who caused them: it is not read while a watcher that makes progress catches up.
    pub(super) from: Option<&'a C>,
    /// Whether this center goes on: else what happens says nothing of the providers.
    pub(super) tells: bool,
}

impl<C: Connection> Effects<C> for Push<'_, C> {
    fn notice(&mut self, notice: &Notice, watchers: &BTreeSet<C>) {
        if !self.tells {
            return;
        }
        let (mut plain, mut revised) = (None, None);
        let is_told = |watcher: &&C| !notice.host.is_relayed() || knows(*watcher, Feature::Relay);
        for watcher in watchers.iter().filter(is_told) {
            let with_revision = is_told_revisions(watcher);
            let form = if with_revision { &mut revised } else { &mut plain };
            // Once for all watchers of a form: they are all the same center's connections, with the same protocol.
            let frame = form.get_or_insert_with(|| encode_notice(watcher, notice, with_revision));
            let queued = frame.as_ref().map_or(Err(SendError::Full), |frame| watcher.push(frame, self.from));
            // One that is closed is on its way out of the table.
            if let Err(SendError::Full | SendError::Encode(_)) = queued {
                watcher.close(Cow::Borrowed(NOTICE_LOST));
            }
        }
    }
}

impl<C: Connection> Outcomes<C, Ticket<C>> for Push<'_, C> {
    fn decided(&mut self, ticket: Ticket<C>, outcome: Result<(), NotEntered>) {
        ticket.answer(outcome);
    }

    fn unreached(&mut self, peer: &C, host: Host, why: &str, registrations: usize) {
        tracing::info!(peer = peer.peer(), %host, why, registrations, "a provider was not entered: can't reach its host");
    }

    fn crowded_out(&mut self, peer: &C) {
        tracing::warn!(peer = peer.peer(), "{CROWDED_OUT}");
        peer.close(Cow::Borrowed(CROWDED_OUT));
    }

    fn held(&mut self, method: &str, host: Host, until: Instant) {
        let seconds = until.saturating_duration_since(Instant::now()).as_secs_f32();
        tracing::warn!(method, %host, seconds, "a provider comes and goes: its coming is told later");
    }
}

fn encode_notice<C: Connection>(conn: &C, notice: &Notice, with_revision: bool) -> Result<Shared, EncodeError> {
    let mut id = Uuid::encode_buffer();
    let id = Uuid::new_v4().hyphenated().encode_lower(&mut id);
    let op = if notice.online { ServiceOp::Online } else { ServiceOp::Offline };
    let mut body = ServiceRequest::new(&*notice.method, op).at(notice.host);
    if with_revision || notice.host.is_relayed() {
        body.instance = notice.instance.as_deref().map(Cow::Borrowed);
        body.store = notice.store.as_deref().map(Cow::Borrowed);
    }
    if with_revision {
        body.revision = notice.revision;
    }
    let frame = conn.encode(Head::new(MessageType::ServiceRequest, id.as_bytes()), &body)?;
    Ok(conn.share(frame))
}

const CROWDED_OUT: &str = "all that is registered and watched is at its bound, and of that this connection had most";
pub(super) const NOTICE_LOST: &str = "an online or offline notice could not be queued: the watcher reads too slowly";
