use std::time::Duration;

/// Where a connection stands among those of its event loop, and its place while it waits for a turn.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// Its turns so far, in the time that all who wait share. `None` before the first.
    pub(super) at: Option<Duration>,
    pub(super) place: Option<Place>,
}

/// Who is least far comes first; among equals, who has waited for longest.
pub(super) type Place = (Duration, u64);
