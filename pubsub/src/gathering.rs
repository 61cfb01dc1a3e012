use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use callboard_client::{Client, Conn, Ping};
use callboard_common::{Head, MessageType};

/// Whether what is published over one connection waits for company.
///
/// One message at a time leaves at once. Where much is published, a PING goes with it, and what is published until its
/// answer comes leaves together: the center sets the pace, and a write, a wake-up and a read carry many messages on all
/// three sides. What waits, waits for no longer than the center takes to handle what came before.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    /// A PING is under way.
    on: AtomicBool,
    /// Something was published since it left.
    more: AtomicBool,
}

impl Gathering {
    /// Whether a message may wait.
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(SeqCst)
    }

    /// Much is being published.
    pub(crate) fn begin(&self, client: &Client) {
        if !self.on.swap(true, SeqCst) && client.ping(PING_ID).is_err() {
            self.on.store(false, SeqCst);
        }
    }

    /// A message was queued that may wait.
    pub(crate) fn queued(&self, client: &Client) {
        if !self.more.load(SeqCst) {
            self.more.store(true, SeqCst);
        }
        // The answer may have come meanwhile, and the connection's task may be asleep.
        if !self.is_on() {
            client.leave();
        }
    }

    /// The connection was lost: no answer comes.
    pub(crate) fn reset(&self) {
        self.on.store(false, SeqCst);
        self.more.store(false, SeqCst);
    }

    /// The center has handled what came before the PING. On the connection's task, which then writes what is queued.
    pub(crate) fn answered(&self, conn: &Conn) {
        let more = self.more.swap(false, SeqCst);
        if !more || conn.request(Head::new(MessageType::Ping, PING_ID), &Ping).is_err() {
            self.on.store(false, SeqCst);
        }
    }
}

/// No call has it.
pub(crate) const PING_ID: &[u8] = b"published";
