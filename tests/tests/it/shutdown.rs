//! Stopping, whatever the peers do.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use callboard::{Client, Reconnect, Router, Server};
use callboard_common::Executed;
use callboard_net::Address;
use callboard_tests::{RawPeer, frame, within};
use tokio::io::AsyncWriteExt;

use crate::house::{address, center, router, until};

#[tokio::test]
async fn it_stops_within_two_seconds_whatever_its_peers_do() {
    let center = center().await;
    let address = address(&center);
    let mut idle = RawPeer::connect(&address).await;
    let mut half = RawPeer::connect(&address).await;
    half.send_bytes(&[0, 0, 1]).await;
    let mut waiting = RawPeer::connect(&address).await;
    waiting.send(0, b"never", r#"{"method":"never"}"#).await;
    // One that asks for more than its socket holds and reads none of it.
    let mut deaf = RawPeer::connect(&address).await;
    let body = format!(r#"{{"method":"echo","parameters":"{}"}}"#, "x".repeat(1 << 20));
    let request = frame(0, b"id", body.as_bytes());
    while tokio::time::timeout(Duration::from_millis(500), deaf.stream.write_all(&request)).await.is_ok() {}
    let start = Instant::now();
    center.shutdown().await;
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    for peer in [&mut idle, &mut half, &mut waiting] {
        peer.expect_end().await;
    }
    assert!(tokio::net::TcpStream::connect(address.to_socket_addr().unwrap()).await.is_err(), "nobody listens");
}

#[tokio::test]
async fn answers_in_flight_still_leave() {
    let (tell, mut called) = tokio::sync::mpsc::channel(1);
    let (finish, finished) = std::sync::mpsc::channel();
    let finished = Mutex::new(finished);
    let center = callboard_center::Center::builder()
        .listen("tcp://127.0.0.1:0")
        .router(router().method_blocking("slow", move |_: serde_json::Value| {
            tell.blocking_send(()).unwrap();
            finished.lock().unwrap().recv().unwrap();
            Ok("done")
        }))
        .start()
        .await
        .unwrap();
    let mut peer = RawPeer::connect(address(&center)).await;
    peer.send(0, b"slow", r#"{"method":"slow"}"#).await;
    called.recv().await.unwrap();
    let mut shutdown = pin!(center.shutdown());
    poll_fn(|cx| {
        assert!(shutdown.as_mut().poll(cx).is_pending(), "an answer is due");
        Poll::Ready(())
    })
    .await;
    finish.send(()).unwrap();
    shutdown.await;
    assert_eq!(peer.receive().await.json()["result"], "done");
    peer.expect_end().await;
}

#[tokio::test]
async fn session_peers_that_know_it_are_told_that_the_center_goes_away() {
    let center = center().await;
    let mut told = RawPeer::with_session(address(&center), &["goaway"]).await;
    let mut untold = RawPeer::with_session(address(&center), &["ping"]).await;
    let mut v1 = RawPeer::connect(address(&center)).await;
    v1.ask(2, r#"{"topic_key":"t","optype":0}"#).await;
    center.shutdown().await;
    let goaway = told.receive().await;
    assert_eq!((goaway.mtype, goaway.id.len()), (21, 0));
    assert!(goaway.json()["grace_ms"].as_u64() > Some(0) && goaway.json()["reason"].is_string());
    for peer in [&mut told, &mut untold, &mut v1] {
        peer.expect_end().await;
    }
}

/// Its sender has no answer to miss.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_one_way_call_that_was_taken_is_executed_though_its_server_leaves() {
    for _ in 0..20 {
        let executed = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&executed);
        let router = Router::new().method("log", move |(): ()| {
            count.fetch_add(1, SeqCst);
            Ok(())
        });
        let server = Server::builder().router(router).listen("127.0.0.1:0").loops(1).start().await.unwrap();
        let client = Client::builder().reconnect(Reconnect::never());
        let client = client.connect(server.addresses()[0].to_string()).await.unwrap();
        let callers = [(); 2].map(|()| tokio::spawn(call_one_way(client.clone())));
        until("calls come", || executed.load(SeqCst) > 100).await;
        within(server.shutdown()).await;
        let mut taken = 0;
        for caller in callers {
            taken += within(caller).await.unwrap();
        }
        assert_eq!(executed.load(SeqCst), taken);
    }
}

/// Calls one-way until the peer leaves; so many calls were taken.
async fn call_one_way(client: Client) -> u64 {
    let mut taken = 0;
    loop {
        match client.notify("log", &()).await {
            Ok(()) => taken += 1,
            Err(error) => {
                assert_eq!(error.executed(), Executed::No, "{error}");
                return taken;
            }
        }
    }
}

#[tokio::test]
async fn an_address_in_use_is_an_error_and_a_stale_socket_file_is_not() {
    let center = center().await;
    let again = callboard_center::Center::builder().listen(address(&center)).start().await;
    let error = format!("{:#}", anyhow::Error::from(again.unwrap_err()));
    assert!(error.contains(&address(&center).to_string()), "{error}");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("center.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap()); // leaves its file behind
    let unix = Address::Unix(path.clone());
    let first = callboard_center::Center::builder().listen(unix.clone()).start().await.unwrap();
    let second = callboard_center::Center::builder().listen(unix.clone()).start().await;
    assert!(second.is_err(), "a live one is an error");
    until("it answers", || std::os::unix::net::UnixStream::connect(&path).is_ok()).await;
    first.shutdown().await;
    assert!(!path.exists(), "its file goes with it");
    std::fs::write(&path, "a letter").unwrap();
    assert!(callboard_center::Center::builder().listen(unix).start().await.is_err(), "what is no socket is left alone");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a letter");
}

#[tokio::test]
async fn a_server_listens_on_any_number_of_addresses_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let unix = Address::Unix(folder.path().join("center.sock"));
    let center = callboard_center::Center::builder()
        .listen("127.0.0.1:0")
        .listen("tcp://[::1]:0")
        .listen("localhost:0")
        .listen(unix.to_string().replace("unix://", "file://"))
        .pin(true)
        .loops(3)
        .router(router())
        .start()
        .await
        .unwrap();
    assert_eq!(center.addresses().len(), 4);
    assert_eq!(center.addresses()[3], unix);
    for address in center.addresses() {
        assert!(!address.to_string().ends_with(":0"), "{address}");
        let client = Client::connect(address.to_string()).await.unwrap();
        assert_eq!(client.timeout(), Duration::from_secs(5));
        let sum: i64 = client.call("add", &serde_json::json!({"num1": 1, "num2": 2})).await.unwrap();
        assert_eq!(sum, 3);
    }
}
