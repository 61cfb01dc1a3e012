use std::time::Duration;

/// When a peer that says nothing is asked for a sign of life, and when it is taken for dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// After so long without a byte it is asked.
    pub interval: Duration,
    /// After so long without a byte it is taken for dead.
    pub dead: Duration,
}

/// The heartbeats of a session, by what the peer that is asked does on the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeats {
    /// It calls, subscribes or publishes.
    pub caller: Heartbeat,
    /// It has registered methods: others wait for word of its end.
    pub provider: Heartbeat,
}

impl Heartbeat {
    /// With both times in ms.
    ///
    /// ```
    /// use callboard_common::Heartbeat;
    /// assert_eq!(Heartbeat::from_ms(1000, 3000).dead.as_secs(), 3);
    /// ```
    pub const fn from_ms(interval: u64, dead: u64) -> Self {
        Self { interval: Duration::from_millis(interval), dead: Duration::from_millis(dead) }
    }
}

impl Default for Heartbeats {
    /// Callers are asked after 15 s and dead after 45 s, providers after 1 s and 3 s.
    fn default() -> Self {
        Self { caller: Heartbeat::from_ms(15_000, 45_000), provider: Heartbeat::from_ms(1_000, 3_000) }
    }
}
