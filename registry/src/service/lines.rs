//! Over which connections calls reach the providers that listen nowhere.

use std::ops::Bound;
use std::sync::atomic::Ordering;
use std::sync::{PoisonError, RwLockWriteGuard};

use callboard_common::{Connection, Host};
use tokio::time::Instant;

use super::RegistryService;
use crate::relay::Lines;
use crate::table::Offer;

/// How a provider is reached that listens nowhere.
pub(crate) enum Line<'a, C> {
    /// Over this connection, over which it offers the method.
    There(&'a C, Offer),
    /// Who has its name now is another one: it keeps its answers to calls under keys elsewhere.
    Another,
    /// Not at the moment; its connection was lost, or all were since the center has just begun.
    MayBeBack(Instant),
    /// Not at all.
    Gone,
}

impl<C: Connection> RegistryService<C> {
    /// The peer sends no more: no answer would come over this line.
    pub(crate) fn cut_line(&self, conn: &C) {
        if let Some(host) = relayed_host(conn) {
            self.lines().leave(host, conn);
        }
    }

    /// What `pass_on` makes of the connection over which the provider that `host` stands for takes calls of `method`. What
    /// it queues there comes before the answer to a withdrawal, and before the word that no more is answered. Who begins to
    /// wait for the provider in there misses none that comes back. Where a store is named only a provider that has it will do.
    pub(crate) fn with_line<T>(
        &self,
        method: &str,
        host: Host,
        store: Option<&str>,
        pass_on: impl FnOnce(Line<'_, C>) -> T,
    ) -> T {
        let lines = self.lines.read().unwrap_or_else(PoisonError::into_inner);
        let offer = |conn: &C| self.availability().offer(conn, method, host);
        match lines.find(host, |conn| if has_store(conn, store) { offer(conn) } else { None }) {
            Some((line, offer)) => pass_on(Line::There(line, offer)),
            None if store.is_some() && lines.find(host, offer).is_some() => pass_on(Line::Another),
            None => pass_on(self.may_be_back(&lines, method, host).map_or(Line::Gone, Line::MayBeBack)),
        }
    }

    /// Until when the provider that `host` stands for may be back, if nobody else provides the method.
    fn may_be_back(&self, lines: &Lines<C>, method: &str, host: Host) -> Option<Instant> {
        if self.draining.load(Ordering::SeqCst) {
            return None;
        }
        let (now, availability) = (Instant::now(), self.availability());
        let has_line = |other| lines.find(other, |conn| availability.offer(conn, method, other)).is_some();
        let is_there =
            |other: Host| if other.is_relayed() { has_line(other) } else { !availability.has_departed(other) };
        if availability.hosts(method).any(|other| other != host && is_there(other)) {
            return None;
        }
        let until = availability.may_be_back(method, host, now);
        until.or_else(|| self.warm_at.filter(|at| *at > now))
    }

    /// So many calls wait for providers that may be back.
    pub(crate) fn awaits(&self, calls: usize) {
        self.awaited.store(calls, Ordering::SeqCst);
    }

    /// A provider for which calls may wait: the next one after `last`, so that none that comes again and again is before all
    /// others.
    pub(crate) fn next_returned(&self, last: Option<Host>) -> Option<Host> {
        let mut returned = self.returned.lock().unwrap_or_else(PoisonError::into_inner);
        let after = last.and_then(|last| returned.range((Bound::Excluded(last), Bound::Unbounded)).next().copied());
        let next = after.or_else(|| returned.first().copied())?;
        returned.take(&next)
    }

    /// The provider that `host` stands for has registered something over a connection that lives.
    pub(crate) fn returned(&self, host: Host) {
        if self.awaited.load(Ordering::SeqCst) > 0 {
            self.returned.lock().unwrap_or_else(PoisonError::into_inner).insert(host);
            self.return_told.notify_one();
        }
    }

    /// Waits until a provider is back for which calls may wait.
    pub(crate) async fn provider_returned(&self) {
        self.return_told.notified().await;
    }

    /// To be taken before the availability, where both are.
    pub(super) fn lines(&self) -> RwLockWriteGuard<'_, Lines<C>> {
        self.lines.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// No call is being queued for it as long as this is kept, if it takes calls over its connection.
    pub(super) fn line_of(&self, conn: &C) -> Option<RwLockWriteGuard<'_, Lines<C>>> {
        relayed_host(conn).map(|_| self.lines())
    }
}

/// Whether a provider has the store that is named, if one is.
pub(crate) fn has_store<C: Connection>(conn: &C, store: Option<&str>) -> bool {
    store.is_none_or(|store| conn.session().is_some_and(|session| session.store.as_deref() == Some(store)))
}

/// What stands for a peer that takes calls over its connection.
fn relayed_host<C: Connection>(conn: &C) -> Option<Host> {
    conn.session().filter(|session| session.serving.is_some()).map(|session| Host::relayed(&session.instance))
}
