use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::Address;

/// Where byte streams come from: [`Sockets`](crate::Sockets), or [`Memory`](crate::Memory) for tests without a socket.
///
/// A connection is accepted on one loop and lives on another, so what crosses between them is not yet registered with
/// any loop.
pub trait Transport: Clone + Send + Sync + 'static {
    /// A listening endpoint that no loop knows yet.
    type Bound: Send;
    /// A listening endpoint on its loop.
    type Listener: Send + Sync;
    /// A stream on its way from the accepting loop to its own.
    type Accepted: Send;
    /// A stream on its loop.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Takes the address; returns the one that was really taken, with the port that the system chose.
    ///
    /// # Errors
    /// As the system says: in use, not permitted, no such name.
    fn bind(&self, address: &Address) -> impl Future<Output = io::Result<(Self::Bound, Address)>> + Send;

    /// Begins to listen, on the current loop.
    ///
    /// # Errors
    /// As the system says.
    fn listen(&self, bound: Self::Bound) -> io::Result<Self::Listener>;

    /// Waits for the next stream.
    ///
    /// # Cancel safety
    /// No stream is lost.
    ///
    /// # Errors
    /// As the system says; the listener goes on.
    fn accept(&self, listener: &Self::Listener) -> impl Future<Output = io::Result<(Self::Accepted, Ends)>> + Send;

    /// Takes an accepted stream in on the current loop.
    ///
    /// # Errors
    /// As the system says.
    fn adopt(&self, accepted: Self::Accepted) -> io::Result<Self::Stream>;

    /// Reaches an address, on the current loop.
    ///
    /// # Errors
    /// As the system says; of several addresses of a name, the last one's.
    fn connect(&self, address: &Address) -> impl Future<Output = io::Result<(Self::Stream, Ends)>> + Send;
}

/// The two ends of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// The peer, as logs name it, for example `tcp://127.0.0.1:41522`.
    pub peer: String,
    /// Our own end, where it is a TCP one.
    pub local: Option<SocketAddr>,
}
