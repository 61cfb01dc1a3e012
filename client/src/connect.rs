use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use callboard_common::{
    BodyError, Connection, Decode, Executed, Feature, Features, Json, Message, MessageType, ResultCode, Session,
    SessionAnswer, SessionRequest,
};
use callboard_net::{Address, Conn, deadline_after, spawn_on};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use crate::calls::{Calls, Outcome, Place, Waiter};
use crate::clock::Alarmist;
use crate::deadline::Deadline;
use crate::dispatch::{Dispatch, Inboxes};
use crate::link::Link;
use crate::shared::Shared;
use crate::supervisor::{Supervisor, Watched};
use crate::v1_peers::V1Peers;
use crate::{CallError, CallErrorKind, Client, ClientBuilder, SessionMode};

/// Connects, opens a session as the settings say, and keeps the connection up.
pub(crate) async fn connect(settings: ClientBuilder, addresses: &str) -> Result<Client, CallError> {
    let mut dialer = Dialer::new(settings, addresses)?;
    let link = Arc::new(Box::pin(dialer.dial()).await?);
    let (watched, runtime) = (Watched::new(&link), link.runtime.clone());
    let (timeout, retry) = (dialer.settings.timeout, dialer.settings.retry);
    let shared = Arc::new(Shared::new(link, &dialer));
    if shared.reconnects() {
        spawn_on(&runtime, Supervisor::new(&shared, dialer).run(watched));
    } else {
        let shared = Arc::downgrade(&shared);
        spawn_on(&runtime, async move {
            let reason = watched.ended().await;
            if let Some(shared) = shared.upgrade() {
                shared.close(&reason);
            }
        });
    }
    Ok(Client::new(shared, timeout, retry))
}

/// The same without waiting for the first connection, which is made as those after a loss are.
pub(crate) fn connect_in_background(settings: ClientBuilder, addresses: &str) -> Result<Client, CallError> {
    let dialer = Dialer::new(settings, addresses)?;
    let (runtime, timeout, retry) = (dialer.runtime.clone(), dialer.settings.timeout, dialer.settings.retry);
    let shared = Arc::new(Shared::offline(Arc::new(dialer.unmade()?), &dialer));
    spawn_on(&runtime, Supervisor::new(&shared, dialer).run_offline());
    Ok(Client::new(shared, timeout, retry))
}

/// The addresses of a list with commas between them, each once.
pub(crate) fn read_addresses(addresses: &str) -> Result<Vec<Address>, CallError> {
    let unread = |address: &str, why| {
        CallError::new(CallErrorKind::Connect, address, SUBJECT, "the address can't be read")
            .with_advice("write tcp://host:port, host:port or unix:///path; several with commas between them")
            .with_source(why)
    };
    let mut read = Vec::new();
    for address in addresses.split(',').map(str::trim) {
        let address = address.parse().map_err(|why| unread(address, why))?;
        if !read.contains(&address) {
            read.push(address);
        }
    }
    Ok(read)
}

/// Makes a client's connections: to the first of its addresses that answers, beginning with the one after the last.
pub(crate) struct Dialer {
    pub(crate) settings: ClientBuilder,
    pub(crate) addresses: Vec<Address>,
    runtime: Handle,
    pub(crate) inboxes: Arc<Inboxes>,
    /// Where in the list to begin.
    next: usize,
    /// Those that have opened a session, by their places in the list.
    with_session: BTreeSet<usize>,
    /// How often in a row those have not answered in time.
    silences: BTreeMap<usize, u32>,
    /// Those that have granted one when it was waited for no longer: they are given all the time that there is.
    late: Arc<Mutex<BTreeSet<usize>>>,
}

impl Dialer {
    fn new(settings: ClientBuilder, addresses: &str) -> Result<Self, CallError> {
        let runtime = Handle::try_current().map_err(|_| {
            CallError::new(CallErrorKind::Connect, addresses, SUBJECT, "there is no tokio runtime here")
                .with_advice("use the blocking client, or connect from within a runtime")
        })?;
        let addresses = read_addresses(addresses)?;
        let inboxes = Arc::new(Inboxes::new(settings.serves.clone()));
        if settings.reconnect.attempts == Some(0) {
            inboxes.end_with_connection();
        }
        let (with_session, silences, late) = (BTreeSet::new(), BTreeMap::new(), Arc::default());
        Ok(Self { settings, addresses, runtime, inboxes, next: 0, with_session, silences, late })
    }

    /// What stands in place of a connection before the first was made: nothing can be sent over it.
    fn unmade(&self) -> Result<Link, CallError> {
        // An address list that was read has one at least.
        let address = self.addresses.first().ok_or_else(no_address)?.clone();
        let clock = Alarmist::get(self.settings.deadlines_by_runtime).map_err(|why| no_clock(&address, why))?;
        let calls = Arc::new(Calls::new(self.settings.in_flight, clock, self.runtime.clone()));
        let conn = Conn::unmade(&address, &self.settings.limits, "none was made yet");
        calls.closed(&conn);
        let dispatch = Arc::new(Dispatch::new(Arc::clone(&calls), Arc::clone(&self.inboxes)));
        Ok(Link::new(address, conn, calls, dispatch, self.runtime.clone()))
    }

    /// Tries each address once; the error is that of the last. One that says nothing when a session is offered may only stand
    /// still, and one that closes be a proxy before nobody: of several it is taken for one of v1 if no other one can be
    /// connected to.
    pub(crate) async fn dial(&mut self) -> Result<Link, CallError> {
        let count = self.addresses.len();
        let until = Deadline::after(self.settings.timeout).at();
        let (mut silent, mut failure) = (Vec::new(), None);
        for _ in 0..count {
            let place = self.next % count;
            match self.attempt(place, count == 1, until).await {
                Ok(link) => return Ok(link),
                Err(failed) => {
                    silent.extend(failed.said_nothing.then_some(place));
                    failure = Some(failed.error);
                }
            }
        }
        for place in silent {
            match self.attempt(place, true, until).await {
                Ok(link) => return Ok(link),
                Err(failed) => failure = Some(failed.error),
            }
        }
        // An address list that was read has one at least.
        Err(failure.unwrap_or_else(no_address))
    }

    async fn attempt(&mut self, place: usize, may_be_v1: bool, until: Instant) -> Result<Link, Failed> {
        self.next = place + 1;
        let address = self.addresses.get(place).ok_or_else(|| Failed { error: no_address(), said_nothing: false })?;
        let time = self.settings.timeout / u32::try_from(self.addresses.len()).unwrap_or(u32::MAX).max(1);
        // Of several, each has little time: its silence must show before that is over, so that it can be asked in v1.
        let most = if self.addresses.len() > 1 { time / 2 } else { time };
        let silences = self.silences.get(&place).copied().unwrap_or(0);
        let mut attempt = Attempt {
            settings: &self.settings,
            address,
            runtime: &self.runtime,
            inboxes: &self.inboxes,
            had_session: self.with_session.contains(&place),
            // One that is slow is asked less often, else it never gets to answer.
            patience: self.settings.session_timeout.saturating_mul(1 << silences.min(MOST_DOUBLINGS)).min(most),
            place,
            late: &self.late,
            may_be_v1,
            said_nothing: false,
            time,
        };
        let outcome = timeout_at(Deadline::after(time).at().min(until), Box::pin(attempt.open())).await;
        match outcome.unwrap_or_else(|_| Err(attempt.late())) {
            Ok(link) => {
                self.silences.remove(&place);
                if link.conn.session().is_some() {
                    self.with_session.insert(place);
                }
                Ok(link)
            }
            Err(error) => {
                let (said_nothing, had_session) = (attempt.said_nothing, attempt.had_session);
                if said_nothing && had_session {
                    self.silences.insert(place, silences.saturating_add(1));
                }
                Err(Failed { error, said_nothing: said_nothing && !had_session })
            }
        }
    }
}

/// Why an address could not be connected to.
struct Failed {
    error: CallError,
    /// It has not answered when a session was offered, or closed.
    said_nothing: bool,
}

struct Attempt<'a> {
    settings: &'a ClientBuilder,
    address: &'a Address,
    runtime: &'a Handle,
    inboxes: &'a Arc<Inboxes>,
    /// What it is given.
    time: Duration,
    /// How much of it for the answer when a session is offered.
    patience: Duration,
    /// The address has opened a session to this client before.
    had_session: bool,
    /// Its place in the list, and those that have granted a session late.
    place: usize,
    late: &'a Arc<Mutex<BTreeSet<usize>>>,
    /// Whether one that says nothing, or closes, is spoken to in v1.
    may_be_v1: bool,
    said_nothing: bool,
}

impl Attempt<'_> {
    async fn open(&mut self) -> Result<Link, CallError> {
        let asks = match self.settings.mode {
            SessionMode::Off => false,
            SessionMode::Try if !self.settings.remembers_v1 => true,
            SessionMode::Try => !v1_peers().contains(self.address, Instant::now()),
            SessionMode::Require => true,
        };
        let mut link = self.dial().await?;
        if !asks {
            if self.settings.mode == SessionMode::Try {
                link.doubt_v1(); // another program may listen there by now
            }
            link.dispatch.pass(&link.conn);
            return Ok(link);
        }
        let mut asked = self.ask_for_session(&link);
        let mut granted = self.session(&link, &mut asked).await;
        if let Err(NoSession::Closed) = granted {
            // It may have died just now, and another is in its place.
            link = self.dial().await?;
            asked = self.ask_for_session(&link);
            granted = self.session(&link, &mut asked).await;
        }
        match granted {
            Ok(()) => {
                v1_peers().forget(self.address);
                link.dispatch.pass(&link.conn);
                Ok(link)
            }
            Err(why @ NoSession::Later(_)) => Err(self.later(why)),
            // One that had a session before has not become a v1 peer by being slow.
            Err(why @ (NoSession::Silence | NoSession::Closed)) if self.had_session => {
                self.said_nothing = matches!(why, NoSession::Silence);
                Err(self.no_session(why))
            }
            Err(why) if self.settings.mode == SessionMode::Require => Err(self.no_session(why)),
            Err(why @ (NoSession::Silence | NoSession::Closed)) if !self.may_be_v1 => {
                self.said_nothing = true;
                Err(self.no_session(why))
            }
            Err(why) => {
                tracing::debug!(address = %self.address, %why, "no session; connecting again without one");
                // A connection that is not made again is not left either.
                let may_leave = matches!(why, NoSession::Silence) && self.settings.reconnect.attempts != Some(0);
                let plain = self.without_session(link, asked.ok().filter(|_| may_leave)).await?;
                if matches!(why, NoSession::Silence | NoSession::Closed) {
                    plain.doubt_v1();
                }
                plain.dispatch.pass(&plain.conn);
                Ok(plain)
            }
        }
    }

    /// Another connection, which begins no session. While the peer may still answer to what it was `asked` on the first
    /// one, that is waited for.
    async fn without_session(&self, first: Link, asked: Option<Asked>) -> Result<Link, CallError> {
        match asked {
            // A peer that serves one connection after the other goes on to the next.
            Some(_) => first.conn.finish_sending(),
            None => first.conn.end("it opens no session"),
        }
        let plain = self.dial().await?;
        if self.settings.remembers_v1 {
            // One that has not answered at all may have died, may stand still, or a proxy has closed in its place.
            v1_peers().remember(self.address, plain.calls.answered(), Instant::now());
        }
        if let Some(asked) = asked {
            let (place, late) = (self.place, Arc::clone(self.late));
            let granted = move || {
                late.lock().unwrap_or_else(PoisonError::into_inner).insert(place);
            };
            let (conn, dispatch) = (plain.conn.clone(), Arc::clone(&plain.dispatch));
            spawn_on(self.runtime, leave_if_answered(first, asked, conn, dispatch, granted));
        }
        Ok(plain)
    }

    async fn dial(&self) -> Result<Link, CallError> {
        let clock = Alarmist::get(self.settings.deadlines_by_runtime);
        let clock = clock.map_err(|why| no_clock(self.address, why))?;
        let calls = Arc::new(Calls::new(self.settings.in_flight, clock, self.runtime.clone()));
        let dispatch = Arc::new(Dispatch::new(Arc::clone(&calls), Arc::clone(self.inboxes)));
        let connecting = self.settings.connector.connect(self.address, &self.settings.limits, Arc::clone(&dispatch));
        let conn = connecting.await.map_err(|why| self.error("it could not be made").with_source(why))?;
        Ok(Link::new(self.address.clone(), conn, calls, dispatch, self.runtime.clone()))
    }

    /// Asks for a session, alone on the connection. The answer may come when it is waited for no longer.
    fn ask_for_session(&self, link: &Link) -> Result<Asked, NoSession> {
        let (told, answered) = oneshot::channel();
        let (conn, features) = (link.conn.clone(), self.features());
        let waiter = Waiter::InOrder(Box::new(move |outcome| {
            // On the connection's task: what comes after the answer already belongs to the session.
            let _ = told.send(match outcome {
                Outcome::Answered(answer) => open(&conn, &answer, features),
                Outcome::Disconnected(_) => Err(NoSession::Closed),
                Outcome::Late => Err(NoSession::Silence),
            });
        }));
        let until = deadline_after(self.settings.session_timeout.saturating_add(LATE_ANSWER));
        let id = link
            .calls
            .enter(&link.conn, waiter, MessageType::SessionRequest, until, Place::None)
            .map_err(|_| NoSession::Closed)?;
        link.queue(id, &self.session_request(), 0).map_err(|_| NoSession::Closed)?;
        Ok(answered)
    }

    /// Waits for the answer.
    async fn session(&self, link: &Link, asked: &mut Result<Asked, NoSession>) -> Result<(), NoSession> {
        let Ok(answered) = asked else { return Err(NoSession::Closed) }; // it ended before it could be asked
        let is_late = self.late.lock().unwrap_or_else(PoisonError::into_inner).contains(&self.place);
        let patience = if is_late { self.time } else { self.patience };
        let answer = timeout(patience, answered).await.map_err(|_| NoSession::Silence)?;
        let in_flight = answer.map_err(|_| NoSession::Closed)??;
        link.calls.restrict(in_flight);
        Ok(())
    }

    fn session_request(&self) -> SessionRequest<'_> {
        SessionRequest {
            version: VERSION,
            name: self.settings.name.as_str().into(),
            instance: self.settings.instance.as_deref().unwrap_or_else(|| instance()).into(),
            features: self.features().names().map(Into::into).collect(),
            limits: self.settings.serves.as_ref().map(|_| self.session_limits()),
        }
    }

    /// What this side can do.
    fn features(&self) -> Features {
        if self.settings.serves.is_some() { Features::ALL } else { Features::ALL.without(Feature::Serves) }
    }

    /// What must be kept within by who calls the methods that this side offers.
    fn session_limits(&self) -> callboard_common::Limits {
        let wide = |bound| u64::try_from(bound).unwrap_or(u64::MAX);
        let limits = &self.settings.limits;
        callboard_common::Limits { max_frame_bytes: wide(limits.max_frame_bytes), in_flight: wide(limits.in_flight) }
    }

    fn error(&self, what: &'static str) -> CallError {
        CallError::new(CallErrorKind::Connect, self.address.to_string(), SUBJECT, what)
    }

    fn no_session(&self, why: NoSession) -> CallError {
        self.error("the peer opens no session, but one is required")
            .with_advice("check that the peer knows sessions, or do not require one")
            .with_source(why)
    }

    fn later(&self, why: NoSession) -> CallError {
        self.error("the peer opens no session at the moment")
            .with_executed(Executed::No)
            .with_advice("try again in a moment, or connect to another address")
            .with_source(why)
    }

    fn late(&self) -> CallError {
        let what = format!("it was not made within {:?}", self.time);
        CallError::new(CallErrorKind::Timeout, self.address.to_string(), SUBJECT, what)
            .with_executed(Executed::No)
            .with_advice("check the address and that the peer runs, or allow it more time")
    }
}

/// How many calls may wait at once in the session, once it is granted.
type Asked = oneshot::Receiver<Result<usize, NoSession>>;

/// A peer that grants the session late has stood still, or is far away, and is none of v1: the connection without one is
/// left, so that another one is made.
async fn leave_if_answered(
    asked_over: Link,
    asked: Asked,
    plain: Conn,
    dispatch: Arc<Dispatch>,
    granted: impl FnOnce() + Send,
) {
    let answered = tokio::select! {
        biased;
        () = plain.closed() => return,
        answered = asked => answered,
    };
    if let Ok(Ok(_)) = answered {
        granted();
        v1_peers().forget(&asked_over.address);
        dispatch.leave(&plain, "the peer knows sessions after all".to_owned());
    }
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoSession {
    #[error("the peer did not answer in time")]
    Silence,
    #[error("the peer closed the connection")]
    Closed,
    #[error("the peer answered {0}")]
    Refused(ResultCode),
    /// It knows sessions.
    #[error("the peer answered {0}")]
    Later(ResultCode),
    #[error("the peer's answer can't be read")]
    Unreadable(#[source] BodyError),
    #[error("the peer's answer opens no session of version {VERSION}")]
    NotOurs,
}

/// Opens the session that an answer grants; says how many calls may wait at once.
fn open(conn: &Conn, answer: &Message, ours: Features) -> Result<usize, NoSession> {
    let granted = SessionAnswer::decode::<Json>(answer.body()).map_err(NoSession::Unreadable)?;
    match granted.code {
        ResultCode::Ok => {}
        // No v1 program knows these codes.
        code @ (ResultCode::Unavailable | ResultCode::Overloaded) => return Err(NoSession::Later(code)),
        code => return Err(NoSession::Refused(code)),
    }
    let features = Features::from_names(granted.features.iter().map(AsRef::as_ref)) & ours;
    let session = Session {
        name: String::new(),
        instance: granted.instance.into_owned(),
        store: granted.store.filter(|_| features.has(Feature::Keys)).map(|store| store.into_owned().into()),
        features,
        limits: granted.limits,
        heartbeats: granted.heartbeats.filter(|_| features.has(Feature::Heartbeat)).map(Arc::new),
        serving: None,
    };
    let is_ours = answer.kind() == MessageType::SessionResponse && granted.version >= VERSION;
    if is_ours && conn.open_session(session) {
        Ok(usize::try_from(granted.limits.in_flight).unwrap_or(usize::MAX))
    } else {
        Err(NoSession::NotOurs)
    }
}

fn no_address() -> CallError {
    CallError::new(CallErrorKind::Connect, "nobody", SUBJECT, "there is no address")
}

fn no_clock(address: &Address, why: std::io::Error) -> CallError {
    let what = "the thread of the clock can't be started";
    CallError::new(CallErrorKind::Connect, address.to_string(), SUBJECT, what).with_source(why)
}

/// Names this run of this program in its sessions.
fn instance() -> &'static str {
    static INSTANCE: OnceLock<String> = OnceLock::new();
    INSTANCE.get_or_init(|| uuid::Uuid::new_v4().to_string())
}

fn v1_peers() -> MutexGuard<'static, V1Peers> {
    static V1_PEERS: Mutex<V1Peers> = Mutex::new(V1Peers::new());
    V1_PEERS.lock().unwrap_or_else(PoisonError::into_inner)
}

const VERSION: i64 = 2;
pub(crate) const SUBJECT: &str = "connection";
/// A peer that has not answered for so long beyond the time for it is taken for one of v1.
const LATE_ANSWER: Duration = Duration::from_mins(10);
/// How often the time for an answer is doubled at most.
const MOST_DOUBLINGS: u32 = 16;
