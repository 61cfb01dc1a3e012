use std::future::Future;
use std::pin::{Pin, pin};
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

/// Of a server whose outboxes hold 40,000 bytes each and 200,000 in all.
fn narrow(count: usize) -> Vec<Conn> {
    let limits =
        Limits { max_frame_bytes: 20_000, queue_bytes: 40_000, total_queue_bytes: 200_000, ..Limits::default() };
    let shared = Arc::new(SharedState::new(LengthValue::new(limits.max_frame_bytes), limits, true));
    (0..count).map(|_| Conn::new(Arc::clone(&shared), Ends::default())).collect()
}

/// So that it is a little over half full.
fn fill(conn: &Conn) {
    for bytes in [10_237, 10_238] {
        conn.answer(b"1", &Blank(bytes)).unwrap();
    }
}

/// A frame of so many bytes that is sent by a task.
fn send(conn: &Conn, bytes: usize) -> tokio::task::JoinHandle<Result<(), SendError>> {
    let (conn, frame) = (conn.clone(), Bytes::from(vec![b' '; bytes]));
    tokio::spawn(async move { conn.send(frame).await })
}

/// Lets tasks run for so long.
async fn pass(ms: u64) {
    for _ in 0..ms {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn waiting(conn: &Conn) -> usize {
    conn.0.waiting.load(Relaxed)
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_peer_that_takes_nothing_is_no_more_than_its_bound() {
    let conn = narrow(1).remove(0);
    fill(&conn);
    let within: Vec<_> = (0..3).map(|_| send(&conn, 6_000)).collect();
    pass(1).await;
    let beyond: Vec<_> = (0..3).map(|_| send(&conn, 6_000)).collect();
    pass(10).await;
    assert_eq!((waiting(&conn), conn.shared().snapshot().queued_bytes), (36_000, 36_000 + 20_501));
    pass(500).await;
    for sent in beyond {
        assert!(matches!(sent.await.unwrap(), Err(SendError::Full)));
    }
    assert_eq!((waiting(&conn), conn.shared().snapshot().slow_readers), (18_000, 3));
    pass(10_000).await;
    assert!(within.iter().all(|sent| !sent.is_finished()));
    conn.end("gone");
    for sent in within {
        assert!(matches!(sent.await.unwrap(), Err(SendError::Closed)));
    }
    assert_eq!((waiting(&conn), conn.shared().snapshot().queued_bytes), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_something_now_and_then_gets_all_that_was_answered_at_once() {
    let conn = narrow(1).remove(0);
    fill(&conn);
    let sent: Vec<_> = (0..6).map(|_| send(&conn, 6_000)).collect();
    for _ in 0..10 {
        pass(400).await;
        assert_eq!(waiting(&conn), 36_000);
        take(&conn);
        wrote(&conn, 10);
    }
    while conn.outbox().bytes() > 0 {
        let bytes = take(&conn);
        wrote(&conn, bytes);
        pass(1).await;
    }
    for sent in sent {
        sent.await.unwrap().unwrap();
    }
    assert_eq!((waiting(&conn), conn.shared().snapshot().slow_readers), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_has_waited_does_not_count_twice_as_it_is_queued() {
    let conns = narrow(8);
    let first = &conns[0];
    for conn in &conns {
        first.shared().connections.insert(conn.id(), conn.clone());
    }
    fill(first);
    let sent = send(first, 19_000);
    pass(1).await;
    assert_eq!(waiting(first), 19_000);
    // All but some bytes of what all may take, by others; then the first one's peer reads.
    let (free, mut others) = (200_000 - 20_501 - 19_000, conns[1..].iter().cycle());
    for _ in 0..free / 4_000 {
        others.next().unwrap().answer(b"1", &Blank(4_000 - 13)).unwrap();
    }
    wrote(first, take(first));
    for _ in 0..20_501 / 4_000 {
        others.next().unwrap().answer(b"1", &Blank(4_000 - 13)).unwrap();
    }
    pass(1).await;
    assert!(sent.await.unwrap().is_ok() && !conns.iter().any(Conn::is_closed));
    assert!(first.shared().snapshot().queued_bytes > 195_000);
}

#[tokio::test(start_paused = true)]
async fn what_waits_beyond_the_bounds_leaves_room_to_others() {
    let conns = narrow(3);
    let mut waited = Vec::new();
    for conn in &conns {
        fill(conn);
    }
    let queued = || conns[0].shared().snapshot().queued_bytes;
    assert_eq!(queued(), 3 * 20_501);
    for conn in &conns {
        let sent: Vec<_> = (0..40).map(|_| send(conn, 2_000)).collect();
        pass(1).await;
        waited.push(sent.iter().filter(|sent| !sent.is_finished()).count());
        assert!(queued() <= 200_000);
    }
    // Half of what was free, half of what is left, and what it may have in any case.
    assert_eq!(waited, [34, 17, 9]);
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

#[test]
fn past_the_total_one_for_which_little_waits_stays_however_long_it_has_waited() {
    let limits = Limits { total_queue_bytes: 20 << 20, ..Limits::default() };
    let shared = Arc::new(SharedState::new(LengthValue::new(limits.max_frame_bytes), limits, true));
    let [modest, first, second] = [(); 3].map(|()| Conn::new(Arc::clone(&shared), Ends::default()));
    for conn in [&modest, &first, &second] {
        shared.connections.insert(conn.id(), conn.clone());
    }
    modest.answer(b"1", &Blank(1000)).unwrap();
    for _ in 0..11 {
        for conn in [&first, &second] {
            // One is closed before all of it has found room.
            let _ = conn.answer(b"1", &Blank(1 << 20));
        }
    }
    assert_eq!([&modest, &first, &second].map(Conn::is_closed), [false, true, false]);
}

#[test]
fn the_total_holds_where_all_peers_that_read_nothing_hold_as_much() {
    let limits =
        Limits { max_frame_bytes: 1 << 20, queue_bytes: 4 << 20, total_queue_bytes: 16 << 20, ..Limits::default() };
    let shared = Arc::new(SharedState::new(LengthValue::new(limits.max_frame_bytes), limits, true));
    let conns: Vec<Conn> = (0..40).map(|_| Conn::new(Arc::clone(&shared), Ends::default())).collect();
    let (frame, mut cx) = (Bytes::from(vec![b'x'; 64 << 10]), Context::from_waker(Waker::noop()));
    let mut waiting: Vec<Pin<Box<dyn Future<Output = _>>>> = Vec::new();
    // As answers of tasks are given: at once where there is room, else they wait for it, up to queue_bytes in all.
    for conn in &conns {
        shared.connections.insert(conn.id(), conn.clone());
        for _ in 0..63 {
            if conn.outbox().glance() > 2 << 20 || conn.try_send(frame.clone()).is_err() {
                let (conn, frame) = (conn.clone(), frame.clone());
                waiting.push(Box::pin(async move { conn.send(frame).await }));
            }
            waiting.retain_mut(|send| send.as_mut().poll(&mut cx).is_pending());
            conns.iter().filter(|conn| conn.is_closed()).for_each(|conn| drop(shared.connections.remove(&conn.id())));
        }
    }
    let queued = shared.queued.load(Relaxed);
    assert!(queued <= 17 << 20, "{queued}");
    assert!(conns.iter().any(|conn| !conn.is_closed()));
}

#[tokio::test(start_paused = true)]
async fn frames_that_go_to_many_in_one_turn_are_queued_at_one_time() {
    let frame = Shared::new(Bytes::from_static(b"frame"));
    let [publisher, first, second, own, last] = [(); 5].map(|()| conn());
    let pushed_at = |conn: &Conn| {
        conn.push(&frame, Some(&publisher)).unwrap();
        conn.outbox().load().1
    };
    lane::open();
    let mut account = lane::Account::default();
    let turn = lane::turn(&mut account).await;
    let at = pushed_at(&first);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(pushed_at(&second), at);
    own.answer(b"1", &Blank(10)).unwrap();
    assert!(own.outbox().load().1 > at, "what goes to one is queued now");
    // Its peer took all after the last look at the clock.
    let queued = take(&own);
    wrote(&own, queued);
    let took = own.outbox().load().1;
    assert!(took > at);
    assert_eq!(pushed_at(&own), took);
    lane::leave(&mut account, turn, None);
    assert!(pushed_at(&last) > at, "outside of turns too");
}
