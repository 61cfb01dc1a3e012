//! How providers go.

use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use callboard_client::later;
use callboard_common::Host;
use tokio::time::Instant;

use super::attempts::Reason;
use super::departures::Run;
use super::{Availability, FOR_REGISTRATIONS, NotEntered, Noted, Outcomes};
use crate::table::Leaves;

/// Who has registered at more hosts than this is not waited for: no provider listens at so many, and each is work.
pub(super) const MAX_PLACES: usize = 1024;
/// So many methods are looked through in the time that one entry takes.
const LOOKED: usize = 128;

impl<K: Clone + Eq + Hash + Ord, T> Availability<K, T> {
    /// A connection has ended, and not because its peer had taken all back. With a session it may be back soon, which its
    /// instance tells: within `patience`, which is what its silence has left of it, and within the grace of the policy.
    pub(crate) fn ended(&mut self, peer: &K, patience: Duration, now: Instant, effects: &mut impl Outcomes<K, T>) {
        let grace = patience.min(self.policy.provider_grace);
        drop(self.forget_probes(peer));
        let (hosts, instance) = self.table.places_of(peer);
        let stays = !grace.is_zero() && hosts.len() <= MAX_PLACES && !self.table.leaves_all(peer);
        let Some(instance) = instance.filter(|_| stays) else {
            return self.begin_to_leave(peer, Leaves::All, now, effects);
        };
        let store = self.table.store_of(peer);
        self.begin_to_leave(peer, Leaves::Watches, now, effects);
        self.metrics.departures += u64::from(!hosts.is_empty());
        for host in hosts {
            let run = Run { instance: Arc::clone(&instance), store: store.clone().filter(|_| host.is_relayed()) };
            self.departures.enter(peer, host, run, later(now, grace));
            if self.policy.probe && !host.is_relayed() {
                self.attempts.ask(Reason::Departed, peer, host);
            }
        }
    }

    /// The peer has said that it goes: all that it registered goes offline now, and what waits does not come about.
    pub(crate) fn going(&mut self, peer: &K, now: Instant, effects: &mut impl Outcomes<K, T>) {
        for ticket in self.forget_probes(peer) {
            effects.decided(ticket, Err(NotEntered::Withdrawn));
        }
        for host in self.table.places_of(peer).0 {
            self.departures.remove(peer, host);
            self.attempts.withdraw(Reason::Departed, peer, host);
        }
        // Once, and not for each host: all that it provides is looked through.
        self.table.leave_some(peer, None, usize::MAX, &mut Noted { damping: &mut self.damping, now, effects });
    }

    /// Takes back what a connection has: some of it at once, and the rest [in time](Self::on_time).
    pub(super) fn begin_to_leave(&mut self, peer: &K, what: Leaves, now: Instant, effects: &mut impl Outcomes<K, T>) {
        drop(self.forget_probes(peer));
        if self.table.begin_to_leave(peer, what) {
            self.leaving_since.get_or_insert(now);
            self.table.leave_on(peer, self.at_once, &mut Noted { damping: &mut self.damping, now, effects });
            self.look_who_leaves();
        }
    }

    /// Takes back some of what those have who leave, of so many methods at most. How many they were.
    pub(crate) fn leave_on(&mut self, most: usize, now: Instant, effects: &mut impl Outcomes<K, T>) -> usize {
        let mut taken = 0;
        while let Some(peer) = self.table.next_to_leave().filter(|_| taken < most) {
            let noted = &mut Noted { damping: &mut self.damping, now, effects };
            taken += self.table.leave_on(&peer, most - taken, noted);
        }
        self.look_who_leaves();
        taken
    }

    fn look_who_leaves(&mut self) {
        if self.table.next_to_leave().is_none() {
            self.leaving_since = None;
        }
    }

    /// Returns what waited.
    fn forget_probes(&mut self, peer: &K) -> Vec<T> {
        for reason in FOR_REGISTRATIONS {
            self.attempts.forget(reason, peer);
        }
        let waited = self.probes.forget(peer);
        for registration in &waited {
            self.table.waits_no_more(peer, &registration.method, registration.instance.as_deref());
        }
        waited.into_iter().map(|registration| registration.ticket).collect()
    }

    /// Another run has come to a host, and registers this method there: that of the old one goes at once, and the rest of
    /// it [in time](Self::on_time).
    pub(super) fn supersede(
        &mut self,
        old: &K,
        method: &str,
        host: Host,
        now: Instant,
        effects: &mut impl Outcomes<K, T>,
    ) {
        let had_any = self.table.is_at(old, host);
        self.table.withdraw(old, method, Some(host), &mut Noted { damping: &mut self.damping, now, effects });
        if self.departures.expire(old, host, now) {
            self.metrics.superseded += u64::from(had_any);
            self.depart_on(old, host, self.at_once, now, effects);
        }
    }

    /// Some of what a connection that ended left at a host goes, and the rest [in time](Self::on_time). How much work that
    /// was.
    pub(super) fn depart_on(
        &mut self,
        peer: &K,
        host: Host,
        most: usize,
        now: Instant,
        effects: &mut impl Outcomes<K, T>,
    ) -> usize {
        // All that it provides is looked through.
        let looked = 1 + self.table.methods_of(peer) / LOOKED;
        let noted = &mut Noted { damping: &mut self.damping, now, effects };
        let left = self.table.leave_some(peer, Some(host), most, noted);
        if self.table.is_at(peer, host) {
            self.departures.expire(peer, host, now);
        } else {
            self.departures.remove(peer, host);
            self.attempts.withdraw(Reason::Departed, peer, host);
        }
        left + looked
    }
}
