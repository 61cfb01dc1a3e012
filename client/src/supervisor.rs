use std::sync::{Arc, Weak};
use std::time::Duration;

use callboard_net::Conn;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::connect::Dialer;
use crate::dispatch::Dispatch;
use crate::line::Line;
use crate::link::Link;
use crate::reconnect::Backoff;
use crate::shared::Shared;
use crate::{CallError, ClientState};

/// Makes a client's connection again whenever it is lost, as long as there is a client.
pub(crate) struct Supervisor {
    shared: Weak<Shared>,
    dialer: Dialer,
    /// Told of the client's end.
    changes: watch::Receiver<u64>,
    chance: fastrand::Rng,
}

impl Supervisor {
    pub(crate) fn new(shared: &Arc<Shared>, dialer: Dialer) -> Self {
        let chance = dialer.settings.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        Self { shared: Arc::downgrade(shared), dialer, changes: shared.watch(), chance }
    }

    /// Works until the client is closed or nobody has it any longer.
    pub(crate) async fn run(mut self, first: Watched) {
        let mut watched = first;
        let mut backoff = Backoff::new(self.dialer.settings.reconnect);
        loop {
            let since = Instant::now();
            let reason = watched.lost().await;
            // One that ends at once was no success: else a peer that accepts and closes would be asked without a pause.
            if since.elapsed() > self.dialer.settings.reconnect.longest {
                backoff = Backoff::new(self.dialer.settings.reconnect);
            }
            if self.tell(ClientState::Lost { reason }).is_none() {
                break;
            }
            // Of one that leaves, the calls under way still get their answers.
            watched.dispatch.retire(&watched.conn);
            match self.reconnect(&mut backoff).await {
                Some(next) => watched = next,
                None => break,
            }
        }
    }

    /// The same where the first connection is yet to be made.
    pub(crate) async fn run_offline(mut self) {
        let first = match self.attempt().await {
            Ok(first) => first,
            Err(error) => {
                tracing::debug!(%error, "not connected yet");
                let mut backoff = Backoff::new(self.dialer.settings.reconnect);
                self.reconnect(&mut backoff).await
            }
        };
        if let Some(first) = first {
            self.run(first).await;
        }
    }

    /// `None` at the end of the client.
    fn tell(&self, state: ClientState) -> Option<()> {
        let shared = self.shared.upgrade().filter(|shared| !shared.is_closed())?;
        shared.teller.tell(state);
        Some(())
    }

    /// `None` at the end of the client.
    async fn reconnect(&mut self, backoff: &mut Backoff) -> Option<Watched> {
        let mut last = None;
        loop {
            let Some(pause) = backoff.next(self.chance.f64()) else {
                return self.give_up(last);
            };
            self.pause(pause).await?;
            self.tell(ClientState::Connecting)?;
            match self.attempt().await {
                Ok(next) => return next,
                Err(error) => {
                    tracing::debug!(%error, "not connected again yet");
                    last = Some(error);
                }
            }
        }
    }

    /// Waits, but not longer than the client lives.
    async fn pause(&mut self, pause: Duration) -> Option<()> {
        let ends = async {
            while self.changes.changed().await.is_ok() {
                if self.shared.upgrade().is_none_or(|shared| shared.is_closed()) {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = ends => None,
            () = sleep(pause) => Some(()),
        }
    }

    /// One attempt to connect and to do again what was asked for; `Ok(None)` at the end of the client.
    async fn attempt(&mut self) -> Result<Option<Watched>, CallError> {
        let fresh = Arc::new(Box::pin(self.dialer.dial()).await?);
        let Some(shared) = self.shared.upgrade() else { return Ok(None) };
        let line = Line { link: Arc::clone(&fresh), timeout: self.dialer.settings.timeout };
        if let Err(error) = shared.resume(&line).await {
            // What was resumed over it hears so before the next one, whenever its own task ends.
            fresh.dispatch.retire(&fresh.conn);
            fresh.conn.end("what was asked for could not be asked for again");
            return Err(error);
        }
        if shared.is_closed() {
            return Ok(None);
        }
        let watched = Watched::new(&fresh);
        shared.resumed(fresh);
        // It may have been closed while it was put in place.
        if shared.is_closed() {
            watched.conn.end("this program has closed it");
        }
        Ok(Some(watched))
    }

    fn give_up(&self, last: Option<CallError>) -> Option<Watched> {
        if let Some(shared) = self.shared.upgrade() {
            let attempts = self.dialer.settings.reconnect.attempts.unwrap_or_default();
            let why = last.map(|error| format!(": {error}")).unwrap_or_default();
            shared.close(&format!("it could not be made again in {attempts} attempts{why}"));
        }
        None
    }
}

/// A connection whose end is waited for; it does not keep it.
pub(crate) struct Watched {
    conn: Conn,
    dispatch: Arc<Dispatch>,
}

impl Watched {
    pub(crate) fn new(link: &Link) -> Self {
        Self { conn: link.conn.clone(), dispatch: Arc::clone(&link.dispatch) }
    }

    /// Waits until it has ended; says why.
    pub(crate) async fn ended(&self) -> String {
        self.conn.closed().await;
        self.conn.close_reason().unwrap_or_default()
    }

    /// Waits until it is of no more use; says why.
    async fn lost(&self) -> String {
        let leaving = self.dispatch.leaving();
        tokio::select! {
            biased;
            // First: soon after it this side ends the connection.
            () = leaving.told() => leaving.reason().unwrap_or_default().to_owned(),
            () = self.conn.closed() => self.conn.close_reason().unwrap_or_default(),
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // Nobody makes the connection again, also where the runtime has stopped. Those who listen hear of the end,
        // whether or not a connection told them.
        if let Some(shared) = self.shared.upgrade() {
            shared.close("the runtime that it was made on has stopped");
            shared.inboxes().closed(&shared.link().conn);
        }
    }
}
