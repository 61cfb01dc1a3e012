use std::collections::{BTreeMap, BTreeSet};

use callboard_common::Host;

/// Why a host is to be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// Callers are told of it, and its provider's connection has ended.
    Departed,
    /// A registration waits for it, and it was not tried yet.
    Registration,
    /// A registration waits for it that did not answer soon.
    Late,
}

/// A host to be connected to once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attempt<K> {
    /// The connections for which that is done.
    pub(crate) peers: Vec<K>,
    pub(crate) host: Host,
    pub(crate) patience: Patience,
}

/// How long an attempt may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// As long as most hosts need that answer at all: others wait for their first attempt.
    Little,
    Full,
}

/// Which hosts are tried, for whom, and in which order: connections take turns, each with a bound of its own, and who waits
/// for the same host shares an attempt. Each reason has attempts of its own, and a first one is short: so hosts that do not
/// answer hold up nobody else for long.
#[derive(Debug)]
pub(super) struct Attempts<K> {
    hosts: BTreeMap<Host, Asked<K>>,
    askers: BTreeMap<Asker<K>, Asks>,
    /// Who may begin an attempt, by the number of the turn.
    turns: BTreeMap<(Reason, u64), K>,
    last_turn: u64,
    under_way: BTreeMap<Reason, usize>,
    /// Attempts under way at once, for each reason: those that began for it.
    max: usize,
    /// Of these, such that one connection began.
    max_each: usize,
}

type Asker<K> = (Reason, K);

/// Who waits for a host.
#[derive(Debug)]
struct Asked<K> {
    /// Who began the attempt that is under way.
    under_way: Option<Asker<K>>,
    /// Who waits for the next one: an attempt that began before somebody asked says nothing about the time since.
    by: BTreeSet<Asker<K>>,
}

#[derive(Debug, Default)]
struct Asks {
    turn: Option<u64>,
    hosts: BTreeSet<Host>,
    /// Those of `hosts` at which no attempt is under way.
    ready: BTreeSet<Host>,
    under_way: usize,
}

impl<K: Clone + Ord> Attempts<K> {
    /// Up to `max` attempts at once, one at least: else who waits would wait for ever.
    pub(super) fn new(max: usize) -> Self {
        let max = max.max(1);
        Self {
            hosts: BTreeMap::new(),
            askers: BTreeMap::new(),
            turns: BTreeMap::new(),
            last_turn: 0,
            under_way: BTreeMap::new(),
            max,
            max_each: (max / 4).max(1),
        }
    }

    pub(super) fn ask(&mut self, reason: Reason, peer: &K, host: Host) {
        let asker = (reason, peer.clone());
        let known = self.hosts.entry(host).or_insert(Asked { under_way: None, by: BTreeSet::new() });
        known.by.insert(asker.clone());
        let is_ready = known.under_way.is_none();
        let asks = self.askers.entry(asker.clone()).or_default();
        asks.hosts.insert(host);
        if is_ready {
            asks.ready.insert(host);
            self.settle(&asker);
        }
    }

    /// Whether the peer waits for the host's next attempt.
    pub(super) fn is_asked(&self, reason: Reason, peer: &K, host: Host) -> bool {
        self.hosts.get(&host).is_some_and(|asked| asked.by.contains(&(reason, peer.clone())))
    }

    /// The peer waits for the host no longer. An attempt that is under way goes on.
    pub(super) fn withdraw(&mut self, reason: Reason, peer: &K, host: Host) {
        let asker = (reason, peer.clone());
        if let Some(asked) = self.hosts.get_mut(&host) {
            asked.by.remove(&asker);
            if asked.by.is_empty() && asked.under_way.is_none() {
                self.hosts.remove(&host);
            }
        }
        if let Some(asks) = self.askers.get_mut(&asker) {
            asks.hosts.remove(&host);
            asks.ready.remove(&host);
            self.settle(&asker);
        }
    }

    /// The peer waits for no host any longer.
    pub(super) fn forget(&mut self, reason: Reason, peer: &K) {
        let hosts = self.askers.get(&(reason, peer.clone())).map(|asks| asks.hosts.clone());
        for host in hosts.into_iter().flatten() {
            self.withdraw(reason, peer, host);
        }
    }

    /// Nobody waits any longer.
    pub(super) fn forget_all(&mut self) {
        let askers: Vec<_> = self.askers.keys().cloned().collect();
        for (reason, peer) in askers {
            self.forget(reason, &peer);
        }
    }

    /// A host that is to be tried now; [`end`](Self::end) is to be called for it.
    pub(super) fn next(&mut self) -> Option<Attempt<K>> {
        let reasons = [Reason::Departed, Reason::Registration, Reason::Late];
        let owner = reasons.into_iter().find_map(|reason| self.turn(reason))?;
        let patience = if owner.0 == Reason::Registration { Patience::Little } else { Patience::Full };
        let host = self.askers.get(&owner)?.ready.first().copied()?;
        let asked = self.hosts.get_mut(&host)?;
        asked.under_way = Some(owner.clone());
        let all = std::mem::take(&mut asked.by);
        *self.under_way.entry(owner.0).or_default() += 1;
        if let Some(asks) = self.askers.get_mut(&owner) {
            asks.under_way += 1;
            // Its next turn comes after those of all others.
            if let Some(turn) = asks.turn.take() {
                self.turns.remove(&(owner.0, turn));
            }
        }
        for asker in &all {
            if let Some(asks) = self.askers.get_mut(asker) {
                asks.hosts.remove(&host);
                asks.ready.remove(&host);
            }
            self.settle(asker);
        }
        let peers = all.into_iter().map(|(_, peer)| peer).collect();
        Some(Attempt { peers, host, patience })
    }

    /// The attempt at a host is over.
    pub(super) fn end(&mut self, host: Host) {
        let Some(asked) = self.hosts.get_mut(&host) else { return };
        let Some(owner) = asked.under_way.take() else { return };
        let all = asked.by.clone();
        if all.is_empty() {
            self.hosts.remove(&host);
        }
        if let Some(under_way) = self.under_way.get_mut(&owner.0) {
            *under_way = under_way.saturating_sub(1);
        }
        if let Some(asks) = self.askers.get_mut(&owner) {
            asks.under_way = asks.under_way.saturating_sub(1);
            self.settle(&owner);
        }
        for asker in &all {
            if let Some(asks) = self.askers.get_mut(asker) {
                asks.ready.insert(host);
            }
            self.settle(asker);
        }
    }

    /// Whether somebody could begin, perhaps once another attempt is over.
    pub(super) fn has_next(&self) -> bool {
        !self.turns.is_empty()
    }

    /// Whose turn it is.
    fn turn(&self, reason: Reason) -> Option<Asker<K>> {
        if self.under_way.get(&reason).is_some_and(|under_way| *under_way >= self.max) {
            return None;
        }
        let (_, peer) = self.turns.range((reason, 0)..=(reason, u64::MAX)).next()?;
        Some((reason, peer.clone()))
    }

    /// A peer has a turn as long as it may begin an attempt, and is forgotten when it asks for nothing.
    fn settle(&mut self, asker: &Asker<K>) {
        let Some(asks) = self.askers.get_mut(asker) else { return };
        let may_begin = !asks.ready.is_empty() && asks.under_way < self.max_each;
        match asks.turn {
            None if may_begin => {
                self.last_turn += 1;
                asks.turn = Some(self.last_turn);
                self.turns.insert((asker.0, self.last_turn), asker.1.clone());
            }
            Some(turn) if !may_begin => {
                asks.turn = None;
                self.turns.remove(&(asker.0, turn));
            }
            _ => {}
        }
        if asks.hosts.is_empty() && asks.under_way == 0 {
            self.askers.remove(asker);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.hosts.is_empty() && self.askers.is_empty() && self.turns.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use Reason::{Departed, Registration};

    use super::*;

    fn host(port: u16) -> Host {
        Host::new([127, 0, 0, 1].into(), port).unwrap()
    }

    impl Attempts<u32> {
        fn begun(&mut self) -> Vec<(Vec<u32>, u16)> {
            let attempts = std::iter::from_fn(|| self.next());
            attempts.map(|attempt| (attempt.peers, attempt.host.port())).collect()
        }
    }

    #[test]
    fn connections_take_turns_and_none_has_more_than_a_quarter() {
        let mut attempts = Attempts::new(8);
        for port in 1..=900 {
            attempts.ask(Registration, &1, host(port));
        }
        attempts.ask(Registration, &2, host(1001));
        attempts.ask(Registration, &3, host(1002));
        let begun = [(vec![1], 1), (vec![2], 1001), (vec![3], 1002), (vec![1], 2)];
        assert_eq!(attempts.begun(), begun);
        attempts.ask(Registration, &4, host(1003));
        assert_eq!(attempts.begun(), [(vec![4], 1003)], "although nothing has ended");
        attempts.end(host(1));
        assert_eq!(attempts.begun(), [(vec![1], 3)]);
    }

    #[test]
    fn there_is_one_at_a_time_at_least() {
        let mut attempts = Attempts::new(0);
        attempts.ask(Registration, &1, host(1));
        attempts.ask(Registration, &2, host(2));
        assert_eq!(attempts.begun(), [(vec![1], 1)]);
        attempts.end(host(1));
        assert_eq!(attempts.begun(), [(vec![2], 2)]);
    }

    #[test]
    fn who_waits_for_one_host_shares_an_attempt_that_begins_after_all_have_asked() {
        let mut attempts = Attempts::new(8);
        attempts.ask(Registration, &1, host(1));
        assert_eq!(attempts.begun(), [(vec![1], 1)]);
        for peer in 2..=900 {
            attempts.ask(Registration, &peer, host(1));
        }
        attempts.ask(Departed, &5, host(1));
        attempts.ask(Registration, &901, host(2));
        assert_eq!(attempts.begun(), [(vec![901], 2)]);
        attempts.end(host(1));
        let begun = attempts.begun();
        assert_eq!((begun.len(), begun[0].0.len()), (1, 900));
        attempts.end(host(1));
        attempts.end(host(2));
        assert!(attempts.is_empty());
    }

    #[test]
    fn the_departed_have_attempts_of_their_own() {
        let mut attempts = Attempts::new(2);
        for peer in 1..=4_u16 {
            attempts.ask(Registration, &peer.into(), host(peer));
        }
        assert_eq!(attempts.begun().len(), 2);
        for peer in 5..=8_u16 {
            attempts.ask(Departed, &peer.into(), host(peer));
        }
        assert_eq!(attempts.begun(), [(vec![5], 5), (vec![6], 6)]);
        attempts.end(host(5));
        attempts.end(host(1));
        assert_eq!(attempts.begun(), [(vec![7], 7), (vec![3], 3)]);
    }

    #[test]
    fn who_is_gone_is_tried_no_more() {
        let mut attempts = Attempts::new(8);
        attempts.ask(Registration, &1, host(1));
        attempts.ask(Registration, &2, host(1));
        attempts.ask(Registration, &2, host(2));
        attempts.forget(Registration, &2);
        assert_eq!(attempts.begun(), [(vec![1], 1)]);
        attempts.ask(Registration, &2, host(1));
        attempts.forget_all();
        attempts.end(host(1));
        assert_eq!(attempts.begun(), []);
        assert!(attempts.is_empty());
    }
}
