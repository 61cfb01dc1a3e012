mod link;
mod state;
mod transport;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::link::{Both, Link};
use self::state::{Machine, State, pair};
use crate::pipe::{End, Found};

pub(crate) use self::link::{LinkId, Side};
pub(crate) use self::state::HostId;
pub use self::state::Listening;
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

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Shared { state: Mutex::new(State::new(seed)), changed: Notify::new() }))
    }

    /// How long bytes are under way from now on: anything between these.
    pub fn set_delay(&self, shortest: Duration, longest: Duration) {
        self.state().delay = (shortest, longest);
    }

    /// How many connections there are, half-open ones among them.
    pub fn connections(&self) -> usize {
        self.state().links.len()
    }

    /// Whether anybody listens at this address, on whatever host.
    pub fn listening(&self, address: SocketAddr) -> Listening {
        match self.state().listened.get(&address) {
            None => Listening::Never,
            Some(None) => Listening::Now,
            Some(Some(since)) => Listening::Until(*since),
        }
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
        wake(wakers);
        self.0.changed.notify_waiters();
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
        self.change_links(one, other, |link, _| link.is_lost = Both { caller: true, listener: true });
    }

    /// The same of what this host sends to the other; what the other sends still comes.
    pub(crate) fn lose_to(&self, from: HostId, to: HostId) {
        self.change_links(from, to, |link, _| {
            let side = if link.ends.caller.host == from { Side::Caller } else { Side::Listener };
            *link.is_lost.of_mut(side) = true;
        });
    }

    /// All connections that were lost are found out, as TCP's keep-alive does it in the end: both sides hear of a reset.
    pub fn keep_alive(&self) {
        let wakers = {
            let (mut state, now) = (self.state(), Instant::now());
            for link in state.links.values_mut().filter(|link| link.is_lost.caller || link.is_lost.listener) {
                link.is_lost = Both { caller: false, listener: false };
                for pipe in link.pipes.all_mut() {
                    pipe.end(End::Reset, now, Duration::ZERO);
                    pipe.stop_reading(End::Reset);
                }
            }
            state.wakers(|_| true)
        };
        wake(wakers);
    }

    fn change_links(&self, one: HostId, other: HostId, change: impl Fn(&mut Link, Instant)) {
        let wakers = {
            let (mut state, now) = (self.state(), Instant::now());
            let between = |link: &Link| pair(link.ends.caller.host, link.ends.listener.host) == pair(one, other);
            state.links.values_mut().filter(|link| between(link)).for_each(|link| change(link, now));
            state.wakers(between)
        };
        wake(wakers);
    }

    pub(crate) fn run_of(&self, host: HostId) -> u64 {
        self.state().run_of(host)
    }

    pub(crate) fn read(&self, link: LinkId, side: Side, at_most: usize, waker: &Waker) -> io::Result<Found> {
        let (found, writer) = {
            let mut state = self.state();
            state.link(link, side)?.pipes.of_mut(side.other()).reader = Some(waker.clone());
            if state.links.get(&link).is_some_and(|known| !state.gets_through(known, side.other())) {
                return Ok(Found::Nothing);
            }
            let pipe = state.link(link, side)?.pipes.of_mut(side.other());
            let found = pipe.take(at_most, Instant::now())?;
            (found, pipe.writer.take())
        };
        wake(writer);
        Ok(found)
    }

    pub(crate) fn write(&self, link: LinkId, side: Side, bytes: &[u8], waker: &Waker) -> Poll<io::Result<usize>> {
        let (taken, reader) = {
            let mut state = self.state();
            // Where nothing comes from the other side, nobody hears that it is gone.
            let hears = state.links.get(&link).is_some_and(|known| state.gets_through(known, side.other()));
            let room = state.link(link, side)?.pipes.of(side).room(hears)?.min(bytes.len());
            if room == 0 && !bytes.is_empty() {
                state.link(link, side)?.pipes.of_mut(side).writer = Some(waker.clone());
                return Poll::Pending;
            }
            // Now and then only a part is taken, as by a socket that is nearly full.
            let taken = if room > 1 && state.random.u8(..) < 16 { state.random.usize(1..room) } else { room };
            let delay = state.delay();
            let pipe = state.link(link, side)?.pipes.of_mut(side);
            pipe.send(Bytes::copy_from_slice(bytes.get(..taken).unwrap_or_default()), Instant::now(), delay);
            (taken, pipe.reader.take())
        };
        wake(reader);
        Poll::Ready(Ok(taken))
    }

    pub(crate) fn end_writing(&self, link: LinkId, side: Side) {
        let reader = {
            let mut state = self.state();
            let delay = state.delay();
            let Ok(known) = state.link(link, side) else { return };
            let pipe = known.pipes.of_mut(side);
            pipe.end(End::Fin, Instant::now(), delay);
            pipe.reader.take()
        };
        wake(reader);
    }

    /// A program lets go of its end of a connection. Of one that is dead nobody hears it.
    pub(crate) fn close(&self, link: LinkId, side: Side, end: End) {
        let wakers = {
            let mut state = self.state();
            if state.link(link, side).is_err() {
                return;
            }
            state.close(link, side, end)
        };
        wake(wakers);
    }

    fn end_programs(&self, host: HostId, end: End) {
        let wakers = {
            let mut state = self.state();
            if let Some(machine) = state.hosts.get_mut(&host) {
                machine.run += 1;
            }
            state.stop_listening(|address| HostId::of(*address) == Some(host));
            state.end_links(host, end)
        };
        wake(wakers);
    }

    fn end_links(&self, host: HostId, end: End) {
        let wakers = self.state().end_links(host, end);
        wake(wakers);
    }

    fn machine(&self, host: HostId, change: impl FnOnce(&mut Machine)) {
        if let Some(machine) = self.state().hosts.get_mut(&host) {
            change(machine);
        }
        self.0.changed.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Outside of the lock: a task that is woken may come back here.
fn wake(wakers: impl IntoIterator<Item = Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}
