use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use callboard_client::{CallError, CallErrorKind, Client, Conn, Inbox, Line, Resuming};
use callboard_common::{
    Connection, Decode, Event, Executed, Host, HostList, Json, ListedHost, Message, ResultCode, ServiceAnswer,
    ServiceOp, ServiceRequest,
};
use tokio::sync::{broadcast, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::deadline::deadline_after;
use crate::errors::{center_gone, discovery_of};
use crate::{CacheLimits, Change, HostCache, Known, Notice, Notices};

/// Who provides what, as a center tells it: asked for once a method, then kept true by the center's notices.
///
/// Clones share what they know, and so do all that are made over one client. While the connection to the center is lost,
/// what is known stays in use. When it was made again, the center is asked again for all methods, and what has changed is told
/// as ordinary notices. A center that began anew has to be found by the providers first: those that it does not name stay
/// known for a while (5 s, unless it is set otherwise).
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

/// The outcome of one look-up, for all who wait for it.
type Outcome = Result<Arc<Vec<Host>>, CallError>;

/// The inbox of the center's notices. It keeps no client, so it does not keep the connection.
struct State {
    center: String,
    knowledge: Mutex<Knowledge>,
    departed: Box<dyn Fn(Host) + Send + Sync>,
    keep_unconfirmed: Duration,
}

struct Knowledge {
    cache: HostCache,
    /// Which run of a center told all this; `None` before it was asked, and where it knows no sessions.
    center_run: Option<String>,
    /// How often all was asked for again.
    renewals: u64,
    /// The look-ups under way; each ends with its answer, or with the reason why there is none.
    lookups: HashMap<Arc<str>, watch::Sender<Option<Outcome>>>,
    /// Gone with the connection to the center, so that those who listen hear of that.
    notices: Option<broadcast::Sender<Notice>>,
}

/// What an answer says.
struct Listing {
    hosts: Vec<ListedHost>,
    revision: Option<u64>,
}

/// What a look-up begins with.
enum Begun {
    Known(Arc<Vec<Host>>),
    /// The caller must send the question, and need not wait for the answer.
    AskAgain(Arc<Vec<Host>>),
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
        let (center, run) = (client.address().to_string(), client.session().map(|session| session.instance));
        Self { client: client.clone(), state: client.service_inbox(|| State::new(center, run, settings)) }
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
        let deadline = deadline_after(self.client.timeout());
        loop {
            match self.look_up(method).await {
                // A question may be asked again, whether or not it was heard.
                Err(error) if is_lost(&error) && !self.client.is_closed() => {
                    timeout_at(deadline, self.client.online()).await.map_err(|_| error)??;
                }
                outcome => return outcome,
            }
        }
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

impl State {
    fn new(center: String, center_run: Option<String>, settings: DiscoverySettings) -> Self {
        let notices = broadcast::Sender::new(settings.notice_capacity.max(1));
        let cache = HostCache::new(settings.cache);
        let knowledge = Knowledge { cache, center_run, renewals: 0, lookups: HashMap::new(), notices: Some(notices) };
        let DiscoverySettings { departed, keep_unconfirmed, .. } = settings;
        Self { center, knowledge: Mutex::new(knowledge), departed, keep_unconfirmed }
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
            Known::Stale(hosts) => Begun::AskAgain(hosts),
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
        let listing = answer.and_then(|message| self.read(method, &message));
        let mut knowledge = self.lock();
        let (outcome, departed) = match listing {
            Ok(listing) => {
                let departed = knowledge.take_answer(method, &listing);
                (Ok(knowledge.cache.hosts(method).map(|hosts| Arc::new(hosts.to_vec())).unwrap_or_default()), departed)
            }
            Err(error) => {
                knowledge.cache.fail(method);
                (Err(error), Vec::new())
            }
        };
        if let Some(lookup) = knowledge.lookups.remove(method) {
            lookup.send_replace(Some(outcome));
        }
        drop(knowledge);
        for host in departed {
            (self.departed)(host);
        }
    }

    /// Nobody is an answer too.
    fn read(&self, method: &str, message: &Message) -> Result<Listing, CallError> {
        let answer = ServiceAnswer::decode::<Json>(message.body()).map_err(|why| {
            let what = format!("the answer can't be read: {why}");
            CallError::new(CallErrorKind::Decode, &self.center, discovery_of(method), what)
        })?;
        match answer.code {
            ResultCode::Ok | ResultCode::NotFoundService => {
                let hosts = answer.hosts.iter().flat_map(HostList::iter).collect();
                Ok(Listing { hosts, revision: answer.revision })
            }
            code => Err(CallError::remote(&self.center, discovery_of(method), code, answer.error)),
        }
    }

    fn apply(&self, notice: &Notice) {
        let change = self.lock().cache.notice(notice);
        if change.changed {
            self.told(vec![(notice.clone(), change)]);
        }
    }

    /// Tells those who listen what has changed.
    fn told(&self, changes: Vec<(Notice, Change)>) {
        for (notice, change) in changes {
            if change.departed {
                (self.departed)(notice.host);
            }
            self.lock().tell(notice);
        }
    }

    /// Asks again for all that is known, over a new connection; what has changed is told.
    async fn renew(self: Arc<Self>, line: &Line) -> Result<(), CallError> {
        let run = line.session().map(|session| session.instance.clone());
        let (methods, anew, renewal) = {
            let mut knowledge = self.lock();
            let anew = knowledge.center_run != run || run.is_none() || knowledge.cache.has_unconfirmed();
            knowledge.renewals += 1;
            (knowledge.cache.known(), anew, knowledge.renewals)
        };
        let mut ahead = VecDeque::new();
        for method in methods {
            loop {
                if ahead.len() < AHEAD {
                    match self.ask_again(line, &method, anew) {
                        Ok(done) => break ahead.push_back(done),
                        // The center permits fewer at once; an answer makes room.
                        Err(error) if matches!(error.kind(), CallErrorKind::Overloaded) && !ahead.is_empty() => {}
                        Err(error) => return Err(error),
                    }
                }
                if let Some(oldest) = ahead.pop_front() {
                    answered(oldest, line).await?;
                }
            }
        }
        for done in ahead {
            answered(done, line).await?;
        }
        // Only now: where it failed on the way, it is still anew for the next connection.
        self.lock().center_run = run;
        if anew {
            tokio::spawn(drop_unconfirmed(Arc::downgrade(&self), renewal, self.keep_unconfirmed));
        }
        Ok(())
    }

    fn ask_again(
        self: &Arc<Self>,
        line: &Line,
        method: &Arc<str>,
        keep: bool,
    ) -> Result<oneshot::Receiver<()>, CallError> {
        let body = ServiceRequest::new(&**method, ServiceOp::Discover);
        let (done, heard) = oneshot::channel();
        let (state, name) = (Arc::clone(self), Arc::clone(method));
        line.exchange_in_order(&discovery_of(method), &body, move |answer| {
            match answer.and_then(|message| state.read(&name, &message)) {
                Ok(listing) => {
                    let changes = state.lock().cache.renew(&name, &listing.hosts, listing.revision, keep);
                    state.told(changes);
                }
                // What is known stays in use.
                Err(error) => tracing::warn!(%error, "not discovered again"),
            }
            // Perhaps the connection was given up meanwhile.
            let _ = done.send(());
        })?;
        Ok(heard)
    }
}

/// Waits for a look-up that was asked again.
async fn answered(done: oneshot::Receiver<()>, line: &Line) -> Result<(), CallError> {
    let gone = |_| line.refused("discovery", ResultCode::Disconnected, None);
    done.await.map_err(gone)?;
    if line.conn().is_closed() { Err(line.refused("discovery", ResultCode::Disconnected, None)) } else { Ok(()) }
}

/// By then the center has heard of all who are there, unless another one was asked meanwhile.
async fn drop_unconfirmed(state: Weak<State>, renewal: u64, after: Duration) {
    tokio::time::sleep(after).await;
    let Some(state) = state.upgrade() else { return };
    let changes = {
        let mut knowledge = state.lock();
        if knowledge.renewals == renewal { knowledge.cache.drop_unconfirmed() } else { Vec::new() }
    };
    state.told(changes);
}

/// Whether the connection ended before the answer came.
fn is_lost(error: &CallError) -> bool {
    let is_leaving = error.code() == Some(ResultCode::Unavailable) && error.executed() == Executed::No;
    is_leaving || matches!(error.kind(), CallErrorKind::Disconnected)
}

/// So many questions go ahead of their answers.
const AHEAD: usize = 64;
/// Longer than a provider takes at most to find a center that is there again.
pub(crate) const DEFAULT_KEEP_UNCONFIRMED: Duration = Duration::from_secs(5);

impl Knowledge {
    /// Which hosts provide nothing more.
    fn take_answer(&mut self, method: &str, listing: &Listing) -> Vec<Host> {
        let notices = self.cache.answer(method, &listing.hosts, listing.revision);
        let gone = notices.iter().filter(|notice| !notice.online && !self.cache.lists(notice.host));
        let gone = gone.map(|notice| notice.host).collect();
        for notice in notices {
            self.tell(notice);
        }
        gone
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
            Ok(ServiceRequest {
                method,
                op: op @ (ServiceOp::Online | ServiceOp::Offline),
                host: Some(host),
                instance,
                revision,
            }) => {
                let instance = instance.map(Arc::from);
                let online = op == ServiceOp::Online;
                self.apply(&Notice { method: method.into(), host, online, instance, revision });
            }
            _ => conn.count(Event::Ignored),
        }
    }

    fn resume(self: Arc<Self>, line: &Line) -> Resuming<'_> {
        Box::pin(self.renew(line))
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
        let hosts: Vec<_> = hosts.iter().copied().map(ListedHost::from).collect();
        let hosts = Some(hosts.into());
        conn.answer(message.id(), &ServiceAnswer { hosts, ..ServiceAnswer::ok(ServiceOp::Discover) }).unwrap();
    }

    fn notify(conn: &Conn, kind: MessageType, port: u16, op: ServiceOp) {
        let body = ServiceRequest::new("add", op).at(dead_host(port));
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
