mod attempt;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use callboard_common::Connection;
use callboard_net::{Address, Conn, spawn_on};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use self::attempt::Attempt;
pub(crate) use self::attempt::NoSession;
use crate::calls::Calls;
use crate::clock::Alarmist;
use crate::deadline::Deadline;
use crate::dispatch::{Dispatch, Inboxes};
use crate::link::Link;
use crate::shared::Shared;
use crate::supervisor::{Supervisor, Watched};
use crate::{CallError, CallErrorKind, Client, ClientBuilder};

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
        // One that had a session is not asked so.
        let had_session = self.with_session.contains(&place);
        let most = if self.addresses.len() > 1 && !had_session { time / 2 } else { time };
        let silences = self.silences.get(&place).copied().unwrap_or(0);
        let mut attempt = Attempt {
            settings: &self.settings,
            address,
            runtime: &self.runtime,
            inboxes: &self.inboxes,
            had_session,
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
                let said_nothing = attempt.said_nothing;
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

fn no_address() -> CallError {
    CallError::new(CallErrorKind::Connect, "nobody", SUBJECT, "there is no address")
}

fn no_clock(address: &Address, why: std::io::Error) -> CallError {
    let what = "the thread of the clock can't be started";
    CallError::new(CallErrorKind::Connect, address.to_string(), SUBJECT, what).with_source(why)
}

pub(crate) const SUBJECT: &str = "connection";
/// How often the time for an answer is doubled at most.
const MOST_DOUBLINGS: u32 = 16;
