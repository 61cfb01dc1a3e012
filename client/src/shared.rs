use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use arc_swap::{ArcSwap, Guard};
use callboard_common::{Executed, ResultCode};
use tokio::sync::watch;
use tokio::time::timeout_at;

use crate::deadline::Deadline;
use crate::dispatch::Inboxes;
use crate::line::Line;
use crate::link::Link;
use crate::request::{Request, Stage, Subject};
use crate::states::Teller;
use crate::{CallError, CallErrorKind, ClientState, Resume};

/// What the clones of a client share: its connection of the moment, and what outlives it.
pub(crate) struct Shared {
    link: ArcSwap<Link>,
    inboxes: Arc<Inboxes>,
    /// Whether a lost connection is made again.
    reconnects: bool,
    /// Whether there is another address to turn to.
    has_others: bool,
    /// Set once it has ended for good.
    closed: OnceLock<String>,
    /// How many connections there have been; it grows at the end too.
    changes: watch::Sender<u64>,
    resumes: Mutex<Vec<Weak<dyn Resume>>>,
    pub(crate) teller: Teller,
}

impl Shared {
    pub(crate) fn new(link: Arc<Link>, inboxes: Arc<Inboxes>, reconnects: bool, has_others: bool) -> Self {
        Self::with(link, inboxes, reconnects, has_others, ClientState::Online)
    }

    /// Where the first connection is yet to be made, and `unmade` stands in its place.
    pub(crate) fn offline(unmade: Arc<Link>, inboxes: Arc<Inboxes>, has_others: bool) -> Self {
        Self::with(unmade, inboxes, true, has_others, ClientState::Connecting)
    }

    fn with(link: Arc<Link>, inboxes: Arc<Inboxes>, reconnects: bool, has_others: bool, state: ClientState) -> Self {
        Self {
            link: ArcSwap::new(link),
            inboxes,
            reconnects,
            has_others,
            closed: OnceLock::new(),
            changes: watch::Sender::new(u64::from(state == ClientState::Online)),
            resumes: Mutex::default(),
            teller: Teller::new(state),
        }
    }

    /// The connection of the moment; it may have ended.
    pub(crate) fn link(&self) -> Arc<Link> {
        self.link.load_full()
    }

    /// The same for a short look.
    pub(crate) fn look(&self) -> Guard<Arc<Link>> {
        self.link.load()
    }

    pub(crate) fn inboxes(&self) -> &Inboxes {
        &self.inboxes
    }

    /// How many connections there have been.
    pub(crate) fn generation(&self) -> u64 {
        *self.changes.borrow()
    }

    /// Why it has ended for good; `None` while it lives or is made again.
    pub(crate) fn close_reason(&self) -> Option<String> {
        let given = self.closed.get().cloned();
        if self.reconnects { given } else { given.or_else(|| self.link.load().conn.close_reason()) }
    }

    /// Whether a peer that says nothing had better be left for another one.
    pub(crate) fn may_turn_elsewhere(&self) -> bool {
        self.has_others && self.goes_on()
    }

    /// Whether another connection may follow.
    pub(crate) fn goes_on(&self) -> bool {
        self.reconnects && self.closed.get().is_none()
    }

    /// Whether a request that has failed over this connection may go over another one: nothing of it left, or the peer has
    /// refused it because it is about to leave.
    pub(crate) fn goes_on_after(&self, link: &Link, error: &CallError) -> bool {
        let is_over = match error.kind() {
            CallErrorKind::Disconnected => true,
            CallErrorKind::Remote { code: ResultCode::Unavailable, .. } => link.is_leaving(),
            _ => false,
        };
        is_over && error.executed() == Executed::No && self.goes_on()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get().is_some() || (!self.reconnects && self.link.load().conn.is_closed())
    }

    /// Waits until it has ended for good.
    pub(crate) async fn closed(&self) {
        if !self.reconnects {
            return self.link().conn.closed().await;
        }
        let mut changes = self.changes.subscribe();
        while self.closed.get().is_none() && changes.changed().await.is_ok() {}
    }

    /// It ends for good, for the first reason that is given.
    pub(crate) fn close(&self, reason: &str) {
        if self.closed.set(reason.to_owned()).is_err() {
            return;
        }
        self.inboxes.end_with_connection();
        let link = self.link();
        link.conn.end(reason.to_owned());
        self.teller.tell(ClientState::Closed { reason: reason.to_owned() });
        self.grow();
    }

    /// There is another connection, and what was asked for has been asked for again.
    pub(crate) fn resumed(&self, link: Arc<Link>) {
        self.link.store(link);
        let is_first = self.generation() == 0;
        self.teller.tell(if is_first { ClientState::Online } else { ClientState::Resumed });
        self.grow();
    }

    fn grow(&self) {
        self.changes.send_modify(|generation| *generation += 1);
    }

    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// From the next connection on, `what` is done first.
    pub(crate) fn on_resume(&self, what: Weak<dyn Resume>) {
        let mut resumes = self.resumes();
        resumes.retain(|known| known.strong_count() > 0);
        resumes.push(what);
    }

    /// Asks again for what was asked for.
    pub(crate) async fn resume(&self, line: &Line) -> Result<(), CallError> {
        for inbox in [self.inboxes.topic.inbox(), self.inboxes.service.inbox()].into_iter().flatten() {
            inbox.resume(line).await?;
        }
        let resumes: Vec<_> = self.resumes().iter().filter_map(Weak::upgrade).collect();
        for resume in resumes {
            resume.resume(line).await?;
        }
        Ok(())
    }

    fn resumes(&self) -> MutexGuard<'_, Vec<Weak<dyn Resume>>> {
        self.resumes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Nobody is left who could want it made again.
        self.inboxes.end_with_connection();
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("link", &self.link).field("closed", &self.closed).finish_non_exhaustive()
    }
}

/// One request's way to the peer: over the connection of the moment, then over later ones, as long as it did not leave.
pub(crate) struct Way<'a> {
    shared: &'a Shared,
    subject: Subject<'a>,
    deadline: Deadline,
    link: Arc<Link>,
    is_first: bool,
}

impl<'a> Way<'a> {
    pub(crate) fn new(shared: &'a Shared, subject: Subject<'a>, deadline: Deadline) -> Self {
        Self { shared, subject, deadline, link: shared.link(), is_first: true }
    }

    /// The request over the connection of the moment; the second time and later it waits for another connection.
    pub(crate) async fn next(&mut self) -> Result<Request<'_>, CallError> {
        let is_first = std::mem::replace(&mut self.is_first, false);
        if !is_first || (self.shared.reconnects && self.link.is_leaving()) {
            self.link = self.next_link().await?;
        }
        Ok(self.request())
    }

    /// Whether another connection may be waited for.
    pub(crate) fn goes_on_after(&self, error: &CallError) -> bool {
        self.shared.goes_on_after(&self.link, error)
    }

    /// The request over the connection that was last given.
    pub(crate) fn request(&self) -> Request<'_> {
        Request { link: &self.link, subject: self.subject, deadline: self.deadline }
    }

    async fn next_link(&self) -> Result<Arc<Link>, CallError> {
        let mut changes = self.shared.changes.subscribe();
        loop {
            let link = self.shared.link();
            if !Arc::ptr_eq(&link, &self.link) {
                return Ok(link);
            }
            if self.shared.closed.get().is_some() {
                return Err(self.request().disconnected(Stage::Unsent));
            }
            // The sender lives as long as the client.
            let told = timeout_at(self.deadline.at(), changes.changed()).await;
            told.map_err(|_| self.request().lost())?.unwrap_or_default();
        }
    }
}
