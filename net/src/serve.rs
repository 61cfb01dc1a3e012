mod acceptor;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use callboard_common::{ConnectionId, Handler, LengthValue, Protocol};
use dashmap::DashMap;
use tokio::task::JoinHandle;
use tokio::time::{timeout, timeout_at};

use self::acceptor::Acceptor;
use crate::conn::wait;
use crate::event_loop::EventLoopGroup;
use crate::later::deadline_after;
use crate::open_files::make_room_for_files;
use crate::shared_state::SharedState;
use crate::task_group::spawn_on;
use crate::{Address, Conn, Limits, LimitsError, MetricsSnapshot, Sockets, Transport};

/// How a server runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The bounds.
    pub limits: Limits,
    /// Event loops, each a thread. Default 0: one for each core.
    pub loops: usize,
    /// Whether each loop stays on one core. Default no: it helps where nothing else runs on the machine.
    pub pin: bool,
    /// Whether connections are driven on the runtime that starts the server, with no thread of their own. Default no: it is
    /// for simulations, where all runs on one thread and time is paused.
    pub here: bool,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// An address could not be taken.
    #[error("can't listen on {address}")]
    Bind {
        /// The address.
        address: Address,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// No address was given.
    #[error("no address to listen on")]
    NoAddress,
    /// The bounds contradict each other.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// A thread could not be started.
    #[error("can't start the event loops")]
    Loops(#[source] io::Error),
}

/// A server that runs. Dropping it stops it at once; [`shutdown`](Self::shutdown) lets it finish.
#[derive(Debug)]
pub struct Serving<P: Protocol = LengthValue> {
    addresses: Vec<Address>,
    shared: Arc<SharedState<P>>,
    loops: Option<EventLoopGroup>,
    acceptors: Vec<JoinHandle<()>>,
    /// Others that end with it.
    tasks: Vec<JoinHandle<()>>,
}

/// How a server has stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stopped {
    /// Requests that were in flight when it was told to stop, and were done with in time.
    pub finished: usize,
    /// Requests that their callers gave up meanwhile, or that were dropped since these had gone.
    pub given_up: usize,
    /// Requests that were not done with when the time was up.
    pub cut: usize,
}

/// Listens on the addresses and hands every message to the handler, on event loops of its own.
///
/// # Errors
/// [`ListenError`]; nothing listens then.
///
/// # Cancel safety
/// Nothing listens then.
///
/// # Panics
/// Outside of a tokio runtime.
pub async fn serve<H: Handler<Conn>>(
    addresses: &[Address],
    settings: Settings,
    handler: Arc<H>,
) -> Result<Serving, ListenError> {
    let protocol = LengthValue::new(settings.limits.max_frame_bytes);
    let sockets = Sockets::new(settings.limits.keep_alive);
    serve_with(sockets, protocol, addresses, settings, handler).await
}

/// The same over any [`Transport`] and [`Protocol`].
///
/// # Errors
/// [`ListenError`]; nothing listens then.
///
/// # Cancel safety
/// Nothing listens then.
///
/// # Panics
/// Outside of a tokio runtime.
pub async fn serve_with<T, P, H>(
    transport: T,
    protocol: P,
    addresses: &[Address],
    settings: Settings,
    handler: Arc<H>,
) -> Result<Serving<P>, ListenError>
where
    T: Transport,
    P: Protocol,
    H: Handler<Conn<P>>,
{
    settings.limits.check()?;
    if addresses.is_empty() {
        return Err(ListenError::NoAddress);
    }
    let mut taken = Vec::new();
    let mut bound = Vec::new();
    for address in addresses {
        let source = |source| ListenError::Bind { address: address.clone(), source };
        let (endpoint, address) = transport.bind(address).await.map_err(source)?;
        taken.push(address);
        bound.push(endpoint);
    }
    // Room for the connections, and for listeners and files of its own. It serves meanwhile. Who wants no threads has none.
    if !settings.here {
        drop(make_room_for_files(settings.limits.max_connections.saturating_add(OWN_FILES)));
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let loops = if settings.loops == 0 { cores } else { settings.loops };
    let loops = if settings.here { Ok(EventLoopGroup::here()) } else { EventLoopGroup::start(loops, settings.pin) };
    let loops = loops.map_err(ListenError::Loops)?;
    let shared = Arc::new(SharedState::new(protocol, settings.limits, true));
    let acceptor = Acceptor::new(transport, loops.handles(), Arc::clone(&shared), handler);
    let mut serving =
        Serving { addresses: taken, shared, loops: Some(loops), acceptors: Vec::new(), tasks: Vec::new() };
    for (endpoint, address) in bound.into_iter().zip(&serving.addresses) {
        let acceptor = acceptor.clone();
        let handle = acceptor.deal();
        let listener = acceptor
            .listen(endpoint, &handle)
            .map_err(|source| ListenError::Bind { address: address.clone(), source })?;
        serving.acceptors.push(spawn_on(&handle, acceptor.run(listener)));
    }
    Ok(serving)
}

impl<P: Protocol> Serving<P> {
    /// The addresses that are listened on, with the ports that the system chose.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Connections open now.
    pub fn connections(&self) -> usize {
        self.shared.connections.len()
    }

    /// What was counted so far.
    pub fn metrics(&self) -> MetricsSnapshot {
        self.shared.snapshot()
    }

    /// Runs a task on the first of its loops. It ends with the server: when that stops accepting, at the latest.
    pub fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        let first = self.loops.iter().flat_map(EventLoopGroup::handles).next();
        self.tasks.extend(first.map(|first| spawn_on(&first, task)));
    }

    /// Waits until each of its event loops has taken a turn. One that is stuck keeps it waiting.
    ///
    /// # Cancel safety
    /// It only watches.
    pub async fn responds(&self) {
        let loops: Vec<_> = self.loops.iter().flat_map(EventLoopGroup::handles).collect();
        let turns: Vec<_> = loops.iter().map(|each| spawn_on(each, async {})).collect();
        for turn in turns {
            // An error is a loop that has ended: nobody waits for that one.
            let _ = turn.await;
        }
    }

    /// Accepts no more than what has connected already, lets requests in flight finish and queued bytes leave, refuses what
    /// still comes (UNAVAILABLE, not executed) until each peer is quiet, all for up to `grace`, then closes what is left and
    /// stops. What goes on though its peer has gone is waited for as well. It takes little longer than `grace`, whatever
    /// the peers do.
    ///
    /// # Cancel safety
    /// Dropping it stops the server at once.
    pub async fn shutdown(mut self, grace: Duration) -> Stopped {
        let until = deadline_after(grace);
        let _ = self.shared.stopping.set(until); // nobody else sets it
        self.shared.stop.notify_waiters();
        self.tasks.drain(..).for_each(|task| task.abort());
        self.each(|conn| conn.drain(grace));
        let (before, given_up) = (self.in_flight(), self.shared.given_up.load(SeqCst));
        // Time up is an ordinary end of the wait.
        let _ = timeout_at(until, self.emptied()).await;
        // Before the loops end: requests that they drop are not done with.
        let lingering = in_flight(&self.shared.lingering);
        self.each(|conn| {
            conn.cut();
            conn.end("the server stops");
        });
        if let Some(loops) = self.loops.take() {
            // A handler that blocks its loop can't hold up the program's end.
            let _ = timeout(STOP_TIME, loops.stop()).await;
        }
        let cut = lingering + self.shared.cut.load(SeqCst);
        let given_up = self.shared.given_up.load(SeqCst).saturating_sub(given_up);
        Stopped { finished: before.saturating_sub(cut + given_up), given_up, cut }
    }

    /// How many requests are not done with, those among them that go on though their connections have ended.
    pub fn in_flight(&self) -> usize {
        in_flight(&self.shared.connections) + in_flight(&self.shared.lingering)
    }

    /// Waits until nobody is accepted any more, then until all connections have ended, and all that goes on without them.
    async fn emptied(&mut self) {
        for acceptor in &mut self.acceptors {
            // An error is one that has ended already.
            let _ = acceptor.await;
        }
        // In this order: one that ends lingers before it is taken out.
        let is_empty = || self.shared.connections.is_empty() && self.shared.lingering.is_empty();
        wait(&self.shared.left, is_empty).await;
    }

    /// No guard of the map is held while `act` runs.
    fn each(&self, act: impl Fn(&Conn<P>)) {
        let mut all: Vec<_> = self.shared.connections.iter().map(|entry| entry.value().clone()).collect();
        all.sort_unstable(); // the map's order is another one each time
        all.iter().for_each(act);
    }
}

fn in_flight<P: Protocol>(connections: &DashMap<ConnectionId, Conn<P>>) -> usize {
    connections.iter().map(|conn| conn.in_flight()).sum()
}

impl<P: Protocol> Drop for Serving<P> {
    fn drop(&mut self) {
        self.acceptors.drain(..).chain(self.tasks.drain(..)).for_each(|task| task.abort());
        // Where there are no loops of its own that stop with it.
        self.each(|conn| conn.end("the server stops"));
    }
}

/// What a server may have open beside its connections.
const OWN_FILES: usize = 64;
/// How long stopped loops may take to end.
const STOP_TIME: Duration = Duration::from_millis(500);
