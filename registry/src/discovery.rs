mod renewal;
mod state;

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use callboard_client::{CallError, CallErrorKind, Client, deadline_after};
use callboard_common::{Executed, Host, Message, ResultCode, ServiceOp, ServiceRequest};
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use self::renewal::{FIRST_PAUSE, LONGEST_PAUSE};
use self::state::{Begun, State};
use crate::errors::{center_gone, discovery_of};
use crate::pool::Named;
use crate::{CacheLimits, Notices};

/// Who provides what, as a center tells it: asked for once a method, then kept true by the center's notices.
///
/// Clones share what they know, and so do all that are made over one client. While the connection to the center is lost,
/// what is known stays in use. When it was made again, the center is asked again for all methods, and what has changed is told
/// as ordinary notices. A center that began anew has to be found by the providers first: those that it does not name stay
/// known for a while (7 s, unless it is set otherwise).
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use callboard_client::Client;
/// use callboard_registry::Discovery;
///
/// let discovery = Discovery::new(&Client::connect("127.0.0.1:7070").await?);
/// for host in discovery.hosts("add").await?.iter() {
///     println!("{host}");
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Discovery {
    client: Client,
    state: Arc<State>,
}

/// Bounds of a [`Discovery`], and who hears of hosts that left.
pub(crate) struct DiscoverySettings {
    pub(crate) cache: CacheLimits,
    pub(crate) notice_capacity: usize,
    /// Runs on the connection's task when a host provides nothing more.
    pub(crate) departed: Box<dyn Fn(Host) + Send + Sync>,
    /// How long hosts stay that a center which began anew does not name.
    pub(crate) keep_unconfirmed: Duration,
}

impl Default for DiscoverySettings {
    fn default() -> Self {
        Self {
            cache: CacheLimits::default(),
            notice_capacity: 1024,
            departed: Box::new(|_| {}),
            keep_unconfirmed: DEFAULT_KEEP_UNCONFIRMED,
        }
    }
}

impl Discovery {
    /// Discovery through the center that `client` is connected to. A look-up has the client's timeout.
    pub fn new(client: &Client) -> Self {
        Self::with_settings(client, DiscoverySettings::default())
    }

    pub(crate) fn with_settings(client: &Client, settings: DiscoverySettings) -> Self {
        let (center, run) = (client.address().to_string(), client.session().map(|session| session.instance));
        let state = client.service_inbox(|| State::new(center, run, settings));
        state.is_asked_over(&client.line());
        Self { client: client.clone(), state }
    }

    /// The connection to the center.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The hosts that provide `method`, in the order in which they registered; empty if nobody does. The center is asked
    /// the first time, once however many ask at the same time; from then on the list is kept true by its notices.
    ///
    /// A center that lets it wait for a second (a quarter of the timeout, if that is shorter), and gives no sign of life for
    /// another, is left for the next one, if the client has several.
    ///
    /// # Errors
    /// The center can't be asked or does not answer in time: `Disconnected`, `Timeout`, or what it answered (`Remote`).
    /// `Overloaded` when as many methods are known as may be.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the look-up to those who wait for it too, and its answer to those who come later.
    pub async fn hosts(&self, method: &str) -> Result<Arc<Vec<Host>>, CallError> {
        let deadline = deadline_after(self.client.timeout());
        let mut pause = FIRST_PAUSE;
        loop {
            match self.look_up(method).await {
                // A question may be asked again, whether or not it was heard.
                Err(error) if is_lost(&error) && !self.client.is_closed() => {
                    let pause_first = is_refused(&error).then_some(pause);
                    timeout_at(deadline, self.online_after(pause_first)).await.map_err(|_| error)??;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                outcome => return outcome,
            }
        }
    }

    /// Waits until there is a connection; after a pause, if one that refuses questions has not ended until then.
    async fn online_after(&self, pause: Option<Duration>) -> Result<(), CallError> {
        if let Some(pause) = pause {
            // An ordinary end of the wait.
            let _ = timeout(pause, self.client.line().lost()).await;
        }
        self.client.online().await
    }

    async fn look_up(&self, method: &str) -> Result<Arc<Vec<Host>>, CallError> {
        let mut answered = match self.state.begin(method) {
            Begun::Known(hosts) => return Ok(hosts),
            Begun::AskAgain(hosts) => {
                self.ask(method);
                return Ok(hosts);
            }
            Begun::Full => return Err(self.full(method)),
            Begun::Asking(answered) => answered,
            Begun::Ask(answered) => {
                self.ask(method);
                answered
            }
        };
        let doubted = async {
            let patience = LONGEST_PATIENCE.min(self.client.timeout() / 4);
            sleep(patience).await;
            self.client.turn_from_silence(patience).await;
            pending::<()>().await;
        };
        let outcome = tokio::select! {
            biased;
            answered = answered.wait_for(Option::is_some) => answered.ok().and_then(|outcome| outcome.clone()),
            () = doubted => None,
        };
        match outcome {
            Some(Ok(hosts)) => Ok(hosts),
            // Whatever became of the question, no code of a provider has run.
            Some(Err(error)) => Err(error.with_executed(Executed::No)),
            None => Err(center_gone(&self.state.center, method)),
        }
    }

    /// The same until a deadline that may lie beyond the time of one look-up.
    pub(crate) async fn hosts_until(&self, method: &str, deadline: Instant) -> Result<Arc<Vec<Host>>, CallError> {
        loop {
            match timeout_at(deadline, self.hosts(method)).await {
                Ok(Err(error)) if matches!(error.kind(), CallErrorKind::Timeout) && Instant::now() < deadline => {}
                Ok(outcome) => return outcome,
                Err(_) => return Err(self.no_time(method, "the center has not answered in time")),
            }
        }
    }

    /// The same for a call. Where nobody is known, since the center has just begun, waits for the first provider until all
    /// may be expected to have come back.
    pub(crate) async fn hosts_to_call(&self, method: &str, deadline: Instant) -> Result<Arc<Vec<Host>>, CallError> {
        let hosts = self.hosts_until(method, deadline).await?;
        if hosts.is_empty() && self.warms_up() {
            return Box::pin(self.hosts_once_warm(method, deadline)).await;
        }
        Ok(hosts)
    }

    async fn hosts_once_warm(&self, method: &str, deadline: Instant) -> Result<Arc<Vec<Host>>, CallError> {
        // Before the list is looked at, so that no change of it is missed.
        let mut changes = self.state.subscribe();
        loop {
            let hosts = self.hosts_until(method, deadline).await?;
            let warm_at = self.state.lock().warm_at.filter(|at| *at > Instant::now());
            let (true, Some(changes), Some(warm_at)) = (hosts.is_empty(), &mut changes, warm_at) else {
                return Ok(hosts);
            };
            match timeout_at(warm_at.min(deadline), changes.recv()).await {
                Ok(Err(broadcast::error::RecvError::Closed)) => return Ok(hosts),
                Err(_) if Instant::now() >= deadline => return Ok(hosts),
                // Another center may have begun meanwhile.
                _ => {}
            }
        }
    }

    /// Whether the center has just begun, so that providers may be on their way to it.
    pub(crate) fn warms_up(&self) -> bool {
        self.state.lock().warm_at.is_some_and(|at| at > Instant::now())
    }

    /// Waits until somebody provides `method`; returns who does.
    ///
    /// # Errors
    /// `Timeout` after `timeout`; `Disconnected` when the connection to the center has ended and nobody is known; and
    /// what [`hosts`](Self::hosts) says.
    ///
    /// # Cancel safety
    /// Nothing is lost by dropping the future.
    pub async fn wait_for_provider(&self, method: &str, timeout: Duration) -> Result<Arc<Vec<Host>>, CallError> {
        let deadline = deadline_after(timeout);
        // Before the list is looked at, so that no change of it is missed.
        let mut changes = self.state.subscribe();
        loop {
            let hosts = self.hosts_until(method, deadline).await?;
            if !hosts.is_empty() {
                return Ok(hosts);
            }
            let Some(changes) = &mut changes else { return Err(center_gone(&self.state.center, method)) };
            match timeout_at(deadline, changes.recv()).await {
                // Whoever fell behind looks again.
                Ok(Ok(_) | Err(broadcast::error::RecvError::Lagged(_))) => {}
                Ok(Err(broadcast::error::RecvError::Closed)) => return Err(center_gone(&self.state.center, method)),
                Err(_) => return Err(self.no_time(method, "nobody has provided it in time")),
            }
        }
    }

    /// Changes to the methods that were asked for, from now on, in the order of the center's table. What an answer
    /// listed is not told again. The stream ends with the connection to the center.
    pub fn notices(&self) -> Notices {
        Notices::new(self.state.subscribe())
    }

    /// How often a host was left out, since its method had as many as are remembered ([`CacheLimits`]).
    pub fn passed_over(&self) -> u64 {
        self.state.lock().cache.passed_over()
    }

    /// Which run of a provider is at `host`, where the center has told it.
    pub(crate) fn instance(&self, host: Host) -> Option<Arc<str>> {
        self.state.lock().cache.instance(host).map(Arc::clone)
    }

    /// The same, and where it keeps its answers to calls under keys, if it listens nowhere.
    pub(crate) fn named(&self, host: Host) -> Option<Named> {
        let cache = &self.state.lock().cache;
        Some(Named { instance: Arc::clone(cache.instance(host)?), store: cache.store(host).map(Arc::clone) })
    }

    fn ask(&self, method: &str) {
        let body = ServiceRequest::new(method, ServiceOp::Discover);
        let (state, name) = (Arc::clone(&self.state), method.to_owned());
        let done = move |answer: Result<Message, CallError>| state.finish(&name, answer);
        if let Err(error) = self.client.exchange_in_order(&discovery_of(method), &body, done) {
            self.state.finish(method, Err(error));
        }
    }

    fn full(&self, method: &str) -> CallError {
        let what = "as many methods are known as may be";
        CallError::new(CallErrorKind::Overloaded, &self.state.center, discovery_of(method), what)
            .with_advice("raise the bound on methods in the cache, or use another caller for other methods")
    }

    fn no_time(&self, method: &str, what: &'static str) -> CallError {
        CallError::new(CallErrorKind::Timeout, &self.state.center, discovery_of(method), what)
            .with_executed(Executed::No)
            .with_advice("check that a provider of it runs and is registered at this center, or allow it more time")
    }
}

/// Whether the connection ended before the answer came.
fn is_lost(error: &CallError) -> bool {
    is_refused(error) || matches!(error.kind(), CallErrorKind::Disconnected)
}

/// Whether the center is about to leave.
fn is_refused(error: &CallError) -> bool {
    error.code() == Some(ResultCode::Unavailable) && error.executed() == Executed::No
}

/// A center that lives answers within milliseconds.
const LONGEST_PATIENCE: Duration = Duration::from_secs(1);
/// A provider pauses for up to 5 s before it asks again a center that is there again; it has two more to register.
pub(crate) const DEFAULT_KEEP_UNCONFIRMED: Duration = Duration::from_secs(7);

#[cfg(test)]
mod tests;
