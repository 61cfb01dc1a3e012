use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use callboard_client::{Client, ClientBuilder};
use callboard_common::Host;
use dashmap::DashMap;
use tokio::runtime::Handle;
use tokio::sync::watch;

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
struct Slot(watch::Receiver<Option<Result<Client, Arc<str>>>>);

/// How a provider is connected to.
pub(crate) struct Connect {
    /// Connections are driven on this runtime, whichever one wants them.
    pub(crate) runtime: Handle,
    pub(crate) settings: ClientBuilder,
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
        self.make_room()?;
        let mut slot = self.slots.entry(host).or_insert_with(|| self.begin(host));
        // One that ended meanwhile, or was never made.
        if !slot.is_usable() {
            *slot = self.begin(host);
        }
        Ok(slot.clone())
    }

    /// The attempt is a task of its own: whoever gives up waiting for it does not end it for the others.
    fn begin(&self, host: Host) -> Slot {
        let (sender, receiver) = watch::channel(None);
        let settings = self.connect.settings.clone();
        self.connect.runtime.spawn(async move {
            let outcome = settings.connect(host.to_string()).await;
            sender.send_replace(Some(outcome.map_err(|error| root_cause(&error).into())));
        });
        Slot(receiver)
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
        match self.0.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone()) {
            Some(outcome) => outcome,
            None => Err("the runtime that connects has stopped".into()),
        }
    }

    /// Under way, or connected and alive.
    fn is_usable(&self) -> bool {
        match &*self.0.borrow() {
            None => self.0.has_changed().is_ok(),
            Some(Ok(client)) => !client.is_closed(),
            Some(Err(_)) => false,
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("slots", &self.slots.len()).finish_non_exhaustive()
    }
}

/// Fewer slots than this are not worth a sweep.
const LEAST_SWEPT: usize = 64;
