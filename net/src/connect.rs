use std::io;
use std::sync::Arc;

use callboard_common::{Handler, LengthValue, Protocol};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::driver::{Driver, Registration};
use crate::shared_state::SharedState;
use crate::task_group::spawn;
use crate::{Address, Conn, Ends, Limits, LimitsError, Sockets, Transport};

/// Why a connection was not made; nothing was sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The peer could not be reached.
    #[error("can't connect to {address}")]
    Io {
        /// The peer.
        address: Address,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The bounds contradict each other.
    #[error(transparent)]
    Limits(#[from] LimitsError),
}

/// Connects, and hands every message that comes to the handler, in a task on the current runtime: no thread lies
/// between a caller on that runtime and its connection. The connection lives until it is ended, by either side, also
/// when the returned handle is dropped.
///
/// # Errors
/// [`ConnectError`].
///
/// # Cancel safety
/// A connection that is not wanted any more is closed.
///
/// # Panics
/// Outside of a tokio runtime.
pub async fn connect<H: Handler<Conn>>(
    address: &Address,
    limits: &Limits,
    handler: Arc<H>,
) -> Result<Conn, ConnectError> {
    let sockets = Sockets::new(limits.keep_alive);
    connect_with(sockets, LengthValue::new(limits.max_frame_bytes), address, limits, handler).await
}

/// The same over any [`Transport`] and [`Protocol`].
///
/// # Errors
/// [`ConnectError`].
///
/// # Cancel safety
/// A connection that is not wanted any more is closed.
///
/// # Panics
/// Outside of a tokio runtime.
pub async fn connect_with<T, P, H>(
    transport: T,
    protocol: P,
    address: &Address,
    limits: &Limits,
    handler: Arc<H>,
) -> Result<Conn<P>, ConnectError>
where
    T: Transport,
    P: Protocol,
    H: Handler<Conn<P>>,
{
    limits.check()?;
    let failed = |source| ConnectError::Io { address: address.clone(), source };
    let (stream, ends) = transport.connect(address).await.map_err(failed)?;
    Ok(start(stream, ends, protocol, limits, handler))
}

impl Conn {
    /// A connection that was never made: it has ended from the beginning. For one who has to have a connection before
    /// the first is made.
    pub fn unmade(address: &Address, limits: &Limits, reason: &'static str) -> Self {
        let shared = SharedState::new(LengthValue::new(limits.max_frame_bytes), limits.clone(), false);
        let conn = Self::new(Arc::new(shared), Ends { peer: address.to_string(), local: None });
        conn.end(reason);
        conn
    }
}

/// Drives a connection that was made, in a task on the current runtime.
pub(crate) fn start<S, P, H>(stream: S, ends: Ends, protocol: P, limits: &Limits, handler: Arc<H>) -> Conn<P>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    P: Protocol,
    H: Handler<Conn<P>>,
{
    let conn = Conn::new(Arc::new(SharedState::new(protocol, limits.clone(), false)), ends);
    spawn(Driver::new(stream, Registration::new(conn.clone(), handler)));
    conn
}
