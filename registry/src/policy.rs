use std::time::Duration;

use crate::availability::Patience;

/// How a center makes sure that who is online can be called.
///
/// All of it is about providers with a session. What a v1 provider registers is announced at once, and it goes offline with
/// its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AvailabilityPolicy {
    /// Whether a provider is announced only after the center has connected to its host once. Also whether the host of one
    /// whose connection ended unexpectedly is tried at once: if nobody listens there, it is offline. Default yes; to be set
    /// to no where callers reach hosts that the center can't. A host is connected to as peers register it, once for each
    /// connection; those that wait for the same host at the same time share one attempt.
    pub probe: bool,
    /// How long it may take to connect to a host. Default 1 s. Longer, and a provider behind a lost network waits longer for
    /// its refusal. A registration's first attempt has a tenth of it: a host that has not answered by then is tried again,
    /// with the rest of the time, beside the first attempts of others.
    pub probe_timeout: Duration,
    /// First attempts under way at once for registrations, over all providers, of which one connection has at most a quarter
    /// (and at least one); others wait, and connections take turns. So a provider's first attempt begins, whoever else
    /// registers hosts that do not answer, after a tenth of [`probe_timeout`](Self::probe_timeout) for each so many
    /// connections that have asked before it: with 900 of them, within 1.5 s. As many again are kept for hosts that did not
    /// answer the first, and for those of providers whose connections ended. Default 64, 1 at least. More, and more hosts
    /// that do not answer are waited for at once; each takes a descriptor.
    pub max_probes: usize,
    /// How long the entries of a provider stay whose connection ended unexpectedly, while its host still accepts: if the same
    /// run of it registers again in this time, nobody notices. One that owed a sign of life when its connection ended has
    /// no more than was left of its time to give it. Default 2 s. Longer, and callers are longer sent to one that will not
    /// come back.
    pub provider_grace: Duration,
    /// Changes of one method at one host within [`flap_window`](Self::flap_window) that are told at once. After them, its
    /// coming waits to be told until there are fewer; its going never waits. Default 5.
    pub flap_changes: usize,
    /// The time over which such changes are counted. Default 60 s.
    pub flap_window: Duration,
    /// How long after its begin a center tells who discovers a method that nobody provides that providers may be on their
    /// way back to it; calls wait so long for the first one. Default 6 s: a provider pauses for up to 5 s before it
    /// connects again. Zero where no provider was there before. Longer, and calls of what nobody provides fail later.
    pub warm_up: Duration,
}

impl Default for AvailabilityPolicy {
    fn default() -> Self {
        Self {
            probe: true,
            probe_timeout: Duration::from_secs(1),
            max_probes: 64,
            provider_grace: Duration::from_secs(2),
            flap_changes: 5,
            flap_window: Duration::from_mins(1),
            warm_up: Duration::from_secs(6),
        }
    }
}

impl AvailabilityPolicy {
    /// How long an attempt may take. Both together take `probe_timeout`.
    pub(crate) fn limit(&self, patience: Patience) -> Duration {
        let first = self.probe_timeout / 10;
        match patience {
            Patience::Little => first,
            Patience::Full => self.probe_timeout.saturating_sub(first),
        }
    }

    /// Takes every provider at its word: announced at once, offline with its connection, however often.
    pub const fn trusting() -> Self {
        Self {
            probe: false,
            probe_timeout: Duration::ZERO,
            max_probes: 0,
            provider_grace: Duration::ZERO,
            flap_changes: usize::MAX,
            flap_window: Duration::ZERO,
            warm_up: Duration::ZERO,
        }
    }
}
