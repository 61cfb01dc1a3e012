use tokio::time::Duration;

/// The marks that pushing, holding and writing look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Marks {
    pub(crate) high: usize,
    pub(crate) stall: Duration,
    /// Up to so many bytes wait without waking the task.
    pub(crate) gather: usize,
}

impl Marks {
    /// Above it publishers are held for a moment at a time, so that what waits for a peer that takes it stays in the
    /// processor's cache.
    pub(super) fn early(self) -> usize {
        self.high.min(EARLY_BYTES)
    }

    /// How long a peer may take nothing until nobody waits for it.
    pub(super) const fn patience(self, bytes: usize) -> Duration {
        if bytes > self.high { self.stall } else { MOMENT }
    }
}

pub(super) const EARLY_BYTES: usize = 1 << 20;
/// So long publishers are held at a time for a peer that is at most half full; short, so that it may be far behind
/// before others feel it.
pub(super) const MOMENT: Duration = Duration::from_millis(5);
