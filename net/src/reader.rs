mod buffers;
mod lateness;
mod room;

use std::borrow::Cow;
use std::cell::Cell;
use std::io;
use std::iter;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use bytes::{BufMut as _, BytesMut};
use callboard_common::{
    Connection, Event, Feature, Handler, Message, MessageType, Protocol, ProtocolError, refuse_draining,
};
use tokio::io::AsyncRead;
use tokio::time::Instant;
use tokio_util::io::poll_read_buf;

use self::lateness::Started;
use crate::Conn;
use crate::event_loop::handled;
use crate::lane::{self, Turn};
use crate::metrics::add;

/// Reads what is there, takes whole frames off it and hands each to the handler, as long as the connection may be read.
///
/// Bytes are read into a buffer that all connections of a thread share, so an idle connection has none. Only what is
/// not yet a whole frame is kept by the connection, in a buffer of at most twice the bytes that came, whatever length
/// was announced; while it is moved to a larger one there are both.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// Bytes that were read and not handled: part of a frame, or frames that wait until reading goes on.
    pending: BytesMut,
    /// Where the part of a large frame is moved to, since it is to have more room.
    larger: BytesMut,
    /// For a moment they lie in the shared buffer.
    in_shared: bool,
    /// Since when reading waits for the rest of a frame.
    started: Option<Started>,
    paused: bool,
    /// Frames that the last read brought.
    brought: u64,
    /// Frames are left, and who got an answer is to run before them.
    yields: bool,
    /// Requests are refused.
    drains: bool,
    /// When the peer last sent something, while the connection drains.
    read_at: Option<Instant>,
    /// Something came since somebody asked.
    came: bool,
    /// Since when the started frame's time stands still.
    paused_at: Option<Instant>,
    /// Once it is over the rest of what was read waits for the next one.
    turn: Turn,
    /// How much memory of the part is counted.
    booked: usize,
}

/// How a round of reading ended.
#[derive(Debug)]
pub(crate) enum Read {
    /// There may be more at once.
    Some,
    /// The socket has nothing; it will wake the task.
    Waiting,
    /// The connection may not be read now.
    Paused,
    /// The peer sends no more.
    Ended,
}

/// Why reading can't go on.
#[derive(Debug)]
pub(crate) enum ReadFailure {
    Io(io::Error),
    Protocol(ProtocolError),
}

/// After so many calls of one read, if more than as many bytes are left of it, what was queued meanwhile is written:
/// the peer works on the first part of a batch while we work on the next. On a client's connection those who were woken
/// by so many answers run first, so that their next calls leave with it.
const CHUNK_CALLS: usize = 8;
/// A part of a frame up to this is copied to where the rest is read, so that frames behind that come with the same
/// read.
const SHORT_BYTES: usize = 4 << 10;

impl Reader {
    /// Reads and handles once.
    pub(crate) fn read<S, P, H>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
        conn: &Conn<P>,
        handler: &H,
        flush: &mut dyn FnMut(&mut Context<'_>, &mut S),
    ) -> Result<Read, ReadFailure>
    where
        S: AsyncRead + Unpin,
        P: Protocol,
        H: Handler<Conn<P>>,
    {
        if !conn.may_read() {
            self.pause();
            return Ok(Read::Paused);
        }
        self.resume();
        let read = self.read_once(cx, stream, conn, handler, flush);
        let holds = if self.pending.is_empty() { 0 } else { self.pending.capacity() + self.larger.capacity() };
        self.book(conn, holds);
        read
    }

    fn read_once<S, P, H>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
        conn: &Conn<P>,
        handler: &H,
        flush: &mut dyn FnMut(&mut Context<'_>, &mut S),
    ) -> Result<Read, ReadFailure>
    where
        S: AsyncRead + Unpin,
        P: Protocol,
        H: Handler<Conn<P>>,
    {
        let before = self.pending.len();
        if before > 0 && self.is_whole(conn) {
            self.handle_pending(conn, handler, before, &mut || flush(cx, stream))?;
            return Ok(Read::Some);
        }
        if before > SHORT_BYTES {
            if self.pending.len() == self.pending.capacity() {
                self.grow(conn);
                return Ok(Read::Some);
            }
            let most = self.most(conn);
            let read = poll_read_buf(Pin::new(&mut *stream), cx, &mut (&mut self.pending).limit(most));
            return self.came(read, before, conn, handler, &mut || flush(cx, stream));
        }
        // Taken out, since a handler may come back here.
        let mut shared = buffers::take();
        shared.extend_from_slice(&self.pending);
        let read = poll_read_buf(Pin::new(&mut *stream), cx, &mut (&mut shared).limit(self.turn.may_read()));
        let mut flush = || flush(cx, stream);
        let came = if shared.len() > before {
            self.came_shared(read, before, &mut shared, conn, handler, &mut flush)
        } else {
            self.came(read, before, conn, handler, &mut flush)
        };
        buffers::put_back(shared);
        came
    }

    /// All that is read from now on is read in this turn.
    pub(crate) fn take_turn(&mut self, turn: Turn) {
        self.turn = turn;
        self.turn.moved(self.pending.len());
    }

    pub(crate) fn turn(&mut self) -> &mut Turn {
        &mut self.turn
    }

    /// The same for what lies in the shared buffer, behind a copy of what was pending.
    fn came_shared<P: Protocol, H: Handler<Conn<P>>>(
        &mut self,
        read: Poll<io::Result<usize>>,
        before: usize,
        shared: &mut BytesMut,
        conn: &Conn<P>,
        handler: &H,
        flush: &mut dyn FnMut(),
    ) -> Result<Read, ReadFailure> {
        std::mem::swap(&mut self.pending, shared);
        self.in_shared = true;
        let came = self.came(read, before, conn, handler, flush);
        self.in_shared = false;
        std::mem::swap(&mut self.pending, shared);
        let missing = if shared.len() > SHORT_BYTES { Self::missing(conn, shared) } else { 0 };
        self.pending = BytesMut::with_capacity(shared.len() + missing);
        self.pending.extend_from_slice(shared);
        came
    }

    /// What a read brought is counted and handled.
    fn came<P: Protocol, H: Handler<Conn<P>>>(
        &mut self,
        read: Poll<io::Result<usize>>,
        before: usize,
        conn: &Conn<P>,
        handler: &H,
        flush: &mut dyn FnMut(),
    ) -> Result<Read, ReadFailure> {
        match read {
            Poll::Pending => Ok(Read::Waiting),
            Poll::Ready(Err(e)) => Err(ReadFailure::Io(e)),
            Poll::Ready(Ok(0)) => Ok(Read::Ended),
            Poll::Ready(Ok(bytes)) => {
                conn.shared().metrics.bytes_in.fetch_add(bytes as u64, Relaxed);
                self.came = true;
                self.turn.read(bytes);
                conn.has_read();
                self.read_at = self.drains.then(Instant::now);
                self.handle_pending(conn, handler, before, flush)?;
                Ok(Read::Some)
            }
        }
    }

    /// Takes whole frames off what is pending; `before` is what was pending when the round began.
    fn handle_pending<P: Protocol, H: Handler<Conn<P>>>(
        &mut self,
        conn: &Conn<P>,
        handler: &H,
        before: usize,
        flush: &mut dyn FnMut(),
    ) -> Result<(), ReadFailure> {
        let (shared, drains) = (conn.shared(), self.drains);
        let (mut frames, mut failure) = (0, None);
        // One frame at least, but where its turn is put off.
        let (mut look_at, mut is_over, mut asked) = (u64::from(!self.turn.is_put_off()), false, 0);
        let kind = Cell::new(None);
        loop {
            let mut calls = 0;
            let (whole, woken) = (self.pending.len(), conn.woken());
            let is_chunk = |calls: usize, left: usize| {
                let calls = if shared.serves { calls } else { conn.woken().wrapping_sub(woken) };
                calls >= CHUNK_CALLS && left > whole - left
            };
            let (pending, turn) = (&mut self.pending, &mut self.turn);
            // Without `fuse` and `inspect` around it: of millions of small frames a second each layer takes its share.
            let mut ended = false;
            let mut messages = iter::from_fn(|| {
                while !ended && !is_chunk(calls, pending.len()) && conn.may_read() {
                    // What one read brought is mostly all there is.
                    if (frames >= look_at || lane::has_pushed_many()) && !pending.is_empty() {
                        if turn.is_over() {
                            is_over = true;
                            break;
                        }
                        look_at = frames + turn.stride();
                    }
                    match shared.protocol.decode(pending) {
                        Ok(Some(message)) => {
                            frames += 1;
                            // All but answers to calls: of those it is known whether anybody has asked for them.
                            asked += u64::from(message.kind() != MessageType::RpcResponse);
                            calls += usize::from(message.kind() == MessageType::RpcRequest);
                            if !drains || !is_refused(conn, &message) {
                                kind.set(Some(message.kind()));
                                return Some(message);
                            }
                            refuse_draining(conn, &message);
                        }
                        Err(ProtocolError::TooLarge { .. }) if waits_for_header(conn, pending) => break,
                        Ok(None) => break,
                        Err(e) => {
                            failure = Some(ReadFailure::Protocol(e));
                            break;
                        }
                    }
                }
                ended = true;
                None
            });
            handle_contained(conn, handler, &mut messages, &kind);
            if failure.is_some() || is_over || !is_chunk(calls, self.pending.len()) || !self.is_whole(conn) {
                break;
            }
            // What these frames were answered with leaves while the rest is handled.
            flush();
            if !shared.serves {
                self.yields = true;
                break;
            }
        }
        if is_over {
            add(&shared.metrics.turns_cut);
        }
        handled(frames);
        self.turn.brought(frames, asked);
        self.brought = frames;
        shared.metrics.frames_in.fetch_add(frames, Relaxed);
        self.keep_rest(conn, frames > 0, before);
        failure.map_or(Ok(()), Err)
    }

    /// Sees to what stays, and moves it into a buffer of its own size if it lies behind frames that are done.
    fn keep_rest<P: Protocol>(&mut self, conn: &Conn<P>, behind_frames: bool, before: usize) {
        let rest = self.pending.len();
        if before == 0 && rest == 0 {
            return;
        }
        // What is handled in a moment stays where it is.
        if behind_frames && !self.in_shared && !self.yields {
            self.pending = BytesMut::from(&self.pending[..]);
        }
        // A whole frame that waits for its turn is not late: we are. One that is not read on since its peer lets too much
        // wait is, and may have to go.
        let is_ours = rest == 0 || (conn.may_read() && self.is_whole(conn));
        if is_ours {
            self.started = None;
            // It counts among what all hold, and whoever holds most of that may have to go.
            conn.set_part_since((rest > 0).then(Instant::now));
            return;
        }
        let now = Instant::now();
        match &mut self.started {
            Some(started) if !behind_frames => started.last_byte = now,
            started => *started = Some(Started { first_byte: now, last_byte: now }),
        }
        conn.set_part_since(Some(now));
    }

    /// How many frames the last read brought.
    pub(crate) fn brought(&self) -> u64 {
        self.brought
    }

    /// Whether they were more than one.
    pub(crate) fn brought_many(&self) -> bool {
        self.brought > 1
    }

    /// Whether the task is to let others run before it goes on.
    pub(crate) fn take_yields(&mut self) -> bool {
        std::mem::take(&mut self.yields)
    }

    /// Whether the last round was refused.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Whether part of a frame waits for its rest.
    pub(crate) fn has_part(&self) -> bool {
        !self.pending.is_empty()
    }

    /// What is pending, for a last look at a frame that was refused.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.pending
    }

    /// The connection ends: what is pending no longer counts.
    pub(crate) fn forget<P: Protocol>(&mut self, conn: &Conn<P>) {
        self.book(conn, 0);
        (self.pending, self.larger) = Default::default();
    }

    fn book<P: Protocol>(&mut self, conn: &Conn<P>, holds: usize) {
        if holds != self.booked {
            conn.hold_part(holds);
            self.booked = holds;
        }
    }

    /// Whether something came since this was last asked.
    pub(crate) fn take_came(&mut self) -> bool {
        std::mem::take(&mut self.came)
    }

    /// From now on requests are refused.
    pub(crate) fn drain(&mut self) {
        self.drains = true;
    }

    /// When the peer last sent something, if that was while the connection drained.
    pub(crate) fn read_at(&self) -> Option<Instant> {
        self.read_at
    }

    fn is_whole<P: Protocol>(&self, conn: &Conn<P>) -> bool {
        let frame_bytes = conn.shared().protocol.frame_bytes(&self.pending);
        frame_bytes > 0 && frame_bytes <= self.pending.len()
    }
}

/// Whether a message is refused while the connection drains. What can't be answered is taken: its sender would not hear
/// that it is lost, and a call that nobody waits for need not be waited for.
fn is_refused<P: Protocol>(conn: &Conn<P>, message: &Message) -> bool {
    let unanswered = message.is_one_way() && conn.session().is_some_and(|known| known.features.has(Feature::OneWay));
    // Who hears no sign of life would not wait for its answers.
    let is_word = matches!(message.kind(), MessageType::Cancel | MessageType::Ping);
    message.kind().is_request() && !is_word && !unanswered
}

/// A session peer is told that its frame is too large, under the frame's own kind and id: they have to come first.
fn waits_for_header<P: Protocol>(conn: &Conn<P>, pending: &[u8]) -> bool {
    conn.session().is_some() && conn.shared().protocol.peek(pending).is_none()
}

/// A handler that panics ends its connection, and nothing else.
fn handle_contained<P: Protocol, H: Handler<Conn<P>>>(
    conn: &Conn<P>,
    handler: &H,
    messages: &mut dyn Iterator<Item = Message>,
    kind: &Cell<Option<MessageType>>,
) {
    if catch_unwind(AssertUnwindSafe(|| handler.handle_all(conn, messages))).is_err() {
        conn.count(Event::Panicked);
        let kind = kind.get().map_or_else(String::new, |kind| format!(" of {kind}"));
        conn.close(Cow::Owned(format!("the handler{kind} panicked")));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::task::Waker;
    use std::time::Duration;

    use callboard_common::{Dispatcher, LengthValue, Recorder};

    use super::buffers::READ_BYTES;
    use super::*;
    use crate::shared_state::SharedState;
    use crate::{Ends, Limits};

    fn conn() -> Conn {
        let limits = Limits::default();
        let shared = SharedState::new(LengthValue::new(limits.max_frame_bytes), limits, true);
        Conn::new(Arc::new(shared), Ends::default())
    }

    /// Reads once from a socket that has these bytes, and before that makes room for them.
    fn read(reader: &mut Reader, conn: &Conn, bytes: &[u8]) {
        let (mut cx, handler, mut rest) = (Context::from_waker(Waker::noop()), Dispatcher::new(), bytes);
        while rest.len() == bytes.len() {
            reader.read(&mut cx, &mut rest, conn, &handler, &mut |_, _| ()).unwrap();
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn part_of_a_frame_takes_at_most_twice_what_came_of_it() {
        let (conn, frame) = (conn(), Recorder::new(0).message(2, b"1", &vec![b' '; 1 << 20]).frame().clone());
        for part in [1, SHORT_BYTES, SHORT_BYTES + 1, 10_000, 40_000, READ_BYTES] {
            let mut reader = Reader::default();
            read(&mut reader, &conn, &frame[..part]);
            for byte in frame[part..].iter().take(20_000) {
                let (came, room) = (reader.pending.len(), reader.pending.capacity());
                assert_eq!(conn.shared().snapshot().partial_bytes, room as u64);
                assert!(room <= frame.len().min(2 * came), "{came} of which {part} came first: {room}");
                read(&mut reader, &conn, &[*byte]);
            }
            reader.forget(&conn);
        }
    }

    #[test]
    fn a_large_part_is_put_aside_with_room_for_its_rest() {
        let (conn, frame) = (conn(), Recorder::new(0).message(2, b"1", &vec![b' '; READ_BYTES]).frame().clone());
        let mut reader = Reader::default();
        read(&mut reader, &conn, &frame[..READ_BYTES - 1_000]);
        assert_eq!(reader.pending.capacity(), frame.len());
    }

    #[test]
    fn a_large_frame_comes_and_is_moved_a_piece_at_a_time() {
        const PART: usize = 3 << 20;
        let (conn, frame) = (conn(), Recorder::new(0).message(2, b"1", &vec![b' '; 2 * PART]).frame().clone());
        let (mut reader, handler, mut rest) = (Reader::default(), Keep::default(), &frame[..]);
        let mut cx = Context::from_waker(Waker::noop());
        let mut steps = 0;
        while handler.0.lock().unwrap().is_empty() {
            let (before, held) = (rest.len(), reader.larger.len());
            assert!(matches!(reader.read(&mut cx, &mut rest, &conn, &handler, &mut |_, _| ()).unwrap(), Read::Some));
            assert!(before - rest.len() <= READ_BYTES && reader.larger.len().saturating_sub(held) <= READ_BYTES);
            let room = reader.pending.capacity() + reader.larger.capacity();
            let booked = if reader.pending.is_empty() { 0 } else { room };
            assert_eq!(conn.shared().snapshot().partial_bytes, booked as u64);
            assert!(room <= 3 * (frame.len() - rest.len()).max(READ_BYTES), "{room} for {}", frame.len() - rest.len());
            steps += 1;
        }
        assert!(rest.is_empty() && steps > 2 * PART / READ_BYTES, "{steps}");
        assert_eq!(handler.0.lock().unwrap()[0].frame(), &frame);
        assert_eq!(conn.shared().snapshot().partial_bytes, 0);
    }

    #[test]
    fn where_there_is_no_room_for_a_part_twice_it_is_moved_at_once() {
        const PART: usize = 1 << 20;
        let limits = Limits { total_partial_bytes: 3 * PART, ..Limits::default() };
        let shared = Arc::new(SharedState::new(LengthValue::new(limits.max_frame_bytes), limits, true));
        let [conn, other] = [(); 2].map(|()| Conn::new(Arc::clone(&shared), Ends::default()));
        let frame = Recorder::new(0).message(2, b"1", &vec![b' '; 4 * PART]).frame().clone();
        let (mut cx, handler) = (Context::from_waker(Waker::noop()), Keep::default());
        for (held, steps) in [(0, PART / READ_BYTES), (PART, 1)] {
            other.hold_part(held);
            let (mut reader, mut rest) = (Reader::default(), &frame[..]);
            let mut moved = 0;
            while reader.pending.capacity() < 2 * PART {
                reader.read(&mut cx, &mut rest, &conn, &handler, &mut |_, _| ()).unwrap();
                moved += usize::from(reader.pending.len() == reader.pending.capacity() && reader.pending.len() >= PART);
                moved += usize::from(reader.pending.capacity() >= 2 * PART);
            }
            // When it is as large as it may be, it waits for the first piece: that is not one.
            assert_eq!(moved - 1, steps, "{held}");
            reader.forget(&conn);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_that_is_moved_is_not_late() {
        // Just above a power of two, and nearly the next one.
        for mib in [2, 8, 15] {
            let (conn, frame) = (conn(), Recorder::new(0).message(2, b"1", &vec![b' '; mib << 20]).frame().clone());
            let (mut reader, handler, mut rest) = (Reader::default(), Keep::default(), &frame[..]);
            let (mut cx, mut moves) = (Context::from_waker(Waker::noop()), 0);
            while handler.0.lock().unwrap().is_empty() {
                // As long as one waits for a turn at most.
                tokio::time::advance(Duration::from_millis(500)).await;
                reader.take_turn(Turn::new(std::time::Instant::now(), Duration::ZERO));
                let before = rest.len();
                reader.read(&mut cx, &mut rest, &conn, &handler, &mut |_, _| ()).unwrap();
                moves += usize::from(before == rest.len());
                let is_late = reader.gives_up_at(&conn).is_some_and(|at| at <= Instant::now());
                assert!(!is_late, "of {mib} MiB {} are left", rest.len());
            }
            assert!(moves >= (mib << 20) / READ_BYTES, "{mib} MiB: {moves}");
        }
    }

    /// Hands on what it is handed, to many, and takes its time for it.
    struct ToMany(Mutex<u32>, std::time::Instant);

    impl Handler<Conn> for ToMany {
        fn handle(&self, conn: &Conn, message: Message) {
            let mut handled = self.0.lock().unwrap();
            *handled += 1;
            if *handled == 2 {
                let shared = conn.share(message.frame().clone());
                (0..128).for_each(|_| conn.push(&shared, None).unwrap());
                while std::time::Instant::now() < self.1 {}
            }
        }
    }

    #[test]
    fn after_a_frame_for_many_the_turn_may_be_over() {
        let (conn, mut reader) = (conn(), Reader::default());
        let (now, slice) = (std::time::Instant::now(), Duration::from_millis(200));
        let frames: Vec<u8> = (0..20).flat_map(|_| Recorder::new(0).message(2, b"1", b"{}").frame().to_vec()).collect();
        // Between two looks there are some frames by then.
        let mut turn = Turn::new(now, slice);
        assert!((0..5).all(|_| !turn.is_over()));
        reader.take_turn(turn);
        let handler = ToMany(Mutex::default(), now + slice);
        reader
            .read(&mut Context::from_waker(Waker::noop()), &mut &frames[..], &conn, &handler, &mut |_, _| ())
            .unwrap();
        assert_eq!(*handler.0.lock().unwrap(), 2, "the others wait for the next turn");
    }

    /// Keeps what it is handed.
    #[derive(Default)]
    struct Keep(Mutex<Vec<Message>>);

    impl Handler<Conn> for Keep {
        fn handle(&self, _conn: &Conn, message: Message) {
            self.0.lock().unwrap().push(message);
        }

        fn closed(&self, _conn: &Conn) {}
    }

    #[test]
    fn what_comes_behind_a_large_frame_does_not_lie_in_its_buffer() {
        let (conn, handler, mut reader) = (conn(), Keep::default(), Reader::default());
        let frame = |bytes: usize| Recorder::new(0).message(2, b"1", &vec![b' '; bytes]).frame().clone();
        let all = [frame(8 << 20), frame(33_000)].concat();
        let (mut left, mut cx) = (&all[..], Context::from_waker(Waker::noop()));
        while handler.0.lock().unwrap().len() < 2 {
            assert!(!left.is_empty());
            reader.read(&mut cx, &mut left, &conn, &handler, &mut |_, _| ()).unwrap();
        }
        let kept = handler.0.lock().unwrap();
        let [large, small] = &kept[..] else { panic!("{} messages", kept.len()) };
        assert_eq!([large, small].map(|message| message.body().len()), [8 << 20, 33_000]);
        assert_ne!(large.frame().as_ptr_range().end, small.frame().as_ptr(), "33 KB would hold 8 MiB");
    }

    /// Takes one message and holds reading, until it has heard that there is no more.
    #[derive(Default)]
    struct Hold(Mutex<Vec<usize>>);

    impl Handler<Conn> for Hold {
        fn handle(&self, _conn: &Conn, _message: Message) {}

        fn handle_all(&self, conn: &Conn, messages: &mut dyn Iterator<Item = Message>) {
            let first = messages.next();
            let hold = conn.hold_reading();
            assert!(messages.next().is_none());
            drop(hold);
            self.0.lock().unwrap().push(first.iter().chain(messages.next().iter()).count());
        }

        fn closed(&self, _conn: &Conn) {}
    }

    #[test]
    fn once_there_is_no_more_for_a_handler_the_rest_comes_when_it_is_called_again() {
        let (conn, handler, mut reader) = (conn(), Hold::default(), Reader::default());
        let frames = Recorder::new(0).message(2, b"1", b"{}").frame().repeat(3);
        let (mut left, mut cx) = (&frames[..], Context::from_waker(Waker::noop()));
        for _ in 0..3 {
            reader.read(&mut cx, &mut left, &conn, &handler, &mut |_, _| ()).unwrap();
        }
        assert_eq!(*handler.0.lock().unwrap(), [1, 1, 1]);
    }

    #[test]
    fn only_answers_to_calls_are_done_for_others() {
        for kind in 0..24_u32 {
            let (conn, mut reader) = (conn(), Reader::default());
            let frame = Recorder::new(0).message(kind, b"1", b"{}").frame().clone();
            reader.take_turn(Turn::new(std::time::Instant::now(), Duration::from_mins(1)));
            read(&mut reader, &conn, &frame);
            let expected = if kind == u32::from(MessageType::RpcResponse.to_wire()) { (1, 0) } else { (1, 1) };
            assert_eq!(reader.turn().counted(), expected, "{kind}");
        }
    }

    #[test]
    fn a_whole_frame_that_waits_is_late_only_if_its_peer_holds_it_up_and_counts_as_what_may_have_to_go() {
        let frame = Recorder::new(0).message(3, b"1", &[b' '; 1000]).frame().repeat(2);
        for is_held in [false, true] {
            let (conn, mut reader) = (conn(), Reader::default());
            let hold = is_held.then(|| conn.hold_reading());
            (reader.pending, reader.booked) = (BytesMut::from(&frame[..]), 0);
            reader.keep_rest(&conn, true, 0);
            reader.book(&conn, frame.len());
            assert_eq!(reader.started.is_some(), is_held);
            assert!(conn.part_since(1).is_some());
            drop(hold);
        }
    }
}
