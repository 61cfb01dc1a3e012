//! Readers that are slow or take nothing: publishers are held back for those that make progress, nobody else notices.

use std::sync::Arc;
use std::time::Duration;

use callboard_center::Center;
use callboard_net::Limits;
use callboard_registry::AvailabilityPolicy;
use callboard_server::{Router, Server};
use callboard_tests::{RawPeer, frame, within};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::house::{address, center_with, until};

const MESSAGES: usize = 5000;

/// `stall` is longer than a loaded machine keeps a thread of a test from running: what the test lets read on must not
/// count as stalled.
fn limits(stall: Duration) -> Limits {
    Limits { max_frame_bytes: 64 << 10, queue_bytes: 512 << 10, stall, ..Limits::default() }
}

/// A peer whose kernel takes few bytes, so that its center's outbox soon holds the rest.
pub(crate) async fn narrow(address: &callboard_net::Address) -> RawPeer {
    let address = address.to_socket_addr().unwrap();
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&address.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut peer = RawPeer::connect(address).await;
    peer.stream = TcpStream::from_std(socket.into()).unwrap();
    peer
}

fn message(number: usize) -> Vec<u8> {
    let body = json!({"topic_key": "t", "optype": 4, "topic_msg": format!("{number:04096}")}).to_string();
    frame(2, number.to_string().as_bytes(), body.as_bytes())
}

/// Publishes all without waiting for answers, and takes the answers meanwhile.
async fn publish_all(publisher: RawPeer) {
    let (mut reader, mut writer) = publisher.stream.into_split();
    let answers = tokio::spawn(async move {
        let mut sink = tokio::io::sink();
        let _ = tokio::io::copy(&mut reader, &mut sink).await;
    });
    for number in 0..MESSAGES {
        let message = message(number);
        within(writer.write_all(&message)).await.unwrap();
    }
    // The connection stays until the test ends: its messages may still be on their way.
    drop(tokio::spawn(async move {
        let _writer = writer;
        let _ = answers.await;
    }));
}

async fn subscribe(peer: &mut RawPeer) {
    assert_eq!(peer.ask(2, r#"{"topic_key":"t","optype":0}"#).await.rcode(), 0);
    assert_eq!(peer.ask(2, r#"{"topic_key":"t","optype":2}"#).await.rcode(), 0);
}

async fn expect_all(peer: &mut RawPeer, pause: Duration) {
    for number in 0..MESSAGES {
        let push = peer.receive().await;
        assert_eq!(push.id, number.to_string().into_bytes());
        if number % 100 == 0 && !pause.is_zero() {
            tokio::time::sleep(pause).await; // this is what makes the reader slow
        }
    }
}

#[tokio::test]
async fn a_subscriber_that_makes_progress_holds_its_publisher_back_and_loses_nothing() {
    let center = center_with(limits(Duration::from_secs(20))).await;
    let mut slow = narrow(&address(&center)).await;
    subscribe(&mut slow).await;
    let publisher = tokio::spawn(publish_all(RawPeer::connect(address(&center)).await));
    let mut bystander = RawPeer::connect(address(&center)).await;
    let reading = tokio::spawn(async move {
        expect_all(&mut slow, Duration::from_millis(5)).await;
        slow
    });
    while !reading.is_finished() {
        bystander.expect_quiet().await;
        assert!(center.metrics().queued_bytes <= 1 << 20, "{:?}", center.metrics());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut slow = reading.await.unwrap();
    publisher.await.unwrap();
    assert!(center.metrics().holds > 0 && center.metrics().slow_readers == 0, "{:?}", center.metrics());
    slow.expect_quiet().await;
}

#[tokio::test]
async fn a_subscriber_that_takes_nothing_is_cut_off_and_nobody_else_notices() {
    let center = center_with(limits(Duration::from_secs(3))).await;
    let mut stalled = narrow(&address(&center)).await;
    subscribe(&mut stalled).await;
    let mut healthy = RawPeer::connect(address(&center)).await;
    subscribe(&mut healthy).await;
    let publisher = tokio::spawn(publish_all(RawPeer::connect(address(&center)).await));
    expect_all(&mut healthy, Duration::ZERO).await;
    publisher.await.unwrap();
    assert_eq!(center.metrics().slow_readers, 1, "{:?}", center.metrics());
    healthy.expect_quiet().await;
    until("what it held is free again", || center.metrics().queued_bytes == 0).await;
    drop(stalled);
}

#[tokio::test]
async fn a_watcher_that_takes_nothing_is_closed_and_others_hear_every_notice() {
    let center = Center::builder().listen("tcp://127.0.0.1:0").limits(limits(Duration::from_secs(3)));
    let center = center.availability(AvailabilityPolicy::trusting()).start().await.unwrap();
    let mut stalled = narrow(&address(&center)).await;
    let mut healthy = RawPeer::connect(address(&center)).await;
    for watcher in [&mut stalled, &mut healthy] {
        assert_eq!(watcher.ask(4, r#"{"method":"m","optype":1}"#).await.rcode(), 5);
    }
    // The stalled one's outbox fills with notices: each change of the provider is one, until it is closed.
    let mut provider = RawPeer::with_session(address(&center), &["withdraw"]).await;
    let host = r#""host":{"ip":"127.0.0.1","port":9}"#;
    let register = frame(4, b"r", format!(r#"{{"method":"m","optype":0,{host}}}"#).as_bytes());
    let withdraw = frame(4, b"w", br#"{"method":"m","optype":4}"#);
    let batch = [register, withdraw].concat().repeat(500);
    let mut changes = 0;
    while center.metrics().slow_readers == 0 {
        provider.send_bytes(&batch).await;
        for _ in 0..1000 {
            assert_eq!(provider.receive().await.rcode(), 0);
            let notice = healthy.receive().await.json();
            assert_eq!(notice["optype"], 2 + changes % 2, "every change, in turn");
            changes += 1;
        }
        assert!(changes < 400_000, "the stalled watcher is still there: {:?}", center.metrics());
    }
    until("it is gone", || center.metrics().connections == 2).await;
    healthy.expect_quiet().await;
}

/// With buffers of the usual size: what the kernel holds must not hide that a reader goes on reading.
#[tokio::test]
async fn a_steady_reader_of_400_kb_a_second_is_not_taken_for_a_stalled_one() {
    let center = center_with(limits(Duration::from_secs(2))).await;
    let mut steady = RawPeer::connect(address(&center)).await;
    subscribe(&mut steady).await;
    let publisher = tokio::spawn(publish_all(RawPeer::connect(address(&center)).await));
    until("the publisher is held back", || center.metrics().holds > 0).await;
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    let mut next = 0;
    for _ in 0..50 {
        pace.tick().await;
        for _ in 0..10 {
            assert_eq!(steady.receive().await.id, next.to_string().into_bytes());
            next += 1;
        }
    }
    assert_eq!(center.metrics().slow_readers, 0, "{:?}", center.metrics());
    publisher.abort();
}

#[tokio::test]
async fn answers_that_nobody_reads_are_bounded_and_for_the_others_it_is_told_that_they_were_executed() {
    const CALLS: usize = 400;
    let go = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&go);
    let router = Router::new().method_async("large", move |_: Value| {
        let go = Arc::clone(&opened);
        async move {
            go.acquire().await?.forget();
            Ok("x".repeat(32 << 10))
        }
    });
    let limits = limits(Duration::from_millis(500));
    let bound = limits.queue_bytes;
    let server = Server::builder().router(router).limits(limits).loops(1).start().await.unwrap();
    let mut peer = narrow(&server.addresses()[0]).await;
    for number in 0..CALLS {
        peer.send(0, number.to_string().as_bytes(), r#"{"method":"large"}"#).await;
    }
    until("all of them run", || server.in_flight() == CALLS).await;
    go.add_permits(CALLS);
    until("what waits is within its bound", || {
        let (metrics, short_answers) = (server.metrics(), CALLS * 512);
        let is_bounded =
            server.in_flight() * (32 << 10) <= bound && metrics.queued_bytes <= (bound + short_answers) as u64;
        metrics.overloaded > 0 && is_bounded
    })
    .await;
    let mut answered = 0;
    for _ in 0..CALLS {
        let answer = peer.receive().await.json();
        if answer["rcode"] == 0 {
            answered += 1;
            continue;
        }
        let data = json!({"limit": "unread_bytes", "bound": bound});
        assert_eq!((&answer["rcode"], &answer["error"]["executed"]), (&json!(17), &json!("yes")), "{answer}");
        assert_eq!(answer["error"]["data"], data, "{answer}");
    }
    assert!(answered * (32 << 10) >= bound / 2, "{answered}");
    assert_eq!(server.metrics().overloaded, (CALLS - answered) as u64);
}
