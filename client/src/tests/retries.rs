//! Calls that are made again by themselves.

use callboard_common::Executed;
use serde_json::Value;

use super::*;
use crate::{CallErrorKind, RetryBudget, RetryPolicy};

const FULL: &str = r#"{"rcode":17,"error":{"message":"full","executed":"no"}}"#;
const RAN: &str = r#"{"rcode":64,"error":{"message":"sold out","executed":"yes"}}"#;
const OK: &str = r#"{"rcode":0,"result":1}"#;

/// Repeats at once, so that no test waits.
fn eager(tries: u32) -> RetryPolicy {
    RetryPolicy { tries, first: Duration::ZERO, ..RetryPolicy::default() }
}

/// A peer that answers one call after the other so, each time for good; nothing where it is to say nothing.
async fn answers(mut line: Line, answers: Vec<&str>) -> (Line, usize) {
    let mut count = 0;
    for answer in answers {
        let request = line.call().await;
        count += 1;
        if !answer.is_empty() {
            line.answer(&request, answer).await;
        }
    }
    (line, count)
}

#[tokio::test]
async fn what_was_not_executed_is_made_again_as_the_policy_says() {
    let peer = Peer::new().await;
    let rows = [
        (RetryPolicy::never(), vec![FULL], Err((Executed::No, 1))),
        (eager(2), vec![FULL, OK], Ok(1)),
        (eager(3), vec![FULL, FULL, OK], Ok(1)),
        (eager(3), vec![FULL, FULL, FULL], Err((Executed::No, 3))),
        (eager(3), vec![FULL, RAN], Err((Executed::Yes, 2))),
        (eager(3), vec![r#"{"rcode":17}"#], Err((Executed::Unknown, 1))),
    ];
    for (policy, said, expected) in rows {
        let (client, line) = peer.client(v1().retry(policy)).await;
        let (outcome, (line, _)) = tokio::join!(client.call::<i64>("m", &7), answers(line, said.clone()));
        assert_eq!(outcome.map_err(|error| (error.executed(), error.tries())), expected, "{policy:?} {said:?}");
        let metrics = client.retry_metrics();
        assert_eq!((metrics.calls, metrics.tries()), (1, said.len() as u64), "{metrics:?}");
        // Nothing more was sent.
        tokio::spawn(line.echo());
        assert_eq!(client.with_retry(RetryPolicy::never()).call::<i64>("echo", &3).await.unwrap(), 3);
    }
}

#[tokio::test]
async fn only_an_idempotent_call_is_made_again_where_nobody_knows_whether_it_was_executed() {
    let peer = Peer::new().await;
    let policy = RetryPolicy { per_try: Some(Duration::from_secs(1)), ..eager(2) };
    let (client, line) = peer.client(v1().retry(policy)).await;
    let (outcome, (line, _)) = tokio::join!(client.call::<i64>("m", &()), answers(line, vec![""]));
    let error = outcome.unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Timeout), "{error}");
    assert_eq!((error.executed(), error.tries()), (Executed::Unknown, 1), "{error}");
    let idempotent = client.idempotent();
    let (outcome, (line, _)) = tokio::join!(idempotent.call::<i64>("m", &()), answers(line, vec!["", OK]));
    assert_eq!(outcome.unwrap(), 1);
    // The last try was not executed, and yet the call may have been.
    let (outcome, (line, _)) = tokio::join!(idempotent.call::<i64>("m", &()), answers(line, vec!["", FULL]));
    let error = outcome.unwrap_err();
    assert_eq!((error.executed(), error.tries()), (Executed::Unknown, 2), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("OVERLOADED: full, the last of 2 tries (executed: unknown); repeat it if that is safe"),
        "{text}"
    );
    drop(line);
}

#[tokio::test]
async fn an_idempotent_call_goes_over_the_next_connection_where_the_one_that_it_had_left_over_is_lost() {
    let peer = Peer::new().await;
    let reconnect = Reconnect { first: Duration::ZERO, ..Reconnect::default() };
    let builder = v1().reconnect(reconnect).retry(eager(2));
    let (client, mut line) = peer.client(builder).await;
    let idempotent = client.idempotent();
    let (outcome, mut line) = tokio::join!(idempotent.call::<i64>("m", &7), async {
        line.call().await;
        drop(line);
        let mut next = peer.accept().await;
        let request = next.call().await;
        assert_eq!(params(&request), 7);
        next.answer(&request, OK).await;
        next
    });
    assert_eq!(outcome.unwrap(), 1);
    let (outcome, _next) = tokio::join!(client.call::<i64>("m", &()), async {
        line.call().await;
        drop(line);
        peer.accept().await
    });
    let error = outcome.unwrap_err();
    assert_eq!((error.executed(), error.tries()), (Executed::Unknown, 1), "{error}");
}

#[tokio::test]
async fn each_try_tells_what_is_left_and_one_deadline_bounds_them_all() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.session(json!({})).await;
    let policy = RetryPolicy { per_try: Some(Duration::from_secs(7)), ..eager(3) };
    let client = client.with_retry(policy).with_timeout(Duration::from_secs(10));
    let left = |request: &Message| {
        let [meta] = Json::members(request.body(), ["meta"]).unwrap();
        let meta: Value = Json::read(meta.unwrap()).unwrap();
        meta["timeout_ms"].as_u64().unwrap()
    };
    let pause = Duration::from_millis(50);
    let (outcome, told) = tokio::join!(client.call::<i64>("m", &()), async {
        let mut told = Vec::new();
        for answer in [FULL, FULL, OK] {
            let request = line.call().await;
            told.push(left(&request));
            tokio::time::sleep(pause).await;
            line.answer(&request, answer).await;
        }
        told
    });
    assert_eq!(outcome.unwrap(), 1);
    assert!(told.iter().all(|ms| (1..=7_000).contains(ms)), "{told:?}");

    let client = client.with_retry(eager(3)).with_timeout(Duration::from_secs(2));
    let (outcome, told) = tokio::join!(client.call::<i64>("m", &()), async {
        let request = line.call().await;
        let first = left(&request);
        tokio::time::sleep(pause).await;
        line.answer(&request, FULL).await;
        [first, left(&line.call().await)]
    });
    let error = outcome.unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Timeout), "{error}");
    assert_eq!((error.executed(), error.tries()), (Executed::Unknown, 2));
    assert!(told[1] + 50 <= told[0] + 1, "{told:?}");
}

/// All calls fail for as long as it lasts: what is sent in vain stays within the budget.
#[tokio::test]
async fn in_a_total_outage_retries_stay_within_their_budget() {
    const CALLS: u64 = 500;
    let peer = Peer::new().await;
    let budget = RetryBudget::default();
    let began = std::time::Instant::now();
    let (client, mut line) = peer.client(v1().retry(eager(10)).retry_budget(budget)).await;
    let refusing = tokio::spawn(async move {
        let mut requests = 0;
        while let Some(request) = line.next().await {
            requests += 1;
            line.answer(&request, FULL).await;
        }
        requests
    });
    for _ in 0..CALLS {
        client.call::<i64>("m", &()).await.unwrap_err();
    }
    let metrics = client.retry_metrics();
    drop(client);
    let requests: u64 = timeout(GENEROUS, refusing).await.unwrap().unwrap();
    assert_eq!((metrics.calls, metrics.tries()), (CALLS, requests), "{metrics:?}");
    let earned = CALLS / 5 + u64::from(budget.reserve);
    assert!((earned..=earned + began.elapsed().as_secs() + 1).contains(&metrics.retries), "{metrics:?}");
    assert!(metrics.budget_refused > 0, "{metrics:?}");
}

#[test]
fn a_client_that_blocks_makes_its_calls_again_too() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let peer = runtime.block_on(Peer::new());
    let settings = v1().retry(RetryPolicy { first: Duration::from_millis(2), ..eager(3) });
    let address = peer.address();
    let answering = runtime.spawn(async move { answers(peer.accept().await, vec![FULL, FULL, OK, FULL, OK]).await.1 });
    let client = settings.connect_blocking(address).unwrap();
    assert_eq!(client.call::<i64>("m", &()).unwrap(), 1);
    let error = client.with_retry(RetryPolicy::never()).call::<i64>("m", &()).unwrap_err();
    assert_eq!((error.executed(), error.tries()), (Executed::No, 1));
    assert_eq!(client.idempotent().call::<i64>("m", &()).unwrap(), 1);
    let metrics = client.retry_metrics();
    assert_eq!((metrics.calls, metrics.retries), (3, 2));
    assert_eq!(runtime.block_on(answering).unwrap(), 5);
}
