use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use callboard_common::{Connection, Host};
use tokio::task::{Id, JoinError, JoinSet, yield_now};
use tokio::time::{Instant, sleep_until, timeout};

use crate::RegistryService;
use crate::availability::{Attempt, Unreached};

/// Tries whether somebody listens at a host.
///
/// ```
/// use callboard_common::Host;
/// use callboard_registry::Reach;
///
/// /// Takes everybody at their word.
/// struct Always;
/// impl Reach for Always {
///     async fn reach(&self, _host: Host) -> std::io::Result<()> {
///         Ok(())
///     }
/// }
/// ```
pub trait Reach: Send + Sync + 'static {
    /// Connects to `host` and closes at once. It need not watch the time.
    ///
    /// # Errors
    /// As the system says; `ConnectionRefused` means that nobody listens there.
    fn reach(&self, host: Host) -> impl Future<Output = io::Result<()>> + Send;
}

/// The attempts that are under way.
struct Attempts<C> {
    tasks: JoinSet<io::Result<()>>,
    /// For whom each of them is: a task that panics tells nothing.
    of: HashMap<Id, Attempt<C>>,
}

impl<C: Connection> RegistryService<C> {
    /// Does what takes time: tries the hosts of providers, and tells what is due. It runs as long as the center does, as one
    /// task of it.
    ///
    /// # Cancel safety
    /// Registrations that wait are answered no more.
    ///
    /// # Panics
    /// Outside of a tokio runtime with a timer.
    pub async fn keep<R: Reach>(&self, reach: R) {
        let _keeping = self.begin_to_keep();
        let reach = Arc::new(reach);
        let mut attempts = Attempts { tasks: JoinSet::new(), of: HashMap::new() };
        loop {
            while let Some(attempt) = self.next_attempt() {
                let limit = self.limit(&attempt);
                attempts.begin(attempt, Arc::clone(&reach), limit);
            }
            let now = Instant::now();
            let deadline = self.on_time(now);
            let has_more = deadline.is_some_and(|deadline| deadline <= now);
            tokio::select! {
                biased;
                Some(ended) = attempts.tasks.join_next_with_id() => {
                    if let Some((attempt, outcome)) = attempts.end(ended) {
                        self.tried(&attempt, &outcome);
                        // Many may have ended together.
                        yield_now().await;
                    }
                }
                () = self.woken() => {}
                // More is due, and others first.
                () = yield_now(), if has_more => {}
                () = until(deadline), if !has_more => {}
            }
        }
    }
}

impl<C: Connection> Attempts<C> {
    fn begin<R: Reach>(&mut self, attempt: Attempt<C>, reach: Arc<R>, limit: Duration) {
        let host = attempt.host;
        let task = self.tasks.spawn(async move {
            timeout(limit, reach.reach(host)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        });
        self.of.insert(task.id(), attempt);
    }

    fn end(&mut self, ended: Result<(Id, io::Result<()>), JoinError>) -> Option<(Attempt<C>, Result<(), Unreached>)> {
        let (id, outcome) = match ended {
            Ok((id, outcome)) => (id, outcome.map_err(|error| Unreached::from(&error))),
            Err(panic) => {
                let why = "the attempt failed".to_owned();
                (panic.id(), Err(Unreached { is_refused: false, is_late: false, why }))
            }
        };
        Some((self.of.remove(&id)?, outcome))
    }
}

impl From<&io::Error> for Unreached {
    fn from(error: &io::Error) -> Self {
        let is_refused = error.kind() == io::ErrorKind::ConnectionRefused;
        let is_late = error.kind() == io::ErrorKind::TimedOut;
        let why = if is_late { "no answer in time".to_owned() } else { error.to_string() };
        Self { is_refused, is_late, why }
    }
}

pub(crate) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests;
