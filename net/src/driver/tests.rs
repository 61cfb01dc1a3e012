use std::sync::Mutex;
use std::time::Duration;

use callboard_common::{LengthValue, Message, Recorder, Session, TopicAnswer};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex};

use super::ends::{QUIET_TIME, QUIET_TIME_OF_TOLD};
use super::*;
use crate::shared_state::SharedState;
use crate::{Ends, Limits};

mod chunks;
mod crowd;
mod flood;
mod heartbeats;
mod leaving;
mod race;

/// Answers each message, except those whose id is "wait": they stay in flight until the test lets them go; and those whose
/// id is "one-way".
#[derive(Default)]
struct Echo {
    waiting: Mutex<Vec<callboard_common::InFlight<Conn>>>,
    seen: Mutex<Vec<Message>>,
    closed: Mutex<usize>,
}

impl Handler<Conn> for Echo {
    fn handle(&self, conn: &Conn, message: Message) {
        if message.id() == b"wait" {
            self.waiting.lock().unwrap().extend(conn.begin_request());
        } else if message.id() != b"one-way" {
            conn.answer(message.id(), &TopicAnswer::ok()).unwrap();
        }
        self.seen.lock().unwrap().push(message.detach());
    }

    fn closed(&self, _conn: &Conn) {
        *self.closed.lock().unwrap() += 1;
    }
}

struct Rig {
    peer: DuplexStream,
    conn: Conn,
    echo: Arc<Echo>,
    shared: Arc<SharedState>,
}

fn rig(pipe_bytes: usize, limits: Limits) -> Rig {
    let (peer, ours) = duplex(pipe_bytes);
    let shared = Arc::new(SharedState::new(LengthValue::new(limits.max_frame_bytes), limits, true));
    let conn = Conn::new(Arc::clone(&shared), Ends::default());
    let echo = Arc::new(Echo::default());
    tokio::spawn(Driver::new(ours, Registration::new(conn.clone(), Arc::clone(&echo))));
    Rig { peer, conn, echo, shared }
}

fn frame(id: &[u8], body: &[u8]) -> Vec<u8> {
    Recorder::new(0).message(2, id, body).frame().to_vec()
}

async fn answer(peer: &mut DuplexStream) -> Vec<u8> {
    let length = peer.read_u32().await.unwrap() as usize;
    let mut rest = vec![0; length];
    peer.read_exact(&mut rest).await.unwrap();
    rest[8..length - 11].to_vec()
}

#[tokio::test(start_paused = true)]
async fn frames_split_anywhere_are_answered_in_order() {
    let mut rig = rig(7, Limits::default());
    let stream = [frame(b"a", b"{}"), frame(b"", b""), frame(b"ccc", &[b' '; 100])].concat();
    let write = async {
        for byte in &stream {
            rig.peer.write_all(std::slice::from_ref(byte)).await.unwrap();
        }
        let mut ids = Vec::new();
        for _ in 0..3 {
            ids.push(answer(&mut rig.peer).await);
        }
        ids
    };
    assert_eq!(write.await, [&b"a"[..], b"", b"ccc"]);
    drop(rig.peer);
    rig.conn.closed().await;
    assert_eq!(rig.shared.snapshot().partial_bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn large_and_small_frames_in_any_mixture_arrive_whole() {
    let sizes =
        [70_000, 70_000, 70_000, 70_000, 20_000, 20_000, 100, 300_000, 70_000, 16_384, 65_536, 5_000, 262_144, 0];
    let sent: Vec<_> = (0u8..).zip(sizes).map(|(n, size)| frame(&[n], &vec![n; size])).collect();
    for pipe_bytes in [1_000, 70_013, 100_000, 1 << 20] {
        let rig = rig(pipe_bytes, Limits::default());
        let (mut answers, mut requests) = tokio::io::split(rig.peer);
        let stream = sent.concat();
        let writing = tokio::spawn(async move { requests.write_all(&stream).await });
        let mut heard = vec![0; sizes.len() * frame(b"?", br#"{"rcode":0}"#).len()];
        answers.read_exact(&mut heard).await.unwrap();
        writing.await.unwrap().unwrap();
        let seen = rig.echo.seen.lock().unwrap();
        assert!(seen.iter().map(|message| &message.frame()[..]).eq(sent.iter().map(|frame| &frame[..])));
        assert_eq!(rig.shared.snapshot().partial_bytes, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn silence_in_a_frame_closes_after_its_time_and_not_before() {
    let mut rig = rig(1024, Limits::default());
    rig.peer.write_all(&frame(b"a", b"{}")[..9]).await.unwrap();
    let start = Instant::now();
    rig.conn.closed().await;
    assert_eq!(start.elapsed().as_secs(), 10);
    assert_eq!(rig.shared.snapshot().frame_timeouts, 1);
    assert!(rig.echo.seen.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_trickle_closes_when_the_whole_frame_is_overdue() {
    let mut rig = rig(1024, Limits::default());
    let start = Instant::now();
    let long = frame(b"a", &vec![b' '; 200_000]); // 10 s and 3 s for 3 times 64 KiB
    for byte in &long {
        if rig.conn.is_closed() || rig.peer.write_all(std::slice::from_ref(byte)).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let took = start.elapsed().as_secs();
    assert!((13..=14).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn flushing_waits_for_what_was_queued_and_not_for_what_is_queued_meanwhile() {
    let mut rig = rig(1_000, Limits::default());
    let queue = || rig.conn.try_send(frame(b"a", &[b' '; 2_000]).into()).unwrap();
    queue();
    let first = rig.conn.outbox().end();
    let conn = rig.conn.clone();
    let flushing = tokio::spawn(async move { conn.flushed().await });
    let mut rounds = 0;
    while !flushing.is_finished() {
        tokio::task::yield_now().await;
        queue(); // more than is read
        rig.peer.read_exact(&mut [0; 500]).await.unwrap();
        rounds += 1;
        assert!(rounds < 100);
    }
    flushing.await.unwrap().unwrap();
    assert!(rounds > 1 && rig.conn.sent_bytes() >= first);
    assert!(rig.conn.outbox().bytes() > 0, "what came later still waits");
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_and_one_between_frames_live_on() {
    let mut rig = rig(1024, Limits::default());
    rig.peer.write_all(&frame(b"a", b"{}")).await.unwrap();
    answer(&mut rig.peer).await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert!(!rig.conn.is_closed());
}

#[tokio::test(start_paused = true)]
async fn half_a_frame_then_the_end_closes_and_no_handler_saw_it() {
    let mut rig = rig(1024, Limits::default());
    rig.peer.write_all(&frame(b"a", b"{}")[..13]).await.unwrap();
    drop(rig.peer);
    rig.conn.closed().await;
    assert!(rig.conn.close_reason().unwrap().contains("middle of a frame"));
    assert!(rig.echo.seen.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_v1_peer_at_its_limit_is_not_read_and_its_silence_does_not_count() {
    let mut rig = rig(4096, Limits { in_flight: 2, ..Limits::default() });
    let stream = [frame(b"wait", b""), frame(b"wait", b""), frame(b"late", b"")].concat();
    rig.peer.write_all(&stream[..stream.len() - 1]).await.unwrap();
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(!rig.conn.is_closed(), "while it is not read, its silence does not count");
    assert_eq!(rig.echo.seen.lock().unwrap().len(), 2);
    rig.peer.write_all(&stream[stream.len() - 1..]).await.unwrap();
    rig.echo.waiting.lock().unwrap().pop();
    assert_eq!(answer(&mut rig.peer).await, b"late");
}

#[tokio::test(start_paused = true)]
async fn a_session_peer_is_read_past_its_limit() {
    let rig = rig(4096, Limits { in_flight: 1, ..Limits::default() });
    assert!(rig.conn.open_session(session()));
    let first = rig.conn.begin_request();
    assert!(first.is_some() && rig.conn.begin_request().is_none() && rig.conn.may_read());
    drop(first);
    assert!(rig.conn.begin_request().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_its_answers_is_not_read() {
    let limits = Limits { max_frame_bytes: 2048, queue_bytes: 4096, ..Limits::default() };
    let mut rig = rig(256, limits);
    let request = frame(b"a", b"");
    let mut sent = 0;
    while tokio::time::timeout(Duration::from_secs(1), rig.peer.write_all(&request)).await.is_ok() {
        sent += 1;
    }
    // Each answer has 24 bytes; half of the outbox, two pipes and a read's worth of requests bound what was taken.
    assert!(sent < 400, "{sent}");
    assert!(rig.shared.snapshot().queued_bytes < 4096 + 24);
    for _ in 0..sent {
        assert_eq!(answer(&mut rig.peer).await, b"a");
    }
    assert_eq!(rig.shared.snapshot().queued_bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn the_end_waits_for_answers_that_are_due() {
    let mut rig = rig(1024, Limits::default());
    rig.peer.write_all(&frame(b"wait", b"")).await.unwrap();
    rig.peer.shutdown().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!rig.conn.is_closed());
    rig.conn.answer(b"wait", &TopicAnswer::ok()).unwrap();
    rig.echo.waiting.lock().unwrap().clear();
    assert_eq!(answer(&mut rig.peer).await, b"wait");
    rig.conn.closed().await;
    tokio::task::yield_now().await;
    assert_eq!(*rig.echo.closed.lock().unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_has_finished_is_kept_for_its_answers_only_so_long() {
    let mut rig = rig(1024, Limits::default());
    rig.peer.write_all(&frame(b"wait", b"")).await.unwrap();
    rig.peer.shutdown().await.unwrap();
    let start = Instant::now();
    rig.conn.closed().await;
    assert_eq!(start.elapsed(), Limits::default().half_closed);
}

#[tokio::test(start_paused = true)]
async fn a_side_that_says_no_more_says_what_is_queued_and_goes_on_reading() {
    let mut rig = rig(1024, Limits::default());
    rig.conn.answer(b"queued", &TopicAnswer::ok()).unwrap();
    rig.conn.finish_sending();
    assert_eq!(answer(&mut rig.peer).await, b"queued");
    assert_eq!(rig.peer.read(&mut [0]).await.unwrap(), 0, "the peer is told that no more comes");
    rig.peer.write_all(&frame(b"one-way", b"")).await.unwrap();
    while rig.echo.seen.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!rig.conn.is_closed(), "it ends by the peer");
    rig.peer.shutdown().await.unwrap();
    rig.conn.closed().await;
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_it_drains_is_refused_and_it_ends_when_the_peer_is_quiet() {
    let mut rig = rig(1024, Limits::default());
    rig.peer.write_all(&frame(b"wait", b"")).await.unwrap();
    tokio::task::yield_now().await;
    let start = Instant::now();
    rig.conn.drain(Duration::from_secs(5));
    for _ in 0..10 {
        tokio::time::sleep(QUIET_TIME * 9 / 10).await;
        rig.peer.write_all(&frame(b"late", b"")).await.unwrap();
        let length = rig.peer.read_u32().await.unwrap() as usize;
        let mut answer = vec![0; length];
        rig.peer.read_exact(&mut answer).await.unwrap();
        let text = String::from_utf8_lossy(&answer);
        assert!(text.contains("late{\"rcode\":22") && text.contains("\"executed\":\"no\""), "{text}");
    }
    assert_eq!(rig.echo.seen.lock().unwrap().len(), 1, "no handler saw the late ones");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!rig.conn.is_closed(), "an answer is due");
    rig.echo.waiting.lock().unwrap().clear();
    rig.conn.closed().await;
    assert!(start.elapsed() < Duration::from_secs(5));
}

/// One with all features.
fn session() -> Session {
    let (features, limits) = (callboard_common::Features::ALL, callboard_common::Limits::default());
    let (name, instance) = (String::new(), String::new());
    Session { name, instance, store: None, features, limits, heartbeats: None, serving: None }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_was_told_ends_it_itself_and_one_that_hangs_has_a_second() {
    for closes in [true, false] {
        let mut rig = rig(1024, Limits::default());
        assert!(rig.conn.open_session(session()));
        rig.conn.drain(Duration::from_secs(5));
        let start = Instant::now();
        let length = rig.peer.read_u32().await.unwrap() as usize;
        rig.peer.read_exact(&mut vec![0; length]).await.unwrap();
        tokio::time::sleep(QUIET_TIME * 2).await;
        assert!(!rig.conn.is_closed(), "a request of its may be on its way");
        if closes {
            rig.peer.shutdown().await.unwrap();
        }
        rig.conn.closed().await;
        assert_eq!(start.elapsed() < QUIET_TIME_OF_TOLD, closes, "{:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn one_way_requests_are_taken_while_a_connection_drains() {
    let mut rig = rig(1024, Limits::default());
    assert!(rig.conn.open_session(session()));
    rig.conn.drain(Duration::from_secs(5));
    let kind = u32::from(callboard_common::FLAG_ONE_WAY) << 24 | 2;
    let one_way = Recorder::new(0).message(kind, b"one-way", b"{}").frame().to_vec();
    rig.peer.write_all(&[one_way, frame(b"asks", b"{}")].concat()).await.unwrap();
    rig.peer.shutdown().await.unwrap();
    rig.conn.closed().await;
    let seen = rig.echo.seen.lock().unwrap();
    assert_eq!(seen.iter().map(Message::id).collect::<Vec<_>>(), [b"one-way"]);
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_in_its_time_whatever_the_peer_does() {
    let mut rig = rig(64, Limits::default());
    rig.peer.write_all(&frame(b"wait", b"")).await.unwrap();
    tokio::task::yield_now().await;
    rig.conn.answer(b"much", &TopicAnswer::ok()).unwrap();
    let start = Instant::now();
    rig.conn.drain(Duration::from_secs(5));
    rig.conn.closed().await;
    assert_eq!(start.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn publishers_wait_for_a_slow_peer_but_not_for_a_stalled_one() {
    let limits = Limits { max_frame_bytes: 1024, queue_bytes: 8192, ..Limits::default() };
    let publisher = rig(1024, limits.clone());
    let mut slow = rig(16, limits);
    let push = || {
        let message = slow.conn.share(vec![b'x'; 512].into());
        slow.conn.push(&message, Some(&publisher.conn))
    };
    while publisher.conn.may_read() {
        push().unwrap();
    }
    let mut sink = vec![0; 512];
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert!(!publisher.conn.may_read(), "it takes bytes, so it is waited for");
        slow.peer.read_exact(&mut sink[..8]).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(publisher.conn.may_read(), "it takes none, so it is not");
    while push().is_ok() {}
    assert!(publisher.conn.may_read());
    assert_eq!(slow.shared.snapshot().slow_readers, 1);
}

/// Two threads: one task's socket is full and takes no more, the other pushes to it and is held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_on_a_stalled_peer_always_ends() {
    let limits =
        Limits { max_frame_bytes: 1024, queue_bytes: 4096, stall: Duration::from_millis(5), ..Limits::default() };
    for _ in 0..300 {
        let publisher = rig(1024, limits.clone());
        let stalled = rig(16, limits.clone());
        while publisher.conn.may_read() {
            let message = stalled.conn.share(vec![b'x'; 512].into());
            if stalled.conn.push(&message, Some(&publisher.conn)).is_err() {
                break; // it stalled before it was half full, on a machine with much else to do
            }
            tokio::task::yield_now().await;
        }
        let freed = async {
            while !publisher.conn.may_read() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), freed).await.expect("the publisher is held for ever");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_ends_its_connection_and_leaves_nothing_behind() {
    struct Fall;
    impl Handler<Conn> for Fall {
        fn handle(&self, _conn: &Conn, _message: Message) {
            panic!("on purpose");
        }
    }
    let (mut peer, ours) = duplex(1024);
    let limits = Limits::default();
    let shared = Arc::new(SharedState::new(LengthValue::new(limits.max_frame_bytes), limits, true));
    let conn = Conn::new(Arc::clone(&shared), Ends::default());
    tokio::spawn(Driver::new(ours, Registration::new(conn.clone(), Arc::new(Fall))));
    let bytes = [frame(b"a", b"{}"), frame(b"b", &[b' '; 400])].concat();
    peer.write_all(&bytes[..300]).await.unwrap();
    conn.closed().await;
    while !shared.connections.is_empty() {
        tokio::task::yield_now().await;
    }
    let counted = shared.snapshot();
    assert_eq!((counted.panicked, counted.partial_bytes, counted.closed), (1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn times_beyond_what_a_clock_can_tell_are_taken() {
    let limits = Limits { frame_silence: Duration::MAX, half_closed: Duration::MAX, ..Limits::default() };
    let mut rig = rig(1024, limits);
    rig.peer.write_all(&frame(b"a", b"{}")[..5]).await.unwrap();
    rig.conn.drain(Duration::MAX);
    rig.peer.write_all(&frame(b"a", b"{}")[5..]).await.unwrap();
    assert!(answer(&mut rig.peer).await.starts_with(b"a"));
}
