use std::sync::Arc;
use std::thread;

use callboard_common::{Executed, MessageType, ResultCode};
use callboard_net::deadline_after;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::*;
use crate::calls::{Calls, Place, Waiter};
use crate::clock::{Alarmist, Clock};
use crate::{CallError, CallErrorKind};

#[tokio::test]
async fn answers_in_any_order_find_their_calls() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.v1().await;
    let mut calls = Vec::new();
    for n in 0..3 {
        calls.push(client.start::<i64>("n", &n).await.unwrap());
    }
    let mut requests = Vec::new();
    for _ in 0..3 {
        requests.push(line.call().await);
    }
    for request in requests.iter().rev() {
        line.answer(request, &format!(r#"{{"rcode":0,"result":{}}}"#, params(request))).await;
    }
    for (n, call) in (0..).zip(calls) {
        assert_eq!(call.await.unwrap(), n);
    }
    assert_eq!(client.link().calls.waiting(), 0);
}

#[tokio::test]
async fn only_the_first_answer_counts_and_strangers_are_ignored() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.v1().await;
    let call = client.start::<i64>("n", &()).await.unwrap();
    let request = line.call().await;
    for id in [&b""[..], b"nobody", b"ffffffffffffffff", &[0xff; 255]] {
        line.send(MessageType::RpcResponse, id, r#"{"rcode":0,"result":0}"#).await;
    }
    line.answer(&request, r#"{"rcode":0,"result":1}"#).await;
    line.answer(&request, r#"{"rcode":0,"result":2}"#).await;
    assert_eq!(call.await.unwrap(), 1);
    tokio::spawn(line.echo());
    assert_eq!(client.call::<i64>("echo", &3).await.unwrap(), 3);
}

#[tokio::test]
async fn a_connection_that_ends_fails_every_call_at_once() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.v1().await;
    let mut calls = Vec::new();
    for n in 0..100 {
        calls.push(client.start::<Value>("n", &n).await.unwrap());
    }
    let (told, mut heard) = mpsc::unbounded_channel();
    let then = told.clone();
    client.call_then::<Value>("n", &(), move |result| then.send(result.map(drop)).unwrap()).unwrap();
    let done = move |result: Result<_, _>| told.send(result.map(drop)).unwrap();
    client.exchange_in_order("discovery of \"n\"", &discovery("n"), done).unwrap();
    line.call().await;
    drop(line);

    let is_lost = |error: CallError| {
        assert!(matches!(error.kind(), CallErrorKind::Disconnected), "{error}");
        assert_eq!(error.executed(), Executed::Unknown);
    };
    for call in calls {
        is_lost(call.await.unwrap_err());
    }
    is_lost(heard.recv().await.unwrap().unwrap_err());
    is_lost(heard.recv().await.unwrap().unwrap_err());
    assert!(heard.recv().await.is_none());
    client.closed().await;
    assert!(client.is_closed());
    let later = [
        client.call::<Value>("n", &()).await.unwrap_err(),
        client.notify("n", &()).await.unwrap_err(),
        client.call_then::<Value>("n", &(), |_| unreachable!()).unwrap_err(),
        client.exchange("topic \"t\"", &discovery("n")).await.unwrap_err(),
    ];
    for error in later {
        assert!(matches!(error.kind(), CallErrorKind::Disconnected), "{error}");
        assert_eq!(error.executed(), Executed::No, "{error}");
    }
}

#[tokio::test]
async fn dropped_calls_are_forgotten_and_their_answers_ignored() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.client(v1().in_flight(8)).await;
    let started = tokio::spawn({
        let client = client.clone();
        async move {
            for n in 0..5000 {
                drop(client.start::<Value>("n", &n).await.unwrap());
            }
        }
    });
    let mut last = line.call().await;
    for _ in 1..5000 {
        last = line.call().await;
    }
    started.await.unwrap();
    assert_eq!(client.link().calls.waiting(), 0);
    line.answer(&last, r#"{"rcode":0,"result":"late"}"#).await;
    tokio::spawn(line.echo());
    assert_eq!(client.call::<String>("echo", "new").await.unwrap(), "new");
}

#[tokio::test]
async fn an_end_that_came_while_nothing_was_called_is_seen_before_the_next_call() {
    let peer = Peer::new().await;
    for _ in 0..20 {
        let (client, line) = peer.v1().await;
        drop(line);
        // A pause has to pass, after which a call is not queued at once; meanwhile nobody looks at the socket.
        thread::sleep(Duration::from_millis(5));
        let error = client.call::<Value>("n", &()).await.unwrap_err();
        assert!(matches!(error.kind(), CallErrorKind::Disconnected), "{error}");
        assert_eq!(error.executed(), Executed::No, "{error}");
    }
}

#[tokio::test]
async fn a_request_that_the_socket_never_took_was_not_executed() {
    let peer = Peer::new().await;
    let (client, line) = peer.v1().await;
    let much = "x".repeat(1 << 20);
    let mut calls = Vec::new();
    for _ in 0..30 {
        calls.push(client.start::<Value>("n", &much).await.unwrap());
    }
    drop(line); // it has read nothing, so most of this never fitted into the socket
    let mut executed = Vec::new();
    for call in calls {
        let error = call.await.unwrap_err();
        assert!(matches!(error.kind(), CallErrorKind::Disconnected), "{error}");
        executed.push(error.executed());
    }
    assert_eq!((executed[0], executed[29]), (Executed::Unknown, Executed::No));
    assert!(executed.is_sorted_by_key(|executed| *executed == Executed::No), "{executed:?}");
}

#[tokio::test]
async fn answers_that_came_before_a_reset_are_not_lost() {
    let peer = Peer::new().await;
    for _ in 0..20 {
        let (client, mut line) = peer.v1().await;
        let first = client.start::<Value>("n", &1).await.unwrap();
        let request = line.call().await;
        line.answer(&request, r#"{"rcode":0,"result":1}"#).await;
        // It closes with a request unread, which resets the connection behind the answer.
        let second = client.start::<Value>("n", &2).await.unwrap();
        client.flush().await.unwrap();
        drop(line);
        assert_eq!(first.await.unwrap(), 1);
        assert!(second.await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_dropped_calls_leave_nothing_behind() {
    let peer = Peer::new().await;
    let (client, line) = peer.client(v1().in_flight(8)).await;
    let taken = tokio::spawn(async move {
        let Line { mut stream, .. } = line;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.unwrap() // takes all and answers nothing
    });
    for n in 0..1_000_000 {
        drop(client.start::<Value>("n", &n).await.unwrap());
    }
    assert_eq!(client.link().calls.waiting(), 0);
    assert!(client.link().calls.capacity() <= 8, "the book of calls has not grown");
    client.flush().await.unwrap();
    drop(client);
    assert!(taken.await.unwrap() > 50_000_000, "all of them were sent");
}

#[tokio::test]
async fn a_call_dropped_while_it_waits_is_forgotten() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.v1().await;
    for _ in 0..100 {
        tokio::select! {
            _ = client.call::<Value>("n", &()) => unreachable!("nobody answers"),
            _ = line.call() => {}
        }
    }
    assert_eq!(client.link().calls.waiting(), 0);
}

#[tokio::test]
async fn the_connection_lives_as_long_as_a_client_or_a_call() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.v1().await;
    let call = client.clone().start::<i64>("n", &1).await.unwrap();
    drop(client);
    let request = line.call().await;
    line.answer(&request, r#"{"rcode":0,"result":1}"#).await;
    assert_eq!(call.await.unwrap(), 1);
    assert!(line.next().await.is_none());
}

#[tokio::test]
async fn errors_of_the_peer_keep_what_it_said() {
    use Executed::{No, Unknown, Yes};
    use ResultCode::{Application, InvalidParams, NotFoundService, Overloaded};
    let rows = [
        (r#"{"rcode":5,"result":{}}"#, NotFoundService, Unknown),
        (r#"{"rcode":4,"result":null}"#, InvalidParams, Unknown),
        (r#"{"rcode":4,"error":{"message":"num1","executed":"no"}}"#, InvalidParams, No),
        (r#"{"rcode":17,"error":{"message":"","executed":"no"}}"#, Overloaded, No),
        (r#"{"rcode":64,"error":{"message":"sold out","executed":"yes","code":7,"data":[1]}}"#, Application, Yes),
        (r#"{"rcode":99,"error":"text"}"#, ResultCode::Unknown(99), Unknown),
    ];
    let peer = Peer::new().await;
    let (client, mut line) = peer.v1().await;
    for (body, expected, executed) in rows {
        let (result, ()) = tokio::join!(client.call::<Value>("buy", &()), async {
            let request = line.call().await;
            line.answer(&request, body).await;
        });
        let error = result.unwrap_err();
        assert_eq!((error.code(), error.executed()), (Some(expected), executed), "{error}");
        assert_eq!((error.method(), error.peer()), (Some("buy"), &*client.address().to_string()));
        if let CallErrorKind::Remote { code: Application, app_code, message, data } = error.kind() {
            assert_eq!((*app_code, &**message, data.as_ref().unwrap().get()), (Some(7), "sold out", "[1]"));
            let line = error.to_string();
            assert!(line.contains("APPLICATION 7: sold out (executed: yes)"), "{line}");
        }
    }
}

#[tokio::test]
async fn garbage_is_an_error_and_the_connection_lives() {
    let rows = [
        ("", Executed::Unknown),
        ("{", Executed::Unknown),
        ("[0]", Executed::Unknown),
        ("null", Executed::Unknown),
        (r#"{"result":1}"#, Executed::Unknown),
        (r#"{"rcode":"0","result":1}"#, Executed::Unknown),
        (r#"{"rcode":0,"result":"one"}"#, Executed::Yes),
        (r#"{"rcode":0,"result":{"a":1}}"#, Executed::Yes),
        (r#"{"rcode":0}"#, Executed::Yes),
    ];
    let peer = Peer::new().await;
    let (client, mut line) = peer.v1().await;
    for (body, executed) in rows {
        let (result, ()) = tokio::join!(client.call::<i64>("n", &()), async {
            let request = line.call().await;
            line.answer(&request, body).await;
        });
        let error = result.unwrap_err();
        assert!(matches!(error.kind(), CallErrorKind::Decode), "{body}: {error}");
        assert_eq!(error.executed(), executed, "{body}");
    }
    let (result, ()) = tokio::join!(client.call::<i64>("n", &()), async {
        let request = line.call().await;
        line.send(MessageType::TopicResponse, request.id(), r#"{"rcode":0}"#).await;
    });
    assert!(result.unwrap_err().to_string().contains("RSP_TOPIC in place of RSP_RPC"));
    tokio::spawn(line.echo());
    assert_eq!(client.call::<i64>("echo", &1).await.unwrap(), 1);
}

#[tokio::test]
async fn null_results_in_both_dialects() {
    let peer = Peer::new().await;
    let (v1, line) = peer.v1().await;
    for body in [r#"{"rcode":0,"result":{ }}"#, r#"{"rcode":0,"result":null}"#, r#"{"rcode":0}"#] {
        let answer = tokio::spawn(answer_all(peer.v1().await, body));
        answer.await.unwrap();
    }
    drop((v1, line));
    let (client, mut line) = peer.session(json!({})).await;
    let (result, ()) = tokio::join!(client.call::<()>("n", &()), async {
        let request = line.call().await;
        line.answer(&request, r#"{"rcode":0,"result":{}}"#).await;
    });
    assert!(result.is_err(), "to a session peer an object is no null");
}

async fn answer_all((client, mut line): (Client, Line), body: &str) {
    let answers = async {
        for _ in 0..2 {
            let request = line.call().await;
            line.answer(&request, body).await;
        }
    };
    let calls = async {
        client.call::<()>("n", &()).await.unwrap();
        assert_eq!(client.call::<Option<i64>>("n", &()).await.unwrap(), None);
    };
    tokio::join!(answers, calls);
}

#[tokio::test]
async fn what_can_not_be_written_is_not_sent() {
    let peer = Peer::new().await;
    let (client, line) = peer.v1().await;
    let odd_keys: std::collections::BTreeMap<Vec<u8>, u8> = [(vec![1], 1)].into();
    let error = client.call::<Value>("n", &odd_keys).await.unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Encode), "{error}");
    assert_eq!((error.executed(), client.link().calls.waiting()), (Executed::No, 0));
    tokio::spawn(line.echo());
    assert_eq!(client.call::<i64>("echo", &1).await.unwrap(), 1);
}

#[tokio::test]
async fn a_callback_gets_its_result_and_may_panic() {
    let peer = Peer::new().await;
    let (client, line) = peer.v1().await;
    tokio::spawn(line.echo());
    let (told, mut heard) = mpsc::unbounded_channel();
    client.call_then::<i64>("echo", &1, |_| panic!("a callback's own fault")).unwrap();
    client.call_then::<i64>("echo", &2, move |result| told.send(result.unwrap()).unwrap()).unwrap();
    drop(client); // the connection lives until then
    assert_eq!(timeout(GENEROUS, heard.recv()).await.unwrap(), Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tasks_share_one_connection() {
    let peer = Peer::new().await;
    let (client, line) = peer.client(v1().in_flight(16)).await;
    tokio::spawn(line.echo());
    let tasks: Vec<_> = (0..64)
        .map(|task| {
            let client = client.clone();
            tokio::spawn(async move {
                for n in 0..50 {
                    let text = format!("{task}/{n}");
                    if n % 5 == 0 {
                        drop(client.start::<String>("echo", "forgotten").await.unwrap());
                    }
                    assert_eq!(client.call::<String>("echo", &text).await.unwrap(), text);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(client.link().calls.waiting(), 0);
}

#[tokio::test]
async fn no_end_comes_between_a_call_and_its_alarm() {
    static CLOCK: Clock = Clock::new();
    let peer = Peer::new().await;
    let (client, _line) = peer.v1().await;
    let (conn, century) = (&client.link().conn, deadline_after(Duration::MAX));
    let calls = Arc::new(Calls::new(8, Alarmist::Clock(&CLOCK), Handle::current()));
    thread::scope(|scope| {
        let stopped = CLOCK.stop();
        scope.spawn(|| calls.enter(conn, Waiter::Nobody, MessageType::RpcRequest, century, Place::Free).is_ok());
        let mut busy = 0;
        while busy < 10_000 {
            let entered = calls.try_waiting();
            assert_ne!(entered, Some(1), "here the end would look for its alarm");
            busy = if entered.is_none() { busy + 1 } else { 0 };
            thread::yield_now();
        }
        drop(stopped);
    });
    assert_eq!((calls.waiting(), CLOCK.alarm_count()), (1, 1));
    calls.closed(conn);
    assert_eq!((calls.waiting(), CLOCK.alarm_count()), (0, 0), "else it keeps the connection for a century");
}
