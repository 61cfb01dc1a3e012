//! What becomes of calls that a peer refuses because it is about to leave.

use super::*;
use crate::CallErrorKind;

const REFUSED: &str = r#"{"rcode":22,"result":{},"error":{"message":"draining","executed":"no"}}"#;

/// A client of two peers that is connected to the first.
async fn of_two() -> (Client, Line, Peer) {
    let (first, second) = (Peer::new().await, Peer::new().await);
    let addresses = format!("{},{}", first.address(), second.address());
    let reconnect = Reconnect { longest: Duration::from_millis(1), ..Reconnect::default() };
    let settings = Client::builder().timeout(GENEROUS).session(SessionMode::Require).session_timeout(GENEROUS);
    let (client, line) = tokio::join!(settings.reconnect(reconnect).connect(addresses), async {
        let mut line = first.accept().await;
        line.open_session(json!({})).await;
        line
    });
    (client.unwrap(), line, second)
}

#[tokio::test]
async fn a_call_that_a_leaving_peer_refuses_goes_over_the_next_connection() {
    // After a pause, which has to pass, a call is not queued at once.
    for pause in [Duration::ZERO, Duration::from_millis(5)] {
        let (client, mut line, second) = of_two().await;
        tokio::time::sleep(pause).await;
        let call = tokio::spawn(async move { client.call::<i64>("n", &7).await });
        let request = line.call().await;
        line.send(MessageType::GoAway, b"", r#"{"reason":"restart","grace_ms":1000}"#).await;
        line.answer(&request, REFUSED).await;
        let mut next = second.accept().await;
        next.open_session(json!({})).await;
        tokio::spawn(next.echo());
        assert_eq!(timeout(GENEROUS, call).await.unwrap().unwrap().unwrap(), 7);
    }
}

#[tokio::test]
async fn a_refusal_that_may_have_run_or_of_a_peer_that_stays_is_told() {
    let ran = REFUSED.replace(r#","executed":"no""#, r#","executed":"unknown""#);
    for (leaves, refusal) in [(false, REFUSED), (true, &ran)] {
        let (client, mut line, _second) = of_two().await;
        let call = tokio::spawn(async move { client.call::<i64>("n", &7).await });
        let request = line.call().await;
        if leaves {
            line.send(MessageType::GoAway, b"", r#"{"reason":"restart","grace_ms":1000}"#).await;
        }
        line.answer(&request, refusal).await;
        let error = timeout(GENEROUS, call).await.unwrap().unwrap().unwrap_err();
        assert!(matches!(error.kind(), CallErrorKind::Remote { .. }), "{error}");
    }
}
