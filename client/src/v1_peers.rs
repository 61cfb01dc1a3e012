use std::collections::VecDeque;
use std::time::Duration;

use callboard_net::Address;
use tokio::time::Instant;

/// The addresses whose peers opened no session when they were asked: asking there again costs time and a connection.
/// Bounded, and forgotten after a while, since a peer may learn.
#[derive(Debug, Default)]
pub(crate) struct V1Peers(VecDeque<(Address, Instant)>);

impl V1Peers {
    pub(crate) const fn new() -> Self {
        Self(VecDeque::new())
    }

    /// The peer opened no session.
    pub(crate) fn remember(&mut self, address: &Address, now: Instant) {
        self.forget(address);
        if self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back((address.clone(), now));
    }

    /// The peer opened a session after all.
    pub(crate) fn forget(&mut self, address: &Address) {
        self.0.retain(|(known, _)| known != address);
    }

    /// Whether the peer is one that need not be asked.
    pub(crate) fn contains(&self, address: &Address, now: Instant) -> bool {
        self.0.iter().any(|(known, since)| known == address && now.saturating_duration_since(*since) < REMEMBERED_FOR)
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
        peers.remember(&address(1), now);
        assert!(peers.contains(&address(1), now));
        assert!(!peers.contains(&address(2), now));
        assert!(!peers.contains(&address(1), now + REMEMBERED_FOR));
        for port in 2..2 + REMEMBERED {
            peers.remember(&address(port), now);
            peers.remember(&address(port), now);
        }
        assert_eq!(peers.0.len(), REMEMBERED);
        assert!(!peers.contains(&address(1), now));
        peers.forget(&address(9));
        assert!(!peers.contains(&address(9), now));
    }
}
