use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;
use std::time::Duration;

use callboard_common::{Connection, Event, Features, Handler, Limits, MessageType, Recorder, Session};
use serde::{Deserialize, Serializer};
use serde_json::json;
use tokio::sync::{Notify, mpsc as async_mpsc};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::*;
use crate::Type;

mod behind;
mod keys;
mod limits;

#[derive(Clone, Copy, Deserialize)]
struct Pair {
    num1: i64,
    num2: i64,
}

/// Refuses to be written.
struct Unwritable;

/// Panics when it is written.
struct Explosive;

/// Panics when it is dropped, after it was written.
struct Grudge;

impl Serialize for Unwritable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        HashMap::from([(vec![1], 1)]).serialize(serializer)
    }
}

impl Serialize for Explosive {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("boom")
    }
}

impl Serialize for Grudge {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

impl Drop for Grudge {
    fn drop(&mut self) {
        panic!("boom")
    }
}

fn divide(p: Pair) -> Result<i64, MethodError> {
    p.num1.checked_div(p.num2).ok_or_else(|| MethodError::new(33, "can't divide by zero").with_data(&json!([p.num1])))
}

fn boom(_: ()) -> Result<(), MethodError> {
    panic!("boom {}", 1)
}

fn described(name: &str) -> Method {
    Method::new(name).param("num1", Type::Integer).param("num2", Type::Integer).optional("note", Type::String)
}

fn parse(text: &str) -> Result<i64, MethodError> {
    Ok(text.trim().parse::<i64>()?)
}

fn huge(bytes: usize) -> String {
    "x".repeat(bytes)
}

/// Each way to run, under names that end in `.inline`, `.task` and `.blocking`.
fn router() -> Router {
    let inline = Router::new()
        .method("add.inline", |p: Pair| Ok(p.num1 + p.num2))
        .method(described("divide.inline"), divide)
        .method("boom.inline", boom)
        .method("parse.inline", |text: String| parse(&text))
        .method("nothing.inline", |(): ()| Ok(()))
        .method("huge.inline", |bytes: usize| Ok(huge(bytes)))
        .method("large_error.inline", |bytes: usize| Err::<(), _>(MethodError::text("no").with_data(&huge(bytes))))
        .method("unwritable.inline", |(): ()| Ok(Unwritable))
        .method("explosive.inline", |(): ()| Ok(Explosive))
        .method(Method::new("liar.inline").returns(Type::Integer), |(): ()| Ok("text"));
    let task = inline
        .method_async("add.task", |p: Pair| async move { Ok(p.num1 + p.num2) })
        .method_async(described("divide.task"), |p: Pair| async move { divide(p) })
        .method_async("boom.task", |(): ()| async {
            yield_now().await;
            boom(())
        })
        .method_async("parse.task", |text: String| async move { Ok(text.trim().parse::<i64>()?) })
        .method_async("nothing.task", |(): ()| async { Ok(()) })
        .method_async("huge.task", |bytes: usize| async move { Ok(huge(bytes)) })
        .method_async("large_error.task", |bytes: usize| async move {
            Err::<(), _>(MethodError::text("no").with_data(&huge(bytes)))
        })
        .method_async("unwritable.task", |(): ()| async { Ok(Unwritable) })
        .method_async("explosive.task", |(): ()| async { Ok(Explosive) })
        .method_async(Method::new("liar.task").returns(Type::Integer), |(): ()| async { Ok("text") });
    task.method_blocking("add.blocking", |p: Pair| Ok(p.num1 + p.num2))
        .method_blocking(described("divide.blocking"), divide)
        .method_blocking("boom.blocking", boom)
        .method_blocking("parse.blocking", |text: String| parse(&text))
        .method_blocking("nothing.blocking", |(): ()| Ok(()))
        .method_blocking("huge.blocking", |bytes: usize| Ok(huge(bytes)))
        .method_blocking("large_error.blocking", |bytes: usize| {
            Err::<(), _>(MethodError::text("no").with_data(&huge(bytes)))
        })
        .method_blocking("unwritable.blocking", |(): ()| Ok(Unwritable))
        .method_blocking("explosive.blocking", |(): ()| Ok(Explosive))
        .method_blocking(Method::new("liar.blocking").returns(Type::Integer), |(): ()| Ok("text"))
}

const WAYS: [&str; 3] = ["inline", "task", "blocking"];
const ONE_WAY: u32 = 1 << 24;

fn v1() -> Recorder {
    Recorder::new(1)
}

fn session() -> Recorder {
    let limits = Limits { max_frame_bytes: 1 << 20, in_flight: 8 };
    let session = Session {
        name: String::new(),
        instance: String::new(),
        store: None,
        features: Features::ALL,
        limits,
        heartbeats: None,
        serving: None,
    };
    Recorder::with_session(2, session)
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let wait = async {
        while !done() {
            yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

async fn answer(router: &Router, conn: &Recorder, body: &str) -> String {
    router.handle(conn, conn.message(0, b"call-1", body.as_bytes()));
    until(body, || !conn.sent().is_empty() && conn.in_flight() == 0).await;
    let mut sent = conn.take();
    assert_eq!(sent.len(), 1, "{body}");
    let answer = sent.remove(0);
    assert_eq!((answer.0.kind(), answer.0.id(), answer.0.flags()), (MessageType::RpcResponse, &b"call-1"[..], 0));
    answer.text().into_owned()
}

fn result(text: &str) -> String {
    format!(r#"{{"rcode":0,"result":{text}}}"#)
}

/// An error as session peers get it.
fn error(code: i64, message: &str, executed: &str, rest: &str) -> String {
    let message = serde_json::to_string(message).unwrap();
    format!(r#"{{"rcode":{code},"error":{{"message":{message},"executed":"{executed}"{rest}}}}}"#)
}

/// An error as v1 peers get it.
fn with_result(error: &str) -> String {
    error.replacen(r#","error":"#, r#","result":{},"error":"#, 1)
}

#[tokio::test]
async fn what_each_call_is_answered() {
    let fault = |parameter: &str, expected: &str, got: &str| {
        let data = format!(r#","data":{{"parameter":{parameter},"expected":"{expected}","got":"{got}"}}"#);
        let subject = if parameter == "null" { "parameters".into() } else { format!("parameter {parameter}") };
        error(4, &format!("{subject}: expected {expected}, got {got}"), "no", &data)
    };
    let fraction = "parameters: invalid type: floating point `1.0`, expected i64 at line 1 column 14";
    let missing = "parameters: missing field `num2` at line 1 column 10";
    let wrong = "parameters: invalid type: string \"x\", expected i64 at line 1 column 11";
    let unwritable = "result: value can't be encoded: key must be a string";
    let lie = if cfg!(debug_assertions) {
        error(8, "result: expected integer, got string", "yes", "")
    } else {
        result("\"text\"")
    };
    let divided = r#","code":33,"data":[6]"#;
    let rows = [
        ("add", r#"{"num1":1,"num2":2}"#, result("3")),
        ("add", r#"{ "num2" : 1e0 , "num1" : 2 }"#, error(4, fraction, "no", "")),
        ("add", r#"{"num1":1}"#, error(4, missing, "no", "")),
        ("add", r#"{"num1":"x","num2":2}"#, error(4, wrong, "no", "")),
        ("divide", r#"{"num1":6,"num2":2,"note":null,"more":{}}"#, result("3")),
        ("divide", r#"{"num1":6,"num2":0}"#, error(64, "can't divide by zero", "yes", divided)),
        ("divide", r#"{"num1":6}"#, fault("\"num2\"", "integer", "nothing")),
        ("divide", r#"{"num1":6,"num2":"2"}"#, fault("\"num2\"", "integer", "string")),
        ("divide", r#"{"num1":6,"num2":2,"note":7}"#, fault("\"note\"", "string", "integer")),
        ("divide", "[6,2]", fault("null", "object", "array")),
        ("parse", "\" 7 \"", result("7")),
        ("parse", "\"x\"", error(64, "invalid digit found in string", "yes", "")),
        ("unwritable", "null", error(8, unwritable, "yes", "")),
        ("liar", "{}", lie),
    ];
    let router = router();
    for way in WAYS {
        for (name, parameters, expected) in &rows {
            let body = format!(r#"{{"method":"{name}.{way}","parameters":{parameters}}}"#);
            assert_eq!(answer(&router, &session(), &body).await, *expected, "{body}");
            assert_eq!(answer(&router, &v1(), &body).await, with_result(expected), "{body} of a v1 peer");
        }
    }
}

#[tokio::test]
async fn a_null_result_is_an_object_to_a_v1_peer() {
    let router = router();
    for way in WAYS {
        for parameters in ["", r#","parameters":{}"#, r#","parameters":null"#] {
            let body = format!(r#"{{"method":"nothing.{way}"{parameters}}}"#);
            assert_eq!(answer(&router, &session(), &body).await, result("null"), "{body}");
            assert_eq!(answer(&router, &v1(), &body).await, result("{}"), "{body} of a v1 peer");
        }
    }
}

#[tokio::test]
async fn an_answer_over_the_bound_is_too_large_and_has_run() {
    let router = router();
    for way in WAYS {
        for method in ["huge", "large_error"] {
            let body = format!(r#"{{"method":"{method}.{way}","parameters":{}}}"#, 16 << 20);
            let answer = answer(&router, &session(), &body).await;
            assert!(answer.contains("the answer can't be sent: frame of 1677"), "{body}: {answer}");
            assert!(
                answer.starts_with(r#"{"rcode":21,"#) && answer.contains(r#""executed":"yes""#),
                "{body}: {answer}"
            );
        }
    }
}

#[tokio::test]
async fn requests_that_reach_no_method() {
    let long = "x".repeat(10_000);
    let unknown = |name: &str| error(5, &format!("no method {name:?} here"), "no", "");
    let rows = [
        ("{", 1, None),
        (r#"{"method":"add.inline","parameters":{"num1":[}}"#, 1, None),
        ("[]", 2, None),
        ("{}", 2, None),
        (r#"{"method":7}"#, 2, None),
        (r#"{"method":"add"}"#, 5, Some(unknown("add"))),
        // The method is looked for before its parameters are looked at.
        (r#"{"method":"divide","parameters":[]}"#, 5, Some(unknown("divide"))),
        (&format!(r#"{{"method":"{long}"}}"#), 5, None),
    ];
    let router = router();
    for (body, code, expected) in rows {
        let conn = session();
        let answer = answer(&router, &conn, body).await;
        assert!(answer.starts_with(&format!(r#"{{"rcode":{code},"error""#)), "{body}: {answer}");
        assert!(answer.contains(r#""executed":"no""#) && answer.len() < 1000, "{body}: {answer}");
        assert_eq!(expected.unwrap_or_else(|| answer.clone()), answer);
        assert_eq!(conn.events(), [Event::Refused], "{body}");
    }
}

#[tokio::test]
async fn a_panic_is_one_callers_internal_error() {
    let (router, conn) = (router().method("grudge", |(): ()| Ok(Grudge)), session());
    for way in WAYS {
        for method in ["boom", "explosive"] {
            let name = format!("{method}.{way}");
            let text = format!("method {name:?} panicked; its provider's log says why");
            let answered = answer(&router, &conn, &format!(r#"{{"method":"{name}"}}"#)).await;
            assert_eq!(answered, error(8, &text, "yes", ""));
            let sum = format!(r#"{{"method":"add.{way}","parameters":{{"num1":1,"num2":2}}}}"#);
            assert_eq!(answer(&router, &conn, &sum).await, result("3"), "after {name}");
        }
    }
    assert_eq!(answer(&router, &conn, r#"{"method":"grudge"}"#).await, result("null"), "answered once");
    assert_eq!(conn.events(), [Event::Panicked; 7]);
}

#[tokio::test]
async fn a_one_way_call_is_never_answered() {
    let (router, conn) = (router(), session());
    let (ran, mut runs) = async_mpsc::unbounded_channel();
    let told = move |way: &str| ran.send(way.to_owned()).map_err(MethodError::from);
    let (inline, task, blocking) = (told.clone(), told.clone(), told);
    let router = router
        .method("tell.inline", move |(): ()| inline("inline"))
        .method_async("tell.task", move |(): ()| std::future::ready(task("task")))
        .method_blocking("tell.blocking", move |(): ()| blocking("blocking"));
    for way in WAYS {
        let bodies = [
            format!(r#"{{"method":"divide.{way}","parameters":{{"num1":1,"num2":0}}}}"#),
            format!(r#"{{"method":"divide.{way}","parameters":7}}"#),
            format!(r#"{{"method":"boom.{way}"}}"#),
            format!(r#"{{"method":"unwritable.{way}"}}"#),
            format!(r#"{{"method":"unknown.{way}"}}"#),
            format!("{{{way}"),
            format!(r#"{{"method":"tell.{way}"}}"#),
        ];
        for body in bodies {
            router.handle(&conn, conn.message(ONE_WAY, b"id", body.as_bytes()));
        }
        let ran = timeout(Duration::from_secs(20), runs.recv()).await.unwrap();
        assert_eq!(ran.as_deref(), Some(way));
    }
    until("all calls ended", || conn.in_flight() == 0).await;
    assert_eq!(conn.sent(), []);
    assert_eq!(conn.events().iter().filter(|event| **event == Event::Panicked).count(), 3);
    assert_eq!(conn.events().iter().filter(|event| **event == Event::Refused).count(), 9);
}

#[tokio::test]
async fn a_call_is_in_flight_until_it_is_answered() {
    let go = Arc::new(Notify::new());
    let gate = Arc::clone(&go);
    let router = Router::new().method("quick", |(): ()| Ok(())).method_async("wait", move |n: i64| {
        let gate = Arc::clone(&gate);
        async move {
            gate.notified().await;
            Ok(n)
        }
    });
    let conn = session();
    for n in 0..3 {
        router.handle(&conn, conn.message(0, &[n], format!(r#"{{"method":"wait","parameters":{n}}}"#).as_bytes()));
    }
    router.handle(&conn, conn.message(0, b"quick", br#"{"method":"quick"}"#));
    assert_eq!(conn.take()[0].0.id(), b"quick", "nothing waits behind those that wait");
    yield_now().await;
    assert_eq!((conn.in_flight(), conn.sent().len()), (3, 0));
    for left in (0..3).rev() {
        go.notify_one();
        until("one is answered", || conn.in_flight() == left).await;
        assert_eq!(conn.sent().len(), 3 - left);
    }
    let ids: Vec<_> = conn.sent().iter().map(|sent| (sent.0.id().to_vec(), sent.text().into_owned())).collect();
    assert_eq!(ids, [0, 1, 2].map(|n| (vec![n], result(&n.to_string()))));
}

#[tokio::test]
async fn a_peer_that_has_gone_holds_nothing() {
    let (router, conn) = (router(), session());
    conn.close("gone".into());
    for way in WAYS {
        for method in ["nothing", "boom"] {
            router.handle(&conn, conn.message(0, b"", format!(r#"{{"method":"{method}.{way}"}}"#).as_bytes()));
        }
    }
    until("all calls ended", || conn.in_flight() == 0).await;
    assert_eq!(conn.sent(), []);
}

#[tokio::test]
async fn blocking_calls_take_no_more_threads_than_they_may() {
    let (started, mut starts) = async_mpsc::unbounded_channel();
    let (release, released) = mpsc::channel::<()>();
    let (running, released) = (Arc::new(AtomicUsize::new(0)), Mutex::new(released));
    let most = Arc::new(AtomicUsize::new(0));
    let (now, peak) = (Arc::clone(&running), Arc::clone(&most));
    let router = Router::new().blocking_threads(2).method_blocking("block", move |n: i64| {
        peak.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
        started.send(n)?;
        let told = released.lock().unwrap().recv();
        now.fetch_sub(1, SeqCst);
        told?;
        Ok(n)
    });
    let conn = session();
    for n in 0..6 {
        router.handle(&conn, conn.message(0, &[n], format!(r#"{{"method":"block","parameters":{n}}}"#).as_bytes()));
    }
    let mut start = async || timeout(Duration::from_secs(20), starts.recv()).await.unwrap();
    start().await;
    start().await;
    for waiting in (0..6).rev() {
        release.send(()).unwrap();
        if waiting >= 2 {
            start().await;
        }
    }
    until("all calls ended", || conn.in_flight() == 0).await;
    assert_eq!((most.load(SeqCst), conn.sent().len()), (2, 6));
}

#[tokio::test]
async fn a_handler_may_know_of_its_call() {
    type Seen = (String, String, Vec<u8>, Option<Duration>);
    let seen = |context: &Context| -> Seen {
        assert_eq!(context.deadline().is_some(), context.remaining().is_some());
        (context.peer().to_owned(), context.method().to_owned(), context.id().to_vec(), context.remaining())
    };
    let (tell, mut told) = async_mpsc::unbounded_channel();
    let (task, blocking) = (tell.clone(), tell.clone());
    let router = Router::new()
        .method_with("inline", move |context, (): ()| Ok(tell.send(seen(&context))?))
        .method_async_with("task", move |context, (): ()| std::future::ready(Ok(task.send(seen(&context)).is_ok())))
        .method_blocking_with("blocking", move |context, (): ()| Ok(blocking.send(seen(&context))?));
    for (conn, has_deadline) in [(session(), true), (v1(), false)] {
        for way in WAYS {
            let body = format!(r#"{{"method":"{way}","meta":{{"timeout_ms":60000}}}}"#);
            answer(&router, &conn, &body).await;
            let (peer, method, id, left) = told.try_recv().unwrap();
            assert_eq!((peer, &*method, &id[..]), (conn.peer(), way, &b"call-1"[..]));
            assert_eq!(left.is_some(), has_deadline);
            assert!(left.is_none_or(|left| (Duration::from_secs(1)..=Duration::from_mins(1)).contains(&left)));
        }
    }
    let conn = session();
    answer(&router, &conn, r#"{"method":"inline","meta":{"timeout_ms":18446744073709551615}}"#).await;
    assert_eq!(told.try_recv().unwrap().3, None, "a time beyond the clock is none");
}

#[test]
fn methods_are_told_in_the_order_of_their_adding() {
    let first = Router::new().method(described("z"), divide).method("a", boom);
    let second = first.clone().method(String::from("m"), boom);
    assert_eq!((first.names().join(" "), second.names().join(" ")), ("z a".into(), "z a m".into()));
    assert_eq!(second.methods().map(|method| method.parameters().len()).collect::<Vec<_>>(), [3, 0, 0]);
}

#[test]
#[should_panic(expected = "method \"add\" is registered twice")]
fn a_method_twice_is_a_mistake() {
    let _ = Router::new().method("add", divide).method_blocking(described("add"), divide);
}

#[test]
#[should_panic(expected = "blocking methods need a thread")]
fn no_thread_is_a_mistake() {
    let _ = Router::new().blocking_threads(0);
}
