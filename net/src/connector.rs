use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use callboard_common::{Handler, LengthValue};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::connect::start;
use crate::{Address, Conn, ConnectError, Ends, Limits, Transport, connect};

/// How a program reaches others: over sockets, unless another [`Transport`] is given.
///
/// ```
/// use callboard_net::{Connector, Memory};
/// let sockets = Connector::default();
/// let within_a_test = Connector::over(Memory::new(4096));
/// # let _ = (sockets, within_a_test);
/// ```
#[derive(Clone, Default)]
pub struct Connector(Option<Arc<dyn Dial>>);

impl Connector {
    /// Over any transport.
    pub fn over<T: Transport>(transport: T) -> Self {
        Self(Some(Arc::new(Over(transport))))
    }

    /// As [`connect`](fn@crate::connect).
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
        &self,
        address: &Address,
        limits: &Limits,
        handler: Arc<H>,
    ) -> Result<Conn, ConnectError> {
        let Some(dial) = &self.0 else { return connect(address, limits, handler).await };
        limits.check()?;
        let failed = |source| ConnectError::Io { address: address.clone(), source };
        let (stream, ends) = dial.dial(address).await.map_err(failed)?;
        Ok(start(stream, ends, LengthValue::new(limits.max_frame_bytes), limits, handler))
    }

    /// Whether somebody listens at the address: connects, and closes at once.
    ///
    /// # Errors
    /// Why it can't be reached, as the system says.
    ///
    /// # Cancel safety
    /// Nothing is left behind.
    pub async fn reach(&self, address: &Address) -> io::Result<()> {
        match &self.0 {
            Some(dial) => dial.dial(address).await.map(drop),
            None => crate::Sockets::default().connect(address).await.map(drop),
        }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Connector(over a transport)" } else { "Connector(sockets)" })
    }
}

/// A stream of any transport.
trait Bytes: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Bytes for S {}

type Dialed<'a> = Pin<Box<dyn Future<Output = io::Result<(Box<dyn Bytes>, Ends)>> + Send + 'a>>;

/// The part of a [`Transport`] that a client needs, whatever its types are.
trait Dial: Send + Sync {
    fn dial<'a>(&'a self, address: &'a Address) -> Dialed<'a>;
}

struct Over<T>(T);

impl<T: Transport> Dial for Over<T> {
    fn dial<'a>(&'a self, address: &'a Address) -> Dialed<'a> {
        Box::pin(async {
            let (stream, ends) = self.0.connect(address).await?;
            Ok((Box::new(stream) as Box<dyn Bytes>, ends))
        })
    }
}
