//! Over which connections calls reach the providers that listen nowhere.

use std::sync::{PoisonError, RwLockWriteGuard};

use callboard_common::{Connection, Host};

use super::RegistryService;
use crate::relay::Lines;
use crate::table::Offer;

impl<C: Connection> RegistryService<C> {
    /// The peer sends no more: no answer would come over this line.
    pub(crate) fn cut_line(&self, conn: &C) {
        if let Some(host) = relayed_host(conn) {
            self.lines().leave(host, conn);
        }
    }

    /// What `pass_on` makes of the connection over which a provider that listens nowhere takes calls of `method`. What it
    /// queues there comes before the answer to a withdrawal, and before the word that no more is answered.
    pub(crate) fn with_line<T>(&self, method: &str, instance: &str, pass_on: impl FnOnce(&C, Offer) -> T) -> Option<T> {
        let lines = self.lines.read().unwrap_or_else(PoisonError::into_inner);
        let host = Host::relayed(instance);
        let (line, offer) = lines.find(host, |conn| self.availability().offer(conn, method, host))?;
        Some(pass_on(line, offer))
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

/// What stands for a peer that takes calls over its connection.
fn relayed_host<C: Connection>(conn: &C) -> Option<Host> {
    conn.session().filter(|session| session.serving.is_some()).map(|session| Host::relayed(&session.instance))
}
