use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use callboard_common::Protocol;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use crate::Conn;
use crate::pieces::Pieces;

/// How far a write came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// The socket takes no more.
    Part,
    /// Nothing waits.
    All,
    /// Nor will anything follow.
    Last,
}

/// Takes all that is queued and writes it, as many pieces at a time as one call takes.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    writing: Pieces,
}

/// Pieces that one vectored write is given.
const SLICES: usize = 64;

impl Writer {
    /// Writes until nothing waits or the socket takes no more.
    pub(crate) fn write<S, P>(&mut self, cx: &mut Context<'_>, stream: &mut S, conn: &Conn<P>) -> io::Result<Written>
    where
        S: AsyncWrite + Unpin,
        P: Protocol,
    {
        loop {
            if self.writing.is_empty() {
                let is_last = conn.outbox().take(&mut self.writing);
                if self.writing.is_empty() {
                    return Ok(if is_last { Written::Last } else { Written::All });
                }
            }
            match self.write_once(cx, stream) {
                Poll::Pending => return Ok(Written::Part),
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(bytes)) => self.wrote(bytes, conn),
                Poll::Ready(Err(e)) => return Err(e),
            }
        }
    }

    fn write_once<S: AsyncWrite + Unpin>(&self, cx: &mut Context<'_>, stream: &mut S) -> Poll<io::Result<usize>> {
        let stream = Pin::new(stream);
        if let Some(piece) = self.writing.only() {
            return stream.poll_write(cx, &piece.bytes);
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let pieces =
            slices.iter_mut().zip(self.writing.iter()).map(|(slice, piece)| *slice = IoSlice::new(&piece.bytes));
        let count = pieces.count();
        stream.poll_write_vectored(cx, slices.get(..count).unwrap_or_default())
    }

    fn wrote<P: Protocol>(&mut self, bytes: usize, conn: &Conn<P>) {
        let mut left = bytes;
        let mut counted = 0;
        while let Some(piece) = self.writing.first_mut().filter(|_| left > 0) {
            let before = piece.bytes.len();
            counted += piece.advance(left);
            left -= before - piece.bytes.len();
            if piece.bytes.is_empty() {
                self.writing.remove_first();
            }
        }
        let shared = conn.shared();
        shared.metrics.bytes_out.fetch_add(bytes as u64, Relaxed);
        let freed = conn.outbox().wrote(bytes, counted, conn.marks(), Instant::now());
        conn.release(freed);
    }
}
