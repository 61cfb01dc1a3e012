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

impl<K: Clone + Eq + Hash + Ord, T> Availability<K, T> {
    /// A connection has ended, and not because its peer had taken all back. With a session it may be back soon, which its
    /// instance tells: within `patience`, which is what its silence has left of it, and within the grace of the policy.
    pub(crate) fn ended(&mut self, peer: &K, patience: Duration, now: Instant, effects: &mut impl Outcomes<K, T>) {
        let grace = patience.min(self.policy.provider_grace);
        drop(self.forget_probes(peer));
        let (hosts, instance) = self.table.places_of(peer);
        let Some(instance) = instance.filter(|_| !grace.is_zero()) else {
            return self.leave(peer, now, effects);
        };
        let store = self.table.store_of(peer);
        self.table.end_watches(peer);
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
            self.depart(peer, host, now, effects);
        }
    }

    /// Takes back all that a connection registered and watched.
    pub(crate) fn leave(&mut self, peer: &K, now: Instant, effects: &mut impl Outcomes<K, T>) {
        drop(self.forget_probes(peer));
        self.table.leave(peer, &mut Noted { damping: &mut self.damping, now, effects });
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

    /// What a connection that ended left at a host goes. Whether there was anything.
    pub(super) fn depart(&mut self, peer: &K, host: Host, now: Instant, effects: &mut impl Outcomes<K, T>) -> bool {
        self.departures.remove(peer, host);
        self.attempts.withdraw(Reason::Departed, peer, host);
        self.table.leave_host(peer, host, &mut Noted { damping: &mut self.damping, now, effects })
    }
}
