use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use callboard_common::{Connection, ErrorInfo, Handler, MessageType, Protocol, ProtocolError, Refusal, ResultCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::Conn;
use crate::metrics::add;
use crate::reader::{Read, ReadFailure, Reader};
use crate::writer::Writer;

/// The one task of a connection: it reads, lets the handler run, and writes, all on one thread.
pub(crate) struct Driver<S, P: Protocol, H: Handler<Conn<P>>> {
    stream: S,
    guest: Guest<P, H>,
    reader: Reader,
    writer: Writer,
    /// The peer sends no more; it still hears what it asked for.
    ended: bool,
    farewell: Option<Farewell>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// The connection as the house knows it: entered once, and let out once however its task ends.
struct Guest<P: Protocol, H: Handler<Conn<P>>> {
    conn: Conn<P>,
    handler: Arc<H>,
}

/// A last word is written and the peer given a moment to read it: closing a socket that holds unread bytes resets it,
/// and a reset would overtake the word.
#[derive(Debug)]
struct Farewell {
    until: Instant,
    said: bool,
}

/// Rounds of reading before other connections of the loop get their turn.
const ROUNDS: usize = 8;
const FAREWELL_TIME: Duration = Duration::from_secs(1);

impl<S, P, H> Driver<S, P, H>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    P: Protocol,
    H: Handler<Conn<P>>,
{
    /// A task for a connection that was just made. The house knows the connection from now until the task ends.
    pub(crate) fn new(stream: S, conn: Conn<P>, handler: Arc<H>) -> Self {
        conn.house().connections.insert(conn.id(), conn.clone());
        Self {
            stream,
            guest: Guest { conn, handler },
            reader: Reader::default(),
            writer: Writer::default(),
            ended: false,
            farewell: None,
            timer: None,
        }
    }

    /// Goes on as far as it can; `Some` ends the connection.
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<Cow<'static, str>> {
        let conn = self.guest.conn.clone();
        for _ in 0..ROUNDS {
            if conn.is_closed() {
                return Poll::Ready(Cow::Borrowed("closed"));
            }
            if self.farewell.is_some() {
                return self.say_farewell(cx, &conn);
            }
            let more = match self.read(cx, &conn) {
                Ok(more) => more,
                Err(failure) => match self.failed(&conn, failure) {
                    Some(reason) => return Poll::Ready(reason),
                    None => continue,
                },
            };
            let written = match self.writer.write(cx, &mut self.stream, &conn) {
                Ok(written) => written,
                Err(e) => return Poll::Ready(Cow::Owned(format!("writing failed: {e}"))),
            };
            let finishing = self.ended || conn.is_draining();
            if finishing && conn.is_idle() {
                return Poll::Ready(Cow::Borrowed(if self.ended {
                    "the peer has closed it"
                } else {
                    "the server stops"
                }));
            }
            if more {
                continue;
            }
            if self.overdue(cx, &conn) {
                add(&conn.house().metrics.frame_timeouts);
                return Poll::Ready(Cow::Borrowed("a started frame was not finished in time"));
            }
            if self.park(cx, &conn, written) {
                return Poll::Pending;
            }
        }
        // Others of this loop first.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once; whether there may be more at once.
    fn read(&mut self, cx: &mut Context<'_>, conn: &Conn<P>) -> Result<bool, ReadFailure> {
        if self.ended {
            return Ok(false);
        }
        match self.reader.read(cx, &mut self.stream, conn, &*self.guest.handler)? {
            Read::Some => Ok(true),
            Read::Waiting | Read::Paused => Ok(false),
            Read::Ended => {
                self.ended = true;
                if self.reader.has_part() {
                    conn.close(Cow::Borrowed("the peer has closed it in the middle of a frame"));
                }
                Ok(true)
            }
        }
    }

    /// Why the connection ends now; `None` if a last word is said first.
    fn failed(&mut self, conn: &Conn<P>, failure: ReadFailure) -> Option<Cow<'static, str>> {
        let wrong = match failure {
            ReadFailure::Io(e) => return Some(Cow::Owned(format!("reading failed: {e}"))),
            ReadFailure::Protocol(wrong) => wrong,
        };
        add(&conn.house().metrics.protocol_errors);
        tracing::warn!(peer = %conn.peer(), "closing: {wrong}");
        if conn.session().is_none() || !matches!(wrong, ProtocolError::TooLarge { .. }) {
            return Some(Cow::Owned(wrong.to_string()));
        }
        let (kind, id) =
            conn.house().protocol.peek(self.reader.pending()).unwrap_or((MessageType::SessionRequest, &[]));
        let error = ErrorInfo::not_executed(wrong.to_string());
        let refusal = Refusal { code: ResultCode::TooLarge, request: kind, optype: None, error: &error, v1: false };
        if let Err(e) = conn.answer(id, &refusal) {
            return Some(Cow::Owned(e.to_string()));
        }
        self.farewell = Some(Farewell { until: Instant::now() + FAREWELL_TIME, said: false });
        None
    }

    /// Writes what is queued, says that no more will come, and waits for the peer to close, up to a moment.
    fn say_farewell(&mut self, cx: &mut Context<'_>, conn: &Conn<P>) -> Poll<Cow<'static, str>> {
        let Some(farewell) = &mut self.farewell else { return Poll::Pending };
        let over = Poll::Ready(Cow::Borrowed("a frame was over the bound"));
        if !farewell.said {
            match self.writer.write(cx, &mut self.stream, conn) {
                Ok(true) => farewell.said = true,
                Ok(false) => {}
                Err(_) => return over,
            }
        }
        let until = farewell.until;
        if farewell.said {
            if ready!(Pin::new(&mut self.stream).poll_shutdown(cx)).is_err() {
                return over;
            }
            let mut waste = [0; 4096];
            for _ in 0..ROUNDS {
                let mut waste = ReadBuf::new(&mut waste);
                match Pin::new(&mut self.stream).poll_read(cx, &mut waste) {
                    Poll::Ready(Ok(())) if !waste.filled().is_empty() => {}
                    Poll::Ready(_) => return over,
                    Poll::Pending => break,
                }
            }
        }
        if self.sleep_until(cx, until) {
            return over;
        }
        conn.outbox().park_full(cx.waker());
        if conn.is_closed() { over } else { Poll::Pending }
    }

    /// Lets publishers go that wait for a peer which takes nothing; whether the started frame's time is over.
    fn overdue(&mut self, cx: &mut Context<'_>, conn: &Conn<P>) -> bool {
        let stall = conn.house().limits.stall;
        loop {
            let gives_up = if self.ended { None } else { self.reader.gives_up_at(conn) };
            let next = gives_up.into_iter().chain(conn.outbox().stalls_at(stall)).min();
            let Some(next) = next else { return false };
            if !self.sleep_until(cx, next) {
                return false;
            }
            let now = Instant::now();
            drop(conn.outbox().stalled(stall, now));
            if gives_up.is_some_and(|at| at <= now) {
                return true;
            }
        }
    }

    /// Whether that time has come; if not, the task is woken by then.
    fn sleep_until(&mut self, cx: &mut Context<'_>, at: Instant) -> bool {
        if at <= Instant::now() {
            return true;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        // One that is set too early only makes us look again; so it is not set anew for each byte that comes.
        if timer.deadline() > at || timer.is_elapsed() {
            timer.as_mut().reset(at);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if at <= Instant::now() {
                return true;
            }
            timer.as_mut().reset(at);
        }
        false
    }

    /// Goes to sleep, unless something changed since the last look.
    fn park(&mut self, cx: &mut Context<'_>, conn: &Conn<P>, written: bool) -> bool {
        let could_read = !self.ended && conn.may_read() && !self.paused();
        if written {
            if !conn.outbox().park(cx.waker()) {
                return false;
            }
        } else {
            conn.outbox().park_full(cx.waker());
        }
        // Whoever changes one of these wakes a sleeping task, and it sleeps only from here on.
        let can_read = !self.ended && conn.may_read();
        let finished = (self.ended || conn.is_draining()) && conn.is_idle();
        !(conn.is_closed() || finished || (can_read && !could_read))
    }

    fn paused(&self) -> bool {
        self.reader.is_paused()
    }
}

impl<S, P, H> Future for Driver<S, P, H>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    P: Protocol,
    H: Handler<Conn<P>>,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.guest.conn.outbox().unpark();
        let reason = ready!(this.advance(cx));
        this.guest.conn.close(reason);
        this.reader.forget(&this.guest.conn);
        Poll::Ready(())
    }
}

impl<P: Protocol, H: Handler<Conn<P>>> Drop for Guest<P, H> {
    fn drop(&mut self) {
        // Also where the task was dropped or its handler panicked; the first reason stands.
        self.conn.close(Cow::Borrowed("its task has ended"));
        self.handler.closed(&self.conn);
        let house = self.conn.house();
        house.connections.remove(&self.conn.id());
        add(&house.metrics.closed);
        house.left.notify_waiters();
        tracing::debug!(peer = %self.conn.peer(), reason = self.conn.close_reason().unwrap_or_default(), "connection closed");
    }
}
