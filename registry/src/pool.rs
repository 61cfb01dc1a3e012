use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use callboard_client::{Client, ClientBuilder};
use callboard_common::Host;
use dashmap::DashMap;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::errors::root_cause;

/// One connection to each provider, made when it is first wanted, by one attempt however many want it.
pub(crate) struct Pool {
    slots: DashMap<Host, Slot>,
    connect: Connect,
    max_connections: usize,
    /// At so many slots the dead ones are swept out.
    sweep_at: AtomicUsize,
}

/// An attempt to connect and its outcome.
#[derive(Clone)]
struct Slot {
    outcome: watch::Receiver<Option<Outcome>>,
    /// It takes long, or the one before it failed: nobody should wait for it who can turn to others.
    is_doubted: bool,
}

type Outcome = Result<Client, Failed>;

#[derive(Clone)]
struct Failed {
    why: Arc<str>,
    at: Instant,
}

enum State {
    Connecting,
    Connected,
    /// It was connected, or its runtime has stopped.
    Ended,
    Failed {
        at: Instant,
    },
}

/// How a provider is connected to.
pub(crate) struct Connect {
    /// Connections are driven on this runtime, whichever one wants them.
    pub(crate) runtime: Handle,
    pub(crate) settings: ClientBuilder,
    /// How long a host that failed is left alone while there are others.
    pub(crate) pause: Duration,
}

impl Pool {
    pub(crate) fn new(connect: Connect, max_connections: usize) -> Self {
        Self { slots: DashMap::new(), connect, max_connections, sweep_at: AtomicUsize::new(LEAST_SWEPT) }
    }

    /// The connection to `host`; a dead one is replaced.
    ///
    /// # Errors
    /// Why it can't be reached.
    pub(crate) async fn client(&self, host: Host) -> Result<Client, Arc<str>> {
        // No guard of the map lives over the wait.
        let mut slot = self.slot(host)?;
        slot.outcome().await
    }

    /// Whether others had better be turned to: it could not be connected to of late. After a pause that is tried again, in
    /// the background.
    pub(crate) fn is_doubtful(&self, host: Host) -> bool {
        let Some((state, is_doubted)) = self.slots.get(&host).map(|slot| (slot.state(), slot.is_doubted)) else {
            return false;
        };
        match state {
            State::Connecting => is_doubted,
            State::Connected | State::Ended => false,
            State::Failed { at } => {
                if at.elapsed() >= self.connect.pause {
                    drop(self.slot(host));
                }
                true
            }
        }
    }

    /// Somebody has waited for it in vain. The attempt goes on.
    pub(crate) fn doubt(&self, host: Host) {
        if let Some(mut slot) = self.slots.get_mut(&host) {
            slot.is_doubted = true;
        }
    }

    /// Lets go of a host: its connection ends when the last call on it has ended.
    pub(crate) fn forget(&self, host: Host) {
        self.slots.remove(&host);
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    fn slot(&self, host: Host) -> Result<Slot, Arc<str>> {
        if let Some(slot) = self.slots.get(&host).filter(|slot| slot.is_usable()) {
            return Ok(slot.clone());
        }
        let has_failed = self.slots.get(&host).is_some_and(|slot| matches!(slot.state(), State::Failed { .. }));
        self.make_room()?;
        let mut slot = self.slots.entry(host).or_insert_with(|| self.begin(host, has_failed));
        // One that ended meanwhile, or was never made.
        if !slot.is_usable() {
            *slot = self.begin(host, has_failed);
        }
        Ok(slot.clone())
    }

    /// The attempt is a task of its own: whoever gives up waiting for it does not end it for the others.
    fn begin(&self, host: Host, is_doubted: bool) -> Slot {
        let (sender, outcome) = watch::channel(None);
        let settings = self.connect.settings.clone();
        self.connect.runtime.spawn(async move {
            let connected = settings.connect(host.to_string()).await;
            let failed = |error| Failed { why: root_cause(&error).into(), at: Instant::now() };
            sender.send_replace(Some(connected.map_err(failed)));
        });
        Slot { outcome, is_doubted }
    }

    /// Sweeps out what is dead each time that the number of slots has doubled.
    fn make_room(&self) -> Result<(), Arc<str>> {
        let bound = self.max_connections;
        if self.slots.len() < self.sweep_at.load(Ordering::Relaxed).min(bound) {
            return Ok(());
        }
        self.slots.retain(|_, slot| slot.is_usable());
        let live = self.slots.len();
        self.sweep_at.store(live.saturating_mul(2).max(LEAST_SWEPT), Ordering::Relaxed);
        if live < bound {
            Ok(())
        } else {
            Err(format!("{live} connections to providers are open, which is the bound").into())
        }
    }
}

impl Slot {
    /// Waits until the attempt is over.
    async fn outcome(&mut self) -> Result<Client, Arc<str>> {
        match self.outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone()) {
            Some(outcome) => outcome.map_err(|failed| failed.why),
            None => Err("the runtime that connects has stopped".into()),
        }
    }

    fn state(&self) -> State {
        match &*self.outcome.borrow() {
            None if self.outcome.has_changed().is_ok() => State::Connecting,
            Some(Ok(client)) if client.is_online() => State::Connected,
            Some(Err(failed)) => State::Failed { at: failed.at },
            None | Some(Ok(_)) => State::Ended,
        }
    }

    /// Under way, or connected and alive.
    fn is_usable(&self) -> bool {
        matches!(self.state(), State::Connecting | State::Connected)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("slots", &self.slots.len()).finish_non_exhaustive()
    }
}

/// Fewer slots than this are not worth a sweep.
const LEAST_SWEPT: usize = 64;
