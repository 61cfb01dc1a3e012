use std::pin::pin;
use std::sync::{Arc, Weak};

use callboard_common::{BodyError, Connection, Encode, ErrorInfo, Head, Message, MessageType, ResultCode};
use tokio::time::timeout;

use crate::request::{Request, Stage, Subject};
use crate::{CallError, Client, Inbox, Line, Ping, Resume};

/// For the layers above: requests of any kind, and what a peer sends unasked. `subject` is what errors name, for
/// example `topic "news"`.
impl Client {
    /// Sends a request of any kind and waits for its answer, whose code is not read.
    ///
    /// # Errors
    /// What keeps the request from being sent, or its answer from coming.
    ///
    /// # Cancel safety
    /// As [`call`](Self::call).
    pub async fn exchange<B: Encode + Sync>(&self, subject: &str, body: &B) -> Result<Message, CallError> {
        let mut way = self.way(Subject::Other(subject));
        loop {
            match exchange_once(way.next().await?, body).await {
                Err(error) if way.goes_on_after(&error) => {}
                outcome => return outcome,
            }
        }
    }

    /// Sends a request of any kind, at once or not at all; `done` gets its answer, once, in order with all else that
    /// comes over the connection: what came before the answer has been handed to its inbox, what comes after it has
    /// not. It runs on the connection's task and must not block; a panic in it is caught. Only if the deadline passes
    /// it runs in a task of its own. The connection lives until then.
    ///
    /// # Errors
    /// What keeps the request from being sent at once, a full outbox or too many waiting calls among it; then `done` is
    /// not called.
    pub fn exchange_in_order<B: Encode>(
        &self,
        subject: &str,
        body: &B,
        done: impl FnOnce(Result<Message, CallError>) + Send + 'static,
    ) -> Result<(), CallError> {
        let link = self.link();
        let request = self.request(&link, Subject::Other(subject));
        if self.shared.goes_on() && link.is_leaving() {
            return Err(request.disconnected(Stage::Unsent));
        }
        request.send_in_order(body, |_, answer| done(answer))
    }

    /// Sends a request whose answer nobody wants: with the flag that says so to a session peer, as an ordinary request
    /// whose answer is dropped to another. When this returns, it is queued.
    ///
    /// # Errors
    /// What keeps the request from being sent.
    ///
    /// # Cancel safety
    /// The request is queued whole or not at all.
    pub async fn send_one_way<B: Encode + Sync>(&self, subject: &str, body: &B) -> Result<(), CallError> {
        let mut way = self.way(Subject::Other(subject));
        loop {
            match way.next().await?.send_one_way(body).await {
                Err(error) if way.goes_on_after(&error) => {}
                outcome => return outcome,
            }
        }
    }

    /// The connection of the moment, for one who sends much over it. It does not follow when the connection is made
    /// again.
    pub fn line(&self) -> Line {
        Line { link: self.link(), timeout: self.timeout }
    }

    /// What is queued leaves now.
    pub fn leave(&self) {
        self.shared.look().conn.leave();
    }

    /// Asks for a sign of life under an id that no call has: what answers it is handed to the inbox for topics, in
    /// order with what else comes. To be sent in a session only.
    ///
    /// # Errors
    /// A full outbox, or the connection has ended.
    pub fn ping(&self, id: &[u8]) -> Result<(), CallError> {
        let link = self.link();
        let sent = link.conn.request(Head::new(MessageType::Ping, id), &Ping);
        sent.map(drop).map_err(|why| self.request(&link, Subject::Other("ping")).unsendable(why))
    }

    /// Waits until all that was queued by now has left. Its deadline begins anew with each byte that the peer takes.
    ///
    /// # Errors
    /// `Timeout`: the peer has taken nothing for that long; `Disconnected`.
    ///
    /// # Cancel safety
    /// It only watches.
    pub async fn flush_in_time(&self, subject: &str) -> Result<(), CallError> {
        let link = self.link();
        let conn = &link.conn;
        let request = self.request(&link, Subject::Other(subject));
        let mut flushed = pin!(conn.flushed());
        loop {
            let taken = conn.sent_bytes();
            match timeout(self.timeout, &mut flushed).await {
                Ok(flushed) => return flushed.map_err(|_| request.disconnected(Stage::Unsent)),
                Err(_) if conn.sent_bytes() == taken => return Err(request.late(Stage::Unsent)),
                Err(_) => {}
            }
        }
    }

    /// The error that an answer with a code other than OK stands for.
    pub fn refused(&self, subject: &str, code: ResultCode, error: Option<ErrorInfo>) -> CallError {
        self.request(&self.link(), Subject::Other(subject)).remote(code, error)
    }

    /// The error that an answer stands for whose body can't be read.
    pub fn unreadable(&self, subject: &str, why: BodyError) -> CallError {
        self.request(&self.link(), Subject::Other(subject)).unreadable(why)
    }

    /// This program has registered methods over the connection of the moment: from now on the heartbeats of providers
    /// count.
    pub fn set_provider(&self) {
        self.shared.look().conn.set_provider();
    }

    /// How many connections there have been: it grows by one with each that is made again, and at the end.
    pub fn generation(&self) -> u64 {
        self.shared.generation()
    }

    /// From the next connection on, `what` is done on it before requests go on, as long as somebody keeps it.
    pub fn on_resume(&self, what: Weak<dyn Resume>) {
        self.shared.on_resume(what);
    }

    /// The inbox for what comes as REQ_TOPIC. The first caller makes it, later ones get the same. Without one such
    /// messages are ignored.
    ///
    /// # Panics
    /// If the connection has a topic inbox of another type.
    #[track_caller]
    pub fn topic_inbox<I: Inbox>(&self, make: impl FnOnce() -> I) -> Arc<I> {
        match self.shared.inboxes().topic.open(make) {
            Some(inbox) => inbox,
            None => panic!("the connection has a topic inbox of another type"),
        }
    }

    /// The inbox for notices: what comes as REQ_SERVICE, and as REQ_RPC with the body of a notice, which some centers
    /// send. The first caller makes it, later ones get the same. Without one notices are ignored.
    ///
    /// # Panics
    /// If the connection has a service inbox of another type.
    #[track_caller]
    pub fn service_inbox<I: Inbox>(&self, make: impl FnOnce() -> I) -> Arc<I> {
        match self.shared.inboxes().service.open(make) {
            Some(inbox) => inbox,
            None => panic!("the connection has a service inbox of another type"),
        }
    }
}

async fn exchange_once<B: Encode + Sync>(request: Request<'_>, body: &B) -> Result<Message, CallError> {
    let ticket = request.send(body, false).await?;
    request.answer(ticket).await
}
