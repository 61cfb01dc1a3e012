use std::io::{self, IsTerminal};

use anyhow::Context;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;

use crate::environment;

/// Logs to standard error, by the filter in CALLBOARD_LOG, else in RUST_LOG, else from `level` on, until the guard is
/// dropped.
///
/// A thread of its own writes: if nobody reads standard error, lines are dropped and no event loop is held up.
pub(crate) fn start(level: &str) -> anyhow::Result<WorkerGuard> {
    let set = [environment::LOG, "RUST_LOG"].into_iter().find(|name| environment::value(name).is_some());
    let filter = match set {
        Some(name) => {
            let filter = environment::text(name)?.unwrap_or_default();
            EnvFilter::try_new(&filter).with_context(|| format!("{name}: \"{filter}\" is not a filter for logs"))?
        }
        None => EnvFilter::new(level),
    };
    let (lines, guard) = tracing_appender::non_blocking(io::stderr());
    let colour = io::stderr().is_terminal() && environment::value("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(lines).init();
    Ok(guard)
}
