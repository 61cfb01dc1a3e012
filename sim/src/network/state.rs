use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::task::Waker;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::link::{Both, Link, LinkEnd, LinkId, Side};
use crate::pipe::{End, Pipe};
use crate::stream::dead;

#[derive(Debug)]
pub(super) struct State {
    pub(super) random: fastrand::Rng,
    pub(super) delay: (Duration, Duration),
    pub(super) hosts: BTreeMap<HostId, Machine>,
    pub(super) listeners: BTreeMap<SocketAddr, mpsc::UnboundedSender<(LinkId, SocketAddr)>>,
    pub(super) cuts: BTreeSet<(HostId, HostId)>,
    pub(super) links: BTreeMap<LinkId, Link>,
    pub(super) next_link: u64,
    pub(super) next_port: u16,
    /// All that was ever listened on, and until when.
    pub(super) listened: BTreeMap<SocketAddr, Option<Instant>>,
}

/// Whether anybody listens at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listening {
    /// Nobody ever did.
    Never,
    /// Somebody does.
    Now,
    /// Nobody does, since then.
    Until(Instant),
}

/// A machine of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HostId(pub(crate) u8);

/// Programs of a machine before the last kill are dead.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Machine {
    pub(super) run: u64,
    /// It is switched off: nobody even refuses.
    pub(super) is_off: bool,
}

impl HostId {
    pub(crate) fn ip(self) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, self.0).into()
    }

    pub(super) fn of(address: SocketAddr) -> Option<Self> {
        match address.ip() {
            IpAddr::V4(ip) => Some(Self(ip.octets()[3])),
            IpAddr::V6(_) => None,
        }
    }
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            delay: (Duration::from_micros(50), Duration::from_millis(2)),
            hosts: BTreeMap::new(),
            listeners: BTreeMap::new(),
            cuts: BTreeSet::new(),
            links: BTreeMap::new(),
            next_link: 0,
            next_port: 40_000,
            listened: BTreeMap::new(),
        }
    }

    /// How long the next packet takes.
    pub(super) fn delay(&mut self) -> Duration {
        draw(&mut self.random, self.delay)
    }

    /// The connection, unless it is over or this end of it is one of a program that is dead.
    pub(super) fn link(&mut self, link: LinkId, side: Side) -> io::Result<&mut Link> {
        let own = self.links.get(&link).map(|link| *link.ends.of(side)).ok_or_else(dead)?;
        if own.run != self.run_of(own.host) {
            return Err(dead());
        }
        self.links.get_mut(&link).ok_or_else(dead)
    }

    /// Whether what this side of it sends gets through.
    pub(super) fn gets_through(&self, link: &Link, side: Side) -> bool {
        !*link.is_lost.of(side) && !self.cuts.contains(&pair(link.ends.caller.host, link.ends.listener.host))
    }

    /// Nobody listens on these any more.
    pub(super) fn stop_listening(&mut self, ends: impl Fn(&SocketAddr) -> bool) {
        let now = Instant::now();
        for (address, _) in self.listeners.extract_if(.., |address, _| ends(address)) {
            self.listened.insert(address, Some(now));
        }
    }

    pub(super) fn run_of(&self, host: HostId) -> u64 {
        self.hosts.get(&host).map_or(0, |machine| machine.run)
    }

    /// All who wait on links of which this holds.
    pub(super) fn wakers(&mut self, concerns: impl Fn(&Link) -> bool) -> Vec<Waker> {
        let links = self.links.values_mut().filter(|link| concerns(link));
        links
            .flat_map(|link| link.pipes.all_mut())
            .flat_map(|pipe| [pipe.reader.take(), pipe.writer.take()])
            .flatten()
            .collect()
    }

    /// Ends the connections of this host's programs that are dead.
    pub(super) fn end_links(&mut self, host: HostId, end: End) -> Vec<Waker> {
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

    pub(super) fn close(&mut self, link: LinkId, side: Side, end: End) -> Vec<Waker> {
        let delay = self.delay();
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

    pub(super) fn connect(&mut self, from: LinkEnd, to: LinkEnd) -> LinkId {
        let (id, now) = (LinkId(self.next_link), Instant::now());
        self.next_link += 1;
        self.links.insert(
            id,
            Link {
                ends: Both { caller: from, listener: to },
                pipes: Both { caller: Pipe::new(now), listener: Pipe::new(now) },
                is_lost: Both { caller: false, listener: false },
            },
        );
        id
    }
}

pub(super) fn pair(one: HostId, other: HostId) -> (HostId, HostId) {
    (one.min(other), one.max(other))
}

pub(super) fn draw(random: &mut fastrand::Rng, (shortest, longest): (Duration, Duration)) -> Duration {
    shortest + longest.saturating_sub(shortest).mul_f64(random.f64())
}
