use std::time::Duration;

use callboard_common::Handler;
use callboard_net::{Conn, Connector, Limits};
use uuid::Uuid;

use crate::served::Served;
use crate::{CallError, Centers, Client, Reconnect, RetryBudget, RetryPolicy, blocking, centers, connect};

/// Whether to open a session, which lets both sides do more than v1 has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionMode {
    /// Speak v1. Saves a round trip, and what a peer without sessions costs.
    Off,
    /// Ask; where the peer knows no sessions, connect again without one, and for ten minutes do not ask there again. A
    /// peer that grants the session late, within ten minutes, has only stood still: the client connects to it anew,
    /// with one.
    #[default]
    Try,
    /// Ask, and fail where the peer knows no sessions.
    Require,
}

/// Settings of a [`Client`].
///
/// ```no_run
/// # async fn run() -> Result<(), callboard_client::CallError> {
/// use std::time::Duration;
/// use callboard_client::{Client, SessionMode};
/// let client = Client::builder()
///     .timeout(Duration::from_secs(2))
///     .session(SessionMode::Require)
///     .name("billing")
///     .connect("center.example:7070")
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    pub(crate) timeout: Duration,
    pub(crate) mode: SessionMode,
    pub(crate) session_timeout: Duration,
    pub(crate) in_flight: usize,
    pub(crate) limits: Limits,
    pub(crate) name: String,
    pub(crate) instance: Option<String>,
    pub(crate) reconnect: Reconnect,
    pub(crate) retry: RetryPolicy,
    pub(crate) retry_budget: RetryBudget,
    pub(crate) seed: Option<u64>,
    pub(crate) connector: Connector,
    pub(crate) deadlines_by_runtime: bool,
    pub(crate) remembers_v1: bool,
    pub(crate) serves: Option<Served>,
}

impl ClientBuilder {
    /// How long connecting may take, names resolved and session opened, and later each call with all that it has to
    /// wait for. Default 5 s. [`Client::with_timeout`] changes it for some calls.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Whether to open a session. Default [`SessionMode::Try`].
    #[must_use]
    pub fn session(self, mode: SessionMode) -> Self {
        Self { mode, ..self }
    }

    /// How long to wait for the answer to a session's opening. Default 300 ms; of several addresses at most half of the
    /// time that each of them has. A longer time makes connecting to a peer
    /// that does not answer slower; a shorter one may take a slow peer for one without sessions.
    #[must_use]
    pub fn session_timeout(self, session_timeout: Duration) -> Self {
        Self { session_timeout, ..self }
    }

    /// How many calls may wait for their answers at once; a session peer may permit fewer. Default 65,536, 1 at least
    /// and 2^24 at most. Past it a call waits until another is answered, within its deadline; each takes some 100 bytes
    /// while it waits.
    #[must_use]
    pub fn in_flight(self, in_flight: usize) -> Self {
        Self { in_flight, ..self }
    }

    /// The bounds of the connection: bytes in its outbox, bytes in a frame. Those of a server are not used.
    #[must_use]
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// What this program calls itself in a session. Default `callboard`.
    #[must_use]
    pub fn name(self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self }
    }

    /// What this run of the program calls itself in a session, so that a center knows it again when it comes back.
    /// Default: a UUID, the same for all clients of the process.
    #[must_use]
    pub fn instance(self, instance: impl Into<String>) -> Self {
        Self { instance: Some(instance.into()), ..self }
    }

    /// How a connection that is lost is made again. Default: for ever, after pauses of up to 50 ms at first and up to
    /// 5 s later.
    #[must_use]
    pub fn reconnect(self, reconnect: Reconnect) -> Self {
        Self { reconnect, ..self }
    }

    /// How often [calls](Client::call) are made again by themselves. Default [`RetryPolicy::never`]: a client has one peer,
    /// and what that refuses is told. [`Client::with_retry`] changes it for some calls.
    #[must_use]
    pub fn retry(self, retry: RetryPolicy) -> Self {
        Self { retry, ..self }
    }

    /// How many of its calls the client may repeat in all. Default: a fifth, and some in reserve; see [`RetryBudget`].
    #[must_use]
    pub fn retry_budget(self, retry_budget: RetryBudget) -> Self {
        Self { retry_budget, ..self }
    }

    /// Draws the pauses before reconnects and retries from this seed, so that a simulated run can be repeated.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed: Some(seed), ..self }
    }

    /// Offers methods to the peer: it may call them over this connection, as long as that lasts and within a session that
    /// knows it ([`Feature::Serves`](callboard_common::Feature::Serves)). `methods` is a `Router` of the server crate; the
    /// limits of its methods hold as they do in a server, and at most [`Limits::in_flight`] of the peer's calls wait at
    /// once. Default none: a call by the peer is answered NOT_FOUND_SERVICE.
    ///
    /// A client that serves has an [`instance`](Self::instance) of its own unless it is given one: others may know its
    /// methods by it.
    #[must_use]
    pub fn serves(self, methods: impl Handler<Conn>) -> Self {
        let instance = self.instance.or_else(|| Some(Uuid::new_v4().to_string()));
        Self { serves: Some(Served::new(methods)), instance, ..self }
    }

    /// How peers are reached. Default: over sockets.
    #[must_use]
    pub fn connector(self, connector: Connector) -> Self {
        Self { connector, ..self }
    }

    /// Whether deadlines are kept by the timers of the runtime, which follow its time where that is paused, in place of
    /// a thread that all clients of the process share. Default no: the thread costs less and holds whatever the runtime
    /// does.
    #[must_use]
    pub fn deadlines_by_runtime(self, by_runtime: bool) -> Self {
        Self { deadlines_by_runtime: by_runtime, ..self }
    }

    /// Whether the clients of the process tell each other which addresses opened no session. Default yes: it saves
    /// asking there again. Simulated houses that run side by side share addresses, but not what is there.
    #[must_use]
    pub fn remember_v1(self, remember: bool) -> Self {
        Self { remembers_v1: remember, ..self }
    }

    /// Connects to `tcp://host:port`, `host:port` or `unix:///path`; to the first that answers where several are given,
    /// separated by commas. The connection is driven by a task on the current runtime.
    ///
    /// Only this first time it fails where nobody answers; later the client goes on trying.
    ///
    /// # Errors
    /// An address is none, the peer can't be reached in time, or it opens no session where one is required.
    ///
    /// # Cancel safety
    /// A connection that is not wanted any more is closed.
    pub async fn connect(self, address: impl AsRef<str>) -> Result<Client, CallError> {
        connect::connect(self, address.as_ref()).await
    }

    /// The same without waiting: the first connection is made in the background, as later ones are after a loss, again
    /// and again where nobody answers. What is sent meanwhile waits for it. For a program that may start before its
    /// peer.
    ///
    /// # Errors
    /// An address is none, or there is no tokio runtime here.
    pub fn connect_in_background(self, address: impl AsRef<str>) -> Result<Client, CallError> {
        connect::connect_in_background(self, address.as_ref())
    }

    /// Connects to all centers of a list, which stands as for [`connect`](Self::connect); see [`Centers::connect`].
    ///
    /// # Errors
    /// As [`Centers::connect`].
    ///
    /// # Cancel safety
    /// Connections that are not wanted any more are closed.
    pub async fn connect_centers(self, addresses: impl AsRef<str>) -> Result<Centers, CallError> {
        centers::connect(self, addresses.as_ref()).await
    }

    /// The same as [`connect`](Self::connect) for programs without a runtime: the connection is driven by a thread in
    /// the background.
    ///
    /// # Errors
    /// As [`connect`](Self::connect), and where a runtime's thread calls it.
    pub fn connect_blocking(self, address: impl AsRef<str>) -> Result<blocking::Client, CallError> {
        blocking::Client::connect_with(self, address.as_ref())
    }
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            mode: SessionMode::default(),
            session_timeout: Duration::from_millis(300),
            in_flight: 65_536,
            limits: Limits::default(),
            name: "callboard".to_owned(),
            instance: None,
            reconnect: Reconnect::default(),
            retry: RetryPolicy::never(),
            retry_budget: RetryBudget::default(),
            seed: None,
            connector: Connector::default(),
            deadlines_by_runtime: false,
            remembers_v1: true,
            serves: None,
        }
    }
}
