use std::sync::{Mutex, mpsc};

use callboard_common::Connection;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::*;
use crate::CallErrorKind;

const BOTH: &[&str] = &["one_way", "ping", "cancel"];

/// Drops a call that is awaited once the peer has it.
async fn drop_awaited(client: &Client, line: &mut Line) -> Message {
    let mut call = Box::pin(client.call::<Value>("awaited", &()));
    tokio::select! {
        biased;
        _ = &mut call => panic!("nobody answers it"),
        request = line.call() => request,
    }
}

/// That the next message gives this call up.
async fn expect_given_up(line: &mut Line, request: &Message) {
    let message = line.next().await.expect("the client has closed");
    assert_eq!((message.kind(), message.id(), message.body()), (MessageType::Cancel, request.id(), &b""[..]));
    assert_eq!(message.flags(), 0);
}

#[tokio::test]
async fn a_call_that_is_dropped_before_its_answer_or_has_none_in_time_is_given_up() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.session_of(BOTH, json!({})).await;
    let request = drop_awaited(&client, &mut line).await;
    expect_given_up(&mut line, &request).await;
    let kept = client.start::<Value>("kept", &()).await.unwrap();
    let request = line.call().await;
    drop(kept);
    expect_given_up(&mut line, &request).await;
    let error = client.with_timeout(Duration::from_millis(20)).call::<Value>("late", &()).await.unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Timeout), "{error}");
    let request = line.call().await;
    expect_given_up(&mut line, &request).await;
    assert_eq!(client.link().calls.waiting(), 0);
}

#[tokio::test]
async fn a_call_whose_time_is_over_is_given_up_though_nobody_polls_it() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.session_of(BOTH, json!({})).await;
    let hasty = client.with_timeout(Duration::from_millis(20));
    let kept = hasty.start::<Value>("kept", &()).await.unwrap();
    let request = line.call().await;
    expect_given_up(&mut line, &request).await;
    let (told, heard) = tokio::sync::oneshot::channel();
    hasty.call_then::<Value>("then", &(), move |outcome| drop(told.send(outcome))).unwrap();
    let request = line.call().await;
    expect_given_up(&mut line, &request).await;
    for error in [kept.await.unwrap_err(), heard.await.unwrap().unwrap_err()] {
        assert!(matches!(error.kind(), CallErrorKind::Timeout), "{error}");
    }
    drop(client.start::<Value>("last", &()).await.unwrap());
    let request = line.call().await; // the others were given up once
    expect_given_up(&mut line, &request).await;
}

/// Parameters that are written once they may be.
struct Held(Mutex<mpsc::Receiver<()>>);

impl Serialize for Held {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.lock().unwrap().recv().unwrap();
        serializer.serialize_unit()
    }
}

#[tokio::test]
async fn a_callback_whose_time_is_over_before_its_call_is_queued_has_that_given_up_all_the_same() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.session_of(BOTH, json!({})).await;
    let hasty = client.with_timeout(Duration::from_millis(20));
    let (write, held) = mpsc::channel();
    let (told, heard) = tokio::sync::oneshot::channel();
    let calling = tokio::task::spawn_blocking(move || {
        hasty.call_then::<Value>("then", &Held(Mutex::new(held)), move |outcome| drop(told.send(outcome)))
    });
    let error = heard.await.unwrap().unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Timeout), "{error}");
    let early = line.next().await.unwrap();
    assert_eq!(early.kind(), MessageType::Cancel);
    write.send(()).unwrap();
    let request = line.call().await;
    assert_eq!(request.id(), early.id());
    expect_given_up(&mut line, &request).await;
    calling.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_place_of_a_call_whose_time_is_over_is_free_once_the_call_is_given_up() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.session_of(BOTH, json!({"in_flight": 1})).await;
    for _ in 0..10 {
        let late = client.with_timeout(Duration::from_millis(20)).start::<Value>("late", &()).await.unwrap();
        // It is there once the place of the other is free.
        let next = client.start::<Value>("next", &()).await.unwrap();
        let request = line.call().await;
        expect_given_up(&mut line, &request).await;
        let request = line.call().await;
        line.answer(&request, r#"{"rcode":0,"result":1}"#).await;
        next.await.unwrap();
        late.await.unwrap_err();
    }
}

#[tokio::test]
async fn what_is_over_or_is_no_call_is_not_given_up() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.session_of(BOTH, json!({})).await;
    let answered = client.start::<i64>("answered", &()).await.unwrap();
    let request = line.call().await;
    line.answer(&request, r#"{"rcode":0,"result":1}"#).await;
    let last = client.start::<i64>("last", &()).await.unwrap();
    let request = line.call().await;
    line.answer(&request, r#"{"rcode":0,"result":2}"#).await;
    assert_eq!(last.await.unwrap(), 2);
    drop(answered); // its answer came before the other's

    let body = discovery("asked");
    let mut asked = Box::pin(client.exchange("discovery of \"asked\"", &body));
    let request = tokio::select! {
        biased;
        _ = &mut asked => panic!("nobody answers it"),
        request = line.next() => request.unwrap(),
    };
    assert_eq!(request.kind(), MessageType::ServiceRequest);
    drop(asked);

    tokio::spawn(line.echo_calls_only());
    assert_eq!(client.call::<i64>("echo", &3).await.unwrap(), 3);
}

#[tokio::test]
async fn a_peer_that_did_not_say_so_is_never_told() {
    let peer = Peer::new().await;
    for (client, mut line) in [peer.v1().await, peer.session(json!({})).await] {
        drop_awaited(&client, &mut line).await;
        drop(client.start::<Value>("kept", &()).await.unwrap());
        line.call().await;
        tokio::spawn(line.echo_calls_only());
        assert_eq!(client.call::<i64>("echo", &3).await.unwrap(), 3);
    }
}

#[tokio::test]
async fn a_client_that_is_told_that_a_call_is_given_up_says_nothing() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.session_of(BOTH, json!({})).await;
    line.send(MessageType::Cancel, b"id", "").await;
    tokio::spawn(line.echo_calls_only());
    assert_eq!(client.call::<i64>("echo", &3).await.unwrap(), 3);
    assert!(client.link().conn.session().is_some());
}
