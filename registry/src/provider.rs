use std::borrow::Cow;
use std::collections::{BTreeSet, VecDeque};
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
/// What is announced lasts as long as the connection to the center: when the provider is dropped, or its program ends,
/// the center tells every watcher that it is offline. It does not connect again by itself; see [`closed`](Self::closed).
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
    methods: Mutex<BTreeSet<String>>,
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

    /// A provider over a connection to a center. It ends with the last clone of `center`.
    pub fn new(center: Client) -> Self {
        Self { center, methods: Mutex::default() }
    }

    /// Announces that `methods` are provided at `place`; done when the center has entered all of them. Those of a second
    /// call come in addition.
    ///
    /// # Errors
    /// An address can't be announced, or the center refuses. Then the connection is given up, and with it all that was
    /// announced over it.
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection.
    pub async fn announce<M: Into<String>>(
        self,
        methods: impl IntoIterator<Item = M>,
        place: impl Into<Place>,
    ) -> Result<Self, ProviderError> {
        let hosts = self.hosts(place.into()).await?;
        let methods: Vec<String> = methods.into_iter().map(Into::into).collect();
        let mut entries = Vec::with_capacity(methods.len() * hosts.len());
        for method in &methods {
            entries.extend(hosts.iter().map(|host| (method.as_str(), Some(*host))));
        }
        self.tell_all(ServiceOp::Register, &entries).await?;
        self.methods().extend(methods);
        Ok(self)
    }

    /// Takes one method back, wherever it was announced; the others stay. Done when the center has told its watchers.
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
        self.tell_all(ServiceOp::Withdraw, &[(method, None)]).await?;
        self.methods().remove(method);
        Ok(())
    }

    /// Takes back all that was announced, and closes the connection. To a center without sessions the close says it.
    ///
    /// # Errors
    /// The center could not be asked; the connection is closed all the same, which has the same effect.
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection, which has the same effect.
    pub async fn withdraw(self) -> Result<(), ProviderError> {
        let methods = std::mem::take(&mut *self.methods());
        let told = if self.can_withdraw() {
            let entries: Vec<_> = methods.iter().map(|method| (method.as_str(), None)).collect();
            self.tell_all(ServiceOp::Withdraw, &entries).await
        } else {
            Ok(())
        };
        self.center.close();
        match told {
            Err(error) if !matches!(error.kind(), CallErrorKind::Disconnected) => Err(error.into()),
            _ => Ok(()), // the end of the connection takes all back
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
    async fn tell_all(&self, op: ServiceOp, entries: &[(&str, Option<Host>)]) -> Result<(), CallError> {
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

    fn tell(&self, op: ServiceOp, method: &str, host: Option<Host>) -> Result<Told, CallError> {
        let (done, answer) = oneshot::channel();
        let subject = subject(op, method, host);
        let body = ServiceRequest { method: Cow::Borrowed(method), op, host };
        // The receiver may have gone with a dropped future.
        self.center.exchange_in_order(&subject, &body, |outcome| drop(done.send(outcome)))?;
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

    fn methods(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.methods.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

fn subject(op: ServiceOp, method: &str, host: Option<Host>) -> String {
    let what = if op == ServiceOp::Register { "registration" } else { "withdrawal" };
    let at = host.map_or_else(String::new, |host| format!(" at {host}"));
    format!("{what} of \"{method}\"{at}")
}

/// So many requests go ahead of their answers: enough to hide the way there and back.
const AHEAD: usize = 64;

#[cfg(test)]
mod tests {
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
