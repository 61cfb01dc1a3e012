//! How a connection ends: in good order, with a last word, or in spite of what is still due.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use callboard_common::{Connection, ErrorInfo, Handler, MessageType, Protocol, ProtocolError, Refusal, ResultCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::{Driver, ROUNDS};
use crate::Conn;
use crate::conn::End;
use crate::lane::Turn;
use crate::later::{deadline_after, later};
use crate::metrics::add;
use crate::reader::ReadFailure;
use crate::writer::Written;

/// A socket that takes no more bytes may still hold answers.
#[derive(Debug)]
pub(super) struct Broken {
    reason: String,
    until: Instant,
}

impl Broken {
    pub(super) fn now(why: &io::Error) -> Self {
        Self { reason: format!("writing failed: {why}"), until: deadline_after(LAST_ANSWER_TIME) }
    }
}

/// A last word is written and the peer given a moment to read it: closing a socket that holds unread bytes resets it,
/// and a reset would overtake the word.
#[derive(Debug)]
pub(super) struct LastAnswer {
    until: Instant,
    said: bool,
}

/// How a connection that is about to end does so.
#[derive(Clone, Copy, Debug)]
pub(super) enum Draining {
    /// We made it: this side says all, then that it says no more, and then waits for the peer's end.
    Ours,
    /// It was accepted, and ends when the peer is quiet for so long.
    Accepted { quiet: Duration },
}

const THIS_SIDE: &str = "this side ends it";
const LAST_ANSWER_TIME: Duration = Duration::from_secs(1);
/// So long a peer has sent nothing when a draining connection ends: longer than a request is on its way on one machine
/// or in one network.
pub(super) const QUIET_TIME: Duration = Duration::from_millis(100);
/// The same for a peer that was told: it ends the connection itself, unless it hangs.
pub(super) const QUIET_TIME_OF_TOLD: Duration = Duration::from_secs(1);
/// And for one that was told and may be executing what it was asked for: it has the whole grace.
const QUIET_TIME_OF_SERVING: Duration = Duration::from_hours(1);

impl<S, P, H> Driver<S, P, H>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    P: Protocol,
    H: Handler<Conn<P>>,
{
    /// Whether all is said and heard.
    pub(super) fn finished(&self, conn: &Conn<P>) -> Option<End> {
        match (&self.broken, self.ended) {
            (Some(broken), Some(_)) => return Some(End::ordinary(broken.reason.clone())),
            (None, Some(_)) if conn.is_idle() || !conn.shared().serves => {
                return Some(End::ordinary(if self.is_shut { THIS_SIDE } else { "the peer has closed it" }));
            }
            _ => {}
        }
        let quiet = self.quiet_at(conn)? <= Instant::now();
        (quiet && conn.is_idle()).then(|| End::ordinary(THIS_SIDE))
    }

    /// Looks whether the connection is about to end. Between two rounds of reading: a session that one of them opens is
    /// told after its answer, and nothing is refused that comes before the word.
    pub(super) fn look_for_drain(&mut self, conn: &Conn<P>) {
        if self.drain.is_some() || conn.draining().is_none() {
            return;
        }
        self.reader.drain();
        self.drain = Some(if !conn.shared().serves {
            Draining::Ours
        } else if conn.tell_leaving() {
            let serves = conn.session().is_some_and(|session| session.serving.is_some());
            Draining::Accepted { quiet: if serves { QUIET_TIME_OF_SERVING } else { QUIET_TIME_OF_TOLD } }
        } else {
            Draining::Accepted { quiet: QUIET_TIME }
        });
    }

    /// Whether what comes is thrown away. Not as long as answers are due: a peer that hears no sign of life would end it.
    pub(super) fn is_deaf(&self, conn: &Conn<P>) -> bool {
        matches!(self.drain, Some(Draining::Ours)) && (self.is_shut || conn.in_flight() == 0)
    }

    /// From when on a draining connection may end, if nothing is due on it.
    pub(super) fn quiet_at(&self, conn: &Conn<P>) -> Option<Instant> {
        let Some(Draining::Accepted { quiet }) = self.drain else { return None };
        let since = conn.draining()?.since;
        Some(self.reader.read_at().unwrap_or(since).max(since) + quiet)
    }

    /// Whether nothing is to follow what was written.
    pub(super) fn has_said_all(&self, conn: &Conn<P>, written: Written) -> bool {
        match written {
            Written::Part | Written::Cut => false,
            Written::All => matches!(self.drain, Some(Draining::Ours)) && conn.is_idle(),
            Written::Last => true,
        }
    }

    /// Reads once what nobody wants: closing a socket that holds unread bytes resets it, and a reset would overtake what
    /// was written last.
    pub(super) fn discard(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut room = [0; 4096];
        let mut discarded = ReadBuf::new(&mut room);
        match Pin::new(&mut self.stream).poll_read(cx, &mut discarded) {
            Poll::Pending => return Ok(false),
            Poll::Ready(read) => read?,
        }
        if discarded.filled().is_empty() {
            self.ended = Some(Instant::now());
        }
        Ok(true)
    }

    /// Why the connection ends now; `None` if a last word is said first.
    pub(super) fn failed(&mut self, cx: &mut Context<'_>, conn: &Conn<P>, failure: ReadFailure) -> Option<End> {
        let wrong = match failure {
            ReadFailure::Io(e) => return Some(End::ordinary(format!("reading failed: {e}"))),
            ReadFailure::Protocol(wrong) => wrong,
        };
        add(&conn.shared().metrics.protocol_errors);
        if conn.session().is_none() || !matches!(wrong, ProtocolError::TooLarge { .. }) {
            // Answers to the frames before it still leave, as far as the socket takes them.
            let _ = self.writer.write(cx, &mut self.stream, conn, &mut Turn::default());
            return Some(End::fault(wrong.to_string()));
        }
        let (kind, id) =
            conn.shared().protocol.peek(self.reader.pending()).unwrap_or((MessageType::SessionRequest, &[]));
        let bound = conn.shared().limits.max_frame_bytes;
        let error = ErrorInfo::not_executed(wrong.to_string()).with_limit("max_frame_bytes", bound);
        let refusal = Refusal { code: ResultCode::TooLarge, request: kind, optype: None, error: &error, v1: false };
        if let Err(e) = conn.answer(id, &refusal) {
            return Some(End::fault(e.to_string()));
        }
        self.last_answer = Some(LastAnswer { until: deadline_after(LAST_ANSWER_TIME), said: false });
        None
    }

    /// Writes what is queued, says that no more will come, and waits for the peer to close, up to a moment.
    pub(super) fn give_last_answer(&mut self, cx: &mut Context<'_>, conn: &Conn<P>) -> Poll<End> {
        let Some(last_answer) = &mut self.last_answer else { return Poll::Pending };
        let over = || Poll::Ready(End::fault("a frame was over the bound"));
        if !last_answer.said {
            match self.writer.write(cx, &mut self.stream, conn, &mut Turn::default()) {
                Ok(Written::All | Written::Last) => last_answer.said = true,
                Ok(Written::Part | Written::Cut) => {}
                Err(_) => return over(),
            }
        }
        let until = last_answer.until;
        if last_answer.said {
            if ready!(Pin::new(&mut self.stream).poll_shutdown(cx)).is_err() {
                return over();
            }
            let mut more = true;
            for _ in 0..ROUNDS {
                match self.discard(cx) {
                    Ok(_) if self.ended.is_some() => return over(),
                    Ok(some) => more = some,
                    Err(_) => return over(),
                }
                if !more {
                    break;
                }
            }
            if more {
                cx.waker().wake_by_ref(); // others of this loop first
            }
        }
        if self.sleep_until(cx, until) {
            return over();
        }
        conn.outbox().park_full(cx.waker());
        if conn.is_closed() { over() } else { Poll::Pending }
    }

    /// Says that nothing more will be written.
    pub(super) fn shut(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.is_shut
            && let Poll::Ready(done) = Pin::new(&mut self.stream).poll_shutdown(cx)
        {
            done?;
            self.is_shut = true;
        }
        Ok(())
    }

    /// By when the peer is taken for dead, if it owed a sign of life as the connection ended.
    pub(super) fn silent_until(&mut self) -> Option<Instant> {
        let (heartbeat, pulse) = self.pulse.as_deref()?;
        pulse.silent_until(*heartbeat, self.reader.take_came(), self.ended.unwrap_or_else(Instant::now))
    }

    /// Whether it ends now, whatever is still due.
    pub(super) fn out_of_time(&self, conn: &Conn<P>) -> Option<End> {
        let is_over = self.ends_at(conn)? <= Instant::now();
        let reason = if self.is_shut { THIS_SIDE } else { "time is up for what was still to be written or answered" };
        is_over.then(|| End::ordinary(reason))
    }

    /// When it ends, whatever is still due.
    pub(super) fn ends_at(&self, conn: &Conn<P>) -> Option<Instant> {
        let drained = conn.draining().map(|drain| drain.until);
        let half_closed = self.ended.map(|since| later(since, conn.shared().limits.half_closed));
        let broken = self.broken.as_ref().map(|broken| broken.until);
        [drained, half_closed, broken].into_iter().flatten().min()
    }
}
