use std::sync::Arc;
use std::time::Duration;

use callboard_common::{Dispatcher, LengthValue};
use callboard_net::{Address, AddressError, Limits, ListenError, Settings, Sockets, Transport, serve_with};

use crate::router::Router;
use crate::server::Server;
use crate::sessions::Sessions;

/// What a [`Server`] is told before it starts.
#[derive(Debug)]
#[must_use = "a server serves once it is started"]
pub struct ServerBuilder {
    router: Router,
    addresses: Vec<Result<Address, AddressError>>,
    settings: Settings,
    name: String,
    grace: Duration,
}

/// Why a [`Server`] did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// What was given to [`listen`](ServerBuilder::listen) is no address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The addresses could not be listened on, or the limits contradict each other.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

impl Default for ServerBuilder {
    fn default() -> Self {
        Self {
            router: Router::new(),
            addresses: Vec::new(),
            settings: Settings::default(),
            name: DEFAULT_NAME.to_owned(),
            grace: DEFAULT_GRACE,
        }
    }
}

impl ServerBuilder {
    /// The methods to serve. Default: none, so that every call is answered NOT_FOUND_SERVICE.
    pub fn router(mut self, router: Router) -> Self {
        self.router = router;
        self
    }

    /// Adds an address to listen on: `tcp://host:port`, `host:port`, `unix:///path`, or an [`Address`]. Default, where
    /// none is added: `tcp://127.0.0.1:0`, which no other machine reaches. What is no address is told by
    /// [`start`](Self::start).
    #[expect(clippy::needless_pass_by_value, reason = "so that texts and addresses are given alike")]
    pub fn listen(mut self, address: impl ToString) -> Self {
        self.addresses.push(address.to_string().parse());
        self
    }

    /// Event loops, each a thread. Default 0: one for each core. More than cores only cost memory; fewer leave cores to
    /// the rest of the program.
    pub fn loops(mut self, loops: usize) -> Self {
        self.settings.loops = loops;
        self
    }

    /// Whether each event loop stays on one core. Default no: it steadies the times of a machine that does nothing
    /// else, and on any other makes loops wait for a core while others are free.
    pub fn pin(mut self, pin: bool) -> Self {
        self.settings.pin = pin;
        self
    }

    /// Whether all is driven on the runtime that starts the server, with no thread of its own. Default no: it is for
    /// simulations.
    pub fn here(mut self, here: bool) -> Self {
        self.settings.here = here;
        self
    }

    /// All limits at once; each field of [`Limits`] has its default, unit and policy.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// The largest frame in bytes, as its length field counts them. Default 16 MiB. A larger bound lets larger
    /// parameters and results through, and each connection hold as much memory.
    pub fn max_frame_bytes(mut self, bytes: usize) -> Self {
        self.settings.limits.max_frame_bytes = bytes;
        self
    }

    /// What may wait to be written to one connection, in bytes. Default 64 MiB; at least twice
    /// [`max_frame_bytes`](Self::max_frame_bytes). A larger bound bears with slower readers and costs memory for each.
    pub fn queue_bytes(mut self, bytes: usize) -> Self {
        self.settings.limits.queue_bytes = bytes;
        self
    }

    /// Async and blocking calls of one connection that wait for their answers. Default 1,024. Past it a peer is not
    /// read or is answered OVERLOADED; more lets one peer take more of the program.
    pub fn in_flight(mut self, calls: usize) -> Self {
        self.settings.limits.in_flight = calls;
        self
    }

    /// Connections at once. Default 100,000. Past it a new one is closed at once; each costs a file descriptor and some
    /// hundred bytes while it is idle.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.settings.limits.max_connections = connections;
        self
    }

    /// What the server is called in the log. Default `callboard-server`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How long [`Server::shutdown`] waits for the calls in flight. Default 10 s. A longer grace loses fewer answers
    /// and makes a stop take longer while some call does not end or some peer does not read.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Listens and serves, on event loops of the server's own.
    ///
    /// # Errors
    /// [`StartError`]; nothing listens then.
    ///
    /// # Cancel safety
    /// Dropping the future stops what has started.
    pub async fn start(self) -> Result<Server, StartError> {
        let sockets = Sockets::new(self.settings.limits.keep_alive);
        self.start_over(sockets).await
    }

    /// The same over any [`Transport`].
    ///
    /// # Errors
    /// [`StartError`]; nothing listens then.
    ///
    /// # Cancel safety
    /// Dropping the future stops what has started.
    pub async fn start_over<T: Transport>(self, transport: T) -> Result<Server, StartError> {
        let mut addresses = self.addresses.into_iter().collect::<Result<Vec<_>, _>>()?;
        if addresses.is_empty() {
            addresses.push(DEFAULT_ADDRESS.parse()?);
        }
        let sessions = Sessions::for_server(self.name, &self.settings.limits).with_keys_of(&self.router);
        let instance = sessions.instance().to_owned();
        let dispatcher =
            Dispatcher::new().on_response(self.router.answers()).on_rpc(self.router.clone()).on_session(sessions);
        let protocol = LengthValue::new(self.settings.limits.max_frame_bytes);
        let serving = serve_with(transport, protocol, &addresses, self.settings, Arc::new(dispatcher)).await?;
        Ok(Server::new(serving, self.router, instance, self.grace))
    }
}

const DEFAULT_NAME: &str = "callboard-server";
const DEFAULT_ADDRESS: &str = "tcp://127.0.0.1:0";
const DEFAULT_GRACE: Duration = Duration::from_secs(10);
