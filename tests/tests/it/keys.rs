//! Calls under idempotency keys by programs without a runtime.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use callboard_client::blocking::Client;
use callboard_client::{CallError, CallErrorKind};
use callboard_common::{Executed, ResultCode};
use callboard_server::{Router, Server};
use tokio::runtime::Runtime;

const GENEROUS: Duration = Duration::from_secs(30);

/// Calls in each style of the blocking client.
fn call_in_each_style(client: &Client, params: i64) -> [Result<usize, CallError>; 3] {
    let (told, heard) = mpsc::channel();
    client.call_then("count", &params, move |result| told.send(result).unwrap()).unwrap();
    let then = heard.recv_timeout(GENEROUS).unwrap();
    [client.call("count", &params), client.start("count", &params).unwrap().wait(), then]
}

#[test]
fn a_blocking_call_under_a_key_is_executed_once_and_its_key_is_for_no_other_call() {
    let (runtime, runs) = (Runtime::new().unwrap(), Arc::<AtomicUsize>::default());
    let count = Arc::clone(&runs);
    let router = Router::new().method("count", move |_: i64| Ok(count.fetch_add(1, SeqCst) + 1));
    let starting = Server::builder().listen("tcp://127.0.0.1:0").router(router).start();
    let server = runtime.block_on(starting).unwrap();
    let client = Client::connect(server.addresses()[0].to_string()).unwrap().with_timeout(GENEROUS);

    let keyed = client.with_idempotency_key("k");
    for result in call_in_each_style(&keyed, 1) {
        assert_eq!(result.unwrap(), 1);
    }
    for result in call_in_each_style(&keyed, 2) {
        let error = result.unwrap_err();
        assert!(matches!(error.kind(), CallErrorKind::Remote { code: ResultCode::Conflict, .. }), "{error}");
        assert_eq!(error.executed(), Executed::No, "{error}");
        assert!(error.to_string().contains("under this idempotency key with other parameters"), "{error}");
    }
    assert_eq!(runs.load(SeqCst), 1);
    // The handle that it was made from has none.
    assert_eq!(call_in_each_style(&client, 1).map(Result::unwrap), [3, 4, 2]);
    assert_eq!(client.with_idempotency_key("another").call::<usize>("count", &1).unwrap(), 5);
}
