use std::sync::{Mutex, mpsc};
use std::thread;

use callboard_common::Executed;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::*;
use crate::{CallErrorKind, Conn, Inbox, blocking};

/// So many calls that the threads that make them drive the connections themselves.
const MANY: i64 = 100;

/// An echoing peer in a thread of its own; gives its address.
fn echo_peer() -> String {
    let (told, address) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let peer = Peer::new().await;
            told.send(peer.address()).unwrap();
            loop {
                tokio::spawn(peer.accept().await.echo());
            }
        });
    });
    address.recv().unwrap()
}

fn client() -> blocking::Client {
    v1().connect_blocking(echo_peer()).unwrap()
}

#[test]
fn calls_in_all_styles_without_a_runtime() {
    let client = client();
    assert_eq!(client.call::<i64>("echo", &1).unwrap(), 1);
    let calls: Vec<_> = (0..10).map(|n| client.start::<i64>("echo", &n).unwrap()).collect();
    for (n, call) in (0..).zip(calls).collect::<Vec<_>>().into_iter().rev() {
        assert_eq!(call.method(), "echo");
        assert_eq!(call.wait().unwrap(), n);
    }
    let (told, heard) = mpsc::channel();
    client.call_then::<i64>("echo", &2, move |result| told.send(result.unwrap()).unwrap()).unwrap();
    assert_eq!(heard.recv_timeout(GENEROUS).unwrap(), 2);
    client.notify("echo", &3).unwrap();
    let through = blocking::block_on(client.async_client().call::<i64>("echo", &4)).unwrap();
    assert_eq!(through.unwrap(), 4);
    assert!(client.session().is_none() && client.local_addr().is_some());
    client.close();
    let error = client.call::<i64>("echo", &5).unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Disconnected), "{error}");
    assert_eq!(error.executed(), Executed::No);
}

#[test]
fn threads_share_a_client() {
    let client = client();
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let client = client.clone();
            thread::spawn(move || {
                (0..50).all(|n| client.call::<i64>("echo", &(thread * 100 + n)).unwrap() == thread * 100 + n)
            })
        })
        .collect();
    assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
}

#[test]
fn a_deadline_holds_without_a_runtime() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = v1().connect_blocking(silent.local_addr().unwrap().to_string()).unwrap();
    let error = client.with_timeout(Duration::from_millis(20)).call::<Value>("n", &()).unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Timeout), "{error}");
}

#[test]
fn on_a_runtime_every_blocking_call_is_a_clear_error_and_dropping_is_fine() {
    let client = client();
    let call = client.start::<i64>("echo", &1).unwrap();
    let in_async = move || {
        let errors = [
            client.call::<i64>("echo", &1).unwrap_err(),
            client.notify("echo", &1).unwrap_err(),
            client.start::<i64>("echo", &1).map(drop).unwrap_err(),
            client.call_then::<i64>("echo", &1, |_| unreachable!()).unwrap_err(),
            v1().connect_blocking("127.0.0.1:1").map(drop).unwrap_err(),
            blocking::block_on(async {}).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error.kind(), CallErrorKind::BlockingInAsync), "{error}");
            assert_eq!(error.executed(), Executed::No);
            assert!(error.advice().contains("asynchronous client"), "{error}");
        }
        let error = call.wait().unwrap_err();
        assert!(matches!(error.kind(), CallErrorKind::BlockingInAsync), "{error}");
        assert_eq!(error.executed(), Executed::Unknown, "it was sent before");
        drop(client);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { in_async() });
}

#[test]
fn a_blocking_call_in_a_callback_is_an_error_and_not_a_deadlock() {
    let client = client();
    let (told, heard) = mpsc::channel();
    let inner = client.clone();
    client
        .call_then::<i64>("echo", &1, move |_| told.send(inner.call::<i64>("echo", &2).unwrap_err()).unwrap())
        .unwrap();
    let error = heard.recv_timeout(GENEROUS).unwrap();
    assert!(matches!(error.kind(), CallErrorKind::BlockingInAsync), "{error}");
}

#[test]
fn on_a_thread_for_blocking_work_the_advice_names_the_way_that_works() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = client();
    let work = runtime.spawn_blocking(move || {
        let error = client.call::<i64>("echo", &1).unwrap_err();
        (error, blocking::allow(|| client.call::<i64>("echo", &1)))
    });
    let (error, allowed) = runtime.block_on(work).unwrap();
    assert!(error.advice().contains("callboard::blocking::allow"), "{error}");
    assert_eq!(allowed.unwrap(), 1);
}

#[test]
fn threads_with_a_client_each_call_at_once() {
    let address = echo_peer();
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let client = v1().connect_blocking(&address).unwrap();
            thread::spawn(move || (0..MANY).all(|n| client.call::<i64>("echo", &n).unwrap() == n))
        })
        .collect();
    assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
}

/// Tells that something has come.
struct Told(mpsc::Sender<()>);

impl Inbox for Told {
    fn message(&self, _conn: &Conn, _message: Message) {
        let _ = self.0.send(()); // the test may be over
    }

    fn closed(&self) {}
}

#[test]
fn a_peer_is_heard_and_answered_while_no_thread_calls() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let peer = runtime.block_on(Peer::new());
    let address = peer.address();
    let (told, pushed) = mpsc::channel();
    let (dropped, called) = mpsc::channel();
    let calling = thread::spawn(move || {
        let builder = blocking::Client::builder().timeout(GENEROUS).session(SessionMode::Require);
        let client = builder.session_timeout(GENEROUS).connect_blocking(address).unwrap();
        client.async_client().topic_inbox(|| Told(told));
        assert!((0..MANY).all(|n| client.call::<i64>("echo", &n).unwrap() == n));
        dropped.send(client).unwrap();
    });
    runtime.block_on(async {
        let mut line = peer.accept().await;
        line.open_session(json!({"in_flight": 100})).await;
        for _ in 0..MANY {
            let call = line.call().await;
            line.answer(&call, &json!({"rcode": 0, "result": params(&call)}).to_string()).await;
        }
        line.send(MessageType::Ping, b"p", "").await;
        assert_eq!(line.next().await.unwrap().kind(), MessageType::Ping.answer());
        line.send(MessageType::TopicRequest, b"1", r#"{"topic_key":"t","optype":4,"topic_msg":"x"}"#).await;
        pushed.recv_timeout(GENEROUS).unwrap();
        drop(called.recv_timeout(GENEROUS).unwrap());
        assert!(line.next().await.is_none(), "the last clone that goes closes the connection");
    });
    calling.join().unwrap();
}

#[test]
fn callbacks_run_after_many_calls_though_nobody_waits() {
    let client = client();
    for n in 0..5 {
        assert!((0..MANY).all(|n| client.call::<i64>("echo", &n).unwrap() == n));
        let (told, heard) = mpsc::channel();
        client.call_then::<i64>("echo", &n, move |result| told.send(result.unwrap()).unwrap()).unwrap();
        assert_eq!(heard.recv_timeout(GENEROUS).unwrap(), n);
    }
}

#[test]
fn a_callback_may_not_block_whichever_thread_runs_it() {
    let client = client();
    blocking::allow(|| {
        for _ in 0..20 {
            let (told, heard) = mpsc::channel();
            let inner = client.clone();
            let then = move |_| told.send(inner.call::<i64>("echo", &2).unwrap_err()).unwrap();
            assert!((0..MANY).all(|n| client.call::<i64>("echo", &n).unwrap() == n));
            client.call_then::<i64>("echo", &1, then).unwrap();
            assert_eq!(client.call::<i64>("echo", &3).unwrap(), 3);
            let error = heard.recv_timeout(GENEROUS).unwrap();
            assert!(matches!(error.kind(), CallErrorKind::BlockingInAsync), "{error}");
        }
    });
}

#[test]
fn a_future_that_blocks_gets_an_error_even_where_its_thread_may_block() {
    let client = client();
    let nested = blocking::allow(|| blocking::block_on(async { client.call::<i64>("echo", &1) })).unwrap();
    assert!(matches!(nested.unwrap_err().kind(), CallErrorKind::BlockingInAsync));
    assert_eq!(client.call::<i64>("echo", &1).unwrap(), 1);
}

/// A number behind a lock; tells when it is about to be taken.
struct Locked<'a>(&'a Mutex<i64>, mpsc::Sender<()>);

impl Serialize for Locked<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.1.send(()).unwrap();
        self.0.lock().unwrap().serialize(serializer)
    }
}

#[test]
fn parameters_that_wait_for_a_lock_hold_up_nobody_who_calls_with_it() {
    let client = client();
    let number = Mutex::new(7);
    thread::scope(|scope| {
        let (told, locking) = mpsc::channel();
        let guard = number.lock().unwrap();
        let other = scope.spawn(|| client.call::<i64>("echo", &Locked(&number, told)).unwrap());
        locking.recv_timeout(GENEROUS).unwrap();
        assert!((0..MANY).all(|n| client.call::<i64>("echo", &n).unwrap() == n));
        drop(guard);
        assert_eq!(other.join().unwrap(), 7);
    });
}

#[test]
fn panics_in_the_callers_own_code_harm_no_later_call() {
    struct Panics;
    impl Serialize for Panics {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            panic!("parameters' own fault");
        }
    }
    let client = client();
    assert!((0..MANY).all(|n| client.call::<i64>("echo", &n).unwrap() == n));
    let call = || client.call::<i64>("echo", &Panics).map(drop);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).is_err());
    client.call_then::<i64>("echo", &1, |_| panic!("a callback's own fault")).unwrap();
    assert!((0..MANY).all(|n| client.call::<i64>("echo", &n).unwrap() == n));
}
