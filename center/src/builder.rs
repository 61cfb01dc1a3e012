use std::sync::Arc;
use std::time::Duration;

use callboard_common::{Dispatcher, LengthValue};
use callboard_net::{Address, AddressError, Limits, ListenError, Settings, Sockets, Transport, serve_with};
use callboard_pubsub::{TopicLimits, TopicService};
use callboard_registry::{
    AvailabilityPolicy, RegistryLimits, RegistryService, Relay, RelayAnswers, RelayCalls, RelayLimits,
};
use callboard_server::{Router, Sessions};

use crate::center::Draining;
use crate::reach::Connecting;
use crate::{Center, Config};

/// Settings of a [`Center`]. What is not set keeps its default.
#[derive(Clone, Debug, Default)]
pub struct CenterBuilder {
    config: Config,
    listen: Vec<Result<Address, AddressError>>,
    router: Router,
    here: bool,
    instance: Option<String>,
}

/// Why a center did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CenterError {
    /// A text is not an address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// It cannot listen, or not with these limits.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

impl CenterBuilder {
    /// Listens on this address too: `tcp://host:port`, `host:port`, `unix:///path`, or an [`Address`]; port 0 takes a
    /// free one. Default, if none is given: `tcp://127.0.0.1:7070`. What is no address is told by
    /// [`start`](Self::start).
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "so that texts and addresses are given alike")]
    pub fn listen(mut self, address: impl ToString) -> Self {
        self.listen.push(address.to_string().parse());
        self
    }

    /// Serves these methods beside the registry and the topics. Default: none. They are called on the center's own
    /// addresses; to be discovered they must be registered like any others.
    #[must_use]
    pub fn router(mut self, router: Router) -> Self {
        self.router = router;
        self
    }

    /// How many event loops, a thread each. Default 0: one a core. One is enough for a test.
    #[must_use]
    pub fn loops(mut self, loops: usize) -> Self {
        self.config.loops = loops;
        self
    }

    /// What this run of the center calls itself in sessions, so that peers know when it is another one. Default: a
    /// UUID.
    #[must_use]
    pub fn instance(mut self, instance: impl Into<String>) -> Self {
        self.instance = Some(instance.into());
        self
    }

    /// Whether all is driven on the runtime that starts the center, with no thread of its own. Default no: it is for
    /// simulations.
    #[must_use]
    pub fn here(mut self, here: bool) -> Self {
        self.here = here;
        self
    }

    /// Whether each event loop stays on one core. Default no: it pays on a machine that does nothing else.
    #[must_use]
    pub fn pin(mut self, pin: bool) -> Self {
        self.config.pin = pin;
        self
    }

    /// How long [`Center::shutdown`] waits for requests in flight and for peers that end their connections. Default
    /// 800 ms: a center answers at once. Longer where methods of its own ([`router`](Self::router)) take longer.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.config.grace = grace;
        self
    }

    /// The bounds of connections. Default [`Limits::default`].
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.config.limits = limits;
        self
    }

    /// The bounds of the registry. Default [`RegistryLimits::default`].
    #[must_use]
    pub fn registry_limits(mut self, limits: RegistryLimits) -> Self {
        self.config.registry = limits;
        self
    }

    /// How the center makes sure that who is online can be called. Default [`AvailabilityPolicy::default`].
    #[must_use]
    pub fn availability(mut self, policy: AvailabilityPolicy) -> Self {
        self.config.availability = policy;
        self
    }

    /// The bounds of calls that the center passes on to providers that listen nowhere. Default [`RelayLimits::default`].
    #[must_use]
    pub fn relay_limits(mut self, limits: RelayLimits) -> Self {
        self.config.relay = limits;
        self
    }

    /// The bounds of topics. Default [`TopicLimits::default`].
    #[must_use]
    pub fn topic_limits(mut self, limits: TopicLimits) -> Self {
        self.config.topics = limits;
        self
    }

    /// Takes all settings from `config`, in place of those made before. Addresses given with
    /// [`listen`](Self::listen) count instead of the configured ones.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Starts the center: when this returns, it serves. It raises the process's soft limit of open files to the hard
    /// one, since every connection is one.
    ///
    /// # Errors
    /// An address is none, is in use or may not be taken; the limits contradict each other; the system gives no thread.
    ///
    /// # Cancel safety
    /// Dropping the future starts nothing.
    pub async fn start(self) -> Result<Center, CenterError> {
        let sockets = Sockets::new(self.config.limits.keep_alive);
        self.start_over(sockets).await
    }

    /// The same over any [`Transport`].
    ///
    /// # Errors
    /// Those of [`start`](Self::start).
    ///
    /// # Cancel safety
    /// Dropping the future starts nothing.
    pub async fn start_over<T: Transport>(self, transport: T) -> Result<Center, CenterError> {
        let given = self.listen.into_iter().collect::<Result<Vec<_>, _>>()?;
        let Config { listen, loops, pin, grace, limits, registry, availability, relay, topics } = self.config;
        let addresses = if given.is_empty() { listen } else { given };
        match callboard_net::raise_open_files() {
            Ok(files) => tracing::debug!(files, "limit of open files"),
            Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
        }
        let registry = Arc::new(RegistryService::with_policy(registry, availability));
        let sessions = Sessions::for_server(NAME, &limits).with_keys_of(&self.router).relaying();
        let sessions = match self.instance {
            Some(instance) => sessions.with_instance(instance),
            None => sessions,
        };
        let topics = Arc::new(TopicService::with_limits(topics).after_epoch(epoch_of(sessions.instance())));
        let relay = Arc::new(Relay::new(Arc::clone(&registry), relay));
        let dispatcher = Dispatcher::new()
            .on_response(RelayAnswers::new(&relay, self.router.answers()))
            .on_rpc(RelayCalls::new(&relay, self.router))
            .on_topic(Arc::clone(&topics))
            .on_service(Arc::clone(&registry))
            .on_session(sessions);
        let reach = transport.clone();
        let protocol = LengthValue::new(limits.max_frame_bytes);
        let settings = Settings { limits, loops, pin, here: self.here };
        let mut serving = serve_with(transport, protocol, &addresses, settings, Arc::new(dispatcher)).await?;
        let kept = Arc::clone(&registry);
        serving.spawn(async move { kept.keep(Connecting(reach)).await });
        let kept = Arc::clone(&relay);
        serving.spawn(async move { kept.keep().await });
        Ok(Center { registry: Draining { registry, relay }, serving, topics, grace })
    }
}

/// What a center calls itself in a session.
const NAME: &str = "callboard-center";

/// Where the epochs of this run's topics begin: far from those of any other run, and exact in every peer's numbers
/// (below 2^53). A hash (FNV-1a), so that it follows from the instance alone.
fn epoch_of(instance: &str) -> u64 {
    let hash = instance.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    u64::from(hash) << EPOCHS_OF_A_RUN_BITS
}

const EPOCHS_OF_A_RUN_BITS: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_follow_from_the_instance_and_differ_from_one_to_the_next() {
        assert_eq!(epoch_of("a"), epoch_of("a"));
        assert!(epoch_of("a").abs_diff(epoch_of("b")) >= 1 << 20);
        assert!(epoch_of("5c0e") < 1 << 52);
    }
}
