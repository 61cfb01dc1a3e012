mod connection;
mod layers;
mod settings;

use std::sync::Arc;
use std::time::Duration;

use callboard_common::Connection;
use callboard_net::spawn_on;
use serde::Serialize;
use serde::de::DeserializeOwned;
use settings::Again;

use crate::call::{CallBody, read_result};
use crate::deadline::Deadline;
use crate::guard::guarded;
use crate::link::Link;
use crate::relayed::Relayed;
use crate::request::{Request, Subject, Ticket, take_turns};
use crate::shared::Shared;
use crate::way::Way;
use crate::{Call, CallError, ClientBuilder, IdempotencyKey, RetryPolicy, Tries};

/// A handle to a connection that is kept up, over which any number of calls may be under way at once. Clones share the connection; it
/// is closed when the last of them, and of their calls, is dropped.
///
/// One deadline covers all that a call has to wait for: a place among those that wait for answers, room in the outbox,
/// and the answer. It is 5 s unless it is set ([`ClientBuilder::timeout`], [`with_timeout`](Self::with_timeout)).
///
/// A connection that ends fails every waiting call at once, unless nothing of it had left; one that a peer refuses because it
/// is about to leave goes over the next connection ([`call`](Self::call)). It is made again, to the next of
/// the addresses where several were given, and meanwhile what is to be sent waits, each call for as long as it may take;
/// see [`ClientBuilder::reconnect`] and [`states`](Self::states).
///
/// Its calls may be awaited on any tokio runtime, but its connections live on the one on which the first was made.
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
    pub(crate) shared: Arc<Shared>,
    timeout: Duration,
    /// How calls are made again; `None`: each is made once.
    again: Option<Arc<Again>>,
    /// Which provider the peer is to pass calls on to.
    to: Option<Arc<Relayed>>,
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

    pub(crate) fn new(shared: Arc<Shared>, timeout: Duration, retry: RetryPolicy) -> Self {
        Self { shared, timeout, again: None, to: None }.with_retry(retry)
    }

    /// Calls a method and waits for its result. It is made again as the client's [policy](ClientBuilder::retry) says, over
    /// the same connection or the next one.
    ///
    /// # Errors
    /// [`CallError`] says what happened at last, how often it was tried, whether any of the tries ran, and what to do.
    ///
    /// # Cancel safety
    /// Dropping the future forgets the call: its place is free at once, and an answer that comes is ignored. The peer
    /// may still execute it.
    pub async fn call<R: DeserializeOwned>(
        &self,
        method: &str,
        params: &(impl Serialize + ?Sized),
    ) -> Result<R, CallError> {
        let (subject, deadline) = (Subject::Method(method), Deadline::after(self.timeout));
        self.shared.retries.begin();
        let (of_try, mut failed) = (deadline.of_try(self.per_try()), None);
        if let Some(mut ticket) = self.call_now(method, params, of_try) {
            let told = (&mut ticket.answer).await;
            let outcome = ticket.outcome(told.ok());
            let request = Request { link: &ticket.entered.link, subject, deadline: of_try };
            match request.outcome(outcome, ticket.kind).and_then(|answer| read_result(request, &answer)) {
                Ok(result) => return Ok(result),
                Err(error) => failed = Some((Arc::clone(request.link), error)),
            }
        }
        let mut way = Way::new(&self.shared, subject, deadline, self.tries()).under(self.key());
        if let Some((link, error)) = failed {
            way.after_first(link, error).await?;
        }
        take_turns().await;
        loop {
            let error = match call_once(&mut way, method, params, self.to.as_deref()).await {
                Ok(result) => return Ok(result),
                Err(error) => error,
            };
            way.after(error).await?;
        }
    }

    /// Sends a call and gives a handle to its result, to be awaited later. When this returns, the request is queued;
    /// calls are sent in the order in which they were started. From then on it is not made again, nor is a call with
    /// [`call_then`](Self::call_then): not even what a peer refuses because it is about to leave. Its parameters would have
    /// to be kept for that, by each call for the sake of few. Where it is to be made again, spawn a [`call`](Self::call).
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
        let mut way = self.way(Subject::Method(method));
        loop {
            let request = way.next().await?;
            let deadline = request.deadline;
            match request.send(&call_body(request, method, params, self.to.as_deref(), self.key()), true).await {
                Ok(ticket) => return Ok(Call::new(ticket, method, deadline)),
                Err(error) if way.goes_on_after(&error) => {}
                Err(error) => return Err(error),
            }
        }
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
        let link = self.link();
        let request = self.request(&link, Subject::Method(method));
        if let Some(key) = self.key() {
            request.permits(key)?;
        }
        let body = call_body(request, method, params, self.to.as_deref(), self.key());
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
        let body = CallBody { method, params, deadline: None, to: self.to.as_deref(), key: self.key() };
        let mut way = self.way(Subject::Method(method));
        loop {
            match way.next().await?.send_one_way(&body).await {
                Err(error) if way.goes_on_after(&error) => {}
                outcome => return outcome,
            }
        }
    }

    pub(crate) fn spawn_then<R: DeserializeOwned + 'static>(
        &self,
        call: Call<R>,
        then: impl FnOnce(Result<R, CallError>) + Send + 'static,
    ) {
        let link = self.link();
        let conn = link.conn.clone();
        spawn_on(&link.runtime, async move {
            let result = call.await;
            guarded(&conn, "a call's callback", || then(result));
        });
    }

    /// Most calls have nothing to wait for: they are queued with no more than a look at the connection of the moment.
    fn call_now(&self, method: &str, params: &(impl Serialize + ?Sized), deadline: Deadline) -> Option<Ticket> {
        let link = self.shared.look();
        if self.shared.goes_on() && link.is_leaving() {
            return None;
        }
        let request = Request { link: &link, subject: Subject::Method(method), deadline };
        if self.key().is_some_and(|key| request.permits(key).is_err()) {
            return None;
        }
        request.queue_now(&call_body(request, method, params, self.to.as_deref(), self.key()))
    }

    pub(crate) fn link(&self) -> Arc<Link> {
        self.shared.link()
    }

    fn request<'a>(&self, link: &'a Arc<Link>, subject: Subject<'a>) -> Request<'a> {
        Request { link, subject, deadline: Deadline::after(self.timeout) }
    }

    /// Of a request that is made once.
    pub(crate) fn way<'a>(&'a self, subject: Subject<'a>) -> Way<'a> {
        let tries = Tries::new(RetryPolicy::never(), false);
        Way::new(&self.shared, subject, Deadline::after(self.timeout), tries).under(self.key())
    }

    /// Of a call.
    pub(crate) fn call_way<'a>(&'a self, method: &'a str) -> Way<'a> {
        self.shared.retries.begin();
        Way::new(&self.shared, Subject::Method(method), Deadline::after(self.timeout), self.tries()).under(self.key())
    }
}

/// Queues a call that leaves as soon as its connection is told to.
pub(crate) async fn queue_call(
    way: &mut Way<'_>,
    method: &str,
    params: &(impl Serialize + ?Sized),
) -> Result<Ticket, CallError> {
    let key = way.key();
    let request = way.next().await?;
    request.queue(&call_body(request, method, params, None, key), false, usize::MAX).await
}

async fn call_once<R: DeserializeOwned>(
    way: &mut Way<'_>,
    method: &str,
    params: &(impl Serialize + ?Sized),
    to: Option<&Relayed>,
) -> Result<R, CallError> {
    let key = way.key();
    let request = way.next().await?;
    let ticket = request.send(&call_body(request, method, params, to, key), false).await?;
    let answer = request.answer(ticket).await?;
    read_result(request, &answer)
}

fn call_body<'a, P: ?Sized>(
    request: Request<'_>,
    method: &'a str,
    params: &'a P,
    to: Option<&'a Relayed>,
    key: Option<&'a IdempotencyKey>,
) -> CallBody<'a, P> {
    let deadline = request.link.conn.session().map(|_| request.deadline);
    CallBody { method, params, deadline, to, key }
}
