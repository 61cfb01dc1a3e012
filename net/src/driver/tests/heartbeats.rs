use std::time::Duration;

use callboard_common::{Features, Heartbeat, Heartbeats};
use tokio::time::{sleep, timeout};

use super::*;

const TIMES: Heartbeats =
    Heartbeats { caller: Heartbeat::from_ms(15_000, 45_000), provider: Heartbeat::from_ms(1_000, 3_000) };

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A connection whose peer has opened a session with heartbeats.
fn session() -> Rig {
    let rig = rig(4096, Limits::default());
    let limits = callboard_common::Limits::default();
    let (name, instance) = (String::new(), String::new());
    assert!(rig.conn.open_session(Session {
        name,
        instance,
        store: None,
        features: Features::ALL,
        limits,
        heartbeats: Some(Arc::new(TIMES)),
        serving: None
    }));
    // The task looks at the session when it next goes to sleep.
    rig.conn.wake();
    rig
}

/// The kind of the next frame that comes within this time.
async fn next_kind(peer: &mut DuplexStream, within: Duration) -> Option<u8> {
    let frame = async {
        let mut frame = vec![0; peer.read_u32().await.unwrap() as usize];
        peer.read_exact(&mut frame).await.unwrap();
        frame[3]
    };
    timeout(within, frame).await.ok()
}

const PING: Option<u8> = Some(18);

#[tokio::test(start_paused = true)]
async fn a_silent_provider_is_asked_each_second_and_closed_after_three() {
    let mut rig = session();
    rig.conn.set_provider();
    assert_eq!(next_kind(&mut rig.peer, ms(999)).await, None);
    assert_eq!(next_kind(&mut rig.peer, ms(2)).await, PING);
    assert_eq!(next_kind(&mut rig.peer, ms(1001)).await, PING);
    sleep(ms(990)).await;
    assert!(!rig.conn.is_closed());
    timeout(ms(20), rig.conn.closed()).await.unwrap();
    assert_eq!(rig.conn.close_reason().unwrap(), "nothing was heard from it for 3s: it is taken for dead");
    assert_eq!(rig.shared.snapshot().peers_dead, 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_caller_is_asked_after_fifteen_seconds_and_closed_after_forty_five() {
    let mut rig = session();
    assert_eq!(next_kind(&mut rig.peer, ms(14_999)).await, None);
    assert_eq!(next_kind(&mut rig.peer, ms(2)).await, PING);
    assert!(timeout(ms(29_000), rig.conn.closed()).await.is_err());
    timeout(ms(1_500), rig.conn.closed()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_who_says_anything_lives_and_is_not_asked() {
    let mut rig = session();
    rig.conn.set_provider();
    for _ in 0..20 {
        sleep(ms(900)).await;
        rig.peer.write_all(&frame(b"id", b"{}")).await.unwrap();
        assert_ne!(next_kind(&mut rig.peer, ms(50)).await, PING);
    }
    assert!(!rig.conn.is_closed());
}

/// One that sends only one-way calls.
#[tokio::test(start_paused = true)]
async fn one_who_is_not_answered_hears_all_the_same_that_this_side_lives() {
    let mut rig = session();
    rig.conn.set_provider();
    let (start, mut heard) = (Instant::now(), Vec::new());
    while start.elapsed() < ms(10_500) {
        rig.peer.write_all(&frame(b"one-way", b"{}")).await.unwrap();
        if next_kind(&mut rig.peer, ms(100)).await == PING {
            heard.push(start.elapsed().as_secs());
        }
    }
    assert_eq!(heard, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
}

#[tokio::test(start_paused = true)]
async fn who_falls_silent_after_an_answer_is_dead_a_quarter_of_an_interval_later_at_most() {
    for answered in [0, 100, 260, 990] {
        let mut rig = session();
        rig.conn.set_provider();
        assert_eq!(next_kind(&mut rig.peer, ms(1001)).await, PING);
        sleep(ms(answered)).await;
        rig.peer.write_all(&frame(b"id", b"{}")).await.unwrap();
        assert!(timeout(ms(2999), rig.conn.closed()).await.is_err(), "{answered}");
        assert!(timeout(ms(255), rig.conn.closed()).await.is_ok(), "{answered}");
    }
}

#[tokio::test(start_paused = true)]
async fn silence_does_not_count_while_the_peer_is_not_read() {
    let rig = session();
    rig.conn.set_provider();
    let hold = rig.conn.hold_reading();
    rig.conn.wake();
    sleep(ms(60_000)).await;
    assert!(!rig.conn.is_closed());
    drop(hold);
    sleep(ms(2_900)).await;
    assert!(!rig.conn.is_closed());
    timeout(ms(200), rig.conn.closed()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_heartbeats_a_silent_peer_stays() {
    let mut rig = rig(4096, Limits::default());
    rig.conn.set_provider();
    assert_eq!(next_kind(&mut rig.peer, ms(100_000)).await, None);
    assert!(!rig.conn.is_closed());
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_still_says_that_it_lives() {
    let mut rig = session();
    rig.conn.set_provider();
    let _hold = rig.conn.hold_reading();
    rig.conn.wake();
    let next = next_kind(&mut rig.peer, ms(10_000)).await;
    assert_eq!(next, PING, "the other side takes us for dead after 3 s");
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_is_held_back_soon_hears_that_this_side_lives() {
    let mut rig = session();
    let _hold = rig.conn.hold_reading();
    rig.conn.wake();
    for _ in 0..8 {
        assert_eq!(next_kind(&mut rig.peer, ms(251)).await, PING);
    }
}

#[tokio::test(start_paused = true)]
async fn who_stood_still_asks_first() {
    let mut rig = session();
    rig.conn.set_provider();
    sleep(ms(100)).await;
    tokio::time::advance(ms(4_000)).await; // this side stood still
    sleep(ms(10)).await;
    let _ = &mut rig.peer;
    assert!(!rig.conn.is_closed());
}

/// The provider's own limit: it hears nothing any more, and what it says still comes.
#[tokio::test(start_paused = true)]
async fn a_provider_that_gives_up_first_was_silent_and_one_that_only_ends_was_not() {
    let rows = [
        ("it gives up", 2_990, false, Some(ms(10))),
        ("it ends when it has not been asked for long", 1_500, false, None),
        ("it ends right after it was asked", 1_001, false, None),
        ("it answers, and ends", 2_990, true, None),
    ];
    for (name, ends, answers, left) in rows {
        let mut rig = session();
        rig.conn.set_provider();
        sleep(ms(ends)).await;
        assert_eq!(rig.conn.patience_left(), None, "{name}");
        if answers {
            rig.peer.write_all(&frame(b"one-way", b"{}")).await.unwrap();
        }
        drop(rig.peer);
        rig.conn.closed().await;
        let left_now = rig.conn.patience_left();
        assert!(left_now <= left && left_now.is_some() == left.is_some(), "{name}: {left_now:?}");
        sleep(ms(20)).await;
        assert_eq!(rig.conn.patience_left(), left.map(|_| Duration::ZERO), "{name}");
        assert_eq!(rig.shared.snapshot().peers_dead, 0, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn its_silence_is_known_though_the_end_waits_for_an_answer() {
    let mut rig = session();
    rig.conn.set_provider();
    sleep(ms(100)).await;
    rig.peer.write_all(&frame(b"wait", b"{}")).await.unwrap();
    sleep(ms(2_900)).await;
    drop(rig.peer);
    sleep(ms(5_000)).await;
    assert!(!rig.conn.is_closed(), "an answer is due");
    rig.echo.waiting.lock().unwrap().clear();
    timeout(ms(10), rig.conn.closed()).await.unwrap();
    assert_eq!((rig.conn.patience_left(), rig.shared.snapshot().peers_dead), (Some(Duration::ZERO), 0));
}
