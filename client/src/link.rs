use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::BytesMut;
use callboard_common::{
    Codec, Connection, Encode, EncodeError, FLAG_ONE_WAY, Feature, HEADER_BYTES, Head, MessageType, PublishId,
    SendError,
};
use callboard_net::{Address, Conn};
use tokio::runtime::Handle;

use crate::RequestId;
use crate::calls::{Calls, Waiter, cancel};
use crate::dispatch::Dispatch;

/// One connection, as its clients and their calls share it; the last of them that goes closes it. A client that connects
/// again has another one.
pub(crate) struct Link {
    pub(crate) address: Address,
    pub(crate) conn: Conn,
    pub(crate) calls: Arc<Calls>,
    pub(crate) dispatch: Arc<Dispatch>,
    /// Where the connection's task runs.
    pub(crate) runtime: Handle,
    /// Numbers the requests that are not answered.
    unanswered: AtomicU64,
    /// There is no session, and the peer may know sessions all the same.
    doubts_v1: AtomicBool,
}

impl Link {
    pub(crate) fn new(
        address: Address,
        conn: Conn,
        calls: Arc<Calls>,
        dispatch: Arc<Dispatch>,
        runtime: Handle,
    ) -> Self {
        let (unanswered, doubts_v1) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { address, conn, calls, dispatch, runtime, unanswered, doubts_v1 }
    }

    /// It comes into use without a session, and the peer has not shown that it is one of v1.
    pub(crate) fn doubt_v1(&self) {
        self.doubts_v1.store(true, Relaxed);
    }

    pub(crate) fn doubts_v1(&self) -> bool {
        self.doubts_v1.load(Relaxed)
    }

    /// Whether new requests had better go over another connection.
    pub(crate) fn is_leaving(&self) -> bool {
        self.dispatch.leaving().reason().is_some()
    }

    /// Why it takes no requests any more.
    pub(crate) fn end(&self) -> String {
        match self.dispatch.leaving().reason() {
            Some(reason) => reason.to_owned(),
            None => self.conn.close_reason().unwrap_or_else(|| "it has ended".to_owned()),
        }
    }

    /// Whether the peer leaves requests unanswered that ask for it.
    pub(crate) fn knows_one_way(&self) -> bool {
        self.knows(Feature::OneWay)
    }

    /// Whether the peer knows the keys of the calls over another connection.
    pub(crate) fn knows_keys_of(&self, other: &Self) -> bool {
        self.conn.session().zip(other.conn.session()).is_some_and(|(ours, theirs)| ours.knows_keys_of(theirs))
    }

    pub(crate) fn knows(&self, feature: Feature) -> bool {
        self.conn.session().is_some_and(|session| session.features.has(feature))
    }

    /// Queues a request under an id that was entered, and returns where in the stream of all bytes it begins; up to
    /// `gather` bytes may wait for company.
    pub(crate) fn queue<B: Encode>(&self, id: RequestId, body: &B, gather: usize) -> Result<u64, SendError> {
        self.queue_head(Head { kind: body.kind(), flags: body.flags(), id: &id.to_wire() }, body, gather)
    }

    /// The same for a publish that has an id of its own, in front of the other.
    pub(crate) fn queue_named<B: Encode>(&self, name: PublishId, id: RequestId, body: &B) -> Result<u64, SendError> {
        let mut wire = [0; NAMED_BYTES];
        for (byte, value) in wire.iter_mut().zip(name.to_wire().iter().chain(&id.to_wire())) {
            *byte = *value;
        }
        self.queue_head(Head::new(body.kind(), &wire), body, 0)
    }

    /// Queues a request that the peer is not to answer.
    pub(crate) fn queue_one_way<B: Encode>(&self, body: &B, gather: usize) -> Result<u64, SendError> {
        // It goes elsewhere, as a call does that is not entered: the peer reads no longer than others are under way.
        if self.is_leaving() {
            return Err(SendError::Closed);
        }
        let id = RequestId::unanswered(self.unanswered.fetch_add(1, Relaxed));
        self.queue_head(Head { kind: body.kind(), flags: FLAG_ONE_WAY | body.flags(), id: &id }, body, gather)
    }

    /// The same where nothing has to be waited for; whether it was queued.
    pub(crate) fn queue_one_way_now<B: Encode>(&self, body: &B, gather: usize) -> bool {
        self.knows_one_way() && self.queue_one_way(body, gather).is_ok()
    }

    /// Nobody waits any longer; the waiter comes back if nothing else was quicker.
    pub(crate) fn forget(&self, id: RequestId) -> Option<Waiter> {
        self.calls.forget(&self.conn, id)
    }

    /// Tells the peer that nobody waits for a call any longer.
    pub(crate) fn cancel(&self, id: RequestId) {
        cancel(&self.conn, id);
    }

    pub(crate) fn queue_head<B: Encode>(&self, head: Head<'_>, body: &B, gather: usize) -> Result<u64, SendError> {
        let max_frame_bytes = self.conn.session().map_or(u64::MAX, |session| session.limits.max_frame_bytes);
        let max_frame_bytes = usize::try_from(max_frame_bytes).unwrap_or(usize::MAX);
        let body = Bounded { body, header_bytes: COUNTED_HEADER_BYTES + head.id.len(), max_frame_bytes };
        if gather == 0 { self.conn.request(head, &body) } else { self.conn.request_gathered(head, &body, gather) }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        #[cfg(feature = "planted")]
        if callboard_common::Planted::ConnectionKept.is_planted() {
            return;
        }
        // What was queued still leaves: a request without an answer may be the last thing that a program sends.
        self.conn.drain(LAST_WORDS);
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("address", &self.address).field("conn", &self.conn).finish_non_exhaustive()
    }
}

/// What the id of a request takes that has an id of its own, too.
const NAMED_BYTES: usize = PublishId::WIRE_BYTES + RequestId::WIRE_BYTES;
/// The call of which an answer's id tells.
pub(crate) fn call_in(id: &[u8]) -> &[u8] {
    if id.len() != NAMED_BYTES {
        return id;
    }
    PublishId::split(id).map_or(id, |(_, call)| call)
}

/// The part of a header that its length field counts.
const COUNTED_HEADER_BYTES: usize = HEADER_BYTES - 4;
/// How long a connection that nobody uses any longer may take to write what is queued.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(5);

/// A body whose frame must be within what the peer takes: a larger one would close the connection to all calls on it.
struct Bounded<'a, B> {
    body: &'a B,
    header_bytes: usize,
    max_frame_bytes: usize,
}

impl<B: Encode> Encode for Bounded<'_, B> {
    fn kind(&self) -> MessageType {
        self.body.kind()
    }

    fn flags(&self) -> u8 {
        self.body.flags()
    }

    fn encode<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        let start = out.len();
        self.body.encode::<C>(out)?;
        let frame_bytes = self.header_bytes + (out.len() - start);
        if frame_bytes > self.max_frame_bytes {
            return Err(EncodeError::TooLarge { frame_bytes, max_frame_bytes: self.max_frame_bytes });
        }
        Ok(())
    }
}
