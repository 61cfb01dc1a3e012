//! The same client for programs without a runtime: each call blocks its thread until it is done.
//!
//! Connections are driven by one thread in the background, which all clients of the process share and which is started
//! with the first of them. While calls follow each other within a millisecond, the threads that call drive in its
//! place, as long as they wait for their answers: no answer then has to be handed from thread to thread. When they
//! stop, up to two milliseconds pass until the thread in the background is back, in which no connection is read; a
//! [`Client::start`], a [`Client::call_then`], a [`Client::notify`] or a [`block_on`] calls it at once. A thread that
//! is alone and whose answers come within some tens of microseconds looks for them that long before it sleeps.
//! Parameters are written and results read while the thread drives nothing, so they may take their time.
//!
//! On a thread that belongs to a tokio runtime every blocking call fails with [`CallErrorKind::BlockingInAsync`], since
//! it would hold up all other tasks there, or wait for itself. So does one in a callback, whichever thread runs that.
//!
//! Threads that a runtime keeps for blocking work, as those of tokio's `spawn_blocking`, look like all its others.
//! There, say that this one may block, with [`allow`]:
//!
//! ```
//! use callboard_client::blocking;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let answer = tokio::task::spawn_blocking(|| blocking::allow(|| blocking::block_on(async { 42 }))).await?;
//! assert_eq!(answer?, 42);
//! # Ok::<(), Box<dyn std::error::Error>>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Handlers that a server was told to run on its threads for blocking work may call without it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use callboard_common::{Executed, Session};
pub use callboard_net::allow_blocking as allow;
use callboard_net::{Address, may_block};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::background::{Background, background};
use crate::call::read_result;
use crate::client::queue_call;
use crate::request::Subject;
use crate::{CallError, CallErrorKind, ClientBuilder, RetryMetrics, RetryPolicy};

/// A [`Client`](crate::Client) whose calls block. Clones share the connection.
///
/// ```no_run
/// use callboard_client::blocking::Client;
/// use serde_json::json;
/// # fn main() -> Result<(), callboard_client::CallError> {
/// let client = Client::connect("127.0.0.1:7070")?;
/// let sum: i64 = client.call("add", &json!({"num1": 1, "num2": 2}))?;
/// let later = client.start::<i64>("add", &json!({"num1": 3, "num2": 4}))?;
/// println!("{sum} {}", later.wait()?);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    client: crate::Client,
}

/// A call whose request is queued; [`wait`](Call::wait) for its result. Dropping it forgets the call.
#[must_use = "dropping a call forgets it"]
#[derive(Debug)]
pub struct Call<R>(crate::Call<R>);

impl Client {
    /// Connects with the settings that a [`ClientBuilder`] has by default.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect_blocking`].
    pub fn connect(address: impl AsRef<str>) -> Result<Self, CallError> {
        Self::builder().connect_blocking(address)
    }

    /// Settings first; end with [`ClientBuilder::connect_blocking`].
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    pub(crate) fn connect_with(settings: ClientBuilder, address: &str) -> Result<Self, CallError> {
        let connected = run(settings.connect(address));
        let client = connected.map_err(|why| why.into_error(address.to_owned(), "connection".to_owned()))??;
        Ok(Self { client })
    }

    /// Calls a method and waits for its result.
    ///
    /// # Errors
    /// As [`Client::call`](crate::Client::call), and where a runtime's thread calls it.
    pub fn call<R: DeserializeOwned>(&self, method: &str, params: &(impl Serialize + ?Sized)) -> Result<R, CallError> {
        let background = self.background(method)?;
        let mut way = self.client.call_way(method);
        loop {
            // What is written and read is the caller's: it runs while this thread keeps nobody from driving.
            let queued = background.poll_first(queue_call(&mut way, method, params));
            let request = way.request();
            let answer = queued.and_then(|ticket| {
                background.drive_for(async {
                    request.link.conn.leave();
                    request.answer(ticket).await
                })
            });
            match answer.and_then(|answer| read_result(request, &answer)) {
                Ok(result) => return Ok(result),
                Err(error) => background.poll_first(way.after(error))?,
            }
        }
    }

    /// Sends a call and gives a handle to its result, to be waited for later; blocks only until the request is queued.
    ///
    /// # Errors
    /// As [`Client::start`](crate::Client::start), and where a runtime's thread calls it.
    pub fn start<R: DeserializeOwned>(
        &self,
        method: &str,
        params: &(impl Serialize + ?Sized),
    ) -> Result<Call<R>, CallError> {
        let call = self.wait_for(method, self.client.start(method, params))??;
        Ok(Call(call))
    }

    /// Sends a call; `then` gets its result, once, on the thread in the background, or on one that waits for a call of
    /// its own. It must not block, nor take a lock that a thread holds while it calls: all connections wait for it. A
    /// panic in it is caught and harms nobody else. Blocks only until the request is queued.
    ///
    /// # Errors
    /// As [`start`](Self::start); then `then` is not called.
    pub fn call_then<R: DeserializeOwned + 'static>(
        &self,
        method: &str,
        params: &(impl Serialize + ?Sized),
        then: impl FnOnce(Result<R, CallError>) + Send + 'static,
    ) -> Result<(), CallError> {
        let call = self.wait_for(method, self.client.start(method, params))??;
        self.client.spawn_then(call, then);
        Ok(())
    }

    /// Calls a method whose answer nobody wants; blocks only until the request is queued.
    ///
    /// # Errors
    /// As [`Client::notify`](crate::Client::notify), and where a runtime's thread calls it.
    pub fn notify(&self, method: &str, params: &(impl Serialize + ?Sized)) -> Result<(), CallError> {
        self.wait_for(method, self.client.notify(method, params))?
    }

    /// The same connection with another deadline for each call.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { client: self.client.with_timeout(timeout) }
    }

    /// The same connection, and the same budget, with another policy for each [call](Self::call).
    ///
    /// ```no_run
    /// # fn main() -> Result<(), callboard_client::CallError> {
    /// use callboard_client::{RetryPolicy, blocking::Client};
    /// let client = Client::builder().retry(RetryPolicy::default()).connect_blocking("127.0.0.1:7070")?;
    /// let price: f64 = client.idempotent().call("price", &"coffee")?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_retry(&self, retry: RetryPolicy) -> Self {
        Self { client: self.client.with_retry(retry) }
    }

    /// The same connection for calls of methods that do no harm when they are executed twice; see
    /// [`Client::idempotent`](crate::Client::idempotent).
    #[must_use]
    pub fn idempotent(&self) -> Self {
        Self { client: self.client.idempotent() }
    }

    /// The same connection for one call that is to be executed once; see
    /// [`Client::with_idempotency_key`](crate::Client::with_idempotency_key).
    #[must_use]
    pub fn with_idempotency_key(&self, key: impl AsRef<str>) -> Self {
        Self { client: self.client.with_idempotency_key(key) }
    }

    /// How often all clones together have called and tried.
    pub fn retry_metrics(&self) -> RetryMetrics {
        self.client.retry_metrics()
    }

    /// How long each call may take.
    pub fn timeout(&self) -> Duration {
        self.client.timeout()
    }

    /// What is connected to at the moment, or was last.
    pub fn address(&self) -> Address {
        self.client.address()
    }

    /// Our end of the connection, where it is a TCP one.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.client.local_addr()
    }

    /// The session of the moment; `None` where the peer speaks v1.
    pub fn session(&self) -> Option<Session> {
        self.client.session()
    }

    /// Whether it has ended for good: it was closed, or is not made again.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Waits until all that was queued has left for the peer; see [`Client::flush`](crate::Client::flush).
    ///
    /// # Errors
    /// `Disconnected`, `BlockingInAsync`.
    pub fn flush(&self) -> Result<(), CallError> {
        self.wait_for("flush", self.client.flush())?
    }

    /// Ends the connection, for all clones. Waiting calls fail at once; what is queued is dropped.
    pub fn close(&self) {
        self.client.close();
    }

    /// The asynchronous client of the same connection, for example to use it with [`block_on`].
    pub fn async_client(&self) -> &crate::Client {
        &self.client
    }

    fn wait_for<F: Future>(&self, method: &str, future: F) -> Result<F::Output, CallError> {
        Ok(self.background(method)?.block_on(future))
    }

    fn background(&self, method: &str) -> Result<&'static Background, CallError> {
        let error = |why: NoWait| why.into_error(self.address().to_string(), Subject::Method(method).to_string());
        may_wait().map_err(error)
    }
}

impl<R: DeserializeOwned> Call<R> {
    /// Waits for the result.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn wait(mut self) -> Result<R, CallError> {
        let error = |why: NoWait| why.into_error(self.0.peer(), Subject::Method(self.0.method()).to_string());
        // It is under way: that nobody may wait for it here says nothing of whether it runs.
        let runtime = may_wait().map_err(|why| error(why).with_executed(Executed::Unknown))?;
        let told = runtime.drive_for(self.0.told());
        self.0.read(told)
    }

    /// What is called.
    pub fn method(&self) -> &str {
        self.0.method()
    }
}

/// Runs any future to its end on this thread, with the runtime of the blocking clients around it: for what the
/// asynchronous side offers and this one does not.
///
/// # Errors
/// [`CallErrorKind::BlockingInAsync`] on a runtime's thread; the future is dropped.
pub fn block_on<F: Future>(future: F) -> Result<F::Output, CallError> {
    run(future).map_err(|why| why.into_error("this program".to_owned(), "blocking".to_owned()))
}

/// Why this thread can't wait.
#[derive(Debug)]
enum NoWait {
    InAsync,
    NoThread(io::Error),
}

impl NoWait {
    fn into_error(self, peer: String, subject: String) -> CallError {
        match self {
            Self::InAsync => {
                let what = "a blocking call on a thread of an asynchronous runtime, which it would hold up";
                CallError::new(CallErrorKind::BlockingInAsync, peer, subject, what)
            }
            Self::NoThread(why) => {
                let what = "the thread in the background can't be started";
                CallError::new(CallErrorKind::Unavailable, peer, subject, what).with_source(why)
            }
        }
    }
}

fn run<F: Future>(future: F) -> Result<F::Output, NoWait> {
    Ok(may_wait()?.block_on(future))
}

/// The runtime of all blocking clients, where this thread may wait for it.
fn may_wait() -> Result<&'static Background, NoWait> {
    if may_block() { background().map_err(NoWait::NoThread) } else { Err(NoWait::InAsync) }
}
