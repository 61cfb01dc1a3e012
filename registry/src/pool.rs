use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use callboard_client::{Client, ClientBuilder, RetryPolicy, SessionMode, spawn_on};
use callboard_common::Host;
use dashmap::DashMap;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::doubt::{Doubt, Verdict, session_mode};
use crate::errors::root_cause;

/// One connection to each provider, made when it is first wanted, by one attempt however many want it.
pub(crate) struct Pool {
    slots: DashMap<Host, Slot>,
    connect: Connect,
    /// Which run of a provider discovery names at a host.
    named: Box<dyn Fn(Host) -> Option<Named> + Send + Sync>,
    /// The connection to the center, which passes calls on to providers that can't be connected to.
    center: Client,
    max_connections: usize,
    /// Numbers the attempts to connect.
    attempts: AtomicU64,
    /// At so many slots the dead ones are swept out.
    sweep_at: AtomicUsize,
}

/// An attempt to connect and its outcome.
#[derive(Clone)]
struct Slot {
    outcome: watch::Receiver<Option<Outcome>>,
    /// Its number.
    attempt: u64,
    /// It takes long, or the one before it failed: nobody should wait for it who can turn to others.
    is_doubted: bool,
    /// Whether it still answers, once it is connected.
    doubt: Doubt,
    /// Which run of a provider was named at the host.
    run: Option<Arc<str>>,
    /// That run has opened a session before.
    had_session: bool,
}

/// What discovery says of a provider.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) instance: Arc<str>,
    /// Where it keeps its answers to calls under keys, if it listens nowhere.
    pub(crate) store: Option<Arc<str>>,
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
    /// It takes no calls any more, and answers those that it has.
    Leaving,
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
    /// How long connecting may take, and a sign of life of one that left a call unanswered.
    pub(crate) timeout: Duration,
    /// How long a host that failed is left alone while there are others.
    pub(crate) pause: Duration,
}

impl Pool {
    pub(crate) fn new(
        connect: Connect,
        named: impl Fn(Host) -> Option<Named> + Send + Sync + 'static,
        center: Client,
        max_connections: usize,
    ) -> Self {
        Self {
            slots: DashMap::new(),
            connect,
            named: Box::new(named),
            center,
            max_connections,
            attempts: AtomicU64::new(0),
            sweep_at: AtomicUsize::new(LEAST_SWEPT),
        }
    }

    /// The connection to `host`; a dead one is replaced.
    ///
    /// # Errors
    /// Why it can't be reached.
    pub(crate) async fn client(self: &Arc<Self>, host: Host) -> Result<Client, Arc<str>> {
        if let Some(client) = self.slots.get(&host).and_then(|slot| slot.client()) {
            return Ok(client);
        }
        if host.is_relayed() {
            return self.relayed(host);
        }
        // No guard of the map lives over the wait.
        let mut outcome = self.outcome(host)?;
        match outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone()) {
            Some(outcome) => outcome.map_err(|failed| failed.why),
            None => Err("the runtime that connects has stopped".into()),
        }
    }

    /// The way through the center.
    fn relayed(&self, host: Host) -> Result<Client, Arc<str>> {
        let Named { instance, store } = (self.named)(host).ok_or("it has just gone")?;
        let client = match store {
            Some(store) => self.center.relayed_to_store(&instance, &store),
            None => self.center.relayed_to(&instance),
        };
        Ok(client.with_retry(RetryPolicy::never()))
    }

    /// Whether others had better be turned to: it leaves, it does not answer, or it could not be connected to of late.
    /// After a pause that is tried again, in the background.
    pub(crate) fn is_doubtful(self: &Arc<Self>, host: Host) -> bool {
        let look = |slot: &Slot| (slot.state(), slot.is_doubted, slot.doubt);
        let Some((state, is_doubted, doubt)) = self.slots.get(&host).map(|slot| look(&slot)) else {
            return false;
        };
        match state {
            State::Connecting => is_doubted,
            State::Connected => doubt.is_raised(),
            State::Leaving => true,
            State::Ended => false,
            State::Failed { at } => {
                if at.elapsed() >= self.connect.pause {
                    drop(self.outcome(host));
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

    /// Of the attempt that is under way, or begins now; or of the last one, if it came to a connection that lives.
    fn outcome(self: &Arc<Self>, host: Host) -> Result<watch::Receiver<Option<Outcome>>, Arc<str>> {
        if let Some(slot) = self.slots.get(&host).filter(|slot| slot.is_usable()) {
            return Ok(slot.outcome.clone());
        }
        let before = self.slots.get(&host).map(|slot| slot.clone());
        self.make_room()?;
        let run = (self.named)(host).map(|named| named.instance);
        let mut slot = self.slots.entry(host).or_insert_with(|| self.begin(host, run.clone(), before.as_ref()));
        // One that ended meanwhile, or was never made.
        if !slot.is_usable() {
            *slot = self.begin(host, run, before.as_ref());
        }
        Ok(slot.outcome.clone())
    }

    /// The attempt is a task of its own: whoever gives up waiting for it does not end it for the others.
    fn begin(self: &Arc<Self>, host: Host, run: Option<Arc<str>>, before: Option<&Slot>) -> Slot {
        let had_session = before.and_then(Slot::run_with_session);
        let mode = session_mode(run.as_deref(), had_session.as_deref());
        let settings = self.connect.settings(mode);
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
        let (sender, outcome) = watch::channel(None);
        let pool = Arc::downgrade(self);
        spawn_on(&self.connect.runtime, async move {
            let connected = settings.connect(host.to_string()).await;
            if let Ok(client) = &connected {
                client.on_overdue(move || overdue(&pool, host, attempt));
            }
            sender.send_replace(Some(connected.map_err(|error| Failed::now(root_cause(&error)))));
        });
        let is_doubted = before.is_some_and(|slot| matches!(slot.state(), State::Failed { .. }));
        Slot { outcome, attempt, is_doubted, doubt: Doubt::None, run, had_session: mode == SessionMode::Require }
    }

    /// Calls over this connection ran out of time: whether the provider is alive is asked in the background.
    fn ask(self: &Arc<Self>, host: Host, attempt: u64) {
        let Some(mut slot) = self.slots.get_mut(&host).filter(|slot| slot.attempt == attempt) else { return };
        let Some(client) = slot.client().filter(|_| slot.doubt.raise()) else { return };
        drop(slot);
        let (pool, limit) = (Arc::downgrade(self), self.connect.timeout);
        spawn_on(&self.connect.runtime, async move {
            let is_alive = client.gives_sign(limit).await;
            if let Some(pool) = pool.upgrade() {
                pool.settle(host, attempt, is_alive);
            }
        });
    }

    fn settle(&self, host: Host, attempt: u64, is_alive: bool) {
        let Some(mut slot) = self.slots.get_mut(&host).filter(|slot| slot.attempt == attempt) else { return };
        // One that has ended meanwhile is made anew when it is wanted.
        if slot.doubt.settle(is_alive) == Verdict::Leave && matches!(slot.state(), State::Connected) {
            let limit = self.connect.timeout;
            tracing::warn!(%host, ?limit, "a provider has left calls unanswered and gives no sign of life");
            slot.leave(format!("it has left calls unanswered, and gave no sign of life within {limit:?}"));
        }
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
    fn state(&self) -> State {
        match &*self.outcome.borrow() {
            None if self.outcome.has_changed().is_ok() => State::Connecting,
            Some(Ok(client)) if client.is_online() => State::Connected,
            Some(Ok(client)) if !client.is_closed() => State::Leaving,
            Some(Err(failed)) => State::Failed { at: failed.at },
            None | Some(Ok(_)) => State::Ended,
        }
    }

    /// Where it is connected and takes calls.
    fn client(&self) -> Option<Client> {
        let outcome = self.outcome.borrow();
        outcome.as_ref()?.as_ref().ok().filter(|client| client.is_online()).cloned()
    }

    /// The run of a provider that is known to open sessions.
    fn run_with_session(&self) -> Option<Arc<str>> {
        let has_session = matches!(&*self.outcome.borrow(), Some(Ok(client)) if client.has_session());
        self.run.clone().filter(|_| has_session || self.had_session)
    }

    /// Lets go of the connection, which ends when the last call on it has ended.
    fn leave(&mut self, why: String) {
        self.had_session = self.run_with_session().is_some();
        self.outcome = watch::channel(Some(Err(Failed::now(why)))).1;
    }

    /// Under way, or connected and alive.
    fn is_usable(&self) -> bool {
        matches!(self.state(), State::Connecting | State::Connected)
    }
}

impl Failed {
    fn now(why: String) -> Self {
        Self { why: why.into(), at: Instant::now() }
    }
}

impl Connect {
    fn settings(&self, mode: SessionMode) -> ClientBuilder {
        let settings = self.settings.clone().timeout(self.timeout).session(mode);
        // One that must open a session has all the time for it.
        if mode == SessionMode::Require { settings.session_timeout(self.timeout) } else { settings }
    }
}

/// The hook of a connection: it keeps neither the pool nor the connection.
fn overdue(pool: &Weak<Pool>, host: Host, attempt: u64) {
    if let Some(pool) = pool.upgrade() {
        pool.ask(host, attempt);
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("slots", &self.slots.len()).finish_non_exhaustive()
    }
}

/// Fewer slots than this are not worth a sweep.
const LEAST_SWEPT: usize = 64;
