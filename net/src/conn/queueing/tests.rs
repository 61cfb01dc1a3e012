use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use callboard_common::{Codec, LengthValue, MessageType};

use super::*;
use crate::pieces::Pieces;
use crate::shared_state::SharedState;
use crate::{Ends, Limits};

/// A body of so many bytes.
struct Blank(usize);

impl Encode for Blank {
    fn kind(&self) -> MessageType {
        MessageType::RpcResponse
    }

    fn encode<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        out.resize(out.len() + self.0, b' ');
        Ok(())
    }
}

fn conn() -> Conn {
    let limits = Limits::default();
    let shared = SharedState::new(LengthValue::new(limits.max_frame_bytes), limits, true);
    Conn::new(Arc::new(shared), Ends::default())
}

/// Takes what is queued, as the connection's task does before it writes.
fn take(conn: &Conn) -> usize {
    conn.outbox().take(&mut Pieces::default());
    conn.outbox().bytes()
}

fn wrote(conn: &Conn, bytes: usize) {
    conn.release(conn.outbox().wrote(bytes, bytes, conn.marks(), Instant::now()));
}

#[test]
fn a_large_answer_that_is_refused_leaves_no_memory_behind() {
    let (conn, gone) = (conn(), conn());
    gone.end("gone");
    assert!(gone.answer(b"1", &Blank(15 << 20)).is_err());
    assert!(SCRATCH.with_borrow(BytesMut::capacity) <= KEEP_SCRATCH_BYTES);
    conn.answer(b"2", &Blank(4_000)).unwrap();
    let kept = SCRATCH.with_borrow(BytesMut::capacity);
    assert!((4_000..=KEEP_SCRATCH_BYTES).contains(&kept), "small answers use it again: {kept}");
}

#[test]
fn a_flush_ends_well_if_all_left_before_the_connection_ended() {
    for (queued, left, all_left) in [(1, 1, true), (2, 1, false), (2, 2, true)] {
        let conn = conn();
        let mut cx = Context::from_waker(Waker::noop());
        (0..queued).for_each(|_| conn.answer(b"1", &Blank(10)).unwrap());
        let frame_bytes = conn.outbox().bytes() / queued;
        let mut flushed = pin!(conn.flushed());
        assert!(flushed.as_mut().poll(&mut cx).is_pending());
        take(&conn);
        wrote(&conn, left * frame_bytes);
        conn.answer(b"later", &Blank(10)).unwrap();
        conn.end("the peer has closed it");
        let Poll::Ready(flushed) = flushed.as_mut().poll(&mut cx) else { panic!("it waits for ever") };
        assert_eq!(flushed.is_ok(), all_left, "{left} of {queued}");
        let mut again = pin!(conn.flushed());
        assert!(
            matches!(again.as_mut().poll(&mut cx), Poll::Ready(Err(SendError::Closed))),
            "nobody can tell any more"
        );
    }
}

#[test]
fn what_is_being_written_as_the_connection_ends_may_still_leave() {
    let conn = conn();
    conn.answer(b"1", &Blank(10)).unwrap();
    let taken = take(&conn);
    let later = conn.request(Head::new(MessageType::RpcRequest, b"2"), &Blank(10)).unwrap();
    conn.end("this program has closed it");
    assert_eq!(conn.sent_bytes(), 0);
    wrote(&conn, taken);
    assert_eq!(conn.sent_bytes(), taken as u64);
    assert!(later >= conn.sent_bytes(), "what was not being written never leaves");
}

#[test]
fn past_the_total_the_slowest_goes_though_a_slower_one_is_closed_and_not_yet_gone() {
    let limits = Limits { max_frame_bytes: 1 << 20, total_queue_bytes: 1 << 20, ..Limits::default() };
    let shared = Arc::new(SharedState::new(LengthValue::new(limits.max_frame_bytes), limits, true));
    let [closed, slow, other] = [(); 3].map(|()| {
        let conn: Conn = Conn::new(Arc::clone(&shared), Ends::default());
        shared.connections.insert(conn.id(), conn.clone());
        conn.answer(b"1", &Blank(600_000)).unwrap();
        if shared.connections.len() == 1 {
            take(&conn); // it is being written
            conn.end("its task has not ended yet");
        }
        conn
    });
    assert_eq!([closed, slow, other].map(|conn| conn.is_closed()), [true, true, false]);
    assert_eq!(shared.snapshot().evicted, 1);
}

thread_local! {
    static BEFORE: RefCell<Option<SaysGoodbye>> = const { RefCell::new(None) };
    static AFTER: RefCell<Option<SaysGoodbye>> = const { RefCell::new(None) };
}

/// Sends as it is dropped.
struct SaysGoodbye(Conn);

impl Drop for SaysGoodbye {
    fn drop(&mut self) {
        self.0.answer(b"1", &Blank(10)).unwrap();
    }
}

#[test]
fn what_a_thread_drops_as_it_ends_may_still_send() {
    let conn = conn();
    let said = conn.clone();
    // One of them is dropped after the buffer of the thread, in whichever order that happens.
    let thread = std::thread::spawn(move || {
        BEFORE.set(Some(SaysGoodbye(said.clone())));
        said.answer(b"1", &Blank(10)).unwrap();
        AFTER.set(Some(SaysGoodbye(said)));
    });
    thread.join().unwrap();
    let frame = conn.outbox().bytes() / 3;
    assert_eq!((conn.outbox().bytes(), frame), (3 * frame, 8 + 4 + 1 + 10));
}
