use tokio::time::{Duration, Instant};

/// So long after that time, as [`deadline_after`] has it.
pub fn later(time: Instant, by: Duration) -> Instant {
    time.checked_add(by.min(CENTURY)).unwrap_or(time)
}

/// So long from now, as [`tokio::time`] has it. A duration beyond what the clock can tell counts as a century, so any
/// duration that a user gives may be passed.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
/// assert!(callboard_net::deadline_after(std::time::Duration::MAX) > tokio::time::Instant::now());
/// # }); Ok::<(), std::io::Error>(())
/// ```
pub fn deadline_after(duration: Duration) -> Instant {
    later(Instant::now(), duration)
}

const CENTURY: Duration = Duration::from_hours(100 * 365 * 24);
