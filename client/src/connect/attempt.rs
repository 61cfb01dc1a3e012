use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use callboard_common::{
    BodyError, Connection, Decode, Executed, Feature, Features, Json, Message, MessageType, ResultCode, Session,
    SessionAnswer, SessionRequest,
};
use callboard_net::{Address, Conn, deadline_after, spawn_on};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::{SUBJECT, no_clock};
use crate::calls::{Calls, Outcome, Place, Waiter};
use crate::clock::Alarmist;
use crate::dispatch::{Dispatch, Inboxes};
use crate::link::Link;
use crate::served::Served;
use crate::v1_peers::V1Peers;
use crate::{CallError, CallErrorKind, ClientBuilder, SessionMode};

/// One attempt to connect to one address, and to open a session there.
pub(super) struct Attempt<'a> {
    pub(super) settings: &'a ClientBuilder,
    pub(super) address: &'a Address,
    pub(super) runtime: &'a Handle,
    pub(super) inboxes: &'a Arc<Inboxes>,
    /// What it is given.
    pub(super) time: Duration,
    /// How much of it for the answer when a session is offered.
    pub(super) patience: Duration,
    /// The address has opened a session to this client before.
    pub(super) had_session: bool,
    /// Its place in the list, and those that have granted a session late.
    pub(super) place: usize,
    pub(super) late: &'a Arc<Mutex<BTreeSet<usize>>>,
    /// Whether one that says nothing, or closes, is spoken to in v1.
    pub(super) may_be_v1: bool,
    pub(super) said_nothing: bool,
}

impl Attempt<'_> {
    pub(super) async fn open(&mut self) -> Result<Link, CallError> {
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
            store: self.settings.serves.as_ref().and_then(Served::store).map(Into::into),
            features: self.features().names().map(Into::into).collect(),
            limits: self.settings.serves.as_ref().map(|_| self.session_limits()),
        }
    }

    /// What this side can do.
    fn features(&self) -> Features {
        let without_methods = Features::ALL.without(Feature::Serves).without(Feature::Callers);
        if self.settings.serves.is_some() { Features::ALL } else { without_methods }
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

    pub(super) fn late(&self) -> CallError {
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
        dispatch.leave(&plain, "the peer knows sessions after all".to_owned(), Duration::ZERO);
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
/// A peer that has not answered for so long beyond the time for it is taken for one of v1.
const LATE_ANSWER: Duration = Duration::from_mins(10);
