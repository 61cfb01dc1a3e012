use std::fmt;
use std::time::Duration;

use callboard_client::{CallError, Client, ClientBuilder, Limits, Reconnect, RetryBudget, RetryPolicy};

use crate::discovery::DEFAULT_KEEP_UNCONFIRMED;
use crate::{Balancer, CacheLimits, Caller, RoundRobin};

/// Settings of a [`Caller`].
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use callboard_registry::Caller;
///
/// let caller = Caller::builder().timeout(Duration::from_secs(2)).name("billing").connect("127.0.0.1:7070").await?;
/// # Ok(()) }
/// ```
pub struct CallerBuilder {
    pub(crate) client: ClientBuilder,
    pub(crate) timeout: Duration,
    pub(crate) retry: RetryPolicy,
    pub(crate) retry_budget: RetryBudget,
    pub(crate) hedge: Option<Duration>,
    pub(crate) connect_timeout: Duration,
    pub(crate) reconnect_pause: Duration,
    pub(crate) balancer: Box<dyn Balancer>,
    pub(crate) cache: CacheLimits,
    pub(crate) notice_capacity: usize,
    pub(crate) max_connections: usize,
    pub(crate) callbacks: usize,
    pub(crate) keep_unconfirmed: Duration,
}

impl Default for CallerBuilder {
    fn default() -> Self {
        Self {
            client: Client::builder().timeout(DEFAULT_TIMEOUT),
            timeout: DEFAULT_TIMEOUT,
            retry: RetryPolicy::default(),
            retry_budget: RetryBudget::default(),
            hedge: None,
            connect_timeout: Duration::from_secs(1),
            reconnect_pause: Duration::from_secs(1),
            balancer: Box::new(RoundRobin::default()),
            cache: CacheLimits::default(),
            notice_capacity: 1024,
            max_connections: 10_000,
            callbacks: 65_536,
            keep_unconfirmed: DEFAULT_KEEP_UNCONFIRMED,
        }
    }
}

impl CallerBuilder {
    /// One deadline for finding, connecting, queueing and the answer of a call, and for connecting to the center.
    /// Default 5 s. A longer one waits out slow providers, a shorter one finds dead ones sooner.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.client = self.client.timeout(timeout);
        self.timeout = timeout;
        self
    }

    /// How often [calls](Caller::call) are made again by themselves. Default: [three tries](RetryPolicy) in all, of what was
    /// not executed. [`Caller::with_retry`] changes it for some calls.
    #[must_use]
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// How many of its calls the caller may repeat in all. Default: a fifth, and some in reserve; see [`RetryBudget`].
    #[must_use]
    pub fn retry_budget(mut self, budget: RetryBudget) -> Self {
        self.retry_budget = budget;
        self
    }

    /// After how long without an answer an [idempotent](Caller::idempotent) call is given to a second provider, too. The
    /// first answer counts, and the other provider is told that nobody waits for its own. Default: never. Choose the time in
    /// which nineteen calls in twenty are answered: a shorter one doubles more calls in vain, a longer one helps fewer. Each
    /// counts as a try of the [policy](RetryPolicy) and costs the budget a repeat; where there is no other provider that is
    /// likely to answer, none is made.
    ///
    /// Source: Jeffrey Dean and Luiz André Barroso, "The Tail at Scale", Communications of the ACM, 2013.
    #[must_use]
    pub fn hedge(mut self, delay: Duration) -> Self {
        self.hedge = Some(delay);
        self
    }

    /// How long connecting to one provider may take. Default 1 s. A longer one suits far networks, a shorter one finds
    /// dead ones sooner. While there are others to try, a call waits for its share of the deadline only, a quarter of
    /// what is left at least; the connection may still come about, for later calls. A provider that left a call
    /// unanswered has as long to give a sign of life.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a provider that could not be connected to is left alone while there are others. Default 1 s. After that
    /// connecting is tried again in the background, and calls turn to it when it succeeds. A longer one makes fewer
    /// attempts, a shorter one finds out sooner that the provider is back.
    #[must_use]
    pub fn reconnect_pause(mut self, pause: Duration) -> Self {
        self.reconnect_pause = pause;
        self
    }

    /// Who chooses the provider of each call. Default [`RoundRobin`].
    #[must_use]
    pub fn balancer(mut self, balancer: impl Balancer) -> Self {
        self.balancer = Box::new(balancer);
        self
    }

    /// Settings of all connections, to the center and to providers, in place of those made before. Of its timeout,
    /// session, reconnect and retry only those towards the center count.
    #[must_use]
    pub fn client(mut self, client: ClientBuilder) -> Self {
        self.client = client.timeout(self.timeout);
        self
    }

    /// How a lost connection to the center is made again. Default: for ever; see [`ClientBuilder::reconnect`].
    /// Meanwhile the providers that are known are called.
    #[must_use]
    pub fn reconnect(mut self, reconnect: Reconnect) -> Self {
        self.client = self.client.reconnect(reconnect);
        self
    }

    /// How long providers stay known that a center which began anew does not name: they have to find it first. Default
    /// 7 s. A longer one survives slower providers, a shorter one finds out sooner who is gone.
    #[must_use]
    pub fn keep_unconfirmed(mut self, time: Duration) -> Self {
        self.keep_unconfirmed = time;
        self
    }

    /// What this program calls itself towards the center.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.client = self.client.name(name);
        self
    }

    /// The limits of each connection, to the center and to providers.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.client = self.client.limits(limits);
        self
    }

    /// How many calls may wait for their answers at one provider. Default 65,536.
    #[must_use]
    pub fn in_flight(mut self, calls: usize) -> Self {
        self.client = self.client.in_flight(calls);
        self
    }

    /// How many methods and hosts are remembered; see [`CacheLimits`].
    #[must_use]
    pub fn cache(mut self, limits: CacheLimits) -> Self {
        self.cache = limits;
        self
    }

    /// How many notices a [`Notices`](crate::Notices) stream holds for a reader that is slow. Default 1,024 notices.
    #[must_use]
    pub fn notice_capacity(mut self, notices: usize) -> Self {
        self.notice_capacity = notices;
        self
    }

    /// How many providers may be connected to at once. Default 10,000. At the bound, those that are connected are
    /// called and others count as not to be reached.
    #[must_use]
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// How many calls with callbacks ([`Caller::call_then`]) may be under way at once. Default 65,536. Past it they are
    /// refused as `Overloaded`.
    #[must_use]
    pub fn callbacks(mut self, calls: usize) -> Self {
        self.callbacks = calls;
        self
    }

    /// Connects to the center.
    ///
    /// # Errors
    /// `Connect`, `Timeout`: the center can't be reached, or there is no tokio runtime here; see [`Client::connect`].
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection.
    pub async fn connect(self, center: impl AsRef<str>) -> Result<Caller, CallError> {
        Caller::open(self, center.as_ref()).await
    }
}

impl fmt::Debug for CallerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallerBuilder")
            .field("client", &self.client)
            .field("timeout", &self.timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("reconnect_pause", &self.reconnect_pause)
            .finish_non_exhaustive()
    }
}

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
