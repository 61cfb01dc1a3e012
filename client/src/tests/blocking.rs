use std::sync::mpsc;
use std::thread;

use callboard_common::Executed;
use serde_json::Value;

use super::*;
use crate::{CallErrorKind, blocking};

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
            call.wait().unwrap_err(),
            v1().connect_blocking("127.0.0.1:1").map(drop).unwrap_err(),
            blocking::block_on(async {}).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error.kind(), CallErrorKind::BlockingInAsync), "{error}");
            assert_eq!(error.executed(), Executed::No);
            assert!(error.advice().contains("asynchronous client"), "{error}");
        }
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
