//! What a caller is told of whether its call was executed: a row for each thing that may happen to one.

use callboard_common::Executed::{self, No, Unknown, Yes};
use serde_json::Value;

use super::*;
use crate::{CallError, CallErrorKind};

/// What the peer does with a call that it has.
#[derive(Clone, Copy, Debug)]
enum Then {
    Answers(&'static str),
    AnswersAs(MessageType),
    Ends,
    SaysNothing,
}

fn kind(error: &CallError) -> &'static str {
    match error.kind() {
        CallErrorKind::Timeout => "timeout",
        CallErrorKind::Disconnected => "disconnected",
        CallErrorKind::Remote { .. } => "remote",
        CallErrorKind::Decode => "decode",
        CallErrorKind::Encode => "encode",
        CallErrorKind::Overloaded => "overloaded",
        _ => "other",
    }
}

/// Each way of calling that waits for an answer: it is to say the same.
async fn call_in_each_style(client: &Client) -> [Result<i64, CallError>; 3] {
    let awaited = client.call::<i64>("m", &()).await;
    let started = match client.start::<i64>("m", &()).await {
        Ok(call) => call.await,
        Err(error) => Err(error),
    };
    let (told, hears) = tokio::sync::oneshot::channel();
    let queued = client.call_then::<i64>("m", &(), |outcome| drop(told.send(outcome)));
    let called_back = match queued {
        Ok(()) => timeout(GENEROUS, hears).await.unwrap().unwrap(),
        Err(error) => Err(error),
    };
    [awaited, started, called_back]
}

#[tokio::test]
async fn what_a_peer_does_with_a_call_says_whether_it_was_executed() {
    let rows: [(Then, &str, Executed); 20] = [
        // An answer that says so counts.
        (Then::Answers(r#"{"rcode":17,"error":{"message":"full","executed":"no"}}"#), "remote", No),
        (Then::Answers(r#"{"rcode":16,"error":{"message":"late","executed":"no"}}"#), "remote", No),
        (Then::Answers(r#"{"rcode":22,"error":{"message":"ends","executed":"no"}}"#), "remote", No),
        (Then::Answers(r#"{"rcode":5,"error":{"message":"none","executed":"no"}}"#), "remote", No),
        (Then::Answers(r#"{"rcode":4,"error":{"message":"bad","executed":"no"}}"#), "remote", No),
        (Then::Answers(r#"{"rcode":8,"error":{"message":"panic","executed":"yes"}}"#), "remote", Yes),
        (Then::Answers(r#"{"rcode":64,"error":{"message":"sold out","executed":"yes"}}"#), "remote", Yes),
        (Then::Answers(r#"{"rcode":3,"error":{"message":"relay","executed":"unknown"}}"#), "disconnected", Unknown),
        // One that does not, or not in the words that we know, tells nothing.
        (Then::Answers(r#"{"rcode":17}"#), "remote", Unknown),
        (Then::Answers(r#"{"rcode":4,"result":{}}"#), "remote", Unknown),
        (Then::Answers(r#"{"rcode":5,"error":{"message":"none"}}"#), "remote", Unknown),
        (Then::Answers(r#"{"rcode":5,"error":{"executed":false}}"#), "remote", Unknown),
        (Then::Answers(r#"{"rcode":5,"error":"no"}"#), "remote", Unknown),
        // A result is an answer, also of another type; what is none is not.
        (Then::Answers(r#"{"rcode":0,"result":"text"}"#), "decode", Yes),
        (Then::Answers(r#"{"rcode":0}"#), "decode", Yes),
        (Then::Answers(r#"{"result":1}"#), "decode", Unknown),
        (Then::Answers("{"), "decode", Unknown),
        (Then::AnswersAs(MessageType::TopicResponse), "decode", Unknown),
        // Without one, nobody knows.
        (Then::Ends, "disconnected", Unknown),
        (Then::SaysNothing, "timeout", Unknown),
    ];
    for (then, expected, executed) in rows {
        let peer = Peer::new().await;
        let (client, mut line) = peer.v1().await;
        let wait = if matches!(then, Then::SaysNothing) { Duration::from_millis(20) } else { GENEROUS };
        let client = client.with_timeout(wait);
        let peer_does = async move {
            while let Some(request) = line.next().await {
                match then {
                    Then::Answers(body) => line.answer(&request, body).await,
                    Then::AnswersAs(kind) => line.send(kind, request.id(), r#"{"rcode":0}"#).await,
                    Then::Ends => return,
                    Then::SaysNothing => {}
                }
            }
        };
        let peer_does = tokio::spawn(peer_does);
        let outcomes = call_in_each_style(&client).await;
        let told = outcomes.map(|outcome| outcome.expect_err("it fails"));
        // Where the connection ends with the first call, there is none for those that follow.
        let comparable = if matches!(then, Then::Ends) { &told[..1] } else { &told[..] };
        for error in comparable {
            assert_eq!((kind(error), error.executed(), error.tries()), (expected, executed, 1), "{then:?}: {error}");
        }
        peer_does.abort();
    }
}

#[tokio::test]
async fn what_never_leaves_this_program_was_not_executed() {
    let peer = Peer::new().await;
    // The connection has ended before the call.
    let (client, line) = peer.v1().await;
    drop(line);
    timeout(GENEROUS, client.closed()).await.unwrap();
    for outcome in call_in_each_style(&client).await {
        let error = outcome.unwrap_err();
        assert_eq!((kind(&error), error.executed()), ("disconnected", No), "{error}");
    }
    // It can't be written.
    let (client, _line) = peer.v1().await;
    let unwritable = std::collections::BTreeMap::from([((1, 2), 3)]);
    let error = client.call::<Value>("m", &unwritable).await.unwrap_err();
    assert_eq!((kind(&error), error.executed()), ("encode", No), "{error}");
    // There is no place among those that wait, in all of its time.
    let (client, mut line) = peer.client(v1().in_flight(1)).await;
    let _first = client.start::<Value>("m", &()).await.unwrap();
    let short = client.with_timeout(Duration::from_millis(20));
    let error = short.call::<Value>("m", &()).await.unwrap_err();
    assert_eq!((kind(&error), error.executed()), ("timeout", No), "{error}");
    let error = client.call_then::<Value>("m", &(), |_| panic!("it was not queued")).unwrap_err();
    assert_eq!((kind(&error), error.executed()), ("overloaded", No), "{error}");
    line.call().await;
}
