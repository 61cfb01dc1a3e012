mod attempts;
mod damping;
mod departures;
mod leaving;
mod probes;
mod tried;
mod waiting_room;

use std::collections::{BTreeSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

use callboard_client::later;
use callboard_common::Host;
use tokio::time::Instant;

pub(crate) use self::attempts::{Attempt, Patience};
use self::attempts::{Attempts, Reason};
use self::damping::Damping;
use self::departures::Departures;
use self::probes::{Probes, Registration};
use self::tried::Trial;
use self::waiting_room::WaitingRoom;
use crate::table::{Leaves, Offer, waiting_bytes};
use crate::{AvailabilityPolicy, Effects, Listing, Notice, Refused, RegistryLimits, RegistryMetrics, Table, TableSize};

/// The table of a center, and what stands between a provider's word and the table: hosts that are to be reached first,
/// providers that may be back soon, and such that come and go too often. All without I/O: time comes in as a value.
///
/// `K` names a connection, `T` a registration that waits.
#[derive(Debug)]
pub(crate) struct Availability<K, T> {
    table: Table<K>,
    probes: Probes<K, T>,
    departures: Departures<K>,
    damping: Damping,
    held: WaitingRoom,
    attempts: Attempts<K>,
    /// Hosts that were tried, of which not all has been told.
    trials: VecDeque<Trial<K>>,
    policy: AvailabilityPolicy,
    metrics: RegistryMetrics,
    /// Since when entries are left to be taken back.
    leaving_since: Option<Instant>,
    /// [`AT_ONCE`].
    at_once: usize,
}

/// What a provider says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim<'a> {
    pub(crate) method: &'a str,
    pub(crate) host: Host,
    /// Which run of a provider says so.
    pub(crate) instance: Option<&'a str>,
    /// Where it keeps its answers to calls under keys, if it listens nowhere.
    pub(crate) store: Option<&'a str>,
    /// It is taken at its word.
    pub(crate) is_v1: bool,
}

/// Why a host was not reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unreached {
    /// Nobody listens there.
    pub(crate) is_refused: bool,
    /// There was no answer in time.
    pub(crate) is_late: bool,
    /// What the system says.
    pub(crate) why: String,
}

/// What became of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Entered,
    /// The host is to be reached first: see [`Availability::wait`].
    Waits,
}

/// Why a registration that waited was not entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotEntered {
    Refused(Refused),
    Unreached {
        method: Box<str>,
        host: Host,
        why: String,
    },
    Withdrawn,
    /// The center ends.
    Draining,
}

/// What an [`Availability`] tells.
pub(crate) trait Outcomes<K, T>: Effects<K> {
    /// A registration waits no longer.
    fn decided(&mut self, ticket: T, outcome: Result<(), NotEntered>);

    /// So many registrations of this connection were not entered, since their host was not reached.
    fn unreached(&mut self, peer: &K, host: Host, why: &str, registrations: usize) {
        let _ = (peer, host, why, registrations);
    }

    /// A provider was entered and is not announced before `until`: it has come and gone too often.
    fn held(&mut self, method: &str, host: Host, until: Instant);

    /// All that this connection registered and watched was taken back, so that others have room; it is to be closed.
    fn crowded_out(&mut self, peer: &K);
}

impl<K: Clone + Eq + Hash + Ord, T> Availability<K, T> {
    pub(crate) fn new(limits: RegistryLimits, policy: AvailabilityPolicy) -> Self {
        Self {
            table: Table::new(limits),
            probes: Probes::new(limits.registered_per_connection),
            departures: Departures::default(),
            damping: Damping::new(policy.flap_changes, policy.flap_window),
            held: WaitingRoom::default(),
            attempts: Attempts::new(policy.max_probes),
            trials: VecDeque::new(),
            policy,
            metrics: RegistryMetrics::default(),
            leaving_since: None,
            at_once: AT_ONCE,
        }
    }

    pub(crate) fn policy(&self) -> &AvailabilityPolicy {
        &self.policy
    }

    pub(crate) fn metrics(&self) -> RegistryMetrics {
        self.metrics
    }

    pub(crate) fn size(&self) -> TableSize {
        self.table.size()
    }

    pub(crate) fn register(
        &mut self,
        peer: &K,
        claim: &Claim<'_>,
        now: Instant,
        effects: &mut impl Outcomes<K, T>,
    ) -> Result<Admission, Refused> {
        loop {
            match self.try_register(peer, claim, now, effects) {
                Err(Refused::Total { .. }) if self.make_room(peer, self.most_bytes(peer, claim), now, effects) => {}
                outcome => return outcome,
            }
        }
    }

    fn try_register(
        &mut self,
        peer: &K,
        claim: &Claim<'_>,
        now: Instant,
        effects: &mut impl Outcomes<K, T>,
    ) -> Result<Admission, Refused> {
        // Who takes calls over the connection itself can be reached as long as that lives.
        let is_trusted =
            !self.policy.probe || claim.is_v1 || claim.host.is_relayed() || self.probes.is_reached(peer, claim.host);
        #[cfg(feature = "planted")]
        let is_trusted = is_trusted || callboard_common::Planted::Unprobed.is_planted();
        if is_trusted || self.table.provides(peer, claim.method, claim.host) {
            return self.enter(peer, claim, now, effects).map(|()| Admission::Entered);
        }
        self.table.check(peer, claim.method, waiting_bytes(claim.method, claim.instance))?;
        Ok(Admission::Waits)
    }

    /// The registration waits until its host is reached, or is not.
    pub(crate) fn wait(&mut self, peer: &K, claim: &Claim<'_>, ticket: T, now: Instant) {
        let registration =
            Registration { method: claim.method.into(), instance: claim.instance.map(Arc::from), ticket };
        self.table.begin_to_wait(peer, claim.method, claim.instance);
        if self.probes.wait(peer, claim.host, registration) {
            self.attempts.ask(Reason::Registration, peer, claim.host);
        }
        self.departures.hold(claim.host, claim.instance, claim.store, later(now, self.policy.probe_timeout));
    }

    /// Who provides a method; from now on `peer` watches it. `all` are also those that are not announced yet.
    pub(crate) fn discover(
        &mut self,
        peer: &K,
        method: &str,
        all: bool,
        now: Instant,
        effects: &mut impl Outcomes<K, T>,
    ) -> Result<Listing, Refused> {
        loop {
            match if all { self.table.discover_all(peer, method) } else { self.table.discover(peer, method) } {
                Err(Refused::Total { .. })
                    if self.make_room(peer, self.table.entry_bytes(peer, method, None), now, effects) => {}
                outcome => return outcome,
            }
        }
    }

    /// What a registration takes, whether it waits or is entered.
    fn most_bytes(&self, peer: &K, claim: &Claim<'_>) -> usize {
        let waiting = waiting_bytes(claim.method, claim.instance);
        waiting.max(self.table.entry_bytes(peer, claim.method, claim.instance))
    }

    /// Where `peer` has no room for so many bytes, whoever takes most goes, if that is more than `peer` would take. Whether
    /// there is more room now.
    fn make_room(&mut self, peer: &K, bytes: usize, now: Instant, effects: &mut impl Outcomes<K, T>) -> bool {
        if self.leave_on(self.at_once, now, effects) > 0 {
            return true;
        }
        let Some(largest) = self.table.gives_way(peer, bytes) else { return false };
        for host in self.table.places_of(&largest).0 {
            self.departures.remove(&largest, host);
            self.attempts.withdraw(Reason::Departed, &largest, host);
        }
        self.begin_to_leave(&largest, Leaves::All, now, effects);
        self.metrics.crowded_out += 1;
        effects.crowded_out(&largest);
        true
    }

    /// Whether `peer` has registered this.
    pub(crate) fn provides(&self, peer: &K, method: &str, host: Host) -> bool {
        self.table.provides(peer, method, host)
    }

    /// What `peer` has registered, unless it has gone.
    pub(crate) fn offer(&self, peer: &K, method: &str, host: Host) -> Option<Offer> {
        self.table.offer(peer, method, host)
    }

    /// Who provides a method and is announced.
    pub(crate) fn hosts(&self, method: &str) -> impl Iterator<Item = Host> {
        self.table.hosts(method)
    }

    /// Whether the connection of a provider at `host` has ended unexpectedly.
    pub(crate) fn has_departed(&self, host: Host) -> bool {
        self.departures.until(host).is_some()
    }

    /// Until when the provider that `host` stands for may register `method` again unnoticed. One whose connection has not
    /// ended yet has all of its grace.
    pub(crate) fn may_be_back(&self, method: &str, host: Host, now: Instant) -> Option<Instant> {
        let is_known = !self.table.is_left(method, host);
        let until = || self.departures.until(host).unwrap_or_else(|| later(now, self.policy.provider_grace));
        is_known.then(until).filter(|until| *until > now)
    }

    pub(crate) fn stop_watching(&mut self, peer: &K, method: &str) {
        self.table.stop_watching(peer, method);
    }

    pub(crate) fn withdraw(
        &mut self,
        peer: &K,
        method: &str,
        host: Option<Host>,
        now: Instant,
        effects: &mut impl Outcomes<K, T>,
    ) {
        // What waits was asked for before this.
        let (cancelled, left) = self.probes.cancel(peer, method, host);
        for host in left {
            for reason in FOR_REGISTRATIONS {
                self.attempts.withdraw(reason, peer, host);
            }
        }
        for registration in cancelled {
            self.table.waits_no_more(peer, &registration.method, registration.instance.as_deref());
            effects.decided(registration.ticket, Err(NotEntered::Withdrawn));
        }
        self.table.withdraw(peer, method, host, &mut Noted { damping: &mut self.damping, now, effects });
    }

    /// Nothing is tried any more.
    pub(crate) fn drain(&mut self, effects: &mut impl Outcomes<K, T>) {
        self.attempts.forget_all();
        self.trials.clear();
        for registration in self.probes.stop() {
            effects.decided(registration.ticket, Err(NotEntered::Draining));
        }
    }

    /// When [`on_time`](Self::on_time) is to be called.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let told_since = self.trials.front().map(|trial| trial.since);
        let deadlines = [told_since, self.leaving_since, self.departures.next_deadline(), self.held.next_deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// Some of what is due of each kind, so that others are not kept waiting: with more, the next deadline has passed.
    pub(crate) fn on_time(&mut self, now: Instant, effects: &mut impl Outcomes<K, T>) {
        self.tell_on(now, effects);
        self.leave_on(self.at_once, now, effects);
        let mut left = self.at_once;
        while let Some((peer, host)) = self.departures.expired(now).filter(|_| left > 0) {
            left = left.saturating_sub(self.depart_on(&peer, host, left, now, effects));
        }
        for _ in 0..self.at_once {
            let Some((method, host)) = self.held.pop_due(now) else { break };
            if !self.table.is_held(&method, host) {
                continue;
            }
            match self.damping.wait(&method, host, now) {
                Some(later) => self.held.enter(later, method, host),
                None => self.table.release(&method, host, &mut Noted { damping: &mut self.damping, now, effects }),
            }
        }
    }

    fn enter(
        &mut self,
        peer: &K,
        claim: &Claim<'_>,
        now: Instant,
        effects: &mut impl Outcomes<K, T>,
    ) -> Result<(), Refused> {
        let Claim { method, host, instance, store, .. } = *claim;
        self.table.make_way(method, host, &mut Noted { damping: &mut self.damping, now, effects });
        let departed = self.departures.at(host, instance, store);
        // Before anybody is superseded: who is refused changes nothing.
        if !departed.is_empty() && !self.table.provides(peer, method, host) {
            self.table.check(peer, method, self.table.entry_bytes(peer, method, instance))?;
        }
        for (old, _) in departed.iter().filter(|(_, is_it)| !is_it) {
            self.supersede(old, method, host, now, effects);
        }
        self.list(peer, claim, now, effects)?;
        for (old, _) in departed.iter().filter(|(_, is_it)| *is_it) {
            if self.table.provides(old, method, host) {
                self.metrics.taken_over += 1;
                // Its place is taken, so nobody hears of this.
                self.table.withdraw(old, method, Some(host), &mut Noted { damping: &mut self.damping, now, effects });
            }
        }
        Ok(())
    }

    /// Enters it in the table: for all to see, or held back.
    fn list(
        &mut self,
        peer: &K,
        claim: &Claim<'_>,
        now: Instant,
        effects: &mut impl Outcomes<K, T>,
    ) -> Result<(), Refused> {
        let Claim { method, host, instance, store, is_v1 } = *claim;
        if let Some(store) = store {
            self.table.keeps_in(peer, store);
        }
        let listed = match self.damping.wait(method, host, now).filter(|_| !is_v1 && self.held.has_room()) {
            None => {
                let noted = &mut Noted { damping: &mut self.damping, now, effects };
                self.table.register(peer, method, host, instance, noted)
            }
            Some(until) => {
                let listed = self.table.register_held(peer, method, host, instance);
                if listed == Ok(true) {
                    self.metrics.held += 1;
                    self.held.enter(until, Arc::from(method), host);
                    effects.held(method, host, until);
                }
                listed.map(drop)
            }
        };
        if listed.is_err() {
            self.table.drop_if_empty(peer);
        }
        listed
    }
}

/// Writes down what changes, beside telling it.
struct Noted<'a, E> {
    damping: &'a mut Damping,
    now: Instant,
    effects: &'a mut E,
}

impl<K, E: Effects<K>> Effects<K> for Noted<'_, E> {
    fn notice(&mut self, notice: &Notice, watchers: &BTreeSet<K>) {
        self.effects.notice(notice, watchers);
    }

    fn changed(&mut self, method: &Arc<str>, host: Host) {
        self.damping.record(method, host, self.now);
    }
}

/// So much is taken back, or announced, before others have their turn: so many entries.
const AT_ONCE: usize = 32;

/// Why hosts are tried of which a registration waits.
const FOR_REGISTRATIONS: [Reason; 2] = [Reason::Registration, Reason::Late];

#[cfg(test)]
mod tests;
