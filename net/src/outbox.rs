mod frame;
mod marks;
mod outcome;
mod then;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

pub(crate) use self::frame::Frame;
use self::marks::MOMENT;
pub(crate) use self::marks::Marks;
pub(crate) use self::outcome::{Freed, Pushed, Refused};
pub(crate) use self::then::Then;
use crate::later::later;
use crate::pieces::{Count, PLACE_BYTES, Pieces, Segment};

/// What waits to be written to one peer, bounded in bytes. Pushing never blocks and never writes.
///
/// It is generic over what holds a publisher back (`H`), so that it knows nothing of connections.
#[derive(Debug)]
pub(crate) struct Outbox<H> {
    state: Mutex<State<H>>,
    /// The state's `bytes`, for a look without the lock.
    glance: AtomicUsize,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug)]
struct State<H> {
    sealed: Pieces,
    /// Small frames, joined: they leave in one piece. Its memory is used again once that piece is written.
    tail: BytesMut,
    /// Queued or being written, not yet taken by the socket.
    bytes: usize,
    /// The part of `bytes` that the connection's task has taken, and may be writing at this moment.
    writing: usize,
    /// All that was ever queued; so much less `bytes` has the socket taken.
    ever_queued: u64,
    /// The part of `bytes` that counts against the total; frames shared by many count elsewhere.
    counted: usize,
    /// What of `counted` has been entered in the total: a little waits, so that small frames need not touch what all
    /// connections share.
    booked: usize,
    /// When the peer last took a byte, or had nothing to take.
    progress: Instant,
    /// Once the socket has taken so much of the stream, who waits for it is told; `u64::MAX` if nobody does.
    awaited: u64,
    /// Who waits until the socket has taken so much of the stream.
    waiting: Vec<(u64, Then)>,
    held: Vec<H>,
    /// Since when the first of them is.
    held_at: Instant,
    /// There while the connection's task sleeps.
    waker: Option<Waker>,
    /// The socket takes no more, so a push has no reason to wake the task.
    full: bool,
    /// The connection is about to end: only answers, which have no bound, still come in.
    only_answers: bool,
    /// Nothing will follow what is queued.
    complete: bool,
    closed: bool,
}

/// Frames up to this many bytes are joined into one piece; larger ones are linked.
const JOIN_BYTES: usize = 4 << 10;
/// The same of shared frames: the others are there once for all outboxes, and to copy them into each is most of what a
/// message to many takes.
const JOIN_SHARED_FRAME_BYTES: usize = 512;
/// A shared frame is joined only while no more than this waits: a peer that is behind links it, so that many slow peers
/// hold the same bytes and not a copy each.
const JOIN_SHARED_BELOW: usize = 256 << 10;
/// Up to this a shared frame is always joined: a link would take as much.
const JOIN_SHARED_BYTES: usize = 4 * PLACE_BYTES;
/// So much of what one outbox holds is not entered in the total.
const UNBOOKED_BYTES: usize = 1 << 10;
/// A larger buffer is given back once all is written; and small frames are not joined into much larger ones, so that
/// who often queues more than this grows none anew each time.
const KEEP_BYTES: usize = 64 << 10;
/// The bound of an answer: how many there may be is bounded where requests come in.
pub(crate) const UNBOUNDED: usize = usize::MAX;
/// So many may wait until some of what is queued was written: more than a peer has subscriptions by default.
const MAX_WAITING: usize = 1 << 14;
/// A connection over which no more than this was queued so far keeps no buffer: most say little but their first words.
const YOUNG_BYTES: u64 = 1 << 10;

impl<H> Outbox<H> {
    pub(crate) fn new(now: Instant) -> Self {
        let state = State {
            sealed: Pieces::default(),
            tail: BytesMut::new(),
            bytes: 0,
            writing: 0,
            ever_queued: 0,
            counted: 0,
            booked: 0,
            progress: now,
            awaited: u64::MAX,
            waiting: Vec::new(),
            held: Vec::new(),
            held_at: now,
            waker: None,
            full: false,
            only_answers: false,
            complete: false,
            closed: false,
        };
        Self { state: Mutex::new(state), glance: AtomicUsize::new(0) }
    }

    /// Queues a frame; past `bound` it is refused, unless the outbox is at most half full: what waited for room has it.
    /// What it holds is entered in `total`.
    pub(crate) fn push(
        &self,
        frame: Frame<'_>,
        bound: usize,
        marks: Marks,
        total: &AtomicUsize,
        now: impl Fn() -> Instant,
    ) -> Result<Pushed, Refused> {
        let mut state = self.lock();
        let len = frame.len();
        if state.closed || (state.only_answers && bound != UNBOUNDED) {
            return Err(Refused::Closed);
        }
        if state.bytes > marks.high && state.bytes.saturating_add(len) > bound {
            return Err(Refused::Full);
        }
        if state.bytes == 0 {
            // That of a fan-out may be somewhat late.
            state.progress = state.progress.max(now());
        }
        state.counted += state.append(frame, len);
        let at = state.ever_queued;
        state.ever_queued += len as u64;
        state.bytes += len;
        self.glance.store(state.bytes, Relaxed);
        let booked = state.book(total);
        let behind = state.bytes > marks.early() && now().duration_since(state.progress) < marks.patience(state.bytes);
        let woken = if state.full || state.bytes <= marks.gather { None } else { state.waker.take() };
        Ok(Pushed { waker: woken, at, booked, behind })
    }

    /// Keeps what holds a publisher back until this peer has caught up or stalls. Given back at once if it has already.
    pub(crate) fn hold(&self, hold: H, marks: Marks, now: Instant) -> Result<Option<Waker>, H> {
        let mut state = self.lock();
        if state.closed || state.bytes <= marks.early() {
            return Err(hold);
        }
        if state.held.is_empty() {
            state.held_at = now;
        }
        state.held.push(hold);
        Ok(state.waker.take())
    }

    /// The connection's task is awake: pushes need not wake it. Whether a push, or whoever else took the waker, woke
    /// it.
    pub(crate) fn unpark(&self) -> bool {
        let mut state = self.lock();
        state.full = false;
        state.waker.take().is_none()
    }

    /// The task is about to sleep, and knows by now whether the outbox is complete; `false` if there is something to write
    /// instead, or to be known.
    pub(crate) fn park(&self, waker: &Waker, knows_complete: bool) -> bool {
        let mut state = self.lock();
        let nothing = state.sealed.is_empty() && state.tail.is_empty() && state.complete == knows_complete;
        if nothing {
            state.waker = Some(waker.clone());
        }
        nothing
    }

    /// The same while the socket takes no more: what is queued meanwhile waits for the socket.
    pub(crate) fn park_full(&self, waker: &Waker) {
        let mut state = self.lock();
        state.waker = Some(waker.clone());
        state.full = true;
    }

    /// The task's waker, if it sleeps.
    pub(crate) fn take_waker(&self) -> Option<Waker> {
        self.lock().waker.take()
    }

    /// Moves all that waits into `writing`, which is empty, in order. Whether nothing will follow it.
    pub(crate) fn take(&self, writing: &mut Pieces) -> bool {
        let mut state = self.lock();
        state.seal();
        state.writing = state.bytes;
        std::mem::swap(writing, &mut state.sealed);
        state.complete
    }

    /// The socket took so many bytes, of which so many were counted.
    pub(crate) fn wrote(&self, bytes: usize, counted: usize, marks: Marks, now: Instant) -> Freed<H> {
        let mut state = self.lock();
        let above = state.bytes > marks.high;
        state.bytes = state.bytes.saturating_sub(bytes);
        state.writing = state.writing.saturating_sub(bytes);
        self.glance.store(state.bytes, Relaxed);
        state.counted = state.counted.saturating_sub(counted);
        let booked = state.booked.saturating_sub(state.counted);
        state.booked -= booked;
        state.progress = now;
        // Its capacity is only what is left behind the pieces that were split off it; those are gone, so all of it
        // shows.
        let is_young = state.ever_queued <= YOUNG_BYTES;
        if state.bytes == 0 && (is_young || state.tail.try_reclaim(KEEP_BYTES + 1)) {
            state.tail = BytesMut::new();
        }
        let awaited_left = state.taken() >= state.awaited;
        if awaited_left {
            state.awaited = u64::MAX;
        }
        let caught_up = above && state.bytes <= marks.high;
        let moment_is_over = state.bytes <= marks.high && now >= state.lets_go_at(marks);
        let lets_go = caught_up || moment_is_over || state.bytes <= marks.early();
        let held = if lets_go { std::mem::take(&mut state.held) } else { Vec::new() };
        let taken = state.taken();
        let due = if state.waiting.is_empty() {
            Vec::new()
        } else {
            state.waiting.extract_if(.., |(at, _)| *at <= taken).collect()
        };
        Freed { held, due, booked, room: caught_up || state.bytes == 0 || awaited_left }
    }

    /// When the publishers that wait for this peer are to be let go, if it takes nothing until then.
    pub(crate) fn stalls_at(&self, marks: Marks) -> Option<Instant> {
        let state = self.lock();
        (!state.held.is_empty()).then(|| state.lets_go_at(marks))
    }

    /// The publishers that wait for this peer, if their time is up.
    pub(crate) fn stalled(&self, marks: Marks, now: Instant) -> Vec<H> {
        let mut state = self.lock();
        if now >= state.lets_go_at(marks) { std::mem::take(&mut state.held) } else { Vec::new() }
    }

    /// Bytes that wait, and since when the peer has taken none.
    pub(crate) fn load(&self) -> (usize, Instant) {
        let state = self.lock();
        (state.bytes, state.progress)
    }

    /// Since when the peer has taken none of what waits, if so many bytes do.
    pub(crate) fn waits_since(&self, least: usize) -> Option<Instant> {
        let state = self.lock();
        (state.bytes >= least.max(1) && !state.closed).then_some(state.progress)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// The same as it was a moment ago. What the connection's own task has queued or written is in it.
    pub(crate) fn glance(&self) -> usize {
        self.glance.load(Relaxed)
    }

    /// How much of the stream of all bytes the socket has taken. What begins there or later never left.
    pub(crate) fn taken(&self) -> u64 {
        self.lock().taken()
    }

    /// The end of the stream of all bytes.
    pub(crate) fn end(&self) -> u64 {
        self.lock().ever_queued
    }

    /// Whether the socket has taken all before `end`. If not, a write that does so tells of room.
    pub(crate) fn has_left(&self, end: u64) -> bool {
        let mut state = self.lock();
        let has_left = state.taken() >= end;
        if !has_left {
            state.awaited = state.awaited.min(end);
        }
        has_left
    }

    /// Keeps what is done once no more than `bytes` of what waits now is left; `false` if it is so already, or as much
    /// is kept as may be.
    pub(crate) fn once_down_to(&self, bytes: usize, then: Then) -> bool {
        let mut state = self.lock();
        let waits = !state.closed && state.bytes > bytes && state.waiting.len() < MAX_WAITING;
        if waits {
            let at = state.ever_queued - bytes as u64;
            state.waiting.push((at, then));
        }
        waits
    }

    /// From now on all but answers are refused: whoever was not refused has what it queued written.
    pub(crate) fn only_answers(&self) {
        self.lock().only_answers = true;
    }

    /// From now on nothing is queued behind what waits. Gives the waker.
    pub(crate) fn complete(&self) -> Option<Waker> {
        let mut state = self.lock();
        state.complete = true;
        state.waker.take()
    }

    /// Drops all that waits, but for what is being written; later pushes fail. Gives the waker too.
    pub(crate) fn close(&self) -> (Freed<H>, Option<Waker>) {
        let mut state = self.lock();
        state.closed = true;
        state.sealed = Pieces::default();
        state.tail = BytesMut::new();
        // Of what is being written only the task can say whether it leaves, in `wrote`.
        let dropped = state.bytes - state.writing;
        state.bytes = state.writing;
        state.ever_queued -= dropped as u64;
        self.glance.store(0, Relaxed);
        state.counted = 0;
        let booked = std::mem::take(&mut state.booked);
        let (held, due) = (std::mem::take(&mut state.held), std::mem::take(&mut state.waiting));
        (Freed { held, due, booked, room: true }, state.waker.take())
    }

    fn lock(&self) -> MutexGuard<'_, State<H>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<H> State<H> {
    fn taken(&self) -> u64 {
        self.ever_queued - self.bytes as u64
    }

    fn lets_go_at(&self, marks: Marks) -> Instant {
        if self.bytes > marks.high { later(self.progress, marks.stall) } else { later(self.held_at, MOMENT) }
    }

    /// Enters in the total what is not yet in it, if it is worth it; whether it was. Under the lock: the connection's
    /// task may write what was queued at once, and takes out only what is in.
    fn book(&mut self, total: &AtomicUsize) -> bool {
        let due = self.counted.saturating_sub(self.booked);
        if due <= UNBOOKED_BYTES {
            return false;
        }
        self.booked += due;
        total.fetch_add(due, Relaxed);
        true
    }

    /// Returns how many bytes count against the total.
    fn append(&mut self, frame: Frame<'_>, len: usize) -> usize {
        let join = len <= JOIN_BYTES;
        match frame {
            Frame::Slice(slice) if join => self.join(slice),
            Frame::Own(bytes) if join => self.join(&bytes),
            Frame::Shared(bytes)
                if len <= JOIN_SHARED_BYTES || (len <= JOIN_SHARED_FRAME_BYTES && self.bytes <= JOIN_SHARED_BELOW) =>
            {
                self.join(bytes);
            }
            Frame::Slice(slice) => self.link(slice.split().freeze(), Count::Bytes),
            Frame::Own(bytes) => self.link(bytes, Count::Bytes),
            Frame::Shared(bytes) => {
                self.link(bytes.clone(), Count::Place);
                return PLACE_BYTES;
            }
        }
        len
    }

    fn join(&mut self, frame: &[u8]) {
        if self.tail.len() + frame.len() > KEEP_BYTES / 2 && !self.tail.try_reclaim(frame.len()) {
            self.seal();
            self.tail = BytesMut::with_capacity(KEEP_BYTES);
        }
        self.tail.extend_from_slice(frame);
    }

    fn link(&mut self, bytes: Bytes, count: Count) {
        self.seal();
        self.sealed.push_back(Segment { bytes, count });
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            let bytes = self.tail.split().freeze();
            self.sealed.push_back(Segment { bytes, count: Count::Bytes });
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Duration;

    use super::marks::EARLY_BYTES;
    use super::*;

    const MARKS: Marks = Marks { high: 50, stall: Duration::from_millis(500), gather: 0 };

    fn outbox() -> (Outbox<&'static str>, Instant) {
        let now = Instant::now();
        (Outbox::new(now), now)
    }

    fn push(outbox: &Outbox<&'static str>, frame: Frame<'_>, bound: usize, now: Instant) -> Result<Pushed, Refused> {
        outbox.push(frame, bound, MARKS, &AtomicUsize::new(0), || now)
    }

    fn own(len: usize) -> Frame<'static> {
        Frame::Own(Bytes::from(vec![b'x'; len]))
    }

    #[test]
    fn frames_leave_in_order_and_small_ones_joined() {
        let (outbox, now) = outbox();
        let big = Bytes::from(vec![b'B'; JOIN_BYTES + 1]);
        for frame in [Bytes::from("a"), Bytes::from("b"), big.clone(), Bytes::from("c")] {
            push(&outbox, Frame::Own(frame), usize::MAX, now).unwrap();
        }
        let mut writing = Pieces::default();
        outbox.take(&mut writing);
        let pieces: Vec<&[u8]> = writing.iter().map(|segment| &segment.bytes[..]).collect();
        assert_eq!(pieces, [&b"ab"[..], &big, b"c"]);
    }

    #[test]
    fn the_bound_holds_but_one_frame_always_fits_into_an_empty_outbox() {
        let (outbox, now) = outbox();
        assert!(push(&outbox, own(200), 100, now).is_ok());
        assert_eq!(push(&outbox, own(1), 100, now).unwrap_err(), Refused::Full);
        outbox.wrote(150, 150, MARKS, now);
        assert!(push(&outbox, own(50), 100, now).is_ok());
        assert_eq!(push(&outbox, own(1), 100, now).unwrap_err(), Refused::Full);
        outbox.close();
        assert_eq!(push(&outbox, own(1), 100, now).unwrap_err(), Refused::Closed);
    }

    #[test]
    fn who_waits_until_it_is_written_is_bounded_too() {
        let (outbox, now) = outbox();
        push(&outbox, own(10), 100, now).unwrap();
        let waits = || outbox.once_down_to(5, Then(Box::new(|| ())));
        assert_eq!(std::iter::repeat_with(waits).take(2 * MAX_WAITING).filter(|waits| *waits).count(), MAX_WAITING);
        assert_eq!(outbox.wrote(10, 10, MARKS, now).due.len(), MAX_WAITING);
    }

    #[test]
    fn a_publisher_is_held_only_for_a_peer_that_makes_progress() {
        let (outbox, start) = outbox();
        assert!(!push(&outbox, own(50), 1000, start).unwrap().behind);
        assert!(push(&outbox, own(1), 1000, start).unwrap().behind);
        assert!(outbox.hold("publisher", MARKS, start).is_ok());
        assert_eq!(outbox.stalls_at(MARKS), Some(start + MARKS.stall));
        let later = start + Duration::from_millis(400);
        assert!(outbox.wrote(0, 0, MARKS, later).held.is_empty());
        assert!(outbox.stalled(MARKS, start + MARKS.stall).is_empty(), "it took bytes at 400 ms");
        assert_eq!(outbox.stalled(MARKS, later + MARKS.stall), ["publisher"]);
        assert!(!push(&outbox, own(1), 1000, later + MARKS.stall).unwrap().behind);
    }

    #[test]
    fn a_peer_may_be_waited_for_without_end() {
        let (outbox, now) = outbox();
        push(&outbox, own(80), 1000, now).unwrap();
        let marks = Marks { stall: Duration::MAX, ..MARKS };
        outbox.hold("publisher", marks, now).unwrap();
        let years = Duration::from_hours(50 * 365 * 24);
        assert!(outbox.stalls_at(marks).unwrap() > now + years);
        assert!(outbox.stalled(marks, now + years).is_empty());
        assert_eq!(outbox.wrote(30, 30, marks, now + years).held, ["publisher"]);
    }

    #[test]
    fn catching_up_frees_publishers_and_the_total() {
        let (outbox, now) = outbox();
        push(&outbox, own(80), 1000, now).unwrap();
        outbox.hold("publisher", MARKS, now).unwrap();
        let freed = outbox.wrote(30, 30, MARKS, now);
        assert_eq!((freed.held, freed.room), (vec!["publisher"], true));
        outbox.close();
        assert_eq!(outbox.hold("late", MARKS, now).unwrap_err(), "late");
    }

    #[test]
    fn shared_frames_are_copied_to_the_quick_and_linked_to_the_slow() {
        let (outbox, now) = outbox();
        let counted = |frame: Frame<'_>| {
            let before = outbox.lock().counted;
            push(&outbox, frame, usize::MAX, now).unwrap();
            outbox.lock().counted - before
        };
        let shared = |len| Bytes::from(vec![b's'; len]);
        assert_eq!(counted(Frame::Shared(&shared(JOIN_SHARED_FRAME_BYTES))), JOIN_SHARED_FRAME_BYTES);
        assert_eq!(counted(Frame::Shared(&shared(JOIN_SHARED_FRAME_BYTES + 1))), PLACE_BYTES);
        counted(own(JOIN_SHARED_BELOW));
        assert_eq!((counted(Frame::Shared(&shared(500))), counted(Frame::Shared(&shared(100)))), (PLACE_BYTES, 100));
        let mut writing = Pieces::default();
        outbox.take(&mut writing);
        let mut written = Vec::new();
        while let Some(piece) = writing.first_mut() {
            written.push((piece.bytes.len(), piece.advance(usize::MAX)));
            writing.remove_first();
        }
        let frame = JOIN_SHARED_FRAME_BYTES;
        let expected = [(frame, frame), (frame + 1, PLACE_BYTES), (JOIN_SHARED_BELOW, JOIN_SHARED_BELOW)];
        assert_eq!(written[..3], expected);
        assert_eq!(written[3..], [(500, PLACE_BYTES), (100, 100)]);
    }

    /// Writes all that waits.
    fn write_all(outbox: &Outbox<&'static str>, now: Instant) {
        let mut writing = Pieces::default();
        outbox.take(&mut writing);
        let bytes = outbox.bytes();
        drop(writing);
        outbox.wrote(bytes, bytes, MARKS, now);
    }

    /// What an outbox holds that waits for nothing.
    fn kept_bytes(outbox: &Outbox<&'static str>) -> usize {
        let mut state = outbox.lock();
        let mut least = state.tail.capacity();
        while state.tail.try_reclaim(least + 1) {
            least = state.tail.capacity();
        }
        least
    }

    #[test]
    fn once_all_is_written_little_memory_is_kept_however_much_it_was() {
        for bytes in [1_000, 30_000, 60_000, 70_000, 100_000, 130_000, 200_000, 250_000, 1_000_000] {
            let frames = [(100, true), (JOIN_SHARED_FRAME_BYTES, true), (1_000, false), (JOIN_BYTES, false)];
            for (frame_bytes, is_shared) in frames {
                let (outbox, now) = outbox();
                let frame = Bytes::from(vec![b's'; frame_bytes]);
                for _ in 0..3 {
                    for _ in 0..bytes / frame_bytes {
                        let frame = if is_shared { Frame::Shared(&frame) } else { Frame::Own(frame.clone()) };
                        push(&outbox, frame, usize::MAX, now).unwrap();
                    }
                    write_all(&outbox, now);
                    let kept = kept_bytes(&outbox);
                    assert!(kept <= KEEP_BYTES, "{bytes} bytes in frames of {frame_bytes}: {kept}");
                }
            }
        }
    }

    #[test]
    fn up_to_what_is_kept_the_same_memory_serves_again_and_again() {
        let (outbox, now) = outbox();
        let place = |frames| {
            for _ in 0..frames {
                push(&outbox, own(1_000), usize::MAX, now).unwrap();
            }
            let at = outbox.lock().tail.as_ptr();
            write_all(&outbox, now);
            at
        };
        let first = place(20);
        for frames in [20, 1, 5, 20, 20] {
            assert!(kept_bytes(&outbox) >= 20_000);
            assert_eq!(place(frames), first);
        }
    }

    #[test]
    fn who_waits_until_a_part_has_left_is_told_though_more_was_queued() {
        let (outbox, now) = outbox();
        push(&outbox, own(30), 1000, now).unwrap();
        let end = outbox.end();
        assert!(!outbox.has_left(end));
        push(&outbox, own(30), 1000, now).unwrap();
        assert!(!outbox.has_left(outbox.end()));
        let told = [29, 1, 29, 1].map(|bytes| outbox.wrote(bytes, bytes, Marks { high: 100, ..MARKS }, now).room);
        assert_eq!(told, [false, true, false, true]);
        assert!(outbox.has_left(end) && outbox.has_left(outbox.end()));
    }

    #[test]
    fn what_may_wait_wakes_nobody_until_it_is_much_or_something_else_comes() {
        let rows: [(&[(usize, usize)], bool); 5] = [
            (&[(10, 30)], false),
            (&[(10, 30), (20, 30)], false),
            (&[(10, 30), (21, 30)], true),
            (&[(10, 30), (1, 0)], true),
            (&[(1, 0)], true),
        ];
        for (pushes, wakes) in rows {
            let (outbox, now) = outbox();
            assert!(outbox.park(Waker::noop(), false));
            let push = |&(bytes, gather): &(usize, usize)| {
                let marks = Marks { gather, ..MARKS };
                outbox.push(own(bytes), 100, marks, &AtomicUsize::new(0), || now).unwrap().waker
            };
            let woken: Vec<_> = pushes.iter().filter_map(push).collect();
            assert_eq!(!woken.is_empty(), wakes, "{pushes:?}");
            assert!(!wakes || outbox.unpark());
            assert!(!outbox.park(Waker::noop(), false), "what waits is written before the task sleeps");
        }
    }

    #[test]
    fn that_nothing_follows_is_known_with_what_is_last_and_before_the_task_sleeps() {
        let (outbox, now) = outbox();
        assert!(outbox.park(Waker::noop(), false));
        push(&outbox, own(1), 100, now).unwrap();
        let mut writing = Pieces::default();
        assert!(!outbox.take(&mut writing), "more may come");
        push(&outbox, own(1), 100, now).unwrap();
        assert!(outbox.complete().is_none(), "the task is awake");
        assert!(!outbox.park(Waker::noop(), true), "something waits");
        let mut last = Pieces::default();
        assert!(outbox.take(&mut last) && last.only().is_some());
        assert!(!outbox.park(Waker::noop(), false), "the task does not know yet");
        assert!(outbox.park(Waker::noop(), true));
        assert!(outbox.complete().is_some(), "who sleeps is woken");
    }

    #[test]
    fn long_before_it_is_full_it_holds_publishers_for_a_moment_at_a_time() {
        let (outbox, start) = outbox();
        let marks = Marks { high: 4 * EARLY_BYTES, ..MARKS };
        let push = |bytes, now| outbox.push(own(bytes), usize::MAX, marks, &AtomicUsize::new(0), || now).unwrap();
        assert!(!push(EARLY_BYTES, start).behind);
        assert!(outbox.hold("early", marks, start).is_err());
        assert!(push(1, start).behind);
        outbox.hold("one", marks, start).unwrap();
        outbox.hold("other", marks, start + MOMENT / 2).unwrap();
        assert_eq!(outbox.stalls_at(marks), Some(start + MOMENT));
        assert!(outbox.wrote(0, 0, marks, start + MOMENT / 2).held.is_empty());
        assert_eq!(outbox.wrote(0, 0, marks, start + MOMENT).held, ["one", "other"]);
        let later = start + 10 * MOMENT;
        assert!(!push(1, later).behind, "one that takes nothing is not waited for");
        outbox.hold("again", marks, later).unwrap();
        assert_eq!(outbox.wrote(2, 2, marks, later).held, ["again"]);
    }

    #[test]
    fn a_connection_that_has_said_little_keeps_no_buffer() {
        let (outbox, now) = outbox();
        let total = AtomicUsize::new(0);
        let say = |bytes: usize| {
            let frame = Bytes::from(vec![0; bytes]);
            outbox.push(Frame::Own(frame), 1 << 20, MARKS, &total, || now).unwrap();
            write_all(&outbox, now);
            outbox.lock().tail.try_reclaim(1)
        };
        assert!(!say(200) && !say(200), "nothing is kept");
        say(1 << 10);
        assert!(say(200), "it is used again and again");
    }

    #[test]
    fn the_total_learns_of_all_but_a_little() {
        let (outbox, now) = outbox();
        let total = AtomicUsize::new(0);
        let booked = |bytes| outbox.push(own(bytes), usize::MAX, MARKS, &total, || now).unwrap().booked;
        assert!(!booked(UNBOOKED_BYTES));
        assert_eq!(total.load(Relaxed), 0);
        assert!(booked(1));
        assert_eq!(total.load(Relaxed), UNBOOKED_BYTES + 1);
        assert!(!booked(5));
        let freed = [6, UNBOOKED_BYTES].map(|bytes| outbox.wrote(bytes, bytes, MARKS, now).booked);
        assert_eq!(freed, [1, UNBOOKED_BYTES], "what was not entered is not taken out");
        assert_eq!(outbox.glance(), 0);
        booked(5000);
        let all = total.load(Relaxed) - freed.iter().sum::<usize>();
        assert_eq!((all, outbox.close().0.booked), (5000, 5000));
    }

    #[test]
    fn who_waits_for_part_of_it_is_run_once_that_is_left_and_dropped_at_the_end() {
        let (outbox, now) = outbox();
        push(&outbox, own(30), 100, now).unwrap();
        let ran = std::sync::Arc::new(AtomicUsize::new(0));
        let then = || {
            let ran = std::sync::Arc::clone(&ran);
            Then(Box::new(move || {
                let _ = ran.fetch_add(1, Relaxed);
            }))
        };
        assert!(!outbox.once_down_to(30, then()));
        assert!(outbox.once_down_to(10, then()) && outbox.once_down_to(0, then()));
        push(&outbox, own(30), 100, now).unwrap();
        let due = |bytes| {
            let due = outbox.wrote(bytes, bytes, MARKS, now).due;
            due.into_iter().map(|(_, then)| (then.0)()).count()
        };
        assert_eq!([due(19), due(1), due(9), due(1)], [0, 1, 0, 1], "what came later does not count");
        assert!(outbox.once_down_to(0, then()));
        assert_eq!(outbox.close().0.due.len(), 1);
        assert!(!outbox.once_down_to(0, then()));
        assert_eq!(ran.load(Relaxed), 2);
    }
}
