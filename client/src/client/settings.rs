use std::sync::Arc;
use std::time::Duration;

use crate::relayed::Relayed;
use crate::{Client, IdempotencyKey, RetryMetrics, RetryPolicy, Tries};

/// How the calls of a handle are made again.
#[derive(Clone, Debug)]
pub(super) struct Again {
    policy: RetryPolicy,
    is_idempotent: bool,
    key: Option<IdempotencyKey>,
}

/// What differs between handles of the same connection.
impl Client {
    /// The same connection with another deadline for each call. A shorter one fails earlier; a longer one keeps a place
    /// for longer.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// The same connection, and the same budget, with another policy for each [call](Self::call).
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), callboard_client::CallError> {
    /// use std::time::Duration;
    /// use callboard_client::{Client, RetryPolicy};
    /// let client = Client::builder().retry(RetryPolicy::default()).connect("127.0.0.1:7070").await?;
    /// // It changes nothing, so it may be asked again where no answer comes.
    /// let patient = RetryPolicy { tries: 5, per_try: Some(Duration::from_millis(500)), ..RetryPolicy::default() };
    /// let price: f64 = client.idempotent().with_retry(patient).call("price", &"coffee").await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_retry(&self, retry: RetryPolicy) -> Self {
        self.with_again(Again { policy: retry, ..self.again() })
    }

    /// The same connection for calls of methods that do no harm when they are executed twice, as those that only read. They
    /// are made again, as the [policy](RetryPolicy) says, also where nobody knows whether they were executed.
    #[must_use]
    pub fn idempotent(&self) -> Self {
        self.with_again(Again { is_idempotent: true, ..self.again() })
    }

    /// The same connection, to a center, whose calls the center passes on to the provider of this instance: to one that
    /// listens nowhere and has registered its methods over its own connection
    /// ([`ClientBuilder::serves`](crate::ClientBuilder::serves)). That is what a `Caller` does by itself. Requests of other
    /// kinds are the center's as before.
    ///
    /// What is told of such a call is as true as that of any other; the peer that errors name is the center.
    #[must_use]
    pub fn relayed_to(&self, instance: &str) -> Self {
        Self { to: Some(Arc::new(Relayed::new(instance, None))), ..self.clone() }
    }

    /// The same for a provider that keeps its answers to calls under [keys](Self::with_idempotency_key) in the
    /// [store](callboard_common::Session::store) of this name: such calls are not passed on to another one that has its
    /// instance by now.
    #[must_use]
    pub fn relayed_to_store(&self, instance: &str, store: &str) -> Self {
        Self { to: Some(Arc::new(Relayed::new(instance, Some(store)))), ..self.clone() }
    }

    /// The same connection for one call that is to be executed once, whatever becomes of its answers: a provider that knows
    /// the key gives each repeat the answer of the first. Repeat it by hand with the same key and the same parameters, and at
    /// the same provider: another one does not know the key.
    ///
    /// By itself the call is made again, as the [policy](RetryPolicy) says, also where nobody knows whether it was executed, but
    /// then at the same [run](callboard_common::Session::instance) of the peer only, or at one with the same
    /// [store](callboard_common::Session::store). Where the next connection leads to another
    /// one, the error says that nobody knows. That holds of an [idempotent](Self::idempotent) call, too.
    ///
    /// A peer that does not know keys, as each one that speaks v1, is sent nothing: the call fails as
    /// [`Unsupported`](crate::CallErrorKind::Unsupported), executed no. A key of other than 1 to 255 bytes fails as `Encode`.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), callboard_client::CallError> {
    /// use callboard_client::{Client, new_idempotency_key};
    /// use callboard_common::Executed;
    /// let client = Client::connect("127.0.0.1:7070").await?;
    /// let payment = client.with_idempotency_key(new_idempotency_key());
    /// let receipt: u64 = match payment.call("pay", &12).await {
    ///     Err(error) if error.executed() == Executed::Unknown => payment.call("pay", &12).await?,
    ///     outcome => outcome?,
    /// };
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_idempotency_key(&self, key: impl AsRef<str>) -> Self {
        self.under(IdempotencyKey::new(key.as_ref()))
    }

    /// The same for the layers above, which have made the key.
    #[must_use]
    pub fn under(&self, key: IdempotencyKey) -> Self {
        self.with_again(Again { key: Some(key), ..self.again() })
    }

    /// How often [calls](Self::call) are made again.
    pub fn retry(&self) -> RetryPolicy {
        self.again().policy
    }

    /// How often all clones together have called and tried. Only [`call`](Self::call) counts.
    pub fn retry_metrics(&self) -> RetryMetrics {
        self.shared.retries.metrics()
    }

    /// How long each call may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) fn tries(&self) -> Tries {
        let Some(Again { policy, is_idempotent, key }) = self.again.as_deref() else {
            return Tries::new(RetryPolicy::never(), false);
        };
        // Behind a center another one may have the name of a provider by now; of its store it has to be known.
        let is_known_again = self.to.as_ref().is_none_or(|to| to.store().is_some());
        // Under a key it is executed once, whatever its method would bear.
        let is_idempotent = *is_idempotent && key.is_none();
        Tries::new(*policy, is_idempotent).keyed(key.is_some() && is_known_again)
    }

    pub(super) fn per_try(&self) -> Option<Duration> {
        self.again.as_ref()?.policy.per_try
    }

    pub(super) fn key(&self) -> Option<&IdempotencyKey> {
        self.again.as_ref()?.key.as_ref()
    }

    fn again(&self) -> Again {
        let once = || Again { policy: RetryPolicy::never(), is_idempotent: false, key: None };
        self.again.as_deref().cloned().unwrap_or_else(once)
    }

    fn with_again(&self, again: Again) -> Self {
        let is_once = again.policy == RetryPolicy::never() && !again.is_idempotent && again.key.is_none();
        Self { again: (!is_once).then(|| Arc::new(again)), ..self.clone() }
    }
}
