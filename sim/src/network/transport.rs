use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use callboard_net::{Address, Ends, Transport};
use tokio::sync::mpsc;

use super::Network;
use super::link::{LinkEnd, LinkId, Side};
use super::state::{HostId, State, pair};
use crate::pipe::End;
use crate::stream::{SimStream, dead};

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

    fn socket(address: &Address) -> io::Result<SocketAddr> {
        address.to_socket_addr().ok_or_else(|| ErrorKind::AddrNotAvailable.into())
    }
}

impl Transport for SimTransport {
    type Bound = SimListener;
    type Listener = SimListener;
    type Accepted = SimStream;
    type Stream = SimStream;

    async fn bind(&self, address: &Address) -> io::Result<(SimListener, Address)> {
        self.check()?;
        let port = Self::socket(address)?.port();
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
        state.listened.insert(address, None);
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
        let to = Self::socket(address)?;
        let target = HostId::of(to).ok_or(ErrorKind::AddrNotAvailable)?;
        loop {
            self.check()?;
            let delay = self.network.state().delay();
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
            state.stop_listening(|address| *address == self.address);
        }
    }
}
