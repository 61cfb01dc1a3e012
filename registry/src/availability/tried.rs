//! Hosts that are tried, and what comes of that.

use std::collections::VecDeque;
use std::hash::Hash;

use callboard_common::Host;
use tokio::time::Instant;

use super::attempts::{Attempt, Patience, Reason};
use super::probes::Registration;
use super::{Availability, Claim, FOR_REGISTRATIONS, NotEntered, Outcomes, Unreached};

/// A host that was tried, which is still to be told.
#[derive(Debug)]
pub(super) struct Trial<K> {
    /// Those connections for which it was that are still to be told.
    peers: VecDeque<K>,
    host: Host,
    outcome: Result<(), Unreached>,
    pub(super) since: Instant,
    /// How much is still to be decided for the first of them, if some has been.
    left: Option<usize>,
    /// How much has been.
    told: usize,
}

impl<K: Clone + Eq + Hash + Ord, T> Availability<K, T> {
    /// A host that is to be tried now, within the bounds of the policy; [`tried`](Self::tried) is to tell how that ended.
    pub(crate) fn next_attempt(&mut self) -> Option<Attempt<K>> {
        self.attempts.next()
    }

    pub(crate) fn has_attempts(&self) -> bool {
        self.attempts.has_next()
    }

    /// How an attempt ended. Of what waited for that some is decided at once, and the rest [in time](Self::on_time).
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
        let (peers, host, outcome) = (attempt.peers.clone().into(), attempt.host, outcome.clone());
        self.trials.push_back(Trial { peers, host, outcome, since: now, left: None, told: 0 });
        self.tell_on(now, effects);
    }

    /// Decides some of what has waited for hosts that were tried.
    pub(super) fn tell_on(&mut self, now: Instant, effects: &mut impl Outcomes<K, T>) {
        let mut left = AT_ONCE;
        while let Some(mut trial) = self.trials.pop_front() {
            left = left.saturating_sub(self.tell_next(&mut trial, left, now, effects));
            if !trial.peers.is_empty() {
                self.trials.push_front(trial);
            }
            if left == 0 {
                break;
            }
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

    /// Some of what has waited for the next connection; how much work that was.
    fn tell_next(
        &mut self,
        trial: &mut Trial<K>,
        most: usize,
        now: Instant,
        effects: &mut impl Outcomes<K, T>,
    ) -> usize {
        let Some(peer) = trial.peers.front().cloned() else { return 0 };
        let (host, begins) = (trial.host, trial.left.is_none());
        let is_refused = trial.outcome.as_ref().is_err_and(|unreached| unreached.is_refused);
        if begins && is_refused && self.departures.has(&peer, host) {
            self.depart_on(&peer, host, self.at_once, now, effects);
        }
        // Else what waits now came after this attempt began.
        let is_for = !FOR_REGISTRATIONS.into_iter().any(|reason| self.attempts.is_asked(reason, &peer, host));
        let left = trial.left.take().unwrap_or_else(|| self.probes.waiting(&peer, host));
        let piece = if is_for { left.min(most) } else { 0 };
        let decided = self.probes.decide(&peer, host, trial.outcome.is_ok(), piece);
        // Where there are fewer some were withdrawn.
        let (work, is_over) = (decided.len() + 1, piece == left || decided.len() < piece || !is_for);
        trial.told += decided.len();
        for registration in decided {
            self.decide(&peer, registration, trial, now, effects);
        }
        if !is_over {
            trial.left = Some(left - piece);
            return work;
        }
        trial.peers.pop_front();
        let told = std::mem::take(&mut trial.told);
        if let Err(Unreached { why, .. }) = trial.outcome.as_ref()
            && told > 0
        {
            effects.unreached(&peer, host, why, told);
        }
        // What came between the pieces.
        if is_for && self.probes.has(&peer, host) {
            self.attempts.ask(Reason::Registration, &peer, host);
        }
        work
    }

    fn decide(
        &mut self,
        peer: &K,
        registration: Registration<T>,
        trial: &Trial<K>,
        now: Instant,
        effects: &mut impl Outcomes<K, T>,
    ) {
        let (Registration { method, instance, ticket }, host) = (registration, trial.host);
        self.table.waits_no_more(peer, &method, instance.as_deref());
        let claim = Claim { method: &method, host, instance: instance.as_deref(), store: None, is_v1: false };
        let entered = match &trial.outcome {
            Ok(()) => self.enter(peer, &claim, now, effects).map_err(NotEntered::Refused),
            Err(Unreached { why, .. }) => Err(NotEntered::Unreached { method, host, why: why.clone() }),
        };
        effects.decided(ticket, entered);
    }
}

/// So many registrations are decided before others have their turn.
pub(super) const AT_ONCE: usize = 64;
