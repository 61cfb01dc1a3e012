use std::time::Duration;

use tokio::time::Instant;

/// So long from now; a time beyond what the clock can tell counts as a century.
pub(crate) fn deadline_after(timeout: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(timeout.min(CENTURY)).unwrap_or(now)
}

const CENTURY: Duration = Duration::from_hours(100 * 365 * 24);
