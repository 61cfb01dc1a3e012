use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use callboard_net::{Address, Ends, Transport};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::pipe::{End, Found, Pipe};
use crate::stream::{SimStream, dead};

/// What lies between the hosts of a [`Sim`](crate::Sim). Clones are the same network.
///
/// Bytes arrive in order, after a delay drawn for each write; writes may be taken in part only. A cut holds all back until
/// it is healed, as TCP does that sends again.
#[derive(Clone, Debug)]
pub struct Network(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// A cut was healed, or a host has come or gone.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    random: fastrand::Rng,
    delay: (Duration, Duration),
    hosts: BTreeMap<HostId, Machine>,
    listeners: BTreeMap<SocketAddr, mpsc::UnboundedSender<(LinkId, SocketAddr)>>,
    cuts: BTreeSet<(HostId, HostId)>,
    links: BTreeMap<LinkId, Link>,
    next_link: u64,
    next_port: u16,
}

/// A machine of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HostId(pub(crate) u8);

/// A connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkId(u64);

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Caller,
    Listener,
}

/// Programs of a machine before the last kill are dead.
#[derive(Clone, Copy, Debug, Default)]
struct Machine {
    run: u64,
    /// It is switched off: nobody even refuses.
    is_off: bool,
}

#[derive(Debug)]
struct Link {
    ends: Both<LinkEnd>,
    /// By who writes.
    pipes: Both<Pipe>,
}

/// Something of either side of a connection.
#[derive(Debug)]
struct Both<T> {
    caller: T,
    listener: T,
}

impl<T> Both<T> {
    const fn of(&self, side: Side) -> &T {
        match side {
            Side::Caller => &self.caller,
            Side::Listener => &self.listener,
        }
    }

    const fn of_mut(&mut self, side: Side) -> &mut T {
        match side {
            Side::Caller => &mut self.caller,
            Side::Listener => &mut self.listener,
        }
    }

    const fn all_mut(&mut self) -> [&mut T; 2] {
        [&mut self.caller, &mut self.listener]
    }
}

#[derive(Clone, Copy, Debug)]
struct LinkEnd {
    host: HostId,
    run: u64,
    closed: bool,
}

impl Side {
    const fn other(self) -> Self {
        match self {
            Self::Caller => Self::Listener,
            Self::Listener => Self::Caller,
        }
    }
}

impl HostId {
    pub(crate) fn ip(self) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, self.0).into()
    }

    fn of(address: SocketAddr) -> Option<Self> {
        match address.ip() {
            IpAddr::V4(ip) => Some(Self(ip.octets()[3])),
            IpAddr::V6(_) => None,
        }
    }
}

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        let state = State {
            random: fastrand::Rng::with_seed(seed),
            delay: (Duration::from_micros(50), Duration::from_millis(2)),
            hosts: BTreeMap::new(),
            listeners: BTreeMap::new(),
            cuts: BTreeSet::new(),
            links: BTreeMap::new(),
            next_link: 0,
            next_port: 40_000,
        };
        Self(Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() }))
    }

    /// How long bytes are under way from now on: anything between these.
    pub fn set_delay(&self, shortest: Duration, longest: Duration) {
        self.state().delay = (shortest, longest);
    }

    /// How many connections there are, half-open ones among them.
    pub fn connections(&self) -> usize {
        self.state().links.len()
    }

    pub(crate) fn add_host(&self) -> HostId {
        let mut state = self.state();
        // Fewer hosts than a byte has values fit into one simulated network.
        let host = HostId(u8::try_from(state.hosts.len() + 1).unwrap_or(u8::MAX));
        state.hosts.insert(host, Machine::default());
        host
    }

    /// The programs of this host end, and a new one may begin; how others hear of it is drawn.
    pub(crate) fn kill(&self, host: HostId) {
        let end = if self.state().random.bool() { End::Fin } else { End::Reset };
        self.end_programs(host, end);
    }

    /// The machine is switched off: nobody hears of it.
    pub(crate) fn switch_off(&self, host: HostId) {
        self.end_programs(host, End::Silence);
        self.machine(host, |machine| machine.is_off = true);
    }

    /// The machine is there again; connections of before are reset.
    pub(crate) fn switch_on(&self, host: HostId) {
        self.machine(host, |machine| machine.is_off = false);
        self.end_links(host, End::Reset);
    }

    /// Nothing passes between the two until it is healed.
    pub(crate) fn cut(&self, one: HostId, other: HostId) {
        self.state().cuts.insert(pair(one, other));
    }

    pub(crate) fn heal(&self, one: HostId, other: HostId) {
        let wakers = {
            let mut state = self.state();
            state.cuts.remove(&pair(one, other));
            state.wakers(|_| true)
        };
        self.wake(wakers);
    }

    pub(crate) fn run_of(&self, host: HostId) -> u64 {
        self.state().run_of(host)
    }

    pub(crate) fn read(&self, link: LinkId, side: Side, at_most: usize, waker: &Waker) -> io::Result<Found> {
        let (found, writer) = {
            let mut state = self.state();
            let state = &mut *state;
            let Some(known) = state.links.get_mut(&link) else { return Err(dead()) };
            let (own, other) = (*known.ends.of(side), *known.ends.of(side.other()));
            if own.run != state.hosts.get(&own.host).map_or(0, |machine| machine.run) {
                return Err(dead());
            }
            let pipe = known.pipes.of_mut(side.other());
            pipe.reader = Some(waker.clone());
            if state.cuts.contains(&pair(own.host, other.host)) {
                return Ok(Found::Nothing);
            }
            let found = pipe.take(at_most, Instant::now())?;
            (found, pipe.writer.take())
        };
        self.wake(writer);
        Ok(found)
    }

    pub(crate) fn write(&self, link: LinkId, side: Side, bytes: &[u8], waker: &Waker) -> Poll<io::Result<usize>> {
        let (taken, reader) = {
            let mut state = self.state();
            let state = &mut *state;
            let Some(known) = state.links.get_mut(&link) else { return Poll::Ready(Err(dead())) };
            let own = *known.ends.of(side);
            if own.run != state.hosts.get(&own.host).map_or(0, |machine| machine.run) {
                return Poll::Ready(Err(dead()));
            }
            let pipe = known.pipes.of_mut(side);
            let room = pipe.room()?.min(bytes.len());
            if room == 0 && !bytes.is_empty() {
                pipe.writer = Some(waker.clone());
                return Poll::Pending;
            }
            // Now and then only a part is taken, as by a socket that is nearly full.
            let taken = if room > 1 && state.random.u8(..) < 16 { state.random.usize(1..room) } else { room };
            let delay = draw(&mut state.random, state.delay);
            pipe.send(Bytes::copy_from_slice(bytes.get(..taken).unwrap_or_default()), Instant::now(), delay);
            (taken, pipe.reader.take())
        };
        self.wake(reader);
        Poll::Ready(Ok(taken))
    }

    pub(crate) fn end_writing(&self, link: LinkId, side: Side) {
        let reader = {
            let mut state = self.state();
            let state = &mut *state;
            let Some(known) = state.links.get_mut(&link) else { return };
            let delay = draw(&mut state.random, state.delay);
            let pipe = known.pipes.of_mut(side);
            pipe.end(End::Fin, Instant::now(), delay);
            pipe.reader.take()
        };
        self.wake(reader);
    }

    /// One end lets go of the connection.
    pub(crate) fn close(&self, link: LinkId, side: Side, end: End) {
        let wakers = self.state().close(link, side, end);
        self.wake(wakers);
    }

    fn end_programs(&self, host: HostId, end: End) {
        let wakers = {
            let mut state = self.state();
            if let Some(machine) = state.hosts.get_mut(&host) {
                machine.run += 1;
            }
            state.listeners.retain(|address, _| HostId::of(*address) != Some(host));
            state.end_links(host, end)
        };
        self.wake(wakers);
    }

    fn end_links(&self, host: HostId, end: End) {
        let wakers = self.state().end_links(host, end);
        self.wake(wakers);
    }

    fn machine(&self, host: HostId, change: impl FnOnce(&mut Machine)) {
        if let Some(machine) = self.state().hosts.get_mut(&host) {
            change(machine);
        }
        self.0.changed.notify_waiters();
    }

    /// Outside of the lock: a task that is woken may come back here.
    fn wake(&self, wakers: impl IntoIterator<Item = Waker>) {
        wakers.into_iter().for_each(Waker::wake);
        self.0.changed.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn run_of(&self, host: HostId) -> u64 {
        self.hosts.get(&host).map_or(0, |machine| machine.run)
    }

    /// All who wait on links of which this holds.
    fn wakers(&mut self, concerns: impl Fn(&Link) -> bool) -> Vec<Waker> {
        let links = self.links.values_mut().filter(|link| concerns(link));
        links
            .flat_map(|link| link.pipes.all_mut())
            .flat_map(|pipe| [pipe.reader.take(), pipe.writer.take()])
            .flatten()
            .collect()
    }

    /// Ends the connections of this host's programs that are dead.
    fn end_links(&mut self, host: HostId, end: End) -> Vec<Waker> {
        let run = self.run_of(host);
        let of_host = |link: &Link, side: Side| link.ends.of(side).host == host && link.ends.of(side).run < run;
        let ended: Vec<_> = self
            .links
            .iter()
            .flat_map(|(id, link)| [Side::Caller, Side::Listener].map(|side| (*id, side, of_host(link, side))))
            .filter(|(_, _, ends)| *ends)
            .collect();
        ended.into_iter().flat_map(|(id, side, _)| self.close(id, side, end)).collect()
    }

    fn close(&mut self, link: LinkId, side: Side, end: End) -> Vec<Waker> {
        let delay = draw(&mut self.random, self.delay);
        let Some(known) = self.links.get_mut(&link) else { return Vec::new() };
        if end != End::Silence {
            known.ends.of_mut(side).closed = true;
        }
        known.pipes.of_mut(side).end(end, Instant::now(), delay);
        known.pipes.of_mut(side.other()).stop_reading(end);
        let wakers = known
            .pipes
            .all_mut()
            .into_iter()
            .flat_map(|pipe| [pipe.reader.take(), pipe.writer.take()])
            .flatten()
            .collect();
        if known.ends.caller.closed && known.ends.listener.closed {
            self.links.remove(&link);
        }
        wakers
    }

    fn connect(&mut self, from: LinkEnd, to: LinkEnd) -> LinkId {
        let (id, now) = (LinkId(self.next_link), Instant::now());
        self.next_link += 1;
        self.links.insert(
            id,
            Link {
                ends: Both { caller: from, listener: to },
                pipes: Both { caller: Pipe::new(now), listener: Pipe::new(now) },
            },
        );
        id
    }
}

fn socket(address: &Address) -> io::Result<SocketAddr> {
    address.to_socket_addr().ok_or_else(|| ErrorKind::AddrNotAvailable.into())
}

fn pair(one: HostId, other: HostId) -> (HostId, HostId) {
    (one.min(other), one.max(other))
}

fn draw(random: &mut fastrand::Rng, (shortest, longest): (Duration, Duration)) -> Duration {
    shortest + longest.saturating_sub(shortest).mul_f64(random.f64())
}

/// A host's access to its [`Network`], for as long as its programs of now live.
#[derive(Clone, Debug)]
pub struct SimTransport {
    pub(crate) network: Network,
    pub(crate) host: HostId,
    pub(crate) run: u64,
}

/// A listener of a [`SimTransport`].
#[derive(Debug)]
pub struct SimListener {
    network: Network,
    address: SocketAddr,
    incoming: tokio::sync::Mutex<mpsc::UnboundedReceiver<(LinkId, SocketAddr)>>,
}

impl SimTransport {
    fn check(&self) -> io::Result<()> {
        if self.network.run_of(self.host) == self.run { Ok(()) } else { Err(dead()) }
    }
}

impl Transport for SimTransport {
    type Bound = SimListener;
    type Listener = SimListener;
    type Accepted = SimStream;
    type Stream = SimStream;

    async fn bind(&self, address: &Address) -> io::Result<(SimListener, Address)> {
        self.check()?;
        let port = socket(address)?.port();
        let (sender, incoming) = mpsc::unbounded_channel();
        let mut state = self.network.state();
        let port = if port == 0 {
            state.next_port += 1;
            state.next_port
        } else {
            port
        };
        let address = SocketAddr::new(self.host.ip(), port);
        if state.listeners.get(&address).is_some_and(|listener| !listener.is_closed()) {
            return Err(ErrorKind::AddrInUse.into());
        }
        state.listeners.insert(address, sender);
        drop(state);
        let incoming = tokio::sync::Mutex::new(incoming);
        Ok((SimListener { network: self.network.clone(), address, incoming }, address.into()))
    }

    fn listen(&self, bound: SimListener) -> io::Result<SimListener> {
        Ok(bound)
    }

    async fn accept(&self, listener: &SimListener) -> io::Result<(SimStream, Ends)> {
        let (link, from) = listener.incoming.lock().await.recv().await.ok_or_else(dead)?;
        let stream = SimStream::new(self.network.clone(), link, Side::Listener);
        Ok((stream, Ends { peer: format!("tcp://{from}"), local: Some(listener.address) }))
    }

    fn adopt(&self, accepted: SimStream) -> io::Result<SimStream> {
        Ok(accepted)
    }

    async fn connect(&self, address: &Address) -> io::Result<(SimStream, Ends)> {
        let to = socket(address)?;
        let target = HostId::of(to).ok_or(ErrorKind::AddrNotAvailable)?;
        loop {
            self.check()?;
            let delay = {
                let mut state = self.network.state();
                let delay = state.delay;
                draw(&mut state.random, delay)
            };
            tokio::time::sleep(delay).await;
            self.check()?;
            let changed = self.network.0.changed.notified();
            {
                let mut state = self.network.state();
                let is_off = state.hosts.get(&target).is_none_or(|machine| machine.is_off);
                if !is_off && !state.cuts.contains(&pair(self.host, target)) {
                    return self.connected(&mut state, to, target);
                }
            }
            // Nobody answers, not even that nobody is there.
            changed.await;
        }
    }
}

impl SimTransport {
    fn connected(&self, state: &mut State, to: SocketAddr, target: HostId) -> io::Result<(SimStream, Ends)> {
        let refused = io::Error::from(ErrorKind::ConnectionRefused);
        let Some(listener) = state.listeners.get(&to).cloned() else { return Err(refused) };
        state.next_port = state.next_port.checked_add(1).unwrap_or(40_000);
        let local = SocketAddr::new(self.host.ip(), state.next_port);
        let from = LinkEnd { host: self.host, run: self.run, closed: false };
        let link = state.connect(from, LinkEnd { host: target, run: state.run_of(target), closed: false });
        if listener.send((link, local)).is_err() {
            state.links.remove(&link);
            return Err(refused);
        }
        let stream = SimStream::new(self.network.clone(), link, Side::Caller);
        Ok((stream, Ends { peer: format!("tcp://{to}"), local: Some(local) }))
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let incoming = self.incoming.get_mut();
        incoming.close();
        while let Ok((link, _)) = incoming.try_recv() {
            self.network.close(link, Side::Listener, End::Reset);
        }
        let mut state = self.network.state();
        // Whoever listens there by now is another one.
        if state.listeners.get(&self.address).is_some_and(mpsc::UnboundedSender::is_closed) {
            state.listeners.remove(&self.address);
        }
    }
}
