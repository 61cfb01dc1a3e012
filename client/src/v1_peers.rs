use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use callboard_net::Address;
use tokio::time::Instant;

/// The addresses whose peers opened no session when they were asked: asking there again costs time and a connection.
/// Bounded, and forgotten after a while, since a peer may learn.
#[derive(Debug, Default)]
pub(crate) struct V1Peers(VecDeque<Known>);

#[derive(Debug)]
struct Known {
    address: Address,
    since: Instant,
    counts: Arc<AtomicBool>,
}

impl V1Peers {
    pub(crate) const fn new() -> Self {
        Self(VecDeque::new())
    }

    /// The peer opened no session; that `counts` now or later.
    pub(crate) fn remember(&mut self, address: &Address, counts: Arc<AtomicBool>, now: Instant) {
        if self.contains(address, now) {
            return;
        }
        self.forget(address);
        if self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(Known { address: address.clone(), since: now, counts });
    }

    /// The peer opened a session after all.
    pub(crate) fn forget(&mut self, address: &Address) {
        self.0.retain(|known| known.address != *address);
    }

    /// Whether the peer is one that need not be asked.
    pub(crate) fn contains(&self, address: &Address, now: Instant) -> bool {
        let is_fresh = |known: &Known| now.saturating_duration_since(known.since) < REMEMBERED_FOR;
        self.0.iter().any(|known| known.address == *address && known.counts.load(Relaxed) && is_fresh(known))
    }
}

/// Addresses at most; the oldest goes first.
const REMEMBERED: usize = 1024;
const REMEMBERED_FOR: Duration = Duration::from_mins(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: usize) -> Address {
        format!("127.0.0.1:{port}").parse().unwrap()
    }

    #[test]
    fn peers_are_remembered_for_a_while_and_up_to_a_bound() {
        let (mut peers, now) = (V1Peers::default(), Instant::now());
        let yes = || Arc::new(AtomicBool::new(true));
        peers.remember(&address(1), yes(), now);
        assert!(peers.contains(&address(1), now));
        assert!(!peers.contains(&address(2), now));
        assert!(!peers.contains(&address(1), now + REMEMBERED_FOR));
        for port in 2..2 + REMEMBERED {
            peers.remember(&address(port), yes(), now);
            peers.remember(&address(port), yes(), now);
        }
        assert_eq!(peers.0.len(), REMEMBERED);
        assert!(!peers.contains(&address(1), now));
        peers.forget(&address(9));
        assert!(!peers.contains(&address(9), now));
    }

    #[test]
    fn a_peer_counts_once_it_has_answered() {
        let (mut peers, now) = (V1Peers::default(), Instant::now());
        let answered = Arc::new(AtomicBool::new(false));
        peers.remember(&address(1), Arc::clone(&answered), now);
        assert!(!peers.contains(&address(1), now), "it may have closed because it died");
        answered.store(true, Relaxed);
        assert!(peers.contains(&address(1), now));
        peers.remember(&address(1), Arc::default(), now);
        assert!(peers.contains(&address(1), now), "one that another connection found out is still known");
    }
}
