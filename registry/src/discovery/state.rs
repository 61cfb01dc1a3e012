use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use callboard_client::{CallError, CallErrorKind, Conn, Inbox, Line, Resuming, WeakLine, deadline_after};
use callboard_common::{
    Connection, Decode, Event, Host, HostList, Json, ListedHost, Message, ResultCode, ServiceAnswer, ServiceOp,
    ServiceRequest,
};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use super::DiscoverySettings;
use crate::errors::discovery_of;
use crate::{Change, HostCache, Known, Notice};

/// The outcome of one look-up, for all who wait for it.
pub(super) type Outcome = Result<Arc<Vec<Host>>, CallError>;

/// The inbox of the center's notices. It keeps no client, so it does not keep the connection.
pub(crate) struct State {
    pub(super) center: String,
    knowledge: Mutex<Knowledge>,
    departed: Box<dyn Fn(Host) + Send + Sync>,
    pub(super) keep_unconfirmed: Duration,
    /// Itself, for what works in the background.
    this: OnceLock<Weak<Self>>,
}

pub(super) struct Knowledge {
    pub(super) cache: HostCache,
    /// The connection that is asked.
    pub(super) line: Option<WeakLine>,
    /// Which run of a center told all this; `None` before it was asked, and where it knows no sessions.
    pub(super) center_run: Option<String>,
    /// That run began a short while ago, and may not have heard of all.
    pub(super) is_anew: bool,
    /// Until when the center that was asked last, which has just begun, may not have heard of all.
    pub(super) warm_at: Option<Instant>,
    /// How often all was asked for again.
    pub(super) renewals: u64,
    /// What is to be asked for again, and whether somebody is at it.
    pub(super) doubtful: BTreeSet<Arc<str>>,
    pub(super) settles: bool,
    /// The look-ups under way; each ends with its answer, or with the reason why there is none.
    lookups: HashMap<Arc<str>, watch::Sender<Option<Outcome>>>,
    /// Gone with the connection to the center, so that those who listen hear of that.
    notices: Option<broadcast::Sender<Notice>>,
}

/// What an answer says.
pub(super) struct Listing {
    pub(super) hosts: Vec<ListedHost>,
    pub(super) revision: Option<u64>,
    /// How long providers may still be on their way to a center that has just begun.
    pub(super) warm_up: Option<Duration>,
}

/// What a look-up begins with.
pub(super) enum Begun {
    Known(Arc<Vec<Host>>),
    /// The caller must send the question, and need not wait for the answer.
    AskAgain(Arc<Vec<Host>>),
    /// Another one's look-up, or the caller's own.
    Asking(watch::Receiver<Option<Outcome>>),
    /// The caller must send the question.
    Ask(watch::Receiver<Option<Outcome>>),
    Full,
}

impl State {
    pub(super) fn new(center: String, center_run: Option<String>, settings: DiscoverySettings) -> Self {
        let notices = broadcast::Sender::new(settings.notice_capacity.max(1));
        let knowledge = Knowledge {
            cache: HostCache::new(settings.cache),
            line: None,
            center_run,
            is_anew: false,
            warm_at: None,
            renewals: 0,
            doubtful: BTreeSet::new(),
            settles: false,
            lookups: HashMap::new(),
            notices: Some(notices),
        };
        let DiscoverySettings { departed, keep_unconfirmed, .. } = settings;
        Self { center, knowledge: Mutex::new(knowledge), departed, keep_unconfirmed, this: OnceLock::new() }
    }

    /// The connection that is asked for the time being.
    pub(super) fn is_asked_over(self: &Arc<Self>, line: &Line) {
        self.this.get_or_init(|| Arc::downgrade(self));
        self.lock().line.get_or_insert_with(|| line.downgrade());
    }

    pub(super) fn weak(&self) -> Weak<Self> {
        self.this.get().cloned().unwrap_or_default()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Knowledge> {
        self.knowledge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn subscribe(&self) -> Option<broadcast::Receiver<Notice>> {
        self.lock().notices.as_ref().map(broadcast::Sender::subscribe)
    }

    pub(super) fn begin(&self, method: &str) -> Begun {
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
    pub(super) fn finish(&self, method: &str, answer: Result<Message, CallError>) {
        self.conclude(method, answer.and_then(|message| self.read(method, &message)));
    }

    pub(super) fn conclude(&self, method: &str, listing: Result<Listing, CallError>) {
        let mut knowledge = self.lock();
        let (outcome, departed) = match listing {
            Ok(listing) => {
                knowledge.warms_up_for(listing.warm_up);
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
    pub(super) fn read(&self, method: &str, message: &Message) -> Result<Listing, CallError> {
        let answer = ServiceAnswer::decode::<Json>(message.body()).map_err(|why| {
            let what = format!("the answer can't be read: {why}");
            CallError::new(CallErrorKind::Decode, &self.center, discovery_of(method), what)
        })?;
        match answer.code {
            ResultCode::Ok | ResultCode::NotFoundService => {
                let hosts = answer.hosts.iter().flat_map(HostList::iter).collect();
                Ok(Listing { hosts, revision: answer.revision, warm_up: answer.warm_up_ms.map(Duration::from_millis) })
            }
            code => Err(CallError::remote(&self.center, discovery_of(method), code, answer.error)),
        }
    }

    fn apply(&self, notice: &Notice) {
        let change = self.lock().cache.notice(notice);
        if change.missed {
            self.doubt(&notice.method);
        }
        if change.changed {
            self.told(vec![(notice.clone(), change)]);
        }
    }

    /// Tells those who listen what has changed.
    pub(super) fn told(&self, changes: Vec<(Notice, Change)>) {
        for (notice, change) in changes {
            if change.departed {
                (self.departed)(notice.host);
            }
            self.lock().tell(notice);
        }
    }
}

impl Knowledge {
    pub(super) fn warms_up_for(&mut self, time: Option<Duration>) {
        if let Some(time) = time {
            self.warm_at = Some(deadline_after(time));
        }
    }

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

    /// Whether no connection to a center comes any more.
    pub(super) fn is_closed(&self) -> bool {
        self.notices.is_none()
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
            Ok(told) if matches!(told.op, ServiceOp::Online | ServiceOp::Offline) => match told.place() {
                Some(host) => {
                    let ServiceRequest { method, op, instance, store, revision, .. } = told;
                    let (instance, store) = (instance.map(Arc::from), store.map(Arc::from));
                    let online = op == ServiceOp::Online;
                    self.apply(&Notice { method: method.into(), host, online, instance, store, revision });
                }
                None => conn.count(Event::Ignored),
            },
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
