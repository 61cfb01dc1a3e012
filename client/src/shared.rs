use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use callboard_net::Stopped;
use tokio::sync::watch;

use crate::connect::Dialer;
use crate::dispatch::Inboxes;
use crate::line::Line;
use crate::link::{LAST_WORDS, Link};
use crate::retries::Retries;
use crate::states::Teller;
use crate::tries::goes_on_at_once;
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
    pub(crate) retries: Retries,
}

impl Shared {
    pub(crate) fn new(link: Arc<Link>, dialer: &Dialer) -> Self {
        Self::with(link, dialer, dialer.settings.reconnect.attempts != Some(0), ClientState::Online)
    }

    /// Where the first connection is yet to be made, and `unmade` stands in its place.
    pub(crate) fn offline(unmade: Arc<Link>, dialer: &Dialer) -> Self {
        Self::with(unmade, dialer, true, ClientState::Connecting)
    }

    fn with(link: Arc<Link>, dialer: &Dialer, reconnects: bool, state: ClientState) -> Self {
        Self {
            link: ArcSwap::new(link),
            inboxes: Arc::clone(&dialer.inboxes),
            reconnects,
            has_others: dialer.addresses.len() > 1,
            closed: OnceLock::new(),
            changes: watch::Sender::new(u64::from(state == ClientState::Online)),
            resumes: Mutex::default(),
            teller: Teller::new(state),
            retries: Retries::new(dialer.settings.retry_budget, &dialer.settings),
        }
    }

    /// Whether a lost connection is made again.
    pub(crate) fn reconnects(&self) -> bool {
        self.reconnects
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
        let stays = matches!(error.kind(), CallErrorKind::Remote { .. }) && !link.is_leaving();
        !stays && goes_on_at_once(error) && self.goes_on()
    }

    /// Whether no other connection will follow the one of the moment, as was said.
    pub(crate) fn is_over(&self) -> bool {
        self.closed.get().is_some()
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

    /// The same once all that the peer has asked for is answered, after `grace` at the latest.
    pub(crate) async fn finish(&self, reason: &str, grace: Duration) -> Stopped {
        let (link, is_first) = (self.link(), self.closed.set(reason.to_owned()).is_ok());
        let (under_way, given_up) = (link.conn.in_flight(), link.conn.given_up());
        // It ends at the end of the grace, and not by itself: then it is seen what is cut.
        link.conn.drain(grace.saturating_add(LAST_WORDS));
        if is_first {
            self.inboxes.end_with_connection();
            self.teller.tell(ClientState::Closed { reason: reason.to_owned() });
            self.grow();
        }
        let ended = tokio::time::timeout(grace, link.conn.closed()).await;
        // Where it has ended none is left: one that its peer has ended has dropped what its callers wait for no longer.
        let cut = if ended.is_ok() { 0 } else { link.conn.in_flight() };
        let given_up = link.conn.given_up().saturating_sub(given_up);
        link.conn.end(reason.to_owned());
        Stopped { finished: under_way.saturating_sub(cut + given_up), given_up, cut }
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
