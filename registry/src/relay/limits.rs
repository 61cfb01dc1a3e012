/// What a center that passes calls on may keep of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayLimits {
    /// How many calls may wait for the answers of their providers at once. Default 65,536. Past it a caller that has fewer
    /// takes a place of the one that has most, and others are refused, both with OVERLOADED. Each takes some hundred bytes
    /// until it is answered.
    pub calls: usize,
    /// How many calls may wait for a provider at once whose connection was lost, so that it may be back soon (see
    /// [`AvailabilityPolicy::provider_grace`](crate::AvailabilityPolicy::provider_grace) and
    /// [`warm_up`](crate::AvailabilityPolicy::warm_up)). Default 16,384; with 0 they are refused at once, not executed. Past it
    /// a caller that has fewer takes the place of the newest call of the one that has most.
    pub waiting_calls: usize,
    /// The same in bytes of their frames, and 512 for each. Default 64 MiB.
    pub waiting_bytes: usize,
}

/// What a center has counted of the calls that it passes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RelayMetrics {
    /// Calls that wait for the answers of their providers now.
    pub passed_on: usize,
    /// Calls that wait now for a provider which may be back soon.
    pub waiting: usize,
    /// What these take, in bytes.
    pub waiting_bytes: usize,
    /// Calls that have waited so, or do.
    pub waited: u64,
    /// Of them so many were passed on, since their provider was back.
    pub resumed: u64,
    /// Of them so many were refused: it did not come back in time, or others had to have their places.
    pub refused: u64,
}

impl Default for RelayLimits {
    fn default() -> Self {
        Self { calls: 65_536, waiting_calls: 16_384, waiting_bytes: 64 << 20 }
    }
}
