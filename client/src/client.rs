use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use callboard_common::{BodyError, Connection, Encode, ErrorInfo, Head, Message, MessageType, ResultCode, Session};
use callboard_net::Address;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::call::{CallBody, read_result};
use crate::deadline::Deadline;
use crate::guard::guarded;
use crate::link::Link;
use crate::request::{Request, Stage, Subject, Ticket, take_turns};
use crate::{Call, CallError, ClientBuilder, Inbox, Ping};

/// A handle to one connection, over which any number of calls may be under way at once. Clones share the connection; it
/// is closed when the last of them, and of their calls, is dropped.
///
/// One deadline covers all that a call has to wait for: a place among those that wait for answers, room in the outbox,
/// and the answer. It is 5 s unless it is set ([`ClientBuilder::timeout`], [`with_timeout`](Self::with_timeout)). A
/// connection that ends fails every waiting call at once. It is not made anew: connect again.
///
/// Its calls may be awaited on any tokio runtime, but the connection lives on the one on which it was made.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use callboard_client::Client;
/// use serde_json::json;
///
/// let client = Client::connect("127.0.0.1:7070").await?;
/// let sum: i64 = client.call("add", &json!({"num1": 1, "num2": 2})).await?;
///
/// // Many at once, awaited in any order.
/// let first = client.start::<i64>("add", &json!({"num1": 3, "num2": 4})).await?;
/// let second = client.start::<String>("echo", &json!({"text": "hi"})).await?;
/// println!("{sum} {} {}", second.await?, first.await?);
///
/// // A callback, with a deadline of its own.
/// let hurried = client.with_timeout(Duration::from_secs(1));
/// hurried.call_then::<i64>("add", &json!({"num1": 5, "num2": 6}), |sum| match sum {
///     Ok(sum) => println!("{sum}"),
///     Err(error) => eprintln!("{error}"),
/// })?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    link: Arc<Link>,
    timeout: Duration,
}

impl Client {
    /// Connects with the settings that a [`ClientBuilder`] has by default.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`].
    ///
    /// # Cancel safety
    /// A connection that is not wanted any more is closed.
    pub async fn connect(address: impl AsRef<str>) -> Result<Self, CallError> {
        Self::builder().connect(address).await
    }

    /// Settings first.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    pub(crate) fn new(link: Arc<Link>, timeout: Duration) -> Self {
        Self { link, timeout }
    }

    /// Calls a method and waits for its result.
    ///
    /// # Errors
    /// [`CallError`] says what happened, whether the method ran, and what to do.
    ///
    /// # Cancel safety
    /// Dropping the future forgets the call: its place is free at once, and an answer that comes is ignored. The peer
    /// may still execute it.
    pub async fn call<R: DeserializeOwned>(
        &self,
        method: &str,
        params: &(impl Serialize + ?Sized),
    ) -> Result<R, CallError> {
        let request = self.request(Subject::Method(method));
        let ticket = request.send(&self.call_body(method, params, request.deadline), false).await?;
        let answer = request.answer(ticket).await?;
        read_result(request, &answer)
    }

    /// Sends a call and gives a handle to its result, to be awaited later. When this returns, the request is queued;
    /// calls are sent in the order in which they were started.
    ///
    /// # Errors
    /// What keeps the request from being sent; it was not executed.
    ///
    /// # Cancel safety
    /// The request is queued whole or not at all.
    pub async fn start<R: DeserializeOwned>(
        &self,
        method: &str,
        params: &(impl Serialize + ?Sized),
    ) -> Result<Call<R>, CallError> {
        let request = self.request(Subject::Method(method));
        let ticket = request.send(&self.call_body(method, params, request.deadline), true).await?;
        Ok(Call::new(ticket, method, request.deadline))
    }

    /// Sends a call; `then` gets its result, once. It runs on the connection's task, so it must not block: the answers
    /// behind this one wait for it. A panic in it is caught and harms nobody else. Where the deadline passes it runs in a
    /// task of its own on the runtime of the connection, and it is not called if that runtime stops first. The connection
    /// lives until then. This is the way to call that costs least.
    ///
    /// # Errors
    /// What keeps the request from being sent at once, a full outbox or too many waiting calls among it; then `then` is
    /// not called.
    pub fn call_then<R: DeserializeOwned + 'static>(
        &self,
        method: &str,
        params: &(impl Serialize + ?Sized),
        then: impl FnOnce(Result<R, CallError>) + Send + 'static,
    ) -> Result<(), CallError> {
        let request = self.request(Subject::Method(method));
        let body = self.call_body(method, params, request.deadline);
        request.send_in_order(&body, |request, answer| then(answer.and_then(|answer| read_result(request, &answer))))
    }

    /// Calls a method whose answer nobody wants: a session peer sends none, that of another is dropped. When this
    /// returns, the request is queued; whether it is ever executed is not known.
    ///
    /// # Errors
    /// What keeps the request from being sent.
    ///
    /// # Cancel safety
    /// The request is queued whole or not at all.
    pub async fn notify(&self, method: &str, params: &(impl Serialize + ?Sized)) -> Result<(), CallError> {
        let request = self.request(Subject::Method(method));
        request.send_one_way(&CallBody { method, params, deadline: None }).await
    }

    /// The same connection with another deadline for each call. A shorter one fails earlier; a longer one keeps a place
    /// for longer.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { link: Arc::clone(&self.link), timeout }
    }

    /// How long each call may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// What was connected to.
    pub fn address(&self) -> &Address {
        &self.link.address
    }

    /// Our end of the connection, where it is a TCP one.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.link.conn.local_addr()
    }

    /// The session; `None` where the peer speaks v1.
    pub fn session(&self) -> Option<&Session> {
        self.link.conn.session()
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.link.conn.is_closed()
    }

    /// Waits until the connection has ended.
    ///
    /// # Cancel safety
    /// It only watches.
    pub async fn closed(&self) {
        self.link.conn.closed().await;
    }

    /// Waits until all that was queued by now, one-way calls among it, has left for the peer; what others queue meanwhile
    /// is not waited for. Not needed before a client is
    /// dropped, but before the program, or the runtime that it connected on, ends.
    ///
    /// # Errors
    /// `Disconnected`: what had not left by then is lost.
    ///
    /// # Cancel safety
    /// It only watches.
    pub async fn flush(&self) -> Result<(), CallError> {
        let request = self.request(Subject::Other("flush"));
        self.link.conn.flushed().await.map_err(|_| request.disconnected(Stage::Unsent))
    }

    /// Ends the connection, for all clones. Waiting calls fail at once; what is queued is dropped.
    pub fn close(&self) {
        self.link.conn.end("this program has closed it");
    }

    pub(crate) fn spawn_then<R: DeserializeOwned + 'static>(
        &self,
        call: Call<R>,
        then: impl FnOnce(Result<R, CallError>) + Send + 'static,
    ) {
        let conn = self.link.conn.clone();
        self.link.runtime.spawn(async move {
            let result = call.await;
            guarded(&conn, "a call's callback", || then(result));
        });
    }

    /// Queues a call that leaves as soon as its connection is told to [leave](Self::leave).
    pub(crate) async fn queue_call<'a>(
        &'a self,
        method: &'a str,
        params: &(impl Serialize + ?Sized),
    ) -> Result<(Request<'a>, Ticket), CallError> {
        let request = self.request(Subject::Method(method));
        let ticket = request.queue(&self.call_body(method, params, request.deadline), false, usize::MAX).await?;
        Ok((request, ticket))
    }

    #[cfg(test)]
    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    fn request<'a>(&'a self, subject: Subject<'a>) -> Request<'a> {
        Request { link: &self.link, subject, deadline: Deadline::after(self.timeout) }
    }

    fn call_body<'a, P: ?Sized>(&self, method: &'a str, params: &'a P, deadline: Deadline) -> CallBody<'a, P> {
        CallBody { method, params, deadline: self.session().map(|_| deadline) }
    }
}

/// For the layers above: requests of any kind, and what a peer sends unasked. `subject` is what errors name, for example
/// `topic "news"`.
impl Client {
    /// Sends a request of any kind and waits for its answer, whose code is not read.
    ///
    /// # Errors
    /// What keeps the request from being sent, or its answer from coming.
    ///
    /// # Cancel safety
    /// As [`call`](Self::call).
    pub async fn exchange<B: Encode + Sync>(&self, subject: &str, body: &B) -> Result<Message, CallError> {
        let request = self.request(Subject::Other(subject));
        let ticket = request.send(body, false).await?;
        request.answer(ticket).await
    }

    /// Sends a request of any kind, at once or not at all; `done` gets its answer, once, in order with all else that
    /// comes over the connection: what came before the answer has been handed to its inbox, what comes after it has not.
    /// It runs on the connection's task and must not block; a panic in it is caught. Only if the deadline passes it runs
    /// in a task of its own. The connection lives until then.
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
        self.request(Subject::Other(subject)).send_in_order(body, |_, answer| done(answer))
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
        self.request(Subject::Other(subject)).send_one_way(body).await
    }

    /// The same for one that need not leave at once: up to `gather` bytes wait for company, until something else is
    /// sent or they are told to [leave](Self::leave).
    ///
    /// # Errors
    /// Those of [`send_one_way`](Self::send_one_way).
    ///
    /// # Cancel safety
    /// That of [`send_one_way`](Self::send_one_way).
    pub async fn send_gathered<B: Encode + Sync>(
        &self,
        subject: &str,
        body: &B,
        gather: usize,
    ) -> Result<(), CallError> {
        take_turns().await;
        // No look at the clock where nothing has to be waited for.
        if self.link.knows_one_way() && self.link.queue_one_way(body, gather).is_ok() {
            return Ok(());
        }
        self.send_one_way(subject, body).await
    }

    /// What is queued leaves now.
    pub fn leave(&self) {
        self.link.conn.leave();
    }

    /// Asks for a sign of life under an id that no call has: what answers it is handed to the inbox for topics, in order
    /// with what else comes. To be sent in a session only.
    ///
    /// # Errors
    /// A full outbox, or the connection has ended.
    pub fn ping(&self, id: &[u8]) -> Result<(), CallError> {
        let sent = self.link.conn.request(Head::new(MessageType::Ping, id), &Ping);
        sent.map(drop).map_err(|why| self.request(Subject::Other("ping")).unsendable(why))
    }

    /// Waits until all that was queued by now has left. Its deadline begins anew with each byte that the peer takes.
    ///
    /// # Errors
    /// `Timeout`: the peer has taken nothing for that long; `Disconnected`.
    ///
    /// # Cancel safety
    /// It only watches.
    pub async fn flush_in_time(&self, subject: &str) -> Result<(), CallError> {
        let conn = &self.link.conn;
        let request = self.request(Subject::Other(subject));
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
        self.request(Subject::Other(subject)).remote(code, error)
    }

    /// The error that an answer stands for whose body can't be read.
    pub fn unreadable(&self, subject: &str, why: BodyError) -> CallError {
        self.request(Subject::Other(subject)).unreadable(why)
    }

    /// The inbox for what comes as REQ_TOPIC. The first caller makes it, later ones get the same. Without one such
    /// messages are ignored.
    ///
    /// # Panics
    /// If the connection has a topic inbox of another type.
    #[track_caller]
    pub fn topic_inbox<I: Inbox>(&self, make: impl FnOnce() -> I) -> Arc<I> {
        match self.link.inboxes.topic.open(make) {
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
        match self.link.inboxes.service.open(make) {
            Some(inbox) => inbox,
            None => panic!("the connection has a service inbox of another type"),
        }
    }
}
