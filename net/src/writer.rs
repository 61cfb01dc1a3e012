use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use callboard_common::Protocol;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use crate::Conn;
use crate::lane::Turn;
use crate::metrics::add;
use crate::pieces::Pieces;

/// How far a write came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// The socket takes no more.
    Part,
    /// The turn is over: the rest is written in the next one.
    Cut,
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

/// Pieces that one vectored write is given: messages of 1 KiB are a piece each.
const SLICES: usize = 256;
/// The same where no more wait.
const FEW_SLICES: usize = 32;
/// It is given no more than this: the turn may be over after it.
const AT_ONCE_BYTES: usize = 256 << 10;
/// The same where light ones may wait for its end.
const AT_ONCE_BYTES_IN_SHORT_ROUND: usize = 128 << 10;
/// The same in a turn [in a crowd](Turn::is_in_crowd): the system copies what it takes, into memory that may be new to it.
const AT_ONCE_BYTES_IN_CROWD: usize = 32 << 10;
/// The same once that turn is over, so that what was read before it does not keep the peer from its answers.
const AT_ONCE_BYTES_OF_LATE: usize = 16 << 10;

impl Writer {
    /// Writes until nothing waits, the socket takes no more, or the turn is over: a peer that reads as fast as others
    /// queue for it would keep the loop for itself.
    pub(crate) fn write<S, P>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
        conn: &Conn<P>,
        turn: &mut Turn,
    ) -> io::Result<Written>
    where
        S: AsyncWrite + Unpin,
        P: Protocol,
    {
        let mut has_written = false;
        loop {
            if self.writing.is_empty() {
                let is_last = conn.outbox().take(&mut self.writing);
                if self.writing.is_empty() {
                    return Ok(if is_last { Written::Last } else { Written::All });
                }
            }
            if has_written && turn.is_over() {
                add(&conn.shared().metrics.turns_cut);
                return Ok(Written::Cut);
            }
            has_written = true;
            let at_once = match turn.is_in_crowd() {
                true if turn.is_late() => AT_ONCE_BYTES_OF_LATE,
                true => AT_ONCE_BYTES_IN_CROWD,
                false if turn.is_in_full_round() => AT_ONCE_BYTES,
                false => AT_ONCE_BYTES_IN_SHORT_ROUND,
            };
            match self.write_once(cx, stream, at_once) {
                Poll::Pending => return Ok(Written::Part),
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(bytes)) => {
                    turn.moved(bytes);
                    self.wrote(bytes, conn);
                }
                Poll::Ready(Err(e)) => return Err(e),
            }
        }
    }

    fn write_once<S: AsyncWrite + Unpin>(
        &self,
        cx: &mut Context<'_>,
        stream: &mut S,
        at_once: usize,
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(stream);
        if let Some(piece) = self.writing.only() {
            return stream.poll_write(cx, at_most(&piece.bytes, at_once));
        }
        // To clear a list of many takes as long as to fill it with some.
        if self.writing.len() <= FEW_SLICES {
            self.write_slices::<_, FEW_SLICES>(cx, stream, at_once)
        } else {
            self.write_slices::<_, SLICES>(cx, stream, at_once)
        }
    }

    fn write_slices<S: AsyncWrite + Unpin, const N: usize>(
        &self,
        cx: &mut Context<'_>,
        stream: Pin<&mut S>,
        at_once: usize,
    ) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); N];
        let (mut count, mut bytes) = (0, 0);
        for (slice, piece) in slices.iter_mut().zip(self.writing.iter()) {
            if bytes == at_once {
                break;
            }
            let part = at_most(&piece.bytes, at_once - bytes);
            *slice = IoSlice::new(part);
            bytes += part.len();
            count += 1;
        }
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

fn at_most(bytes: &[u8], most: usize) -> &[u8] {
    bytes.get(..most).unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Waker;
    use std::time::Duration;

    use callboard_common::{Connection as _, LengthValue};

    use super::*;
    use crate::shared_state::SharedState;
    use crate::{Ends, Limits};

    /// A socket that always has room for so many bytes, and knows how many it was given at once at most.
    struct Takes {
        room: usize,
        largest: usize,
    }

    impl Takes {
        fn all() -> Self {
            Self { room: usize::MAX, largest: 0 }
        }

        fn take(&mut self, bytes: usize) -> Poll<io::Result<usize>> {
            self.largest = self.largest.max(bytes);
            Poll::Ready(Ok(bytes.min(self.room)))
        }
    }

    impl AsyncWrite for Takes {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.take(buf.len())
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.take(bufs.iter().map(|buf| buf.len()).sum())
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn once_its_turn_is_over_it_writes_no_more_than_once() {
        let limits = Limits::default();
        let conn: Conn = Conn::new(
            Arc::new(SharedState::new(LengthValue::new(limits.max_frame_bytes), limits, true)),
            Ends::default(),
        );
        let (mut writer, mut cx) = (Writer::default(), Context::from_waker(Waker::noop()));
        let mut stream = Takes { room: 1_000, largest: 0 };
        let message = conn.share(vec![b'x'; 10_000].into());
        conn.push(&message, None).unwrap();
        let mut over = Turn::new(std::time::Instant::now(), Duration::ZERO);
        assert_eq!(writer.write(&mut cx, &mut stream, &conn, &mut over).unwrap(), Written::Cut);
        assert_eq!(conn.sent_bytes(), 1_000);
        assert_eq!(writer.write(&mut cx, &mut stream, &conn, &mut Turn::default()).unwrap(), Written::All);
        assert_eq!(conn.sent_bytes(), 10_000);
        // However much the socket takes, and in however many pieces.
        let long = Duration::from_mins(1);
        let ended = std::time::Instant::now().checked_sub(long).unwrap();
        let late = Turn::new(ended, Duration::ZERO);
        let turns = [
            (late, AT_ONCE_BYTES, true),
            (late.in_short_round(), AT_ONCE_BYTES_IN_SHORT_ROUND, true),
            (late.in_crowd(), AT_ONCE_BYTES_OF_LATE, true),
            (Turn::new(ended, 2 * long).in_crowd(), AT_ONCE_BYTES_IN_CROWD, false),
        ];
        for (mut turn, at_once, is_over) in turns {
            for (bytes, pieces) in [(3 * AT_ONCE_BYTES, 1), (20_000, 20), (4_000, 100)] {
                let mut stream = Takes::all();
                let message = conn.share(vec![b'x'; bytes].into());
                (0..pieces).for_each(|_| conn.push(&message, None).unwrap());
                let written = writer.write(&mut cx, &mut stream, &conn, &mut turn).unwrap();
                assert_eq!((stream.largest, written == Written::Cut), (at_once, is_over));
                writer.write(&mut cx, &mut Takes::all(), &conn, &mut Turn::default()).unwrap();
            }
        }
    }
}
