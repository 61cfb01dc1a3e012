use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use callboard_client::{Address, CallError, CallErrorKind, Client};
use callboard_common::{Decode, Feature, Host, Json, Message, ResultCode, ServiceAnswer, ServiceOp, ServiceRequest};
use indexmap::IndexSet;
use tokio::net::lookup_host;
use tokio::sync::oneshot;

use crate::place::announced;
use crate::{Place, PlaceError};

/// Tells a center which methods are provided where, for as long as it lives.
///
/// What it announced ends with it: when the provider is dropped, its program ends, or the connection to the center does,
/// the center tells every watcher that it is offline. It does not connect again by itself; see [`closed`](Self::closed).
///
/// The connection may be shared with others, other providers among them ([`Provider::new`]). A provider that is dropped
/// takes back what it announced itself and leaves the connection to them, as far as it can. It closes the connection,
/// which takes all back, where the center can't withdraw (it opened no session), permits fewer requests at once than there
/// are entries (a method at a host) to take back, or does not do as it is asked. What two providers announced alike over
/// one connection is one entry to the center, and the first of them that goes takes it back.
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
    center: Client,
    /// What the center was asked to enter.
    announced: Mutex<Announced>,
}

/// Methods, and the hosts at which each is provided.
type Announced = BTreeMap<String, BTreeSet<Host>>;

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
    /// Connects to a center with the default settings of a [`Client`].
    ///
    /// # Errors
    /// The center can't be reached; see [`Client::connect`].
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection.
    pub async fn connect(center: impl AsRef<str>) -> Result<Self, CallError> {
        Client::connect(center).await.map(Self::new)
    }

    /// A provider over a connection to a center, which may be shared with others. The connection ends with the last clone
    /// of `center`.
    pub fn new(center: Client) -> Self {
        Self { center, announced: Mutex::default() }
    }

    /// Announces that `methods` are provided at `place`; done when the center has entered all of them. Those of a second
    /// call come in addition.
    ///
    /// # Errors
    /// An address can't be announced, or the center refuses. Then the provider is dropped, which takes back all that it
    /// announced.
    ///
    /// # Cancel safety
    /// Dropping the future drops the provider, with the same effect.
    pub async fn announce<M: Into<String>>(
        self,
        methods: impl IntoIterator<Item = M>,
        place: impl Into<Place>,
    ) -> Result<Self, ProviderError> {
        let hosts = self.hosts(place.into()).await?;
        let methods: Vec<String> = methods.into_iter().map(Into::into).collect();
        let at_hosts = |method| hosts.iter().map(move |host| (method, *host));
        let entries: Vec<_> = methods.iter().map(String::as_str).flat_map(at_hosts).collect();
        self.tell_all(ServiceOp::Register, &entries).await?;
        Ok(self)
    }

    /// Takes one method back, at all hosts at which this provider announced it; the others stay. Done when the center has
    /// told its watchers.
    ///
    /// # Errors
    /// [`ProviderError::NoSession`], or the center can't be asked.
    ///
    /// # Cancel safety
    /// The method may be withdrawn or not.
    pub async fn withdraw_method(&self, method: &str) -> Result<(), ProviderError> {
        if !self.can_withdraw() {
            return Err(ProviderError::NoSession);
        }
        let hosts = self.announced().get(method).cloned().unwrap_or_default();
        let entries: Vec<_> = hosts.into_iter().map(|host| (method, host)).collect();
        self.tell_all(ServiceOp::Withdraw, &entries).await?;
        self.announced().remove(method);
        Ok(())
    }

    /// Takes back all that this provider announced; done when the center has told its watchers. The connection goes on if
    /// it is shared. To a center without sessions the close of the connection says it.
    ///
    /// # Errors
    /// The center could not be asked; the connection is closed, which has the same effect.
    ///
    /// # Cancel safety
    /// Dropping the future drops the provider, with the same effect.
    pub async fn withdraw(self) -> Result<(), ProviderError> {
        if !self.can_withdraw() {
            self.center.close();
            return Ok(());
        }
        let announced = self.announced().clone();
        let told = self.tell_all(ServiceOp::Withdraw, &entries_of(&announced)).await;
        self.announced().clear();
        match told {
            Ok(()) => Ok(()),
            Err(error) => {
                self.center.close();
                // The end of the connection takes all back, whoever ended it.
                if matches!(error.kind(), CallErrorKind::Disconnected) { Ok(()) } else { Err(error.into()) }
            }
        }
    }

    /// Waits until the connection to the center has ended: what was announced no longer is.
    ///
    /// # Cancel safety
    /// It only watches.
    pub async fn closed(&self) {
        self.center.closed().await;
    }

    /// Whether the connection to the center has ended.
    pub fn is_closed(&self) -> bool {
        self.center.is_closed()
    }

    /// The connection to the center.
    pub const fn center(&self) -> &Client {
        &self.center
    }

    fn can_withdraw(&self) -> bool {
        self.center.session().is_some_and(|session| session.features.has(Feature::Withdraw))
    }

    async fn hosts(&self, place: Place) -> Result<IndexSet<Host>, ProviderError> {
        let listening = match place {
            Place::Hosts(hosts) => return Ok(hosts.into_iter().collect()),
            Place::Listening(listening) => listening,
        };
        let local = self.center.local_addr().map(|local| local.ip());
        let mut hosts = IndexSet::new();
        for address in listening {
            let Some(socket) = resolve(&address).await? else { continue };
            let host = announced(socket, local).map_err(|source| ProviderError::Place { address, source })?;
            hosts.insert(host);
        }
        if hosts.is_empty() { Err(ProviderError::NoTcpAddress) } else { Ok(hosts) }
    }

    /// Sends one request for each entry, some of them ahead of the answers, and waits for all answers.
    async fn tell_all(&self, op: ServiceOp, entries: &[(&str, Host)]) -> Result<(), CallError> {
        let mut waiting = VecDeque::new();
        for &(method, host) in entries {
            loop {
                if waiting.len() < AHEAD {
                    match self.tell(op, method, host) {
                        Ok(told) => break waiting.push_back(told),
                        // The center permits fewer at once; an answer makes room.
                        Err(error) if is_overloaded(&error) && !waiting.is_empty() => {}
                        Err(error) => return Err(error),
                    }
                }
                if let Some(oldest) = waiting.pop_front() {
                    self.confirm(oldest).await?;
                }
            }
        }
        for told in waiting {
            self.confirm(told).await?;
        }
        Ok(())
    }

    fn tell(&self, op: ServiceOp, method: &str, host: Host) -> Result<Told, CallError> {
        let (done, answer) = oneshot::channel();
        let subject = subject(op, method, host);
        let body = ServiceRequest { method: Cow::Borrowed(method), op, host: Some(host) };
        // The receiver may have gone with a dropped future.
        self.center.exchange_in_order(&subject, &body, |outcome| drop(done.send(outcome)))?;
        if op == ServiceOp::Register {
            // From now on the center may have it, whatever becomes of the answer.
            self.announced().entry(method.to_owned()).or_default().insert(host);
        }
        Ok(Told { subject, answer })
    }

    async fn confirm(&self, Told { subject, answer }: Told) -> Result<(), CallError> {
        // The client says how every request ends, so there is no end but the connection's that it does not tell.
        let message = answer.await.map_err(|_| self.center.refused(&subject, ResultCode::Disconnected, None))??;
        let answer = ServiceAnswer::decode::<Json>(message.body());
        match answer.map_err(|why| self.center.unreadable(&subject, why))? {
            ServiceAnswer { code: ResultCode::Ok, .. } => Ok(()),
            ServiceAnswer { code, error, .. } => Err(self.center.refused(&subject, code, error)),
        }
    }

    fn announced(&self) -> MutexGuard<'_, Announced> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the center to take back an entry, and does not wait: what is asked over the connection from now on comes after
    /// it. Where the center does not do it, the connection is closed.
    fn take_back(&self, method: &str, host: Host) -> Result<(), CallError> {
        let body = ServiceRequest { method: Cow::Borrowed(method), op: ServiceOp::Withdraw, host: Some(host) };
        let center = self.center.clone();
        self.center.exchange_in_order(&subject(ServiceOp::Withdraw, method, host), &body, move |outcome| {
            let is_done = |message: &Message| {
                ServiceAnswer::decode::<Json>(message.body()).is_ok_and(|answer| answer.code == ResultCode::Ok)
            };
            if !outcome.is_ok_and(|message| is_done(&message)) {
                center.close();
            }
        })
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let announced = std::mem::take(&mut *self.announced());
        let entries = entries_of(&announced);
        if entries.is_empty() || self.center.is_closed() {
            return;
        }
        let mut entries = entries.into_iter();
        if !self.can_withdraw() || !entries.all(|(method, host)| self.take_back(method, host).is_ok()) {
            self.center.close();
        }
    }
}

fn entries_of(announced: &Announced) -> Vec<(&str, Host)> {
    announced.iter().flat_map(|(method, hosts)| hosts.iter().map(move |host| (method.as_str(), *host))).collect()
}

/// A request whose answer has not been looked at.
struct Told {
    subject: String,
    answer: oneshot::Receiver<Result<Message, CallError>>,
}

fn is_overloaded(error: &CallError) -> bool {
    matches!(error.kind(), CallErrorKind::Overloaded)
}

/// `None` for a Unix socket. Of a name's addresses the first counts, as where a server listens.
async fn resolve(address: &Address) -> Result<Option<SocketAddr>, ProviderError> {
    let Address::Tcp { host, port } = address else { return Ok(None) };
    let unresolved = |source| ProviderError::Resolve { address: address.clone(), source };
    let first = lookup_host((host.as_str(), *port)).await.map_err(unresolved)?.next();
    first.map(Some).ok_or_else(|| unresolved(std::io::ErrorKind::NotFound.into()))
}

fn subject(op: ServiceOp, method: &str, host: Host) -> String {
    let what = if op == ServiceOp::Register { "registration" } else { "withdrawal" };
    format!("{what} of \"{method}\" at {host}")
}

/// So many requests go ahead of their answers: enough to hide the way there and back.
const AHEAD: usize = 64;

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use callboard_server::{Router, Server};
    use tokio::time::timeout;

    use super::*;
    use crate::testing::{Center, LONG, dead_host, host_of, serve_who};
    use crate::{Discovery, TableSize};

    async fn discovery(center: &Center) -> Discovery {
        Discovery::new(&Client::connect(center.address()).await.unwrap())
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
            let provider = Provider::connect(center.address()).await.unwrap();
            let error = provider.announce(["who"], listening).await.unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        let provider = Provider::connect(center.address()).await.unwrap();
        let error = provider.announce(["x".repeat(4097)], dead_host(1)).await.unwrap_err();
        assert!(matches!(&error, ProviderError::Center(why) if why.code() == Some(ResultCode::TooLarge)), "{error}");
    }

    #[tokio::test]
    async fn one_method_goes_and_the_others_stay() {
        let center = Center::start().await;
        let server = serve_who("a", "127.0.0.1:0").await;
        let provider = Provider::connect(center.address()).await.unwrap();
        let provider = provider.announce(["who", "add"], server.addresses()).await.unwrap();
        provider.withdraw_method("add").await.unwrap();
        let discovery = discovery(&center).await;
        assert!(discovery.hosts("add").await.unwrap().is_empty());
        assert_eq!(discovery.hosts("who").await.unwrap()[..], [host_of(&server)]);
        drop(provider);
        let gone = discovery.notices();
        let left = async {
            tokio::pin!(gone);
            while !discovery.hosts("who").await.unwrap().is_empty() {
                tokio_stream::StreamExt::next(&mut gone).await;
            }
        };
        timeout(LONG, left).await.unwrap();
    }

    #[tokio::test]
    async fn thousands_of_methods_are_announced_and_taken_back() {
        let center = Center::start().await;
        let router = (0..3000).fold(Router::new(), |router, n| router.method(format!("m{n}"), |(): ()| Ok(())));
        let provider = Provider::connect(center.address()).await.unwrap();
        let provider = provider.announce(router.names(), dead_host(1)).await.unwrap();
        assert_eq!(center.registry().size(), TableSize { methods: 3000, connections: 1 });
        assert!(!provider.is_closed());
        provider.withdraw().await.unwrap();
        assert_eq!(center.registry().size(), TableSize::default());
    }

    #[tokio::test]
    async fn over_a_shared_connection_each_provider_takes_back_its_own() {
        let center = Center::start().await;
        let shared = Client::connect(center.address()).await.unwrap();
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
        let shared = Client::connect(center.address()).await.unwrap();
        drop(Provider::new(shared.clone()).announce(["who"], dead_host(1)).await.unwrap());
        let _again = Provider::new(shared.clone()).announce(["who"], dead_host(1)).await.unwrap();
        assert_eq!(Discovery::new(&shared).hosts("who").await.unwrap()[..], [dead_host(1)]);
    }

    #[tokio::test]
    async fn what_a_failed_announcement_had_entered_is_taken_back() {
        let center = Center::start().await;
        let shared = Client::connect(center.address()).await.unwrap();
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
        let shared = Client::connect(center.address()).await.unwrap();
        let mut announcing = Box::pin(Provider::new(shared.clone()).announce(["who"], dead_host(1)));
        // The answer can't come before this task waits.
        assert!(announcing.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(announcing);
        assert!(Discovery::new(&shared).hosts("who").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn where_a_center_can_not_withdraw_a_dropped_provider_closes_even_a_shared_connection() {
        let old = Center::start_v1().await;
        let shared = Client::connect(old.address()).await.unwrap();
        drop(Provider::new(shared.clone()));
        assert!(!shared.is_closed(), "it has announced nothing");
        drop(Provider::new(shared.clone()).announce(["who"], dead_host(1)).await.unwrap());
        timeout(LONG, shared.closed()).await.unwrap();

        let center = Center::start().await;
        let shared = Client::connect(center.address()).await.unwrap();
        let methods = (0..3000).map(|n| format!("m{n}"));
        drop(Provider::new(shared.clone()).announce(methods, dead_host(1)).await.unwrap());
        timeout(LONG, shared.closed()).await.unwrap();
    }

    #[tokio::test]
    async fn without_a_session_all_goes_with_the_connection() {
        let center = Center::start_v1().await;
        let provider = center.announce("who", dead_host(1)).await;
        let error = provider.withdraw_method("who").await.unwrap_err();
        assert!(matches!(error, ProviderError::NoSession), "{error}");
        center.stop().await;
        timeout(LONG, provider.closed()).await.unwrap();
        provider.withdraw().await.unwrap();
    }
}
