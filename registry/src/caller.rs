use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use callboard_client::{
    Call, CallError, CallErrorKind, Client, IdempotencyKey, Reconnect, Retries, RetryMetrics, RetryPolicy, Tries,
    deadline_after, spawn_on,
};
use callboard_common::Host;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::to_raw_value;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::discovery::DiscoverySettings;
use crate::errors::call_of;
use crate::pool::{Connect, Pool};
use crate::route::Route;
use crate::{Balancer, CallerBuilder, Discovery, Notices};

/// Calls methods by name, wherever they are provided: discovery, a balancer, and one connection to each provider.
///
/// The center is asked once a method; calls go straight to a provider, also while the center is dead. One deadline
/// (default 5 s) covers finding, connecting, queueing and the answer. A provider that can't be reached, or answers that
/// it takes no calls at the moment (UNAVAILABLE) and has not executed this one, is passed over for another one at once. What
/// else was not executed is tried again after a short pause, at another provider where there is one, up to three times in
/// all and within a [budget](callboard_client::RetryBudget); see [`RetryPolicy`]. A call that may have run is repeated only
/// if it is declared [`idempotent`](Self::idempotent). While there are others, no call waits for a
/// provider that could not be connected to of late: that is tried again in the background. One that left a call
/// unanswered within its time is asked for a sign of life, and passed over until it gives one; if none comes, no
/// further call goes over that connection.
///
/// Providers that have a session at the center are asked to open one for callers too, and are told how much time each
/// call has; others are spoken to in v1.
///
/// Of several centers it asks the first that answers, and the next when that one is lost. One that was just started may
/// not have been found by the providers yet (which takes them 7 s at most): those that are known are called on for that
/// long, and a method of which none is known waits for the first that comes.
///
/// Clones share everything. Connections are driven on the runtime that made the caller, and end with its last clone.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use callboard_registry::Caller;
///
/// let caller = Caller::connect("127.0.0.1:7070").await?;
/// let sum: i64 = caller.call("add", &serde_json::json!({"num1": 1, "num2": 2})).await?;
/// assert_eq!(sum, 3);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Caller {
    inner: Arc<Inner>,
    timeout: Duration,
    retry: RetryPolicy,
    is_idempotent: bool,
    hedge: Option<Duration>,
    key: Option<IdempotencyKey>,
}

/// What the clones of a caller share.
pub(crate) struct Inner {
    pub(crate) discovery: Discovery,
    pub(crate) balancer: Box<dyn Balancer>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) retries: Retries,
    runtime: Handle,
    callbacks: Arc<Semaphore>,
}

impl Caller {
    /// Connects to a center with the default settings.
    ///
    /// # Errors
    /// `Connect`, `Timeout`: the center can't be reached, or there is no tokio runtime here; see [`Client::connect`].
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection.
    pub async fn connect(center: impl AsRef<str>) -> Result<Self, CallError> {
        Self::builder().connect(center).await
    }

    /// Settings first.
    pub fn builder() -> CallerBuilder {
        CallerBuilder::default()
    }

    pub(crate) async fn open(settings: CallerBuilder, center: &str) -> Result<Self, CallError> {
        let client = settings.client.clone().connect(center).await?;
        let pooled = Arc::new(OnceLock::<Weak<Pool>>::new());
        let pool = Arc::clone(&pooled);
        let departed = Box::new(move |host| {
            if let Some(pool) = pool.get().and_then(Weak::upgrade) {
                pool.forget(host);
            }
        });
        let discovery = DiscoverySettings {
            cache: settings.cache,
            notice_capacity: settings.notice_capacity,
            departed,
            keep_unconfirmed: settings.keep_unconfirmed,
        };
        let discovery = Discovery::with_settings(&client, discovery);
        let retries = Retries::new(settings.retry_budget, &settings.client);
        let connect = Connect {
            runtime: Handle::current(),
            // The pool makes them anew itself, for as long as the host provides something, and calls are made again over
            // all of them.
            settings: settings.client.reconnect(Reconnect::never()).retry(RetryPolicy::never()),
            timeout: settings.connect_timeout,
            pause: settings.reconnect_pause,
        };
        let known = discovery.clone();
        let pool = Arc::new(Pool::new(connect, move |host| known.named(host), client, settings.max_connections));
        let _ = pooled.set(Arc::downgrade(&pool));
        let inner = Inner {
            discovery,
            balancer: settings.balancer,
            pool,
            retries,
            runtime: Handle::current(),
            callbacks: Arc::new(Semaphore::new(settings.callbacks.min(Semaphore::MAX_PERMITS))),
        };
        let (timeout, retry, hedge) = (settings.timeout, settings.retry, settings.hedge);
        Ok(Self { inner: Arc::new(inner), timeout, retry, is_idempotent: false, hedge, key: None })
    }

    /// Calls and waits for the result.
    ///
    /// # Errors
    /// `NotFound`: nobody provides the method, nor has come in time to a center that has
    /// [just begun](crate::AvailabilityPolicy::warm_up). `Unavailable`: none of its providers could take the call; it names
    /// them. `Timeout`, `Disconnected`, `Remote`, ... as [`Client::call`]. It is the error of the last try, and says how
    /// many there were and whether any of them ran.
    ///
    /// # Cancel safety
    /// Dropping the future forgets the call; it may run all the same.
    pub async fn call<R: DeserializeOwned>(
        &self,
        method: &str,
        params: &(impl Serialize + ?Sized),
    ) -> Result<R, CallError> {
        if let Some(delay) = self.hedge.filter(|_| self.is_idempotent && self.key.is_none()) {
            return Box::pin(self.call_hedged(method, params, delay)).await;
        }
        let mut route = self.route(method, self.tries());
        loop {
            let error = match call_once(&mut route, method, params).await {
                Ok(result) => return Ok(result),
                Err(error) => error,
            };
            route.after(error).await?;
        }
    }

    /// Sends a call, to be awaited later: it is queued when this returns. From then on no other provider is tried, whatever
    /// the policy says, and not even after one that refuses it because it is about to leave: its parameters are not kept.
    /// Where that is wanted, spawn a [`call`](Self::call), or use [`call_then`](Self::call_then).
    ///
    /// # Errors
    /// As [`call`](Self::call).
    ///
    /// # Cancel safety
    /// Dropping the future or the [`Call`] forgets the call; it may run all the same.
    pub async fn start<R: DeserializeOwned>(
        &self,
        method: &str,
        params: &(impl Serialize + ?Sized),
    ) -> Result<Call<R>, CallError> {
        let mut route = self.route(method, ONCE);
        loop {
            let queued = match route.next().await {
                Ok(provider) => provider.start(method, params).await,
                Err(error) => Err(error),
            };
            match queued {
                Err(error) => route.after(error).await?,
                queued => return queued,
            }
        }
    }

    /// Calls as [`call`](Self::call) does; `then` runs on a task of its own when the result is there. It does not wait. A
    /// panic in `then` is caught and logged.
    ///
    /// # Errors
    /// `Encode`: the parameters can't be written. `Overloaded`: too many calls wait for their callbacks (default
    /// 65,536). Then `then` does not run; all other errors go to it.
    pub fn call_then<R: DeserializeOwned + 'static>(
        &self,
        method: &str,
        params: &(impl Serialize + ?Sized),
        then: impl FnOnce(Result<R, CallError>) + Send + 'static,
    ) -> Result<(), CallError> {
        let params = to_raw_value(params).map_err(|why| {
            let what = format!("the parameters can't be written: {why}");
            self.refuse(CallErrorKind::Encode, method, what)
        })?;
        let place = Arc::clone(&self.inner.callbacks).try_acquire_owned().map_err(|_| {
            self.refuse(CallErrorKind::Overloaded, method, String::from("too many calls wait for their callbacks"))
        })?;
        let (caller, method) = (self.clone(), method.to_owned());
        spawn_on(&self.inner.runtime, async move {
            let outcome = caller.call(&method, &params).await;
            drop(place);
            if catch_unwind(AssertUnwindSafe(|| then(outcome))).is_err() {
                tracing::error!(method, "a call's callback panicked");
            }
        });
        Ok(())
    }

    /// Calls a provider that need not answer; done when the call is queued.
    ///
    /// # Errors
    /// As [`start`](Self::start). What happens after that is not told.
    ///
    /// # Cancel safety
    /// The call is queued or not.
    pub async fn notify(&self, method: &str, params: &(impl Serialize + ?Sized)) -> Result<(), CallError> {
        let mut route = self.route(method, ONCE);
        loop {
            let queued = match route.next().await {
                Ok(provider) => provider.notify(method, params).await,
                Err(error) => Err(error),
            };
            match queued {
                Err(error) => route.after(error).await?,
                queued => return queued,
            }
        }
    }

    /// The same caller with another deadline for its calls.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// The deadline of each call.
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The same caller, and the same budget, with another policy for its calls.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use callboard_client::RetryPolicy;
    /// use callboard_registry::Caller;
    ///
    /// let caller = Caller::connect("127.0.0.1:7070").await?;
    /// // It changes nothing, so it may be asked elsewhere where no answer comes.
    /// let policy = RetryPolicy { per_try: Some(Duration::from_millis(500)), ..RetryPolicy::default() };
    /// let price: f64 = caller.idempotent().with_retry(policy).call("price", &"coffee").await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_retry(&self, retry: RetryPolicy) -> Self {
        Self { retry, ..self.clone() }
    }

    /// The same caller for methods that do no harm when they are executed twice, as those that only read. Their calls are
    /// made again, as the [policy](RetryPolicy) says, also where nobody knows whether they were executed.
    #[must_use]
    pub fn idempotent(&self) -> Self {
        Self { is_idempotent: true, ..self.clone() }
    }

    /// The same caller for one call that is to be executed once, whatever becomes of its answers; see
    /// [`Client::with_idempotency_key`]. Where nobody knows whether it was executed, it is made again, as the
    /// [policy](RetryPolicy) says, at the same run of the same provider only, or at one with the same
    /// [store](callboard_common::Session::store), at whatever host of the method, for which it waits until the deadline. If that
    /// is gone, or called through a center, which does not say which run is there, the error says that nobody knows. A repeat
    /// by hand may go to another provider, which does not know the key. That holds of an [idempotent](Self::idempotent) call,
    /// too, which has no hedge under a key.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use callboard_client::{RetryPolicy, new_idempotency_key};
    /// use callboard_registry::Caller;
    ///
    /// let caller = Caller::connect("127.0.0.1:7070").await?;
    /// let policy = RetryPolicy { per_try: Some(Duration::from_secs(1)), ..RetryPolicy::default() };
    /// let once = caller.with_retry(policy).with_idempotency_key(new_idempotency_key());
    /// let receipt: u64 = once.call("pay", &12).await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_idempotency_key(&self, key: impl AsRef<str>) -> Self {
        Self { key: Some(IdempotencyKey::new(key.as_ref())), ..self.clone() }
    }

    /// The same caller with a hedge for its [idempotent](Self::idempotent) calls; see [`CallerBuilder::hedge`].
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use callboard_registry::Caller;
    ///
    /// let caller = Caller::connect("127.0.0.1:7070").await?.idempotent();
    /// // Nineteen calls in twenty are answered within 20 ms.
    /// let price: f64 = caller.with_hedge(Duration::from_millis(20)).call("price", &"coffee").await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_hedge(&self, delay: Duration) -> Self {
        Self { hedge: Some(delay), ..self.clone() }
    }

    /// How often all clones together have called and tried.
    pub fn retry_metrics(&self) -> RetryMetrics {
        self.inner.retries.metrics()
    }

    /// The hosts that provide `method`, in the order in which they registered; empty if nobody does.
    ///
    /// # Errors
    /// As [`Discovery::hosts`].
    ///
    /// # Cancel safety
    /// Nothing is lost by dropping the future.
    pub async fn hosts(&self, method: &str) -> Result<Vec<Host>, CallError> {
        let hosts = self.inner.discovery.hosts_until(method, deadline_after(self.timeout)).await?;
        Ok(hosts.to_vec())
    }

    /// Waits until somebody provides `method`; returns who does.
    ///
    /// # Errors
    /// As [`Discovery::wait_for_provider`].
    ///
    /// # Cancel safety
    /// Nothing is lost by dropping the future.
    pub async fn wait_for_provider(&self, method: &str, timeout: Duration) -> Result<Vec<Host>, CallError> {
        let hosts = self.inner.discovery.wait_for_provider(method, timeout).await?;
        Ok(hosts.to_vec())
    }

    /// Providers that come and go, of the methods that were asked for, from now on; see [`Discovery::notices`].
    pub fn notices(&self) -> Notices {
        self.inner.discovery.notices()
    }

    /// The connection to the center. While it is lost nobody new is found; providers that are known are called.
    pub fn center(&self) -> &Client {
        self.inner.discovery.client()
    }

    pub(crate) fn route<'a>(&'a self, method: &'a str, tries: Tries) -> Route<'a> {
        self.inner.retries.begin();
        let tries = tries.keyed(self.key.is_some());
        Route::new(&self.inner, method, deadline_after(self.timeout), tries, self.key.as_ref())
    }

    pub(crate) const fn tries(&self) -> Tries {
        // Under a key it is executed once, whatever its method would bear.
        Tries::new(self.retry, self.is_idempotent && self.key.is_none())
    }

    fn refuse(&self, kind: CallErrorKind, method: &str, what: String) -> CallError {
        CallError::new(kind, self.center().address().to_string(), call_of(method), what)
    }
}

pub(crate) async fn call_once<R: DeserializeOwned>(
    route: &mut Route<'_>,
    method: &str,
    params: &(impl Serialize + ?Sized),
) -> Result<R, CallError> {
    route.next().await?.call(method, params).await
}

/// What is queued goes to no second provider.
const ONCE: Tries = Tries::new(RetryPolicy::never(), false);

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("discovery", &self.discovery).field("pool", &self.pool).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod doubts;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod retries;
#[cfg(test)]
mod tests;
