use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream, lookup_host};

use crate::{Address, Ends, KeepAlive, Transport};

/// TCP and Unix sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sockets {
    keep_alive: KeepAlive,
}

impl Sockets {
    /// With these times for TCP peers that are gone without a word.
    pub const fn new(keep_alive: KeepAlive) -> Self {
        Self { keep_alive }
    }
}

/// A listening socket that no loop knows yet.
#[derive(Debug)]
pub enum BoundSocket {
    /// A TCP listener.
    Tcp(std::net::TcpListener),
    /// A Unix listener and its file.
    Unix(unix::UnixListener, SocketFile),
}

/// A listening socket on its loop.
#[derive(Debug)]
pub enum SocketListener {
    /// A TCP listener.
    Tcp(TcpListener),
    /// A Unix listener and its file.
    Unix(UnixListener, SocketFile),
}

/// A connected socket that no loop knows yet.
#[derive(Debug)]
pub enum AcceptedSocket {
    /// A TCP stream.
    Tcp(std::net::TcpStream),
    /// A Unix stream.
    Unix(unix::UnixStream),
}

/// A connected socket on its loop.
#[derive(Debug)]
pub enum SocketStream {
    /// A TCP stream.
    Tcp(TcpStream),
    /// A Unix stream.
    Unix(UnixStream),
}

/// A Unix listener's file; removed when the listener ends, unless another one has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode: which file it is, whatever the path leads to later.
    identity: Option<(u64, u64)>,
}

impl SocketFile {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), identity: identity(path) }
    }

    /// A file that is not ours to remove.
    pub(crate) fn of_another(path: &Path) -> Self {
        Self { path: path.to_owned(), identity: None }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && self.identity == identity(&self.path) {
            // Someone may have removed it this very moment.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Connections that wait to be accepted; a crowd that comes at once is not turned away.
const BACKLOG: i32 = 4096;

/// What the kernel may hold of one connection before it is sent, in bytes.
const UNSENT_BYTES: u32 = 128 << 10;

impl Transport for Sockets {
    type Bound = BoundSocket;
    type Listener = SocketListener;
    type Accepted = AcceptedSocket;
    type Stream = SocketStream;

    async fn bind(&self, address: &Address) -> io::Result<(BoundSocket, Address)> {
        match address {
            Address::Tcp { host, port } => {
                let listener = bind_tcp(resolve(host, *port).await?)?;
                let taken = listener.local_addr()?.into();
                Ok((BoundSocket::Tcp(listener), taken))
            }
            Address::Unix(path) => {
                let listener = bind_unix(path)?;
                Ok((BoundSocket::Unix(listener, SocketFile::new(path)), address.clone()))
            }
        }
    }

    fn listen(&self, bound: BoundSocket) -> io::Result<SocketListener> {
        match bound {
            BoundSocket::Tcp(listener) => TcpListener::from_std(listener).map(SocketListener::Tcp),
            BoundSocket::Unix(listener, file) => {
                UnixListener::from_std(listener).map(|listener| SocketListener::Unix(listener, file))
            }
        }
    }

    async fn accept(&self, listener: &SocketListener) -> io::Result<(AcceptedSocket, Ends)> {
        match listener {
            SocketListener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                let ends = Ends { peer: Address::from(peer).to_string(), local: stream.local_addr().ok() };
                Ok((AcceptedSocket::Tcp(stream.into_std()?), ends))
            }
            SocketListener::Unix(listener, file) => {
                let (stream, _) = listener.accept().await?;
                let peer = stream.peer_cred().ok().and_then(|cred| cred.pid());
                let pid = peer.map_or(String::new(), |pid| format!(" (process {pid})"));
                let ends = Ends { peer: format!("unix://{}{pid}", file.path.display()), local: None };
                Ok((AcceptedSocket::Unix(stream.into_std()?), ends))
            }
        }
    }

    fn adopt(&self, accepted: AcceptedSocket) -> io::Result<SocketStream> {
        match accepted {
            AcceptedSocket::Tcp(stream) => {
                stream.set_nodelay(true)?;
                self.keep_alive.set(&SockRef::from(&stream));
                // What waits, waits in the outbox, where it is bounded; and a reader's progress shows as it reads, not
                // in leaps of the kernel's whole buffer. Systems without the option do without.
                let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES);
                TcpStream::from_std(stream).map(SocketStream::Tcp)
            }
            AcceptedSocket::Unix(stream) => UnixStream::from_std(stream).map(SocketStream::Unix),
        }
    }

    async fn connect(&self, address: &Address) -> io::Result<(SocketStream, Ends)> {
        let peer = address.to_string();
        match address {
            Address::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                refuse_itself(&stream)?;
                stream.set_nodelay(true)?;
                self.keep_alive.set(&SockRef::from(&stream));
                let local = stream.local_addr().ok();
                Ok((SocketStream::Tcp(stream), Ends { peer, local }))
            }
            Address::Unix(path) => {
                Ok((SocketStream::Unix(UnixStream::connect(path).await?), Ends { peer, local: None }))
            }
        }
    }
}

/// Where nobody listens at a port of the range that the system takes for those who connect, it may become both ends of the
/// connection.
fn refuse_itself(stream: &TcpStream) -> io::Result<()> {
    let is_itself = stream.local_addr()? == stream.peer_addr()?;
    let itself =
        || io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens there: it was connected to itself");
    if is_itself { Err(itself()) } else { Ok(()) }
}

async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let found: Vec<_> = lookup_host((host, port)).await?.collect();
    if found.is_empty() { Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")) } else { Ok(found) }
}

fn bind_tcp(addresses: Vec<SocketAddr>) -> io::Result<std::net::TcpListener> {
    first_that_works(addresses.into_iter().map(|address| {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A port whose last connections still linger can be taken again; one that somebody listens on can't.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    }))
}

fn first_that_works<T>(tries: impl Iterator<Item = io::Result<T>>) -> io::Result<T> {
    let mut last = io::ErrorKind::NotFound.into();
    for attempt in tries {
        match attempt {
            Ok(done) => return Ok(done),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// A socket file that nobody answers at is left over from a listener that died, and is replaced.
fn bind_unix(path: &Path) -> io::Result<unix::UnixListener> {
    let listener = match unix::UnixListener::bind(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
            std::fs::remove_file(path)?;
            unix::UnixListener::bind(path)?
        }
        bound => bound?,
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn is_stale(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let refused = |e: &io::Error| e.kind() == io::ErrorKind::ConnectionRefused;
    is_socket && unix::UnixStream::connect(path).as_ref().is_err_and(refused)
}

impl AsyncRead for SocketStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for SocketStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn both_ends_of_a_tcp_connection_send_without_delay() {
        let sockets = Sockets::default();
        let (bound, address) = sockets.bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let listener = sockets.listen(bound).unwrap();
        let (connected, accepted) = tokio::join!(sockets.connect(&address), sockets.accept(&listener));
        let adopted = sockets.adopt(accepted.unwrap().0).unwrap();
        for stream in [connected.unwrap().0, adopted] {
            assert!(matches!(stream, SocketStream::Tcp(stream) if stream.nodelay().unwrap()));
        }
    }

    #[tokio::test]
    async fn a_connection_to_itself_leads_to_nobody() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let itself = socket.local_addr().unwrap();
        let stream = socket.connect(itself).await.unwrap();
        assert_eq!(refuse_itself(&stream).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert!(refuse_itself(&other).is_ok());
    }

    #[tokio::test]
    async fn both_ends_of_a_tcp_connection_have_the_times_for_a_peer_that_is_gone() {
        let [idle, interval, unacknowledged] = [7, 2, 90].map(Duration::from_secs);
        let sockets = Sockets::new(KeepAlive { idle, interval, probes: 3, unacknowledged });
        let (bound, address) = sockets.bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let listener = sockets.listen(bound).unwrap();
        let (connected, accepted) = tokio::join!(sockets.connect(&address), sockets.accept(&listener));
        let adopted = sockets.adopt(accepted.unwrap().0).unwrap();
        for stream in [connected.unwrap().0, adopted] {
            let SocketStream::Tcp(stream) = stream else { panic!("{address} is a TCP address") };
            let socket = SockRef::from(&stream);
            assert!(socket.keepalive().unwrap());
            assert_eq!(
                (socket.tcp_keepalive_time().unwrap(), socket.tcp_keepalive_interval().unwrap()),
                (idle, interval)
            );
            assert_eq!(
                (socket.tcp_keepalive_retries().unwrap(), socket.tcp_user_timeout().unwrap()),
                (3, Some(unacknowledged))
            );
        }
    }

    #[tokio::test]
    async fn a_socket_file_that_another_listener_has_taken_over_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let address = Address::Unix(path.clone());
        let (first, _) = Sockets::default().bind(&address).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        let (second, _) = Sockets::default().bind(&address).await.unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }
}
