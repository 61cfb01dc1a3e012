use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// How the kernel finds out about a TCP peer that is gone without a word. A peer without a session shows no other sign
/// of life; to one with a session heartbeats come first.
///
/// An idle connection to a peer that vanished ends after `idle + probes * interval`, 45 s by default; one on which
/// bytes wait, after `unacknowledged`. Systems that lack an option do without.
///
/// ```
/// use std::time::Duration;
/// use callboard_net::{KeepAlive, Limits};
///
/// let keep_alive = KeepAlive { idle: Duration::from_secs(5), ..KeepAlive::default() };
/// let limits = Limits { keep_alive, ..Limits::default() };
/// # limits.check().unwrap();
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// A peer that says nothing for so long is probed. Default 15 s; in whole seconds, at least 1.
    pub idle: Duration,
    /// So long after an unanswered probe comes the next one. Default 5 s; in whole seconds, at least 1.
    pub interval: Duration,
    /// After so many unanswered probes the connection ends. Default 6.
    pub probes: usize,
    /// What was sent and not acknowledged, or not taken by a reader, for so long ends the connection. Default 5
    /// minutes: Linux counts both, so a short time would cut off a reader that only pauses.
    pub unacknowledged: Duration,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(15),
            interval: Duration::from_secs(5),
            probes: 6,
            unacknowledged: Duration::from_mins(5),
        }
    }
}

impl KeepAlive {
    pub(crate) fn set(&self, socket: &SockRef<'_>) {
        let [idle, interval] = [self.idle, self.interval].map(|time| time.max(Duration::from_secs(1)));
        let times = TcpKeepalive::new().with_time(idle).with_interval(interval);
        let probes = u32::try_from(self.probes).unwrap_or(u32::MAX);
        let _ = socket.set_tcp_keepalive(&times.with_retries(probes));
        let _ = socket.set_tcp_user_timeout(Some(self.unacknowledged));
    }
}
