use std::collections::BTreeSet;
use std::time::Duration;

use callboard_client::Together;
use callboard_registry::Discovery;
use tokio::time::{Instant, timeout_at};

use super::calls::Desk;
use super::programs::{Role, settings};
use super::{House, METHOD, RECOVERY, RELAYED};
use crate::sim::lock;

/// What must hold when the faults are over.
impl House {
    /// Waits until all know each other again.
    pub(super) async fn recover(&self) -> Duration {
        let (began, next, newcomers) = (Instant::now(), self.news.next(), self.newcomers());
        loop {
            let Some(lacks) = self.lacks(&newcomers, next, began + RECOVERY).await else { return began.elapsed() };
            assert!(began.elapsed() < RECOVERY, "{RECOVERY:?} after the last fault {lacks}");
            self.sim.sleep(Duration::from_millis(20)).await;
        }
    }

    /// At each center one that asks there alone, and for the first time.
    fn newcomers(&self) -> Vec<Discovery> {
        let host = self.sim.host("newcomer");
        let ask = |address| settings(&host).connect_in_background(address).unwrap_or_else(|why| panic!("{why}"));
        self.of(Role::Center).map(|center| Discovery::new(&ask(center.host.address(7070)))).collect()
    }

    /// What is not yet as it must be in the end, if anything. Of messages from `next` on one must have been heard.
    async fn lacks(&self, newcomers: &[Discovery], next: u64, deadline: Instant) -> Option<String> {
        let providing: BTreeSet<_> = lock(&self.providing).values().cloned().collect();
        if providing.len() < self.count(Role::Provider) {
            return Some(format!("not all providers have signed in: {providing:?}"));
        }
        let relayed: BTreeSet<_> = lock(&self.relayed).values().cloned().collect();
        if relayed.len() < self.count(Role::Relayed) {
            return Some("not all providers have signed in that listen nowhere".to_owned());
        }
        let callers: Vec<_> = lock(&self.callers).iter().map(|(who, desk)| (*who, desk.clone())).collect();
        if callers.len() < self.count(Role::Caller) + self.count(Role::Watcher) {
            return Some("not all callers have found a center".to_owned());
        }
        let methods = [(METHOD, &providing), (RELAYED, &relayed)];
        for ((role, place), desk) in callers {
            for (method, there) in methods {
                let known = timeout_at(deadline, desk.caller.hosts(method)).await;
                let known = names(known.ok().and_then(Result::ok).iter().flatten());
                if known != *there {
                    return Some(format!("{} {place} knows {known:?} in place of {there:?}", role.name()));
                }
            }
        }
        for (place, newcomer) in newcomers.iter().enumerate() {
            for (method, there) in methods {
                let known = timeout_at(deadline, newcomer.hosts(method)).await;
                let known = names(known.ok().and_then(Result::ok).iter().flat_map(|known| known.iter()));
                if known != *there {
                    return Some(format!("center {place} names {known:?} in place of {there:?}"));
                }
            }
        }
        let online = self.watch.online();
        if online != providing {
            return Some(format!("{online:?} are online by what was told, in place of {providing:?}"));
        }
        let expected = self.count(Role::Subscriber);
        for center in self.running_centers() {
            let (subscribed, address) = (center.subscriber_count(), center.address());
            if subscribed != expected {
                return Some(format!("{subscribed} are subscribed at {address} in place of {expected}"));
            }
        }
        let heard = self.news.subscribers_that_heard(next);
        (heard < expected).then(|| format!("{heard} of {expected} subscribers have heard what was published since"))
    }

    /// In peace every call is answered, however many are under way at once.
    pub(super) async fn check_calls(&self) {
        let callers: Vec<_> = lock(&self.callers).values().cloned().collect();
        for caller in &callers {
            let calls = (0..4 * self.count(Role::Provider)).map(|_| Box::pin(self.calls.call_once(caller)));
            all_answered(calls.collect()).await;
            let calls = (0..4 * self.count(Role::Relayed)).map(|_| Box::pin(self.calls.call_relayed(caller)));
            all_answered(calls.collect()).await;
        }
        // Of these not all are answered, but all as the ledger has it.
        let mut bursts: Together<_> = callers.iter().map(|caller| Box::pin(self.calls.burst(caller))).collect();
        while bursts.next().await.is_some() {}
        let bursts = callers.iter().map(|caller| Box::pin(self.calls.burst_in_place(caller)));
        let mut bursts: Together<_> = bursts.collect();
        while bursts.next().await.is_some() {}
        // The last one is the watcher, which makes no calls of its own.
        if let [busy, .., other] = &callers[..] {
            let flood = (0..FLOOD).map(|_| Box::pin(self.calls.call_relayed(busy))).collect();
            tokio::join!(biased; all_answered(flood), self.check_turn(other));
        }
    }

    /// Whoever calls a method that runs in place behind a center does not wait for all that another one has called before.
    async fn check_turn(&self, caller: &Desk) {
        self.sim.sleep(UNDER_WAY).await;
        let began = Instant::now();
        all_answered([Box::pin(self.calls.call_relayed(caller))].into_iter().collect()).await;
        let took = began.elapsed();
        assert!(took < TURN, "a call has waited {took:?} for those of another caller");
    }

    /// All go: nothing is kept of them. The centers go last.
    pub(super) async fn leave(&self) {
        lock(&self.callers).clear();
        self.members.iter().filter(|member| member.role != Role::Center).for_each(|member| member.host.leave());
        // One that was lost before it opened a session has no heartbeats, and keep-alive takes longer than a run.
        self.sim.network().keep_alive();
        self.sim.sleep(LEAVING).await;
        let centers = self.running_centers();
        assert_eq!(centers.len(), self.count(Role::Center), "not all centers run");
        for center in centers {
            let (size, metrics) = (center.registry_size(), center.metrics());
            assert_eq!(metrics.accepted - metrics.closed, 0, "the center keeps connections of those who have left");
            assert_eq!((size.methods, size.connections), (0, 0), "the registry keeps those who have left");
            assert_eq!(center.subscriber_count(), 0, "topics keep subscribers that have left");
        }
        assert_eq!(self.sim.network().connections(), 0, "connections of those who have left are open");
        self.of(Role::Center).for_each(|center| center.host.ask_to_end());
        self.sim.sleep(ENDING).await;
        for member in &self.members {
            assert_eq!(member.host.tasks(), 0, "tasks go on for {} though it has left", member.host.name());
        }
    }
}

async fn all_answered<F: Future<Output = Result<(), String>> + Unpin>(mut calls: Together<F>) {
    while let Some(called) = calls.next().await {
        if let Err(error) = called {
            panic!("a call failed in peace: {error}");
        }
    }
}

fn names<'a>(hosts: impl Iterator<Item = &'a callboard_common::Host>) -> BTreeSet<String> {
    hosts.map(ToString::to_string).collect()
}

/// Within so long after all have left nothing is kept of them: as long as a call may take whose caller has gone.
const LEAVING: Duration = Duration::from_secs(6);
/// So many calls one makes at once, of about a ms each.
const FLOOD: usize = 200;
/// By then they wait for each other.
const UNDER_WAY: Duration = Duration::from_millis(20);
/// Beside them a call takes less: its way there and back through a center, with others at each step.
const TURN: Duration = Duration::from_millis(60);
/// So long a center takes at most to end of which nobody wants anything.
const ENDING: Duration = Duration::from_secs(1);
