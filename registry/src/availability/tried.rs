//! Hosts that are tried, and what comes of that.

use std::hash::Hash;

use callboard_common::Host;
use tokio::time::Instant;

use super::attempts::{Attempt, Patience, Reason};
use super::probes::Registration;
use super::{Availability, Claim, FOR_REGISTRATIONS, NotEntered, Outcomes, Unreached};

impl<K: Clone + Eq + Hash + Ord, T> Availability<K, T> {
    /// A host that is to be tried now, within the bounds of the policy; [`tried`](Self::tried) is to tell how that ended.
    pub(crate) fn next_attempt(&mut self) -> Option<Attempt<K>> {
        self.attempts.next()
    }

    pub(crate) fn has_attempts(&self) -> bool {
        self.attempts.has_next()
    }

    /// How an attempt ended.
    pub(crate) fn tried(
        &mut self,
        attempt: &Attempt<K>,
        outcome: &Result<(), Unreached>,
        now: Instant,
        effects: &mut impl Outcomes<K, T>,
    ) {
        self.attempts.end(attempt.host);
        if attempt.patience == Patience::Little && outcome.as_ref().is_err_and(|unreached| unreached.is_late) {
            self.metrics.late += 1;
            return attempt.peers.iter().for_each(|peer| self.ask_again(peer, attempt.host));
        }
        *(if outcome.is_ok() { &mut self.metrics.reached } else { &mut self.metrics.unreached }) += 1;
        for peer in &attempt.peers {
            self.tried_for(peer, attempt.host, outcome, now, effects);
        }
    }

    /// Who waits for a host that did not answer soon lets the first attempts of others go before.
    fn ask_again(&mut self, peer: &K, host: Host) {
        if self.probes.has(peer, host) {
            self.attempts.ask(Reason::Late, peer, host);
        }
        if self.departures.has(peer, host) {
            self.attempts.ask(Reason::Departed, peer, host);
        }
    }

    fn tried_for(
        &mut self,
        peer: &K,
        host: Host,
        outcome: &Result<(), Unreached>,
        now: Instant,
        effects: &mut impl Outcomes<K, T>,
    ) {
        if self.departures.has(peer, host) && outcome.as_ref().is_err_and(|unreached| unreached.is_refused) {
            self.depart_on(peer, host, self.at_once, now, effects);
        }
        if FOR_REGISTRATIONS.into_iter().any(|reason| self.attempts.is_asked(reason, peer, host)) {
            return; // what waits now came after this attempt began
        }
        for Registration { method, instance, ticket } in self.probes.decide(peer, host, outcome.is_ok()) {
            self.table.waits_no_more(peer, &method, instance.as_deref());
            let claim = Claim { method: &method, host, instance: instance.as_deref(), store: None, is_v1: false };
            let entered = match outcome {
                Ok(()) => self.enter(peer, &claim, now, effects).map_err(NotEntered::Refused),
                Err(Unreached { why, .. }) => {
                    Err(NotEntered::Unreached { method: method.clone(), host, why: why.clone() })
                }
            };
            effects.decided(ticket, entered);
        }
    }
}
