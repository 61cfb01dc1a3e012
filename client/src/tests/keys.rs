//! Calls under idempotency keys.

use callboard_common::Executed;

use super::*;
use crate::{CallError, CallErrorKind, RetryPolicy};

const KEYS: &[&str] = &["keys", "one_way"];

/// What a request says of its call, without the time that is left.
fn key(request: &Message) -> Value {
    let [meta] = Json::members(request.body(), ["meta"]).unwrap();
    Json::read::<Value>(meta.unwrap()).unwrap()["idempotency_key"].clone()
}

/// A client that makes its connection again, and a call that may have been executed.
fn stubborn() -> ClientBuilder {
    let reconnect = Reconnect { first: Duration::ZERO, ..Reconnect::default() };
    let retry = RetryPolicy { first: Duration::ZERO, ..RetryPolicy::default() };
    let builder = Client::builder().timeout(GENEROUS).session(SessionMode::Require).session_timeout(GENEROUS);
    builder.reconnect(reconnect).retry(retry)
}

async fn accept(peer: &Peer, instance: &str) -> Line {
    let mut line = peer.accept().await;
    line.open_session_as(instance, KEYS, json!({})).await;
    line
}

fn is_refused(error: &CallError) {
    assert!(matches!(error.kind(), CallErrorKind::Unsupported), "{error}");
    assert_eq!(error.executed(), Executed::No, "{error}");
    let text = error.to_string();
    assert!(text.contains("knows no idempotency keys") && text.contains("call without a key"), "{text}");
}

#[tokio::test]
async fn a_peer_that_knows_no_keys_is_sent_nothing() {
    let peer = Peer::new().await;
    for (client, line) in [peer.v1().await, peer.session(json!({})).await] {
        let keyed = client.with_idempotency_key("k");
        is_refused(&keyed.call::<i64>("m", &1).await.unwrap_err());
        is_refused(&keyed.start::<i64>("m", &1).await.unwrap_err());
        is_refused(&keyed.call_then::<i64>("m", &1, |_| panic!("it was not sent")).unwrap_err());
        is_refused(&keyed.notify("m", &1).await.unwrap_err());
        let echo = tokio::spawn(line.echo_calls_only());
        assert_eq!(client.call::<i64>("m", &2).await.unwrap(), 2, "what comes is the first");
        drop((client, keyed));
        echo.await.unwrap();
    }
}

#[tokio::test]
async fn a_key_goes_with_the_call_however_it_is_made_and_one_that_is_none_goes_nowhere() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.session_of(KEYS, json!({})).await;
    for bad in [String::new(), "x".repeat(256)] {
        let error = client.with_idempotency_key(&bad).call::<i64>("m", &1).await.unwrap_err();
        assert!(matches!(error.kind(), CallErrorKind::Encode), "{error}");
        assert_eq!(error.executed(), Executed::No);
    }
    let text = "k \"\u{1f511}\"\n";
    let keyed = client.with_idempotency_key(text).with_timeout(GENEROUS);
    let started = keyed.start::<i64>("m", &1).await.unwrap();
    keyed.call_then::<i64>("m", &1, drop).unwrap();
    keyed.notify("m", &1).await.unwrap();
    let (called, ()) = tokio::join!(keyed.call::<i64>("m", &1), async {
        for _ in 0..4 {
            let request = line.call().await;
            assert_eq!(key(&request), text);
            line.answer(&request, r#"{"rcode":0,"result":1}"#).await;
        }
    });
    assert_eq!((called.unwrap(), started.await.unwrap()), (1, 1));
    // The handle that it was made from has none.
    let (plain, ()) = tokio::join!(client.call::<i64>("m", &1), async {
        let request = line.call().await;
        assert_eq!(key(&request), Value::Null);
        line.answer(&request, r#"{"rcode":0,"result":2}"#).await;
    });
    assert_eq!(plain.unwrap(), 2);
}

#[tokio::test]
async fn a_call_that_may_have_been_executed_is_made_again_at_the_same_run_of_its_peer() {
    let peer = Peer::new().await;
    let (client, mut line) = tokio::join!(stubborn().connect(peer.address()), accept(&peer, "run 1"));
    let keyed = client.unwrap().with_idempotency_key("k");
    let (outcome, line) = tokio::join!(keyed.call::<i64>("m", &7), async {
        line.call().await;
        drop(line);
        let mut next = accept(&peer, "run 1").await;
        let request = next.call().await;
        assert_eq!((key(&request), params(&request)), (json!("k"), json!(7)));
        next.answer(&request, r#"{"rcode":0,"result":1}"#).await;
        next
    });
    assert_eq!(outcome.unwrap(), 1);
    drop(line);
}

async fn accept_with(peer: &Peer, (instance, features, store): (&str, &[&str], &Value)) -> Line {
    let mut line = peer.accept().await;
    line.open_session_with(instance, features, store.clone()).await;
    line
}

#[tokio::test]
async fn a_call_that_may_have_been_executed_is_made_again_at_another_run_that_has_the_same_store() {
    let (peer, store) = (Peer::new().await, json!("store 1"));
    let first = accept_with(&peer, ("run 1", KEYS, &store));
    let (client, mut line) = tokio::join!(stubborn().connect(peer.address()), first);
    let client = client.unwrap();
    assert_eq!(client.session().unwrap().store.as_deref(), Some("store 1"));
    let keyed = client.with_idempotency_key("k");
    let (outcome, line) = tokio::join!(keyed.call::<i64>("m", &7), async {
        line.call().await;
        drop(line);
        let mut next = accept_with(&peer, ("run 2", KEYS, &store)).await;
        let request = next.call().await;
        assert_eq!((key(&request), params(&request)), (json!("k"), json!(7)));
        next.answer(&request, r#"{"rcode":0,"result":1}"#).await;
        next
    });
    assert_eq!(outcome.unwrap(), 1);
    drop(line);
}

#[tokio::test]
async fn what_is_not_the_name_of_the_same_store_is_that_of_another() {
    let peer = Peer::new().await;
    let long = json!("x".repeat(257));
    let one_way: &[&str] = &["one_way"];
    let rows = [
        (json!("store 1"), KEYS, json!("store 2")),
        (json!("store 1"), KEYS, json!(null)),
        (json!("store 1"), one_way, json!("store 1")),
        (json!(null), KEYS, json!(null)),
        (json!(7), KEYS, json!(7)),
        (json!(""), KEYS, json!("")),
        (long.clone(), KEYS, long),
    ];
    for (before, features, after) in &rows {
        let first = accept_with(&peer, ("run 1", KEYS, before));
        let (client, mut line) = tokio::join!(stubborn().connect(peer.address()), first);
        let keyed = client.unwrap().with_idempotency_key("k");
        let (outcome, line) = tokio::join!(keyed.call::<i64>("m", &7), async {
            line.call().await;
            drop(line);
            accept_with(&peer, ("run 2", features, after)).await
        });
        let error = outcome.unwrap_err();
        assert_eq!(error.executed(), Executed::Unknown, "{before} {after}: {error}");
        drop(line);
    }
}

#[tokio::test]
async fn another_run_of_its_peer_is_not_sent_a_call_that_may_have_been_executed() {
    let peer = Peer::new().await;
    for instance in ["run 2", ""] {
        let first = if instance.is_empty() { "" } else { "run 1" };
        let (client, mut line) = tokio::join!(stubborn().connect(peer.address()), accept(&peer, first));
        let client = client.unwrap();
        let keyed = client.with_idempotency_key("k");
        let (outcome, line) = tokio::join!(keyed.call::<i64>("m", &7), async {
            line.call().await;
            drop(line);
            accept(&peer, instance).await
        });
        let error = outcome.unwrap_err();
        assert_eq!(error.executed(), Executed::Unknown, "{error}");
        assert!(error.to_string().contains("the peer is another one now, which does not know its key"), "{error}");
        let echo = tokio::spawn(line.echo_calls_only());
        assert_eq!(client.call::<i64>("m", &2).await.unwrap(), 2, "what comes is the first");
        drop((client, keyed));
        echo.await.unwrap();
    }
}
