mod transport;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::pipe::{End, Found, Pipe};
use crate::stream::dead;

pub use self::transport::SimTransport;

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
    /// Whatever is sent is dropped on the way, and nobody is told.
    is_lost: bool,
}

#[derive(Clone, Copy, Debug)]
struct LinkEnd {
    host: HostId,
    run: u64,
    closed: bool,
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

    /// The connections between the two are reset; both sides hear of it as soon as something passes.
    pub(crate) fn reset(&self, one: HostId, other: HostId) {
        self.change_links(one, other, |link, now| {
            for pipe in link.pipes.all_mut() {
                pipe.end(End::Reset, now, Duration::ZERO);
                pipe.stop_reading(End::Reset);
            }
        });
    }

    /// The connections between the two carry nothing any more, and neither side is told, as where a router has forgotten
    /// them. New ones can be made.
    pub(crate) fn lose(&self, one: HostId, other: HostId) {
        self.change_links(one, other, |link, _| link.is_lost = true);
    }

    fn change_links(&self, one: HostId, other: HostId, change: impl Fn(&mut Link, Instant)) {
        let wakers = {
            let (mut state, now) = (self.state(), Instant::now());
            let between = |link: &Link| pair(link.ends.caller.host, link.ends.listener.host) == pair(one, other);
            state.links.values_mut().filter(|link| between(link)).for_each(|link| change(link, now));
            state.wakers(between)
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
            if known.is_lost || state.cuts.contains(&pair(own.host, other.host)) {
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
        // Of a connection that is lost nobody hears the other side's end.
        known.pipes.of_mut(side.other()).stop_reading(if known.is_lost { End::Silence } else { end });
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
                is_lost: false,
            },
        );
        id
    }
}

fn pair(one: HostId, other: HostId) -> (HostId, HostId) {
    (one.min(other), one.max(other))
}

fn draw(random: &mut fastrand::Rng, (shortest, longest): (Duration, Duration)) -> Duration {
    shortest + longest.saturating_sub(shortest).mul_f64(random.f64())
}
