use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use callboard_client::{CallError, CallErrorKind, Client, Conn, Inbox};
use callboard_common::{
    Connection, Decode, Event, Executed, Host, Json, Message, ResultCode, ServiceAnswer, ServiceOp, ServiceRequest,
};
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, timeout_at};

use crate::deadline::deadline_after;
use crate::errors::{center_gone, discovery_of};
use crate::{CacheLimits, HostCache, Known, Notice, Notices};

/// Who provides what, as a center tells it: asked for once a method, then kept true by the center's notices.
///
/// Clones share what they know, and so do all that are made over one client. When the connection to the center ends,
/// what is known stays in use; what is not known then is an error.
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
}

impl Default for DiscoverySettings {
    fn default() -> Self {
        Self { cache: CacheLimits::default(), notice_capacity: 1024, departed: Box::new(|_| {}) }
    }
}

/// The outcome of one look-up, for all who wait for it.
type Outcome = Result<Arc<Vec<Host>>, CallError>;

/// The inbox of the center's notices. It keeps no client, so it does not keep the connection.
struct State {
    center: String,
    knowledge: Mutex<Knowledge>,
    departed: Box<dyn Fn(Host) + Send + Sync>,
}

struct Knowledge {
    cache: HostCache,
    /// The look-ups under way; each ends with its answer, or with the reason why there is none.
    lookups: HashMap<Arc<str>, watch::Sender<Option<Outcome>>>,
    /// Gone with the connection to the center, so that those who listen hear of that.
    notices: Option<broadcast::Sender<Notice>>,
}

/// What a look-up begins with.
enum Begun {
    Known(Arc<Vec<Host>>),
    /// Another one's look-up, or the caller's own.
    Asking(watch::Receiver<Option<Outcome>>),
    /// The caller must send the question.
    Ask(watch::Receiver<Option<Outcome>>),
    Full,
}

impl Discovery {
    /// Discovery through the center that `client` is connected to. A look-up has the client's timeout.
    pub fn new(client: &Client) -> Self {
        Self::with_settings(client, DiscoverySettings::default())
    }

    pub(crate) fn with_settings(client: &Client, settings: DiscoverySettings) -> Self {
        let center = client.address().to_string();
        Self { client: client.clone(), state: client.service_inbox(|| State::new(center, settings)) }
    }

    /// The connection to the center.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The hosts that provide `method`, in the order in which they registered; empty if nobody does. The center is asked
    /// the first time, once however many ask at the same time; from then on the list is kept true by its notices.
    ///
    /// # Errors
    /// The center can't be asked or does not answer in time: `Disconnected`, `Timeout`, or what it answered (`Remote`).
    /// `Overloaded` when as many methods are known as may be.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the look-up to those who wait for it too, and its answer to those who come later.
    pub async fn hosts(&self, method: &str) -> Result<Arc<Vec<Host>>, CallError> {
        let mut answered = match self.state.begin(method) {
            Begun::Known(hosts) => return Ok(hosts),
            Begun::Full => return Err(self.full(method)),
            Begun::Asking(answered) => answered,
            Begun::Ask(answered) => {
                self.ask(method);
                answered
            }
        };
        let outcome = answered.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        match outcome {
            Some(Ok(hosts)) => Ok(hosts),
            Some(Err(error)) => Err(error),
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

    fn ask(&self, method: &str) {
        let body = ServiceRequest { method: Cow::Borrowed(method), op: ServiceOp::Discover, host: None };
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

impl State {
    fn new(center: String, settings: DiscoverySettings) -> Self {
        let notices = broadcast::Sender::new(settings.notice_capacity.max(1));
        let cache = HostCache::new(settings.cache);
        let knowledge = Knowledge { cache, lookups: HashMap::new(), notices: Some(notices) };
        Self { center, knowledge: Mutex::new(knowledge), departed: settings.departed }
    }

    fn lock(&self) -> MutexGuard<'_, Knowledge> {
        self.knowledge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn subscribe(&self) -> Option<broadcast::Receiver<Notice>> {
        self.lock().notices.as_ref().map(broadcast::Sender::subscribe)
    }

    fn begin(&self, method: &str) -> Begun {
        let Knowledge { cache, lookups, .. } = &mut *self.lock();
        match cache.look_up(method) {
            Known::Hosts(hosts) => Begun::Known(hosts),
            Known::Full => Begun::Full,
            Known::Asking => {
                let lookup = lookups.entry(Arc::from(method)).or_insert_with(|| watch::Sender::new(None));
                Begun::Asking(lookup.subscribe())
            }
            Known::Ask => {
                let (lookup, answered) = watch::channel(None);
                lookups.insert(Arc::from(method), lookup);
                Begun::Ask(answered)
            }
        }
    }

    /// Runs on the connection's task, in order with notices (or on the caller's, where nothing could be sent).
    fn finish(&self, method: &str, answer: Result<Message, CallError>) {
        let hosts = answer.and_then(|message| self.read(method, &message));
        let mut knowledge = self.lock();
        let outcome = match hosts {
            Ok(hosts) => Ok(knowledge.take_answer(method, &hosts)),
            Err(error) => {
                knowledge.cache.fail(method);
                Err(error)
            }
        };
        if let Some(lookup) = knowledge.lookups.remove(method) {
            lookup.send_replace(Some(outcome));
        }
    }

    /// Nobody is an answer too.
    fn read(&self, method: &str, message: &Message) -> Result<Vec<Host>, CallError> {
        let answer = ServiceAnswer::decode::<Json>(message.body()).map_err(|why| {
            let what = format!("the answer can't be read: {why}");
            CallError::new(CallErrorKind::Decode, &self.center, discovery_of(method), what)
        })?;
        match answer.code {
            ResultCode::Ok => Ok(answer.hosts.unwrap_or_default().into_owned()),
            ResultCode::NotFoundService => Ok(Vec::new()),
            code => Err(CallError::remote(&self.center, discovery_of(method), code, answer.error)),
        }
    }

    fn apply(&self, notice: &Notice) {
        let change = self.lock().cache.notice(notice);
        if change.departed {
            (self.departed)(notice.host);
        }
        if change.changed {
            self.lock().tell(notice.clone());
        }
    }
}

impl Knowledge {
    fn take_answer(&mut self, method: &str, hosts: &[Host]) -> Arc<Vec<Host>> {
        for notice in self.cache.answer(method, hosts) {
            self.tell(notice);
        }
        match self.cache.look_up(method) {
            Known::Hosts(hosts) => hosts,
            Known::Asking | Known::Ask | Known::Full => Arc::default(),
        }
    }

    fn tell(&self, notice: Notice) {
        if let Some(notices) = &self.notices {
            // Perhaps nobody listens.
            let _ = notices.send(notice);
        }
    }
}

impl Inbox for State {
    fn message(&self, conn: &Conn, message: Message) {
        match ServiceRequest::decode::<Json>(message.body()) {
            Ok(ServiceRequest { method, op: op @ (ServiceOp::Online | ServiceOp::Offline), host: Some(host) }) => {
                self.apply(&Notice { method: method.into(), host, online: op == ServiceOp::Online });
            }
            _ => conn.count(Event::Ignored),
        }
    }

    fn closed(&self) {
        self.lock().notices = None;
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("center", &self.center).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use callboard_common::{Dispatcher, Handler, Head, MessageType};
    use callboard_net::{Serving, Settings, serve};
    use tokio::time::timeout;
    use tokio_stream::StreamExt;

    use super::*;
    use crate::testing::{LONG, dead_host};

    /// A center that is no center: it does as `script` says with each discovery, of which it gets the number.
    struct Scripted<F>(AtomicUsize, F);

    impl<F: Fn(&Conn, &Message, usize) + Send + Sync + 'static> Handler<Conn> for Scripted<F> {
        fn handle(&self, conn: &Conn, message: Message) {
            (self.1)(conn, &message, self.0.fetch_add(1, Ordering::SeqCst));
        }
    }

    async fn scripted(
        timeout: Duration,
        script: impl Fn(&Conn, &Message, usize) + Send + Sync + 'static,
    ) -> (Serving, Discovery) {
        let handler = Dispatcher::new().on_service(Scripted(AtomicUsize::new(0), script));
        let settings = Settings { loops: 1, ..Settings::default() };
        let serving = serve(&["127.0.0.1:0".parse().unwrap()], settings, Arc::new(handler)).await.unwrap();
        let client = Client::builder().session(callboard_client::SessionMode::Off).timeout(LONG);
        let client = client.connect(serving.addresses()[0].to_string()).await.unwrap().with_timeout(timeout);
        (serving, Discovery::new(&client))
    }

    fn answer(conn: &Conn, message: &Message, hosts: &[Host]) {
        let hosts = Some(Cow::Borrowed(hosts));
        conn.answer(message.id(), &ServiceAnswer { hosts, ..ServiceAnswer::ok(ServiceOp::Discover) }).unwrap();
    }

    fn notify(conn: &Conn, kind: MessageType, port: u16, op: ServiceOp) {
        let body = ServiceRequest { method: "add".into(), op, host: Some(dead_host(port)) };
        conn.try_send(conn.encode(Head::new(kind, b"notice"), &body).unwrap()).unwrap();
    }

    #[tokio::test]
    async fn a_center_may_send_notices_before_the_answer_and_as_calls() {
        let (_center, discovery) = scripted(LONG, |conn, message, _| {
            notify(conn, MessageType::RpcRequest, 2, ServiceOp::Online);
            notify(conn, MessageType::ServiceRequest, 3, ServiceOp::Offline);
            answer(conn, message, &[dead_host(1), dead_host(3)]);
            notify(conn, MessageType::RpcRequest, 1, ServiceOp::Offline);
        })
        .await;
        let mut notices = discovery.notices();
        discovery.hosts("add").await.unwrap();
        for (port, online) in [(2, true), (3, false), (1, false)] {
            let notice = timeout(LONG, notices.next()).await.unwrap().unwrap();
            assert_eq!((notice.host, notice.online), (dead_host(port), online));
        }
        assert_eq!(discovery.hosts("add").await.unwrap()[..], [dead_host(2)]);
    }

    #[tokio::test]
    async fn a_look_up_that_is_not_answered_is_repeated_within_the_callers_deadline() {
        let (_center, discovery) = scripted(Duration::from_millis(30), |conn, message, number| {
            if number > 0 {
                answer(conn, message, &[dead_host(1)]);
            }
        })
        .await;
        let error = discovery.hosts("add").await.unwrap_err();
        assert!(matches!(error.kind(), CallErrorKind::Timeout), "{error}");
        assert_eq!(discovery.hosts_until("add", deadline_after(LONG)).await.unwrap()[..], [dead_host(1)]);
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error_and_not_remembered() {
        let (_center, discovery) = scripted(LONG, |conn, message, number| match number {
            0 => conn.answer(message.id(), &Garbage).unwrap(),
            _ => answer(conn, message, &[dead_host(1)]),
        })
        .await;
        let error = discovery.hosts("add").await.unwrap_err();
        assert!(matches!(error.kind(), CallErrorKind::Decode), "{error}");
        assert_eq!(discovery.hosts("add").await.unwrap()[..], [dead_host(1)]);
    }

    struct Garbage;

    impl callboard_common::Encode for Garbage {
        fn kind(&self) -> MessageType {
            MessageType::ServiceResponse
        }

        fn encode<C: callboard_common::Codec>(
            &self,
            out: &mut bytes::BytesMut,
        ) -> Result<(), callboard_common::EncodeError> {
            C::write("no object", out)
        }
    }
}
