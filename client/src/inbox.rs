use std::any::Any;
use std::iter;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use callboard_common::{Connection, Event, Message};
use callboard_net::Conn;

use crate::guard::guarded;
use crate::{Line, Resuming};

/// Takes what a peer sends unasked: messages of topics, or notices about providers.
///
/// Its functions run on the connection's own task, in the order in which frames came, and must not block. A panic in
/// them is caught, logged and counted. An inbox must not keep a [`Client`](crate::Client): a connection lives as long
/// as its clients do.
pub trait Inbox: Any + Send + Sync {
    /// Takes one message, whose body is not yet read. It is a view into the buffer that it arrived in: keep it for long
    /// only after [`Message::detach`].
    fn message(&self, conn: &Conn, message: Message);

    /// Takes what one read brought, all of it and in order. By default one after the other. Where it panics, those that
    /// it has taken are its own loss; it is called again with the others.
    fn messages(&self, conn: &Conn, messages: &mut dyn Iterator<Item = Message>) {
        messages.for_each(|message| self.message(conn, message));
    }

    /// Runs when a connection has ended that is about to be made again: after its last message, and after the calls
    /// that still waited have failed. By default nothing.
    fn lost(&self) {}

    /// Asks again for what was asked for over the connection that was lost, as [`Resume`](crate::Resume) does. By
    /// default nothing.
    ///
    /// # Errors
    /// The connection is of no use.
    fn resume(self: Arc<Self>, line: &Line) -> Resuming<'_> {
        let _ = line;
        Box::pin(std::future::ready(Ok(())))
    }

    /// Runs once, when no more comes: the connection has ended and is not made again. It comes after the last message,
    /// and after the calls that still waited have failed. An inbox that is made later than that hears it at once, from
    /// the thread that makes it.
    fn closed(&self);
}

/// The place of one inbox on a connection; empty until a layer above wants one.
#[derive(Default)]
pub(crate) struct InboxSlot(Mutex<State>);

#[derive(Default)]
struct State {
    inbox: Option<Arc<dyn Inbox>>,
    closed: bool,
}

impl InboxSlot {
    /// The inbox, made if there is none; `None` if there is one of another type.
    pub(crate) fn open<I: Inbox>(&self, make: impl FnOnce() -> I) -> Option<Arc<I>> {
        if let Some(inbox) = self.inbox() {
            return downcast(inbox);
        }
        let inbox = Arc::new(make()); // the caller's code: not under the lock
        let closed = {
            let mut state = self.state();
            if let Some(quicker) = &state.inbox {
                return downcast(Arc::clone(quicker));
            }
            state.inbox = Some(Arc::<I>::clone(&inbox));
            state.closed
        };
        if closed {
            inbox.closed();
        }
        Some(inbox)
    }

    /// Hands over a message; without an inbox it is counted.
    pub(crate) fn message(&self, conn: &Conn, message: Message) {
        self.messages(conn, &mut iter::once(message));
    }

    /// Hands over all of them. Where the inbox panics, what it has taken and not yet passed on is lost (with topics up
    /// to 32 KiB of messages), and what is behind that is not.
    pub(crate) fn messages(&self, conn: &Conn, messages: &mut dyn Iterator<Item = Message>) {
        let Some(inbox) = self.inbox() else { return messages.for_each(|_| conn.count(Event::Ignored)) };
        while let Some(first) = messages.next() {
            guarded(conn, "an inbox", || inbox.messages(conn, &mut iter::once(first).chain(&mut *messages)));
        }
    }

    /// The connection has ended, and another one comes.
    pub(crate) fn lost(&self, conn: &Conn) {
        if let Some(inbox) = self.inbox() {
            guarded(conn, "an inbox", || inbox.lost());
        }
    }

    /// No more comes; only the first time counts.
    pub(crate) fn closed(&self, conn: &Conn) {
        let inbox = {
            let mut state = self.state();
            if std::mem::replace(&mut state.closed, true) { None } else { state.inbox.clone() }
        };
        if let Some(inbox) = inbox {
            guarded(conn, "an inbox", || inbox.closed());
        }
    }

    pub(crate) fn inbox(&self) -> Option<Arc<dyn Inbox>> {
        self.state().inbox.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn downcast<I: Inbox>(inbox: Arc<dyn Inbox>) -> Option<Arc<I>> {
    let any: Arc<dyn Any + Send + Sync> = inbox;
    any.downcast().ok()
}
