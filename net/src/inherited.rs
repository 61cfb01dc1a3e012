use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, PoisonError};

use socket2::SockRef;

use crate::sockets::SocketFile;
use crate::{AcceptedSocket, Address, BoundSocket, Ends, SocketListener, SocketStream, Sockets, Transport};

/// [`Sockets`], some of which listen already: whoever started this program has made them and keeps them over its
/// restarts (socket activation). Who connects meanwhile waits, and is not refused.
///
/// ```
/// use callboard_net::{Inherited, Transport};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let inherited = Inherited::default();
/// let address = inherited.tcp(std::net::TcpListener::bind("127.0.0.1:0")?)?;
/// let (_bound, taken) = inherited.bind(&address).await?;
/// assert_eq!(taken, address);
/// # Ok::<(), std::io::Error>(()) })?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Inherited {
    sockets: Sockets,
    given: Arc<Mutex<Vec<(Address, BoundSocket)>>>,
}

impl Inherited {
    /// None yet; all others are made as `sockets` makes them.
    pub fn new(sockets: Sockets) -> Self {
        Self { sockets, given: Arc::default() }
    }

    /// Takes a TCP socket that listens; returns the address at which it is to be bound.
    ///
    /// # Errors
    /// It does not listen (`InvalidInput`), or as the system says.
    pub fn tcp(&self, listener: TcpListener) -> io::Result<Address> {
        listens(&listener)?;
        listener.set_nonblocking(true)?;
        let address = Address::from(listener.local_addr()?);
        Ok(self.add(address, BoundSocket::Tcp(listener)))
    }

    /// The same for a Unix socket. Its file is left in place at the end: others made it.
    ///
    /// # Errors
    /// It does not listen or has no path (`InvalidInput`), or as the system says.
    pub fn unix(&self, listener: UnixListener) -> io::Result<Address> {
        listens(&listener)?;
        listener.set_nonblocking(true)?;
        let local = listener.local_addr()?;
        let no_path = || io::Error::new(io::ErrorKind::InvalidInput, "the Unix socket has no path");
        let path = local.as_pathname().ok_or_else(no_path)?;
        Ok(self.add(Address::Unix(path.to_owned()), BoundSocket::Unix(listener, SocketFile::of_another(path))))
    }

    fn add(&self, address: Address, socket: BoundSocket) -> Address {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).push((address.clone(), socket));
        address
    }

    fn take(&self, address: &Address) -> Option<BoundSocket> {
        let mut sockets = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let at = sockets.iter().position(|(of, _)| of == address)?;
        Some(sockets.remove(at).1)
    }
}

/// Nobody could ever connect to one that is only bound, or that is a connection itself.
fn listens<'a>(socket: impl Into<SockRef<'a>>) -> io::Result<()> {
    if socket.into().is_listener()? {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        "the socket does not listen; hand over one that does, and not one for each connection (systemd: Accept=no)",
    ))
}

impl Transport for Inherited {
    type Bound = BoundSocket;
    type Listener = SocketListener;
    type Accepted = AcceptedSocket;
    type Stream = SocketStream;

    async fn bind(&self, address: &Address) -> io::Result<(BoundSocket, Address)> {
        match self.take(address) {
            Some(socket) => Ok((socket, address.clone())),
            None => self.sockets.bind(address).await,
        }
    }

    fn listen(&self, bound: BoundSocket) -> io::Result<SocketListener> {
        self.sockets.listen(bound)
    }

    async fn accept(&self, listener: &SocketListener) -> io::Result<(AcceptedSocket, Ends)> {
        self.sockets.accept(listener).await
    }

    fn adopt(&self, accepted: AcceptedSocket) -> io::Result<SocketStream> {
        self.sockets.adopt(accepted)
    }

    async fn connect(&self, address: &Address) -> io::Result<(SocketStream, Ends)> {
        self.sockets.connect(address).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_inherited_is_bound_once_and_its_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let inherited = Inherited::default();
        let unix = inherited.unix(UnixListener::bind(&path).unwrap()).unwrap();
        let tcp = inherited.tcp(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
        for address in [&unix, &tcp] {
            let (bound, taken) = inherited.bind(address).await.unwrap();
            assert_eq!(&taken, address);
            let again = inherited.bind(address).await.unwrap_err();
            assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
            drop(bound);
        }
        assert!(path.exists());
        let (_, other) = inherited.bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        assert_ne!(other, tcp, "others are bound as ever");
    }
}
