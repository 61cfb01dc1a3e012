//! A bad network in front of each role: afterwards all views are right again, and nobody else has noticed.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use callboard_center::Center;
use callboard_client::{Client, ClientBuilder, ClientState, Reconnect, SessionMode};
use callboard_common::{Heartbeat, Heartbeats, Host, Missed};
use callboard_net::Limits;
use callboard_pubsub::{Event, Subscription, Topics};
use callboard_registry::{AvailabilityPolicy, Caller, Provider};
use callboard_server::{Router, Server};
use callboard_tests::{FaultProxy, Towards, Weather, within};

use crate::house::until;

/// What happens to the connections of one role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Delay,
    Cut,
    CutAndRefuse,
    Silence,
    HalfClose(Towards),
    Garbage(Towards),
}

/// Whose connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Provider,
    Caller,
    Subscriber,
    Publisher,
    /// The provider, as a caller sees it.
    Callee,
}

const ROLES: [Role; 5] = [Role::Provider, Role::Caller, Role::Subscriber, Role::Publisher, Role::Callee];

/// A client, and the proxy through which it has come, if any.
struct Part {
    client: Client,
    proxy: Option<FaultProxy>,
}

/// One of each role behind a proxy, and one beside it that nothing happens to.
struct House {
    _center: Center,
    providers: [Provider; 2],
    servers: [Server; 2],
    hosts: BTreeSet<Host>,
    callee: FaultProxy,
    /// A proxied one and an undisturbed one of each.
    callers: [Caller; 2],
    subscribers: [Reader; 2],
    publishers: [Part; 2],
    proxies: [FaultProxy; 3],
    published: u64,
}

/// A subscription, and how much of the topic it accounts for.
struct Reader {
    part: Client,
    news: Subscription,
    /// What was received, and what was told to be missing.
    accounted: u64,
}

fn settings() -> ClientBuilder {
    let soon = Reconnect { longest: Duration::from_millis(100), ..Reconnect::default() };
    // A first connection that is slow must not be taken for one to a v1 peer.
    let builder = Client::builder().timeout(Duration::from_secs(20)).reconnect(soon);
    builder.session(SessionMode::Require).session_timeout(Duration::from_secs(2))
}

async fn connect(address: SocketAddr) -> Client {
    within(settings().connect(address.to_string())).await.unwrap()
}

async fn serve(name: &'static str) -> (Server, SocketAddr) {
    let router = Router::new().method("who", move |(): ()| Ok(name));
    let server = Server::builder().router(router).loops(1).listen("127.0.0.1:0").start().await.unwrap();
    let address = server.addresses()[0].to_socket_addr().unwrap();
    (server, address)
}

async fn announce(center: SocketAddr, host: Host) -> Provider {
    Provider::new(connect(center).await).announce(["who"], host).await.unwrap()
}

async fn caller(center: SocketAddr) -> Caller {
    let builder = Caller::builder().client(settings()).timeout(Duration::from_secs(20));
    let builder = builder.connect_timeout(Duration::from_secs(2)).reconnect_pause(Duration::from_millis(50));
    builder.keep_unconfirmed(Duration::from_secs(20)).connect(center.to_string()).await.unwrap()
}

impl Reader {
    async fn open(center: SocketAddr) -> Self {
        let part = connect(center).await;
        Topics::new(&part).create("news").await.unwrap();
        let news = Subscription::open(&part, "news").await.unwrap();
        Self { part, news, accounted: 0 }
    }

    /// Reads up to the message of this text.
    async fn read_to(&mut self, text: &str) {
        loop {
            match within(self.news.next_event()).await.unwrap().unwrap() {
                Event::Message(news) => {
                    self.accounted += 1;
                    if news.text() == text {
                        return assert_eq!(news.seq(), Some(self.accounted), "all is accounted for");
                    }
                }
                Event::Lagged { from, to } => self.accounted += to - from + 1,
                Event::Resumed { missed: Missed::Exactly(missed) } => self.accounted += missed,
                Event::Resumed { missed: Missed::Unknown } => panic!("the center has told how many"),
                _ => {}
            }
        }
    }
}

impl House {
    async fn start() -> Self {
        // A machine that stands still for a while is no fault of a peer's; that a silent one is noticed is what counts.
        let heartbeats = Heartbeats { caller: Heartbeat::from_ms(200, 1500), provider: Heartbeat::from_ms(200, 1500) };
        let policy = AvailabilityPolicy { provider_grace: Duration::from_millis(200), ..AvailabilityPolicy::default() };
        let center = Center::builder().listen("tcp://127.0.0.1:0").loops(1).availability(policy);
        let center = center.limits(Limits { heartbeats, ..Limits::default() }).start().await.unwrap();
        let direct = center.addresses()[0].to_socket_addr().unwrap();
        let proxies = [direct; 4].map(FaultProxy::start);
        let [a, b, c, d] = proxies;
        let (provider, by_caller, by_subscriber, by_publisher) = tokio::join!(a, b, c, d);
        let (one, other) = (serve("one").await, serve("other").await);
        let callee = FaultProxy::start(one.1).await;
        let hosts = [Host::try_from(callee.address()).unwrap(), Host::try_from(other.1).unwrap()];
        let providers = [announce(provider.address(), hosts[0]).await, announce(direct, hosts[1]).await];
        let callers = [caller(by_caller.address()).await, caller(direct).await];
        let subscribers = [Reader::open(by_subscriber.address()).await, Reader::open(direct).await];
        let through = Part { client: connect(by_publisher.address()).await, proxy: Some(by_publisher) };
        let publishers = [through, Part { client: connect(direct).await, proxy: None }];
        let hosts = hosts.into_iter().collect();
        let proxies = [provider, by_caller, by_subscriber];
        let servers = [one.0, other.0];
        Self {
            _center: center,
            providers,
            servers,
            hosts,
            callee,
            callers,
            subscribers,
            publishers,
            proxies,
            published: 0,
        }
    }

    fn proxy(&self, role: Role) -> &FaultProxy {
        match role {
            Role::Provider => &self.proxies[0],
            Role::Caller => &self.proxies[1],
            Role::Subscriber => &self.proxies[2],
            Role::Publisher => self.publishers[0].proxy.as_ref().unwrap(),
            Role::Callee => &self.callee,
        }
    }

    /// The connections to the center that the fault does not concern.
    fn others(&self, role: Role) -> Vec<Client> {
        let all = [
            (Role::Provider, self.providers[0].center()),
            (Role::Caller, self.callers[0].center()),
            (Role::Subscriber, &self.subscribers[0].part),
            (Role::Publisher, &self.publishers[0].client),
        ];
        let direct = [
            self.providers[1].center(),
            self.callers[1].center(),
            &self.subscribers[1].part,
            &self.publishers[1].client,
        ];
        let proxied = all.into_iter().filter(|(of, _)| *of != role).map(|(_, client)| client);
        proxied.chain(direct).cloned().collect()
    }

    /// The connection to the center that it does concern.
    fn concerned(&self, role: Role) -> Option<&Client> {
        match role {
            Role::Provider => Some(self.providers[0].center()),
            Role::Caller => Some(self.callers[0].center()),
            Role::Subscriber => Some(&self.subscribers[0].part),
            Role::Publisher => Some(&self.publishers[0].client),
            Role::Callee => None,
        }
    }

    /// The fault happens to the role, and goes by; nobody else notices.
    async fn suffer(&mut self, role: Role, fault: Fault) {
        let others: Vec<_> = self.others(role).into_iter().map(|client| (client.generation(), client)).collect();
        let mut states = self.concerned(role).map(Client::states);
        let closed = self.servers[0].metrics().closed;
        fault.begin(self.proxy(role));
        if role == Role::Callee {
            self.call_through(fault).await;
        }
        for _ in 0..10 {
            self.work_undisturbed().await;
        }
        if let (true, Some(states)) = (fault.ends_connections(), &mut states) {
            while !matches!(within(states.next()).await.unwrap(), ClientState::Lost { .. }) {}
        }
        self.work_undisturbed().await;
        self.proxy(role).set(Weather::Fair);
        if let Some(client) = self.concerned(role) {
            within(client.online()).await.unwrap();
        }
        self.is_whole().await;
        // A silence that passes before a sign of life is due ends nothing.
        if role == Role::Callee && fault.ends_connections() && fault != Fault::Silence {
            let is_over = || self.servers[0].metrics().closed > closed;
            until("the connection that the fault came over has ended", is_over).await;
        }
        for (before, client) in others {
            assert_eq!(client.generation(), before, "{role:?} {fault:?}: another connection has ended");
        }
    }

    /// Calls go over the connection to the callee, until one has met what does not let it through.
    async fn call_through(&self, fault: Fault) {
        let hurried = self.callers[1].with_timeout(Duration::from_millis(500));
        if fault == Fault::Silence {
            let meets_it = async { while hurried.call::<String>("who", &()).await.is_ok() {} };
            return within(meets_it).await;
        }
        for _ in 0..4 {
            // It may be under way when its connection is cut.
            let _ = hurried.call::<String>("who", &()).await;
        }
    }

    /// Who is not concerned calls the undisturbed provider and publishes.
    async fn work_undisturbed(&mut self) {
        let caller = &self.callers[1];
        let host = self.servers[1].addresses()[0].to_string();
        let direct = connect_once(&host).await;
        assert_eq!(within(direct.call::<String>("who", &())).await.unwrap(), "other");
        assert!(!within(caller.hosts("who")).await.unwrap().is_empty());
        Topics::new(&self.publishers[1].client).publish("news", "undisturbed").await.unwrap();
    }

    /// All see all again.
    async fn is_whole(&mut self) {
        for caller in &self.callers {
            let mut notices = caller.notices();
            let sees_all = async {
                while BTreeSet::from_iter(within(caller.hosts("who")).await.unwrap()) != self.hosts {
                    let _ = tokio::time::timeout(Duration::from_millis(50), notices_next(&mut notices)).await;
                }
            };
            within(sees_all).await;
            let reaches_all = async {
                let mut answers = BTreeSet::new();
                while answers.len() < 2 {
                    // One that was under way when its connection was cut may fail; one that comes later may not for ever.
                    let answer = caller.with_timeout(Duration::from_secs(2)).call::<String>("who", &()).await;
                    answers.extend(answer.ok());
                }
            };
            within(reaches_all).await;
        }
        for publisher in 0..self.publishers.len() {
            self.published += 1;
            let text = format!("number {}", self.published);
            let topics = Topics::new(&self.publishers[publisher].client);
            while within(topics.publish("news", &text)).await.is_err() {}
            for reader in &mut self.subscribers {
                reader.read_to(&text).await;
            }
        }
    }
}

async fn notices_next(notices: &mut callboard_registry::Notices) {
    use tokio_stream::StreamExt;
    let _ = notices.next().await;
}

async fn connect_once(address: &str) -> Client {
    within(Client::builder().timeout(Duration::from_secs(20)).connect(address)).await.unwrap()
}

impl Fault {
    fn begin(self, proxy: &FaultProxy) {
        match self {
            Self::Delay => proxy.set(Weather::Slow(Duration::from_millis(20))),
            Self::Cut => proxy.cut(),
            Self::CutAndRefuse => {
                proxy.set(Weather::Closed);
                proxy.cut();
            }
            Self::Silence => proxy.set(Weather::Silent),
            Self::HalfClose(towards) => proxy.half_close(towards),
            Self::Garbage(towards) => proxy.garbage(towards),
        }
    }

    fn ends_connections(self) -> bool {
        self != Self::Delay
    }
}

/// By each role, one after the other.
async fn is_survived(fault: Fault) {
    let mut house = House::start().await;
    house.is_whole().await;
    for role in ROLES {
        house.suffer(role, fault).await;
    }
}

#[tokio::test]
async fn a_slow_network_is_survived_by_each_role() {
    is_survived(Fault::Delay).await;
}

#[tokio::test]
async fn a_cut_is_survived_by_each_role() {
    is_survived(Fault::Cut).await;
}

#[tokio::test]
async fn a_network_that_refuses_for_a_while_is_survived_by_each_role() {
    is_survived(Fault::CutAndRefuse).await;
}

#[tokio::test]
async fn silence_is_survived_by_each_role() {
    is_survived(Fault::Silence).await;
}

#[tokio::test]
async fn half_an_end_is_survived_by_each_role() {
    is_survived(Fault::HalfClose(Towards::Server)).await;
    is_survived(Fault::HalfClose(Towards::Client)).await;
}

#[tokio::test]
async fn garbage_ends_only_the_connection_that_it_came_over() {
    is_survived(Fault::Garbage(Towards::Server)).await;
    is_survived(Fault::Garbage(Towards::Client)).await;
}
