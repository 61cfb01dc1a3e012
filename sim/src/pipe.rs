use std::collections::VecDeque;
use std::io;
use std::task::Waker;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::time::Instant;

/// One direction of a connection: what is under way, when it arrives, and how it ends. Pure state.
#[derive(Debug)]
pub(crate) struct Pipe {
    packets: VecDeque<Packet>,
    bytes: usize,
    /// Nothing arrives before what was sent earlier.
    last_at: Instant,
    end: Option<(Instant, End)>,
    /// The reader is gone: what is written goes nowhere, and the writer learns of it.
    unread: Option<End>,
    pub(crate) reader: Option<Waker>,
    pub(crate) writer: Option<Waker>,
}

#[derive(Debug)]
struct Packet {
    at: Instant,
    bytes: Bytes,
}

/// How one side of a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// In good order.
    Fin,
    /// With a reset: what was under way is lost.
    Reset,
    /// Its machine is gone: the other side hears nothing.
    Silence,
}

/// What a reader finds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Bytes(Bytes),
    /// Something arrives then.
    Later(Instant),
    /// Nothing is under way.
    Nothing,
    Ended,
}

/// What a kernel keeps for one direction.
const CAPACITY: usize = 64 << 10;

impl Pipe {
    pub(crate) fn new(now: Instant) -> Self {
        Self { packets: VecDeque::new(), bytes: 0, last_at: now, end: None, unread: None, reader: None, writer: None }
    }

    /// How much a write may add now; an error where the other side is gone and the writer `hears` of it.
    pub(crate) fn room(&self, hears: bool) -> io::Result<usize> {
        match self.unread {
            Some(End::Fin | End::Reset) if hears => Err(io::ErrorKind::ConnectionReset.into()),
            _ => Ok(CAPACITY.saturating_sub(self.bytes)),
        }
    }

    /// Sends bytes that take so long. What follows a reset, of which the writer has not heard yet, goes nowhere.
    pub(crate) fn send(&mut self, bytes: Bytes, now: Instant, delay: Duration) {
        if self.end.is_some() {
            return;
        }
        let at = (now + delay).max(self.last_at);
        self.last_at = at;
        self.bytes += bytes.len();
        self.packets.push_back(Packet { at, bytes });
    }

    /// The writer ends; only the first end counts.
    pub(crate) fn end(&mut self, end: End, now: Instant, delay: Duration) {
        if self.end.is_some() || end == End::Silence {
            return;
        }
        if end == End::Reset {
            self.packets.clear();
        }
        self.end = Some(((now + delay).max(self.last_at), end));
    }

    /// The reader ends.
    pub(crate) fn stop_reading(&mut self, end: End) {
        if matches!(self.unread, None | Some(End::Silence)) {
            self.unread = Some(end);
        }
        if end != End::Silence {
            self.packets.clear();
            self.bytes = 0;
        }
    }

    /// Takes up to so many bytes that have arrived.
    pub(crate) fn take(&mut self, at_most: usize, now: Instant) -> io::Result<Found> {
        let Some(first) = self.packets.front_mut() else {
            return match self.end {
                None => Ok(Found::Nothing),
                Some((at, _)) if at > now => Ok(Found::Later(at)),
                Some((_, End::Reset)) => Err(io::ErrorKind::ConnectionReset.into()),
                Some(_) => Ok(Found::Ended),
            };
        };
        if first.at > now {
            return Ok(Found::Later(first.at));
        }
        let bytes = first.bytes.split_to(at_most.min(first.bytes.len()));
        if !first.bytes.has_remaining() {
            self.packets.pop_front();
        }
        self.bytes -= bytes.len();
        Ok(Found::Bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_written_after_a_reset_arrives() {
        let now = Instant::now();
        let mut pipe = Pipe::new(now);
        pipe.send(Bytes::from_static(b"lost"), now, Duration::ZERO);
        pipe.end(End::Reset, now, Duration::ZERO);
        pipe.stop_reading(End::Reset);
        assert!(pipe.room(false).is_ok_and(|room| room > 0), "the writer has not heard of it");
        pipe.send(Bytes::from_static(b"after"), now, Duration::ZERO);
        assert_eq!(pipe.take(9, now).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
