/// What a center's registry has counted since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegistryMetrics {
    /// Hosts of providers that were connected to.
    pub reached: u64,
    /// Hosts of providers that could not be.
    pub unreached: u64,
    /// Hosts that did not answer their first attempt, which is short, and were tried again.
    pub late: u64,
    /// Connections of session providers that ended unexpectedly.
    pub departures: u64,
    /// Entries of such a connection that the same run of the provider registered again in time.
    pub taken_over: u64,
    /// Hosts of such a connection at which another run registered.
    pub superseded: u64,
    /// Providers that were announced later, since they had come and gone too often.
    pub held: u64,
    /// Connections that were closed since they took most of what all may take together, and another one had no room.
    pub crowded_out: u64,
}
