use std::sync::Arc;

use callboard_common::{Executed, FLAG_ONE_WAY};
use serde_json::{Value, json};

use super::*;
use crate::{CallErrorKind, Limits};

const SHORT: Duration = Duration::from_millis(20);

#[tokio::test]
async fn a_call_that_is_not_answered_in_time_fails_and_is_forgotten() {
    let peer = Peer::new().await;
    let (client, _line) = peer.v1().await;
    let client = client.with_timeout(SHORT);
    let started = client.start::<Value>("n", &()).await.unwrap();
    let exchanged = client.exchange("topic \"t\"", &discovery("n")).await.unwrap_err();
    for error in [client.call::<Value>("n", &()).await.unwrap_err(), started.await.unwrap_err(), exchanged] {
        assert!(matches!(error.kind(), CallErrorKind::Timeout), "{error}");
        assert_eq!(error.executed(), Executed::Unknown);
        assert!(error.to_string().contains("no answer within 20ms"), "{error}");
    }
    assert_eq!(client.link().calls.waiting(), 0);
}

#[tokio::test]
async fn a_call_that_finds_no_place_in_time_was_not_executed() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.client(v1().in_flight(1)).await;
    let first = client.start::<i64>("n", &()).await.unwrap();
    let error = client.with_timeout(SHORT).call::<i64>("n", &()).await.unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Timeout), "{error}");
    assert_eq!(error.executed(), Executed::No);
    let error = client.call_then::<i64>("n", &(), |_| unreachable!()).unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Overloaded), "{error}");
    let error = client.exchange_in_order("topic \"t\"", &discovery("n"), |_| unreachable!()).unwrap_err();
    assert_eq!(error.subject(), "topic \"t\"");

    // An answer frees the place though nobody has looked at it yet.
    let request = line.call().await;
    line.answer(&request, r#"{"rcode":0,"result":1}"#).await;
    tokio::spawn(line.echo());
    assert_eq!(client.call::<i64>("echo", &2).await.unwrap(), 2);
    assert_eq!(first.await.unwrap(), 1);
}

#[tokio::test]
async fn places_are_had_in_the_order_of_asking_also_past_those_who_gave_up() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.client(v1().in_flight(1)).await;
    let mut calls = Vec::new();
    for n in 0..5 {
        let client = client.clone();
        calls.push(tokio::spawn(async move { client.call::<i64>("echo", &n).await }));
        // One thread runs all. After a pause a call lets others go first, once: then it asks for a place.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    }
    let first = line.call().await;
    for gone in [1, 3] {
        calls[gone].abort();
    }
    let newcomer = client.call_then::<i64>("n", &(), |_| unreachable!()).unwrap_err();
    assert!(matches!(newcomer.kind(), CallErrorKind::Overloaded), "{newcomer}");
    assert_eq!(params(&first), 0);
    line.answer(&first, r#"{"rcode":0,"result":0}"#).await;
    for n in [2, 4] {
        let next = line.call().await;
        assert_eq!(params(&next), n);
        line.answer(&next, &format!(r#"{{"rcode":0,"result":{n}}}"#)).await;
    }
    for (n, call) in (0i64..).zip(calls) {
        match call.await {
            Ok(answer) => assert_eq!(answer.unwrap(), n),
            Err(gone) => assert!(gone.is_cancelled() && [1, 3].contains(&n)),
        }
    }
    tokio::spawn(line.echo());
    assert_eq!(client.call::<i64>("echo", &5).await.unwrap(), 5, "no place was lost");
}

#[tokio::test]
async fn a_full_outbox_is_waited_for_and_bounded_by_the_deadline() {
    let peer = Peer::new().await;
    let limits = Limits { max_frame_bytes: 64 << 10, queue_bytes: 128 << 10, ..Limits::default() };
    let (client, line) = peer.client(v1().limits(limits)).await;
    let much = "x".repeat(40 << 10);
    let impatient = client.with_timeout(SHORT);
    let mut calls = Vec::new();
    let error = loop {
        match impatient.start::<String>("echo", &much).await {
            Ok(call) => calls.push(call),
            Err(error) => break error,
        }
        assert!(calls.len() < 10_000, "the outbox has no bound");
    };
    assert!(matches!(error.kind(), CallErrorKind::Timeout), "{error}");
    assert_eq!(error.executed(), Executed::No);
    let error = client.call_then::<Value>("echo", &much, |_| unreachable!()).unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Overloaded), "{error}");
    drop(calls);
    assert_eq!(client.link().calls.waiting(), 0);
    tokio::spawn(line.echo());
    assert_eq!(client.call::<String>("echo", &much).await.unwrap(), much);
}

#[tokio::test]
async fn connecting_keeps_its_deadline() {
    let peer = Peer::new().await;
    let builder = Client::builder().timeout(SHORT).session_timeout(GENEROUS);
    let error = builder.connect(peer.address()).await.unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Timeout), "{error}");
    assert_eq!(error.executed(), Executed::No);
}

#[tokio::test]
async fn addresses_that_lead_nowhere() {
    let closed = Peer::new().await.address();
    for address in [closed.as_str(), "nonsense", "unix:///nowhere/at/all.sock"] {
        let error = Client::connect(address).await.unwrap_err();
        assert!(matches!(error.kind(), CallErrorKind::Connect), "{error}");
        assert_eq!(error.executed(), Executed::No);
        assert!(std::error::Error::source(&error).is_some(), "{error}");
    }
}

#[test]
fn without_a_runtime_there_is_an_error_and_no_panic() {
    let mut connecting = Box::pin(Client::connect("127.0.0.1:1"));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(Err(error)) = connecting.as_mut().poll(&mut context) else { panic!("it waits") };
    assert!(error.advice().contains("blocking"), "{error}");
}

#[tokio::test]
async fn a_peer_s_limit_of_calls_is_kept() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.session(json!({"in_flight": 2})).await;
    let first = client.start::<i64>("n", &()).await.unwrap();
    let second = client.start::<i64>("n", &()).await.unwrap();
    let error = client.with_timeout(SHORT).call::<i64>("n", &()).await.unwrap_err();
    assert_eq!(error.executed(), Executed::No, "{error}");
    let third = tokio::spawn(async move { client.call::<i64>("n", &()).await });
    for n in 1..=3 {
        let request = line.call().await;
        line.answer(&request, &json!({"rcode": 0, "result": n}).to_string()).await;
    }
    assert_eq!((first.await.unwrap(), second.await.unwrap(), third.await.unwrap().unwrap()), (1, 2, 3));
}

#[tokio::test]
async fn a_peer_s_limit_of_bytes_is_kept() {
    let peer = Peer::new().await;
    let (client, line) = peer.session(json!({"max_frame_bytes": 1000})).await;
    let error = client.call::<Value>("echo", &"x".repeat(1000)).await.unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Encode), "{error}");
    assert_eq!(error.executed(), Executed::No);
    tokio::spawn(line.echo());
    assert_eq!(client.call::<i64>("echo", &1).await.unwrap(), 1);
}

#[tokio::test]
async fn one_way_to_a_session_peer_takes_no_place() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.session(json!({"in_flight": 1})).await;
    client.notify("tell", &1).await.unwrap();
    client.send_one_way("discovery", &discovery("n")).await.unwrap();
    let (told, sent) = (line.call().await, line.next().await.unwrap());
    assert_eq!((told.flags(), sent.flags()), (FLAG_ONE_WAY, FLAG_ONE_WAY));
    assert_ne!(told.id(), sent.id());
    assert_eq!(client.link().calls.waiting(), 0);
    line.answer(&told, r#"{"rcode":0,"result":{}}"#).await; // it should not
    tokio::spawn(line.echo());
    assert_eq!(client.call::<i64>("echo", &1).await.unwrap(), 1);
}

#[tokio::test]
async fn one_way_to_a_v1_peer_is_a_call_whose_answer_is_dropped() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.client(v1().in_flight(1)).await;
    client.notify("tell", &1).await.unwrap();
    let request = line.call().await;
    assert_eq!((request.flags(), client.link().calls.waiting()), (0, 1));
    line.answer(&request, r#"{"rcode":5,"result":{}}"#).await;
    tokio::spawn(line.echo());
    assert_eq!(client.call::<i64>("echo", &1).await.unwrap(), 1);
    assert_eq!(client.link().calls.waiting(), 0);
}

#[tokio::test]
async fn places_of_answers_that_never_come_are_taken_back() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.client(v1().in_flight(2)).await;
    for _ in 0..2 {
        client.with_timeout(SHORT).notify("tell", &1).await.unwrap();
        line.call().await;
    }
    tokio::spawn(line.echo());
    assert_eq!(client.call::<i64>("echo", &1).await.unwrap(), 1);
    assert_eq!(client.call::<i64>("echo", &2).await.unwrap(), 2);
}

#[tokio::test]
async fn answers_are_read_though_messages_are_held_back() {
    let peer = Peer::new().await;
    let (client, line) = peer.v1().await;
    let hold = client.link().conn.hold_reading();
    tokio::spawn(line.echo());
    for n in 0..10 {
        assert_eq!(client.call::<i64>("echo", &n).await.unwrap(), n);
    }
    drop(hold);
}

#[tokio::test]
async fn an_answer_in_order_that_does_not_come_is_late_once() {
    let peer = Peer::new().await;
    let (client, _line) = peer.v1().await;
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let done = move |result: Result<_, _>| told.send(result.map(drop).unwrap_err()).unwrap();
    client.with_timeout(SHORT).exchange_in_order("discovery of \"n\"", &discovery("n"), done).unwrap();
    let error = timeout(GENEROUS, heard.recv()).await.unwrap().unwrap();
    assert!(matches!(error.kind(), CallErrorKind::Timeout), "{error}");
    assert!(heard.recv().await.is_none());
    assert_eq!(client.link().calls.waiting(), 0);
}

#[tokio::test]
async fn an_exchange_in_order_that_is_answered_leaves_nothing_behind() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.v1().await;
    let (told, answered) = tokio::sync::oneshot::channel();
    client
        .exchange_in_order("discovery of \"n\"", &discovery("n"), move |result| told.send(result.unwrap()).unwrap())
        .unwrap();
    let request = line.next().await.unwrap();
    line.answer(&request, r#"{"rcode":5,"optype":1,"host":[]}"#).await;
    assert_eq!(answered.await.unwrap().id(), request.id());
    let shared = Arc::downgrade(&client.link());
    drop(client);
    assert_eq!(shared.strong_count(), 0);
    assert!(line.next().await.is_none());
}
