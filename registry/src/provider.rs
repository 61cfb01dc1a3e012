use std::net::SocketAddr;
use std::sync::Arc;

use callboard_client::{Address, CallError, CallErrorKind, Centers, Client, all_together};
use callboard_common::{Feature, Host};
use indexmap::IndexSet;
use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::announcer::Announcer;
use crate::at_all::register_at_all;
use crate::place::announced;
use crate::{Place, PlaceError};

/// Tells a center, or several, which methods are provided where, for as long as it lives.
///
/// What it announced ends with it: when the provider is dropped or its program ends, the center tells every watcher
/// that it is offline. A connection to the center that is lost is made again by its [`Client`], and what was announced
/// is announced again; a center that refuses it then is asked again and again.
///
/// With several centers ([`Centers`]; to [`connect`](Self::connect) they are a list) all of this holds for each of
/// them. A center that is away, or refuses while another one takes the provider, is told again and again in the
/// background.
///
/// The connection may be shared with others, other providers among them ([`Provider::new`]). A provider that is dropped
/// takes back what it announced itself and leaves the connection to them, as far as it can. It ends the connection
/// of the moment, which takes all back, where the center can't withdraw (it opened no session), permits fewer requests
/// at once than there are entries (a method at a host) to take back, or does not do as it is asked. What two providers
/// announced alike over one connection is one entry to the center, and the first of them that goes takes it back.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use callboard_registry::Provider;
/// use callboard_server::{Router, Server};
///
/// let router = Router::new().method("double", |n: i64| Ok(n * 2));
/// let names = router.names();
/// let server = Server::builder().router(router).listen("0.0.0.0:7071").start().await?;
/// let provider = Provider::connect("127.0.0.1:7070").await?.announce(names, server.addresses()).await?;
/// // ... and at the end:
/// provider.withdraw().await?;
/// server.shutdown().await;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Provider {
    centers: Centers,
    /// One for each center, in the same order.
    announcers: Vec<Arc<Announcer>>,
}

/// Why something was not announced or withdrawn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// Callers need a TCP address, and there is none.
    #[error(
        "nothing to announce: none of the addresses is a TCP one, and callers need one; listen on one too, or name a host"
    )]
    NoTcpAddress,
    /// An address can't be announced.
    #[error("{address} can't be announced")]
    Place {
        /// Where the server listens.
        address: Address,
        /// Why not.
        #[source]
        source: PlaceError,
    },
    /// A name could not be resolved.
    #[error("{address} can't be announced: its name can't be resolved")]
    Resolve {
        /// Where the server listens.
        address: Address,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The center passes no calls on to this provider.
    #[error(
        "the center at {center} passes no calls on to this provider: its client is to serve the methods \
         (`Client::builder().serves(..)`), within a session, and the center is to know `relay`"
    )]
    NoRelay {
        /// Its address.
        center: Address,
    },
    /// The center knows no sessions, and without one only a whole provider can go.
    #[error(
        "withdrawing one method takes a session, which the center did not open: withdraw all by closing the connection"
    )]
    NoSession,
    /// The center refused, or can't be reached.
    #[error(transparent)]
    Center(#[from] CallError),
}

impl Provider {
    /// Connects to a center, or to each center of a list with commas between them, with the default settings of a
    /// [`Client`].
    ///
    /// # Errors
    /// No center can be reached; see [`Centers::connect`].
    ///
    /// # Cancel safety
    /// Dropping the future drops the connections.
    pub async fn connect(centers: impl AsRef<str>) -> Result<Self, CallError> {
        Centers::connect(centers).await.map(Self::new)
    }

    /// A provider over a connection to a center, or one to each of several. It may be shared with others, and ends with
    /// the last clone.
    pub fn new(centers: impl Into<Centers>) -> Self {
        let centers = centers.into();
        let announcers = centers.iter().map(|center| Announcer::new(center.clone())).collect();
        Self { centers, announcers }
    }

    /// Announces that `methods` are provided at `place`; done when the center has entered all of them. Those of a
    /// second call come in addition.
    ///
    /// With several centers it is done when each that is there has entered all of them or refused.
    ///
    /// # Errors
    /// An address can't be announced, or the center refuses, with several each of them. Then the provider is dropped,
    /// which takes back all that it announced.
    ///
    /// # Cancel safety
    /// Dropping the future drops the provider, with the same effect.
    pub async fn announce<M: Into<String>>(
        self,
        methods: impl IntoIterator<Item = M>,
        place: impl Into<Place>,
    ) -> Result<Self, ProviderError> {
        let place = place.into();
        let methods: Vec<String> = methods.into_iter().map(Into::into).collect();
        match &self.announcers[..] {
            [only] => only.register(&methods, &hosts(&place, only.center()).await?).await?,
            _ => register_at_all(&self.centers, &self.announcers, methods, &place).await?,
        }
        Ok(self)
    }

    /// Takes one method back, at all hosts at which this provider announced it; the others stay. Done when the center
    /// has told its watchers.
    ///
    /// With several centers those that are away are not waited for: they are not told of it again.
    ///
    /// # Errors
    /// [`ProviderError::NoSession`], or the center can't be asked.
    ///
    /// # Cancel safety
    /// The method may be withdrawn or not.
    pub async fn withdraw_method(&self, method: &str) -> Result<(), ProviderError> {
        if let [only] = &self.announcers[..] {
            return withdraw_method_at(only, method).await;
        }
        let telling = self.announcers.iter().map(async |announcer| {
            if announcer.is_there() {
                return withdraw_method_at(announcer, method).await;
            }
            announcer.forget(method);
            Ok(())
        });
        all_together(telling).await.into_iter().collect()
    }

    /// Takes back all that this provider announced; done when the center has told its watchers. The connection goes on
    /// if it is shared. To a center without sessions the close of the connection says it.
    ///
    /// # Errors
    /// The center could not be asked; the connection is closed, which has the same effect.
    ///
    /// # Cancel safety
    /// Dropping the future drops the provider, with the same effect.
    pub async fn withdraw(self) -> Result<(), ProviderError> {
        match &self.announcers[..] {
            [only] => withdraw_at(only).await,
            all => all_together(all.iter().map(|announcer| withdraw_at(announcer))).await.into_iter().collect(),
        }
    }

    /// Waits until the connection to the center, with several the last of them, has ended for good: what was announced
    /// no longer is. By default that is never, but when the [`Client`] is closed; its [`states`](Client::states) tell
    /// what becomes of the connection.
    ///
    /// # Cancel safety
    /// It only watches.
    pub async fn closed(&self) {
        self.centers.closed().await;
    }

    /// Whether the connection to the center, with several each of them, has ended for good.
    pub fn is_closed(&self) -> bool {
        self.centers.is_closed()
    }

    /// The connection to the center, with several that to the first of the list.
    pub const fn center(&self) -> &Client {
        self.centers.first()
    }

    /// The connections to all centers.
    pub const fn centers(&self) -> &Centers {
        &self.centers
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.announcers.iter().for_each(|announcer| take_all_back(announcer));
    }
}

async fn withdraw_method_at(announcer: &Announcer, method: &str) -> Result<(), ProviderError> {
    if !announcer.can_withdraw() {
        return Err(ProviderError::NoSession);
    }
    Ok(announcer.withdraw_method(method).await?)
}

async fn withdraw_at(announcer: &Announcer) -> Result<(), ProviderError> {
    if !announcer.can_withdraw() {
        announcer.end();
        announcer.hang_up();
        return Ok(());
    }
    let outcome = announcer.withdraw().await;
    announcer.end();
    match outcome {
        Ok(()) => Ok(()),
        Err(error) => {
            announcer.hang_up();
            // The end of the connection takes all back, whoever ended it.
            if matches!(error.kind(), CallErrorKind::Disconnected) { Ok(()) } else { Err(error.into()) }
        }
    }
}

/// Without waiting for the center.
fn take_all_back(announcer: &Announcer) {
    let mut entries = announcer.end().into_iter();
    if entries.len() == 0 || !announcer.is_there() {
        return;
    }
    if !announcer.can_withdraw() || !entries.all(|(method, host)| announcer.take_back(&method, host).is_ok()) {
        announcer.hang_up();
    }
}

/// What is announced to this center: it may reach this machine at another address than others do.
pub(crate) async fn hosts(place: &Place, center: &Client) -> Result<Vec<Host>, ProviderError> {
    let listening = match place {
        Place::Hosts(hosts) => return Ok(hosts.iter().copied().collect::<IndexSet<_>>().into_iter().collect()),
        Place::Listening(listening) => listening,
        Place::Relay => return relayed(center).await,
    };
    let local = center.local_addr().map(|local| local.ip());
    let mut hosts = IndexSet::new();
    for address in listening {
        let Some(socket) = resolve(address).await? else { continue };
        let unfit = |source| ProviderError::Place { address: address.clone(), source };
        hosts.insert(announced(socket, local).map_err(unfit)?);
    }
    if hosts.is_empty() { Err(ProviderError::NoTcpAddress) } else { Ok(hosts.into_iter().collect()) }
}

/// What stands for a provider that listens nowhere; its center knows it by the instance of its session.
async fn relayed(center: &Client) -> Result<Vec<Host>, ProviderError> {
    // What the center can is known once there is a connection.
    let _ = timeout(center.timeout(), center.online()).await;
    if center.knows(Feature::Serves) && center.knows(Feature::Relay) {
        return Ok(vec![Host::relayed("")]);
    }
    Err(ProviderError::NoRelay { center: center.address() })
}

/// `None` for a Unix socket. Of a name's addresses the first counts, as where a server listens.
async fn resolve(address: &Address) -> Result<Option<SocketAddr>, ProviderError> {
    let Address::Tcp { host, port } = address else { return Ok(None) };
    let unresolved = |source| ProviderError::Resolve { address: address.clone(), source };
    let first = lookup_host((host.as_str(), *port)).await.map_err(unresolved)?.next();
    first.map(Some).ok_or_else(|| unresolved(std::io::ErrorKind::NotFound.into()))
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use callboard_server::{Router, Server};

    use callboard_client::Reconnect;
    use callboard_common::ResultCode;

    use super::*;
    use crate::testing::{Center, LONG, dead_host, host_of, serve_who};
    use crate::{Discovery, TableSize};

    async fn discovery(center: &Center) -> Discovery {
        Discovery::new(&center.client().await)
    }

    #[tokio::test]
    async fn a_server_on_all_addresses_is_announced_at_one_that_can_be_reached() {
        let center = Center::start().await;
        let server = serve_who("a", "0.0.0.0:0").await;
        let _provider = center.announce("who", server.addresses()).await;
        let hosts = discovery(&center).await.hosts("who").await.unwrap();
        assert_eq!(hosts[..], [format!("127.0.0.1:{}", port_of(&server)).parse().unwrap()]);
    }

    fn port_of(server: &Server) -> u16 {
        server.addresses()[0].to_socket_addr().unwrap().port()
    }

    #[tokio::test]
    async fn names_are_resolved_and_each_host_is_announced_once() {
        let center = Center::start().await;
        let localhost = |port| Address::Tcp { host: "localhost".to_owned(), port };
        let _provider = center.announce("who", vec![localhost(7), localhost(7), Address::Unix("/x".into())]).await;
        let hosts = discovery(&center).await.hosts("who").await.unwrap();
        assert!(hosts.len() == 1 && hosts[0].ip().is_loopback(), "{hosts:?}");
    }

    #[tokio::test]
    async fn what_can_not_be_announced_is_said() {
        let center = Center::start().await;
        let rows = [
            (vec![Address::Unix("/tmp/x".into())], "none of the addresses is a TCP one"),
            (vec![], "none of the addresses is a TCP one"),
            (vec!["127.0.0.1:0".parse().unwrap()], "tcp://127.0.0.1:0 can't be announced"),
            (vec!["no.such.name.invalid:7".parse().unwrap()], "its name can't be resolved"),
        ];
        for (listening, why) in rows {
            let provider = Provider::new(center.client().await);
            let error = provider.announce(["who"], listening).await.unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        let provider = Provider::new(center.client().await);
        let error = provider.announce(["x".repeat(4097)], dead_host(1)).await.unwrap_err();
        assert!(matches!(&error, ProviderError::Center(why) if why.code() == Some(ResultCode::TooLarge)), "{error}");
    }

    #[tokio::test]
    async fn one_method_goes_and_the_others_stay() {
        let center = Center::start().await;
        let server = serve_who("a", "127.0.0.1:0").await;
        let provider = Provider::new(center.client().await);
        let provider = provider.announce(["who", "add"], server.addresses()).await.unwrap();
        provider.withdraw_method("add").await.unwrap();
        let discovery = discovery(&center).await;
        assert!(discovery.hosts("add").await.unwrap().is_empty());
        assert_eq!(discovery.hosts("who").await.unwrap()[..], [host_of(&server)]);
        drop(provider);
        nobody_provides(&discovery, "who").await;
    }

    /// Waits until discovery knows that.
    async fn nobody_provides(discovery: &Discovery, method: &str) {
        let mut notices = discovery.notices();
        let left = async {
            while !discovery.hosts(method).await.unwrap().is_empty() {
                tokio_stream::StreamExt::next(&mut notices).await;
            }
        };
        timeout(LONG, left).await.unwrap();
    }

    #[tokio::test]
    async fn thousands_of_methods_are_announced_and_taken_back() {
        let center = Center::start().await;
        let router = (0..3000).fold(Router::new(), |router, n| router.method(format!("m{n}"), |(): ()| Ok(())));
        let provider = Provider::new(center.client().await);
        let provider = provider.announce(router.names(), dead_host(1)).await.unwrap();
        let TableSize { methods, connections, .. } = center.registry().size();
        assert_eq!((methods, connections), (3000, 1));
        assert!(!provider.is_closed());
        provider.withdraw().await.unwrap();
        assert_eq!(center.registry().size(), TableSize::default());
    }

    #[tokio::test]
    async fn over_a_shared_connection_each_provider_takes_back_its_own() {
        let center = Center::start().await;
        let shared = center.client().await;
        let announce = async |method, port| {
            Provider::new(shared.clone()).announce([method, "both"], dead_host(port)).await.unwrap()
        };
        let (first, second, third) = (announce("a", 1).await, announce("b", 2).await, announce("c", 3).await);
        drop(first);
        // Asked over the same connection, so after what the drop asked for.
        let discovery = Discovery::new(&shared);
        assert!(discovery.hosts("a").await.unwrap().is_empty());
        assert_eq!(discovery.hosts("both").await.unwrap()[..], [dead_host(2), dead_host(3)]);
        second.withdraw_method("both").await.unwrap();
        second.withdraw().await.unwrap();
        assert!(discovery.hosts("b").await.unwrap().is_empty());
        assert_eq!(discovery.hosts("c").await.unwrap()[..], [dead_host(3)]);
        assert!(!shared.is_closed() && !third.is_closed());
    }

    #[tokio::test]
    async fn who_announces_again_right_after_a_drop_stays() {
        let center = Center::start().await;
        let shared = center.client().await;
        drop(Provider::new(shared.clone()).announce(["who"], dead_host(1)).await.unwrap());
        let _again = Provider::new(shared.clone()).announce(["who"], dead_host(1)).await.unwrap();
        assert_eq!(Discovery::new(&shared).hosts("who").await.unwrap()[..], [dead_host(1)]);
    }

    #[tokio::test]
    async fn what_a_failed_announcement_had_entered_is_taken_back() {
        let center = Center::start().await;
        let shared = center.client().await;
        let provider = Provider::new(shared.clone()).announce(["before"], dead_host(1)).await.unwrap();
        let error = provider.announce(["good".to_owned(), "x".repeat(4097)], dead_host(1)).await.unwrap_err();
        assert!(matches!(error, ProviderError::Center(_)), "{error}");
        let discovery = Discovery::new(&shared);
        for method in ["before", "good"] {
            assert!(discovery.hosts(method).await.unwrap().is_empty());
        }
        assert!(!shared.is_closed());
    }

    #[tokio::test]
    async fn an_announcement_that_nobody_waits_for_any_longer_is_taken_back() {
        let center = Center::start().await;
        let shared = center.client().await;
        let mut announcing = Box::pin(Provider::new(shared.clone()).announce(["who"], dead_host(1)));
        // The answer can't come before this task waits.
        assert!(announcing.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(announcing);
        assert!(Discovery::new(&shared).hosts("who").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_a_withdrawal_has_left_is_taken_back_by_the_next_one_or_with_the_provider() {
        for again in [true, false] {
            let center = Center::start().await;
            let shared = center.client().await;
            let hosts: Vec<_> = (1..=200).map(|port| Host::new([127, 0, 0, 1].into(), port).unwrap()).collect();
            let provider = Provider::new(shared.clone()).announce(["who"], hosts).await.unwrap();
            let mut leaving = Box::pin(provider.withdraw_method("who"));
            // Not all is asked for before the first answer comes.
            let polled = leaving.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_pending(), "{polled:?}");
            drop(leaving);
            if again {
                provider.withdraw_method("who").await.unwrap();
            }
            drop(provider);
            empty(&center).await;
            assert!(!shared.is_closed());
        }
    }

    /// Waits until nothing is registered.
    async fn empty(center: &Center) {
        let left = async {
            while center.registry().size() != TableSize::default() {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        timeout(LONG, left).await.unwrap();
    }

    #[tokio::test]
    async fn a_withdrawal_that_nobody_waits_for_any_longer_takes_all_back() {
        for methods in [2, 200, 3000] {
            let center = Center::start().await;
            let shared = center.client().await;
            let methods = (0..methods).map(|n| format!("m{n}"));
            let provider = Provider::new(shared.clone()).announce(methods, dead_host(1)).await.unwrap();
            let mut leaving = Box::pin(provider.withdraw());
            // The answers can't come before this task waits.
            assert!(leaving.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            drop(leaving);
            empty(&center).await;
        }
    }

    #[tokio::test]
    async fn where_a_center_can_not_withdraw_a_dropped_provider_closes_even_a_shared_connection() {
        let once = || Client::builder().reconnect(Reconnect::never());
        let old = Center::start_v1().await;
        let shared = once().connect(old.address()).await.unwrap();
        drop(Provider::new(shared.clone()));
        assert!(!shared.is_closed(), "it has announced nothing");
        drop(Provider::new(shared.clone()).announce(["who"], dead_host(1)).await.unwrap());
        timeout(LONG, shared.closed()).await.unwrap();

        let center = Center::start().await;
        let shared = once().connect(center.address()).await.unwrap();
        let methods = (0..3000).map(|n| format!("m{n}"));
        drop(Provider::new(shared.clone()).announce(methods, dead_host(1)).await.unwrap());
        timeout(LONG, shared.closed()).await.unwrap();
    }

    #[tokio::test]
    async fn where_a_center_may_know_sessions_all_the_same_it_is_asked_to_reach_the_host_first() {
        let center = Center::start_v1().await;
        drop(center.announce("who", dead_host(1)).await);
        assert_eq!(center.probes(), 0, "it has said that it knows none");
        drop(center.announce("who", dead_host(1)).await);
        assert_eq!(center.probes(), 1, "it is not asked again, but another one may be there by now");
        let center = Center::start().await;
        drop(center.announce("who", dead_host(1)).await);
        assert_eq!(center.probes(), 0, "in a session that goes without saying");
    }

    #[tokio::test]
    async fn without_a_session_all_goes_with_the_connection() {
        let center = Center::start_v1().await;
        let provider = center.announce("who", dead_host(1)).await;
        let error = provider.withdraw_method("who").await.unwrap_err();
        assert!(matches!(error, ProviderError::NoSession), "{error}");
        provider.withdraw().await.unwrap();
        nobody_provides(&discovery(&center).await, "who").await;
    }
}
