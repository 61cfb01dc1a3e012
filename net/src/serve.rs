use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use callboard_common::{Connection, Handler, LengthValue, Protocol};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::driver::Driver;
use crate::event_loop::EventLoopGroup;
use crate::house::House;
use crate::metrics::add;
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
    house: Arc<House<P>>,
    loops: Option<EventLoopGroup>,
    acceptors: Vec<JoinHandle<()>>,
}

/// Listens on the addresses and hands every message to the handler, on event loops of its own.
///
/// # Errors
/// [`ListenError`]; nothing listens then.
pub async fn serve<H: Handler<Conn>>(
    addresses: &[Address],
    settings: Settings,
    handler: Arc<H>,
) -> Result<Serving, ListenError> {
    let protocol = LengthValue::new(settings.limits.max_frame_bytes);
    serve_with(Sockets, protocol, addresses, settings, handler).await
}

/// The same over any [`Transport`] and [`Protocol`].
///
/// # Errors
/// [`ListenError`]; nothing listens then.
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
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let loops = if settings.loops == 0 { cores } else { settings.loops };
    let loops = EventLoopGroup::start(loops, settings.pin).map_err(ListenError::Loops)?;
    let house = Arc::new(House::new(protocol, settings.limits, true));
    let acceptor = Acceptor {
        transport,
        handles: loops.handles(),
        next: Arc::new(AtomicUsize::new(0)),
        house: Arc::clone(&house),
        handler,
    };
    let mut serving = Serving { addresses: taken, house, loops: Some(loops), acceptors: Vec::new() };
    for (endpoint, address) in bound.into_iter().zip(&serving.addresses) {
        let acceptor = acceptor.clone();
        let handle = acceptor.deal();
        let listener = {
            let _entered = handle.enter();
            acceptor.transport.listen(endpoint)
        };
        let listener = listener.map_err(|source| ListenError::Bind { address: address.clone(), source })?;
        serving.acceptors.push(handle.spawn(acceptor.run(listener)));
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
        self.house.connections.len()
    }

    /// What was counted so far.
    pub fn metrics(&self) -> MetricsSnapshot {
        self.house.snapshot()
    }

    /// Accepts no more, reads no more, lets requests in flight finish and queued bytes leave for up to `grace`, then
    /// closes what is left and stops. It takes little longer than `grace`, whatever the peers do.
    ///
    /// # Cancel safety
    /// Dropping it stops the server at once.
    pub async fn shutdown(mut self, grace: Duration) {
        self.house.stopping.store(true, SeqCst);
        self.acceptors.drain(..).for_each(|acceptor| acceptor.abort());
        self.each(|conn| conn.drain(grace));
        // Time up is an ordinary end of the wait.
        let _ = tokio::time::timeout(grace, self.emptied()).await;
        self.each(|conn| conn.end("the server stops"));
        if let Some(loops) = self.loops.take() {
            // A handler that blocks its loop can't hold up the program's end.
            let _ = tokio::time::timeout(STOP_TIME, loops.stop()).await;
        }
    }

    async fn emptied(&self) {
        loop {
            let left = self.house.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if self.house.connections.is_empty() {
                return;
            }
            left.await;
        }
    }

    /// No guard of the map is held while `act` runs.
    fn each(&self, act: impl Fn(&Conn<P>)) {
        let all: Vec<_> = self.house.connections.iter().map(|entry| entry.value().clone()).collect();
        all.iter().for_each(act);
    }
}

/// How long stopped loops may take to end.
const STOP_TIME: Duration = Duration::from_millis(500);

/// Accepts on one listener and deals the connections out.
struct Acceptor<T, P: Protocol, H> {
    transport: T,
    handles: Vec<Handle>,
    next: Arc<AtomicUsize>,
    house: Arc<House<P>>,
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
        let mut rest = REST;
        loop {
            match self.transport.accept(&listener).await {
                Ok((accepted, ends)) => {
                    rest = REST;
                    self.welcome(accepted, ends);
                }
                Err(e) => {
                    add(&self.house.metrics.accept_failures);
                    tracing::warn!("can't accept a connection (trying again in {rest:?}): {e}");
                    tokio::time::sleep(rest).await;
                    rest = (rest * 2).min(LONGEST_REST);
                }
            }
        }
    }

    fn welcome(&self, accepted: T::Accepted, ends: Ends) {
        let house = &self.house;
        if house.connections.len() >= house.limits.max_connections {
            add(&house.metrics.turned_away);
            tracing::warn!(peer = %ends.peer, "turned away: there are max_connections ({}) already", house.limits.max_connections);
            return;
        }
        add(&house.metrics.accepted);
        // Entered before it is dealt out, so that the bound counts those on their way.
        let (transport, handler) = (self.transport.clone(), Arc::clone(&self.handler));
        let conn = Conn::new(Arc::clone(house), ends);
        house.connections.insert(conn.id(), conn.clone());
        if house.stopping.load(SeqCst) {
            conn.drain(Duration::ZERO); // it came while the others were told
        }
        self.deal().spawn(async move {
            match transport.adopt(accepted) {
                Ok(stream) => Driver::new(stream, conn, handler).await,
                Err(e) => {
                    tracing::warn!(peer = %conn.peer(), "can't take the connection in: {e}");
                    conn.house().connections.remove(&conn.id());
                    conn.end("it could not be taken in");
                }
            }
        });
    }
}

impl<T: Clone, P: Protocol, H> Clone for Acceptor<T, P, H> {
    fn clone(&self) -> Self {
        Self {
            transport: self.transport.clone(),
            handles: self.handles.clone(),
            next: Arc::clone(&self.next),
            house: Arc::clone(&self.house),
            handler: Arc::clone(&self.handler),
        }
    }
}
