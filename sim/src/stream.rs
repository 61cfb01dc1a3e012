use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::network::{LinkId, Network, Side};
use crate::pipe::{End, Found};

/// One end of a simulated connection.
#[derive(Debug)]
pub struct SimStream {
    network: Network,
    link: LinkId,
    side: Side,
    timer: Option<Pin<Box<Sleep>>>,
}

impl SimStream {
    pub(crate) const fn new(network: Network, link: LinkId, side: Side) -> Self {
        Self { network, link, side, timer: None }
    }

    /// Has this task woken when the next bytes arrive.
    fn sleep_until(&mut self, at: Instant, cx: &mut Context<'_>) {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        timer.as_mut().reset(at);
        if timer.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}

impl AsyncRead for SimStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.network.read(self.link, self.side, out.remaining(), cx.waker())? {
            Found::Bytes(bytes) => {
                out.put_slice(&bytes);
                Poll::Ready(Ok(()))
            }
            Found::Ended => Poll::Ready(Ok(())),
            Found::Nothing => Poll::Pending,
            Found::Later(at) => {
                self.sleep_until(at, cx);
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.network.write(self.link, self.side, bytes, cx.waker())
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.network.end_writing(self.link, self.side);
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        self.network.close(self.link, self.side, End::Fin);
    }
}

/// The host of this end is not what it was when the connection was made.
pub(crate) fn dead() -> io::Error {
    io::Error::new(ErrorKind::BrokenPipe, "this program was killed")
}
