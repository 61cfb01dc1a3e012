use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::task::Poll;
use std::time::Duration;

use callboard_common::{ConnectionId, Handler, LengthValue, Protocol};
use dashmap::DashMap;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::conn::wait;
use crate::driver::{Driver, Registration};
use crate::event_loop::EventLoopGroup;
use crate::lane::{self, Account, Turn};
use crate::later::deadline_after;
use crate::metrics::add;
use crate::open_files::make_room_for_files;
use crate::shared_state::SharedState;
use crate::task_group::spawn_on;
use crate::{Address, Conn, Ends, Limits, LimitsError, MetricsSnapshot, Sockets, Transport};

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
    // And some for listeners, files and connections of its own.
    make_room_for_files(settings.limits.max_connections.saturating_add(OWN_FILES));
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
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let loops = if settings.loops == 0 { cores } else { settings.loops };
    let loops = if settings.here { Ok(EventLoopGroup::here()) } else { EventLoopGroup::start(loops, settings.pin) };
    let loops = loops.map_err(ListenError::Loops)?;
    let shared = Arc::new(SharedState::new(protocol, settings.limits, true));
    let acceptor = Acceptor {
        transport,
        handles: loops.handles(),
        next: Arc::new(AtomicUsize::new(0)),
        shared: Arc::clone(&shared),
        handler,
    };
    let mut serving =
        Serving { addresses: taken, shared, loops: Some(loops), acceptors: Vec::new(), tasks: Vec::new() };
    for (endpoint, address) in bound.into_iter().zip(&serving.addresses) {
        let acceptor = acceptor.clone();
        let handle = acceptor.deal();
        let listener = {
            let _entered = handle.enter();
            acceptor.transport.listen(endpoint)
        };
        let listener = listener.map_err(|source| ListenError::Bind { address: address.clone(), source })?;
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

/// Accepts on one listener and deals the connections out.
struct Acceptor<T, P: Protocol, H> {
    transport: T,
    handles: Vec<Handle>,
    next: Arc<AtomicUsize>,
    shared: Arc<SharedState<P>>,
    handler: Arc<H>,
}

/// How long accepting rests after it failed, for example for lack of file descriptors: at first, and at most.
const REST: Duration = Duration::from_millis(5);
const LONGEST_REST: Duration = Duration::from_millis(500);

impl<T: Transport, P: Protocol, H: Handler<Conn<P>>> Acceptor<T, P, H> {
    /// The next loop in turn.
    fn deal(&self) -> Handle {
        let number = self.next.fetch_add(1, Relaxed) % self.handles.len().max(1);
        // There is at least one loop; the current runtime stands in for none.
        self.handles.get(number).cloned().unwrap_or_else(Handle::current)
    }

    async fn run(self, listener: T::Listener) {
        let (mut rest, mut account) = (REST, Account::default());
        let mut next = self.next(&listener).await;
        while let Some(accepted) = next {
            let more = match accepted {
                Ok((accepted, ends)) => {
                    rest = REST;
                    let mut turn = lane::turn(&mut account).await.admitting();
                    self.admit(accepted, ends);
                    let more = self.admit_more(&listener, &mut turn).await;
                    lane::leave(&mut account, turn, None);
                    more
                }
                Err(_) if self.shared.stopping.get().is_some() => return,
                Err(e) => {
                    add(&self.shared.metrics.accept_failures);
                    tracing::warn!("can't accept a connection (trying again in {rest:?}): {e}");
                    tokio::time::sleep(rest).await;
                    rest = (rest * 2).min(LONGEST_REST);
                    None
                }
            };
            next = match more {
                Some(failure) => Some(Err(failure)),
                None => self.next(&listener).await,
            };
        }
    }

    /// Those who are there already, until the turn is over: the system takes longer to hand one out than we to let it in,
    /// and a thousand may come at once. Why that failed, if it did.
    async fn admit_more(&self, listener: &T::Listener, turn: &mut Turn) -> Option<io::Error> {
        while !turn.is_over() {
            match poll_once(self.transport.accept(listener)).await? {
                Ok((accepted, ends)) => self.admit(accepted, ends),
                Err(failure) => return Some(failure),
            }
        }
        None
    }

    /// The next stream; `None` once the server stops and all are taken that had come by then: one that is left to the
    /// system is reset, and nobody knows what became of its requests.
    async fn next(&self, listener: &T::Listener) -> Option<io::Result<(T::Accepted, Ends)>> {
        tokio::select! {
            biased;
            accepted = self.transport.accept(listener) => Some(accepted),
            () = wait(&self.shared.stop, || self.shared.stopping.get().is_some()) => {
                // The loop looks at its sockets between two turns of its tasks.
                tokio::task::yield_now().await;
                poll_once(self.transport.accept(listener)).await
            }
        }
    }

    fn admit(&self, accepted: T::Accepted, ends: Ends) {
        let shared = &self.shared;
        if shared.connections.len() >= shared.limits.max_connections {
            add(&shared.metrics.turned_away);
            tracing::warn!(peer = %ends.peer, "turned away: there are max_connections ({}) already", shared.limits.max_connections);
            return;
        }
        add(&shared.metrics.accepted);
        // Entered before it is dealt out, so that the bound counts those on their way.
        let registration = Registration::new(Conn::new(Arc::clone(shared), ends), Arc::clone(&self.handler));
        if let Some(until) = shared.stopping.get() {
            // It came while the others were told.
            registration.conn.drain(until.saturating_duration_since(Instant::now()));
        }
        let handle = self.deal();
        // Here and not in the task, which is as large as all that it ever holds, for as long as the connection lives.
        let stream = {
            let _entered = handle.enter();
            self.transport.adopt(accepted)
        };
        match stream {
            Ok(stream) => drop(spawn_on(&handle, Driver::new(stream, registration))),
            Err(e) => registration.conn.end(format!("it could not be taken in: {e}")),
        }
    }
}

/// What there is without a wait.
async fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

impl<T: Clone, P: Protocol, H> Clone for Acceptor<T, P, H> {
    fn clone(&self) -> Self {
        Self {
            transport: self.transport.clone(),
            handles: self.handles.clone(),
            next: Arc::clone(&self.next),
            shared: Arc::clone(&self.shared),
            handler: Arc::clone(&self.handler),
        }
    }
}
