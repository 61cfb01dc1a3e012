use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use callboard_common::{
    CallerTag, Connection, ConnectionId, Event, Handler, Message, MessageType, RequestId, Requestor,
};
use dashmap::DashMap;
use rustc_hash::FxBuildHasher;
use tokio::sync::oneshot;

/// The calls that were sent to callers and wait for their answers, by connection: ids of one side never meet those of the
/// other, since each looks for answers among its own.
#[derive(Default)]
pub(crate) struct Asked(DashMap<ConnectionId, Calls, FxBuildHasher>);

/// Those over one connection.
struct Calls {
    requestor: Requestor<Entry>,
    bound: usize,
    /// How many are to each of those behind a center at its other end, by their [numbers](CallerTag::number).
    behind: HashMap<u64, usize, FxBuildHasher>,
}

struct Entry {
    waiter: Waiter,
    behind: Option<u64>,
}

/// Learns of the connection's end by the drop.
type Waiter = oneshot::Sender<Message>;

/// Takes the answers to the calls that methods of a [`Router`](crate::Router) make to their callers.
///
/// A server has one by itself; who composes a [`Dispatcher`](callboard_common::Dispatcher) by hand puts it in the slot of
/// responses.
///
/// ```
/// use callboard_common::Dispatcher;
/// use callboard_server::Router;
/// let router = Router::new().method("add", |(a, b): (i64, i64)| Ok(a + b));
/// let dispatcher = Dispatcher::new().on_response(router.answers()).on_rpc(router);
/// ```
#[derive(Clone, Debug)]
pub struct Answers(pub(crate) Arc<Asked>);

impl Asked {
    /// Enters a call, if no more than `bound` of the connection wait already. Those that are behind a center share this: each
    /// has fewer calls waiting than are free, so that who does not answer leaves places for calls to others.
    pub(crate) fn begin(
        &self,
        conn: ConnectionId,
        bound: usize,
        behind: Option<CallerTag>,
    ) -> Option<(RequestId, oneshot::Receiver<Message>)> {
        if bound == 0 {
            // No entry: where no call can begin, none sees the end of a connection that has gone before, and takes it out.
            return None;
        }
        let (waiter, answer) = oneshot::channel();
        let mut calls = self.0.entry(conn).or_insert_with(|| Calls::new(bound));
        let id = calls.begin(Entry { waiter, behind: behind.map(CallerTag::number) })?;
        Some((id, answer))
    }

    /// Nobody waits any longer. Whether somebody did until now.
    pub(crate) fn forget(&self, conn: ConnectionId, id: RequestId) -> bool {
        self.0.get_mut(&conn).is_some_and(|mut calls| calls.take(|requestor| requestor.forget(id)).is_some())
    }

    /// The same where the connection turns out to have ended: nothing is kept of it that nobody would take out again.
    pub(crate) fn forget_ended(&self, conn: ConnectionId, id: RequestId) {
        self.forget(conn, id);
        self.0.remove_if(&conn, |_, calls| calls.requestor.is_empty());
    }

    /// The connection has ended, and with it all that wait.
    pub(crate) fn closed(&self, conn: ConnectionId) {
        drop(self.0.remove(&conn));
    }

    /// An answer has come to a call to somebody behind a center.
    pub(crate) fn answered<C: Connection>(&self, conn: &C, message: Message) {
        let waiter = RequestId::of_call_back(message.id()).and_then(|id| self.waiter(conn.id(), id));
        if waiter.is_none_or(|waiter| waiter.send(message).is_err()) {
            conn.count(Event::Ignored);
        }
    }

    fn waiter(&self, conn: ConnectionId, id: &[u8]) -> Option<Waiter> {
        self.0.get_mut(&conn)?.take(|requestor| requestor.complete(id))
    }

    #[cfg(test)]
    pub(crate) fn connections(&self) -> usize {
        self.0.len()
    }
}

impl Calls {
    fn new(bound: usize) -> Self {
        Self { requestor: Requestor::new(bound), bound, behind: HashMap::default() }
    }

    fn begin(&mut self, entry: Entry) -> Option<RequestId> {
        let free = self.bound.saturating_sub(self.requestor.len());
        let behind = entry.behind;
        if behind.is_some_and(|number| self.behind.get(&number).is_some_and(|own| *own >= free)) {
            return None;
        }
        let id = self.requestor.begin(entry).ok()?;
        if let Some(number) = behind {
            *self.behind.entry(number).or_default() += 1;
        }
        Some(id)
    }

    fn take(&mut self, take: impl FnOnce(&mut Requestor<Entry>) -> Option<Entry>) -> Option<Waiter> {
        let Entry { waiter, behind } = take(&mut self.requestor)?;
        if let Some(number) = behind
            && let Some(own) = self.behind.get_mut(&number)
        {
            *own -= 1;
            if *own == 0 {
                self.behind.remove(&number);
            }
        }
        Some(waiter)
    }
}

impl<C: Connection> Handler<C> for Answers {
    fn handle(&self, conn: &C, message: Message) {
        let is_answer = message.kind() == MessageType::RpcResponse;
        let waiter = if is_answer { self.0.waiter(conn.id(), message.id()) } else { None };
        if waiter.is_none_or(|waiter| waiter.send(message).is_err()) {
            conn.count(Event::Ignored);
        }
    }

    fn closed(&self, conn: &C) {
        self.0.closed(conn.id());
    }
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked").field("connections", &self.0.len()).finish_non_exhaustive()
    }
}
