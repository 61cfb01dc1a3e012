mod ends;

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use callboard_common::{Connection, Handler, Head, Heartbeat, MessageType, Ping, Protocol};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

use self::ends::{Broken, Draining, LastAnswer};
use crate::Conn;
use crate::conn::End;
use crate::lane::{self, Account, Turn};
use crate::metrics::add;
use crate::pulse::{Beat, Pulse};
use crate::reader::{Read, ReadFailure, Reader};
use crate::writer::{Writer, Written};

/// The one task of a connection: it reads, lets the handler run, and writes, all on one thread.
pub(crate) struct Driver<S, P: Protocol, H: Handler<Conn<P>>> {
    stream: S,
    reader: Reader,
    /// Before the registration, since fields are dropped in this order: what it holds is free before the server forgets
    /// the peer.
    writer: Writer,
    registration: Registration<P, H>,
    /// Since when the peer sends no more; it still hears what it asked for.
    ended: Option<Instant>,
    /// Since when nothing can be written any more; what came before that is still read.
    broken: Option<Broken>,
    /// It was seen that the connection is about to end.
    drain: Option<Draining>,
    /// The peer knows that nothing more will be written.
    is_shut: bool,
    last_answer: Option<LastAnswer>,
    timer: Option<Pin<Box<Sleep>>>,
    /// In a session with heartbeats. Boxed: v1 peers have none, and connections are many.
    pulse: Option<Box<(Heartbeat, Pulse)>>,
    /// Whom the timer wakes.
    timer_wakes: Option<Waker>,
    /// It has let others run since a push woke it.
    gathering: bool,
    /// In a crowd its last turn was over before all was written that waited: the next one writes before it reads, so that a
    /// peer that takes all it gets has not more and more waiting for it. Whether it had asked for something in that turn.
    writes_first: Option<bool>,
    /// After all others, which are dropped in its last turn.
    account: Account,
}

/// A connection as its server knows it: entered once, and taken out once however its task ends.
pub(crate) struct Registration<P: Protocol, H: Handler<Conn<P>>> {
    pub(crate) conn: Conn<P>,
    handler: Arc<H>,
}

impl<P: Protocol, H: Handler<Conn<P>>> Registration<P, H> {
    pub(crate) fn new(conn: Conn<P>, handler: Arc<H>) -> Self {
        conn.shared().connections.insert(conn.id(), conn.clone());
        Self { conn, handler }
    }
}

/// How far a turn has brought a connection.
#[derive(Debug)]
enum Advanced {
    /// It waits for something.
    All,
    /// It has more to do.
    Part,
    Over(End),
}

impl From<Poll<End>> for Advanced {
    fn from(end: Poll<End>) -> Self {
        match end {
            Poll::Ready(end) => Self::Over(end),
            Poll::Pending => Self::All,
        }
    }
}

/// Rounds of reading before other connections of the loop get their turn.
const ROUNDS: usize = 8;
/// After so many frames they get it too: as many as the rounds bring of frames of 128 bytes. A peer that sends far
/// smaller ones would hold up the others for ten times as long.
const FRAMES: u64 = 4_096;

impl<S, P, H> Driver<S, P, H>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    P: Protocol,
    H: Handler<Conn<P>>,
{
    /// A task for a connection that was just made.
    pub(crate) fn new(stream: S, registration: Registration<P, H>) -> Self {
        Self {
            stream,
            reader: Reader::default(),
            writer: Writer::default(),
            registration,
            ended: None,
            broken: None,
            drain: None,
            is_shut: false,
            last_answer: None,
            timer: None,
            pulse: None,
            timer_wakes: None,
            gathering: false,
            writes_first: None,
            account: Account::default(),
        }
    }

    /// Goes on as far as it can in this turn.
    fn advance(&mut self, cx: &mut Context<'_>, turn: Turn) -> Advanced {
        let conn = self.registration.conn.clone();
        self.reader.take_turn(turn);
        if let Some(asked) = self.writes_first.take()
            && !conn.is_closed()
            && self.last_answer.is_none()
        {
            if asked {
                // These are answers of its own: it is charged in full.
                self.reader.turn().read(0);
            }
            if self.write(cx, &conn) == Written::Cut {
                // It is not judged by its silence in a turn that has not read.
                return self.out_of_time(&conn).map_or(Advanced::Part, Advanced::Over);
            }
        }
        let mut frames = 0;
        for _ in 0..ROUNDS {
            if conn.is_closed() {
                return Advanced::Over(End::ordinary("closed"));
            }
            if self.last_answer.is_some() {
                return self.give_last_answer(cx, &conn).into();
            }
            self.look_for_drain(&conn);
            let more = match self.read(cx, &conn) {
                Ok(more) => more,
                Err(failure) => match self.failed(cx, &conn, failure) {
                    Some(reason) => return Advanced::Over(reason),
                    None => continue,
                },
            };
            let written = self.write(cx, &conn);
            if let Some(end) = self.finished(&conn) {
                return Advanced::Over(end);
            }
            if self.reader.take_yields() {
                if let Some(end) = self.out_of_time(&conn) {
                    return Advanced::Over(end);
                }
                self.gathering = true;
                return Advanced::Part;
            }
            if written == Written::Cut {
                let turn = self.reader.turn();
                self.writes_first = turn.is_in_crowd().then(|| turn.asks());
                break;
            }
            if more {
                frames += self.reader.brought();
                if frames >= FRAMES || self.reader.turn().is_over() {
                    break;
                }
                continue;
            }
            if !self.park(cx, &conn, written) {
                continue;
            }
            // Only now: who holds a publisher for this peer from here on, or drains it, wakes the task.
            return self.overdue(cx, &conn).map_or(Advanced::All, Advanced::Over);
        }
        // A peer that always has something to say never parks: what is due comes due all the same.
        self.overdue(cx, &conn).map_or(Advanced::Part, Advanced::Over)
    }

    /// Writes what is queued.
    fn write(&mut self, cx: &mut Context<'_>, conn: &Conn<P>) -> Written {
        // Who has connected to us may have ended only its own half. Of one that we connected to no answer can come.
        let deaf = self.ended.is_some() && !conn.shared().serves;
        if deaf || self.broken.is_some() {
            return Written::Part;
        }
        let written = self.writer.write(cx, &mut self.stream, conn, self.reader.turn()).and_then(|written| {
            if self.has_said_all(conn, written) {
                self.shut(cx)?;
            }
            Ok(written)
        });
        written.unwrap_or_else(|e| {
            self.broken = Some(Broken::now(&e));
            Written::Part
        })
    }

    /// Reads once; whether there may be more at once.
    fn read(&mut self, cx: &mut Context<'_>, conn: &Conn<P>) -> Result<bool, ReadFailure> {
        if self.ended.is_some() {
            return Ok(false);
        }
        if self.is_deaf(conn) {
            return self.discard(cx).map_err(ReadFailure::Io);
        }
        let (writer, mut flushed) = (&mut self.writer, *self.reader.turn());
        let before = flushed.has_moved();
        // What goes wrong with it goes wrong again in its turn.
        let mut flush = |cx: &mut Context<'_>, stream: &mut S| drop(writer.write(cx, stream, conn, &mut flushed));
        let read = self.reader.read(cx, &mut self.stream, conn, &*self.registration.handler, &mut flush);
        self.reader.turn().moved(flushed.has_moved().saturating_sub(before));
        match read? {
            Read::Some => Ok(true),
            Read::Waiting | Read::Paused => Ok(false),
            Read::Ended => {
                self.ended = Some(Instant::now());
                if self.reader.has_part() {
                    conn.close(Cow::Borrowed("the peer has closed it in the middle of a frame"));
                }
                self.registration.handler.ended(conn);
                Ok(true)
            }
        }
    }

    /// Does what is due: lets publishers go that wait for a peer which takes nothing. `Some` ends the connection.
    fn overdue(&mut self, cx: &mut Context<'_>, conn: &Conn<P>) -> Option<End> {
        loop {
            let reads = self.ended.is_none() && !self.is_deaf(conn);
            let gives_up = if reads { self.reader.gives_up_at(conn) } else { None };
            let ends = self.ends_at(conn);
            let looks = if conn.is_idle() { self.quiet_at(conn) } else { None };
            let stalls = conn.outbox().stalls_at(conn.marks());
            let heartbeat = self.looks_at(conn);
            let next = [gives_up, ends, looks, stalls, heartbeat].into_iter().flatten().min()?;
            if !self.sleep_until(cx, next) {
                return None;
            }
            let now = Instant::now();
            drop(conn.outbox().stalled(conn.marks(), now));
            if gives_up.is_some_and(|at| at <= now) {
                add(&conn.shared().metrics.frame_timeouts);
                return Some(End::fault("a started frame was not finished in time"));
            }
            if let Some(end) = self.out_of_time(conn).or_else(|| self.finished(conn)).or_else(|| self.look(conn, now)) {
                return Some(end);
            }
        }
    }

    /// When to look whether the peer is alive. Its silence does not count while it is not listened to.
    fn looks_at(&mut self, conn: &Conn<P>) -> Option<Instant> {
        #[cfg(feature = "planted")]
        if callboard_common::Planted::NeverDead.is_planted() {
            return None;
        }
        let heartbeat = conn.heartbeat()?;
        if !self.listens() {
            return None;
        }
        // The times of a provider are others: it begins anew when it becomes one.
        let new = || Box::new((heartbeat, Pulse::new(heartbeat, Instant::now())));
        let (times, pulse) = &mut **self.pulse.get_or_insert_with(new);
        let listens = conn.may_read();
        if *times != heartbeat || pulse.listens() != listens {
            *times = heartbeat;
            pulse.set_listens(listens, heartbeat, conn.shared().serves, Instant::now());
        }
        // The first word after a silence counts from when it came: the next look may be far off.
        if pulse.waits(heartbeat) && self.reader.take_came() {
            pulse.hear(heartbeat, Instant::now());
        }
        Some(pulse.looks_at())
    }

    /// Whether it counts what the peer says, and does not.
    fn listens(&self) -> bool {
        self.ended.is_none() && !self.is_shut
    }

    fn look(&mut self, conn: &Conn<P>, now: Instant) -> Option<End> {
        let is_listened_to = self.listens();
        let due = |pulse: &Pulse| is_listened_to && pulse.looks_at() <= now;
        let (heartbeat, pulse) = self.pulse.as_deref_mut().filter(|(_, pulse)| due(pulse))?;
        let (_, said) = conn.outbox().load();
        match pulse.look(*heartbeat, conn.shared().serves, self.reader.take_came(), said, now) {
            Beat::Nothing => None,
            Beat::Ask => {
                // Where there is no room, the peer has more to answer than this.
                let _ = conn.request(Head::new(MessageType::Ping, b""), &Ping);
                None
            }
            Beat::Dead => {
                add(&conn.shared().metrics.peers_dead);
                let reason = format!("nothing was heard from it for {:?}: it is taken for dead", heartbeat.dead);
                Some(End::silence(reason, now))
            }
        }
    }

    /// Whether that time has come; if not, the task is woken by then.
    fn sleep_until(&mut self, cx: &mut Context<'_>, at: Instant) -> bool {
        // Most parks change nothing about it: no look at the clock then.
        let is_set = self.timer.as_ref().is_some_and(|timer| !timer.is_elapsed() && timer.deadline() <= at);
        if is_set && self.timer_wakes.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            return false;
        }
        if at <= Instant::now() {
            return true;
        }
        self.timer_wakes = Some(cx.waker().clone());
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
    fn park(&mut self, cx: &mut Context<'_>, conn: &Conn<P>, written: Written) -> bool {
        let could_read = self.ended.is_none() && conn.may_read() && !self.reader.is_paused();
        if written == Written::Part {
            conn.outbox().park_full(cx.waker());
        } else if !conn.outbox().park(cx.waker(), written == Written::Last) {
            return false;
        }
        // Whoever changes one of these wakes a sleeping task, and it sleeps only from here on.
        let can_read = self.ended.is_none() && conn.may_read();
        let is_told = self.drain.is_none() && conn.draining().is_some();
        !(conn.is_closed() || is_told || self.finished(conn).is_some() || (can_read && !could_read))
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
        let pushed = this.registration.conn.outbox().unpark();
        // What else is ready to run may push as well: its frames leave in the same write.
        let gathers = this.reader.brought_many() || this.registration.conn.gathers();
        if pushed && gathers && !std::mem::replace(&mut this.gathering, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if this.registration.conn.is_closed() {
            this.account.ends();
        }
        let Some(turn) = lane::enter(&mut this.account, cx.waker()) else { return Poll::Pending };
        this.gathering = false;
        let advanced = this.advance(cx, turn);
        let Advanced::Over(end) = advanced else {
            // Others of this loop first, if there is more to do.
            let again = matches!(advanced, Advanced::Part).then(|| cx.waker());
            lane::leave(&mut this.account, *this.reader.turn(), again);
            return Poll::Pending;
        };
        this.account.ends_with(*this.reader.turn());
        let silent_until = end.silent_until.or_else(|| this.silent_until());
        this.registration.conn.finish(End { silent_until, ..end });
        this.reader.forget(&this.registration.conn);
        Poll::Ready(())
    }
}

impl<P: Protocol, H: Handler<Conn<P>>> Drop for Registration<P, H> {
    fn drop(&mut self) {
        // Also where the task was dropped or its handler panicked; the first reason stands.
        self.conn.end("its task has ended");
        let shared = self.conn.shared();
        if shared.is_time_up() {
            self.conn.cut();
        }
        self.handler.closed(&self.conn);
        if !self.conn.is_cut() {
            self.conn.linger();
        }
        shared.connections.remove(&self.conn.id());
        add(&shared.metrics.closed);
        shared.left.notify_waiters();
        match self.conn.known_end() {
            Some(End { reason, fault: true, .. }) => {
                tracing::warn!(peer = %self.conn.peer(), "connection closed: {reason}");
            }
            end => {
                let reason = end.map_or("", |end| &end.reason);
                tracing::debug!(peer = %self.conn.peer(), "connection ended: {reason}");
            }
        }
    }
}

#[cfg(test)]
mod tests;
