//! A provider that is killed, and its successor, which knows what it has done.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use callboard::{Executed, ResultCode};
use callboard_client::{CallError, Client, Reconnect, RetryPolicy, SessionMode};
use callboard_tests::{FaultProxy, Weather};
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::stage::{PATIENCE, Program, center, listening, run};

/// A center, a folder for stores, and calls from within this process.
struct House {
    _center: Program,
    center: String,
    folder: TempDir,
    runtime: Runtime,
}

impl House {
    fn new() -> Self {
        let (program, center) = center();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { _center: program, center, folder: tempfile::tempdir().unwrap(), runtime }
    }

    fn store(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// A provider that keeps its answers in this store, and its address.
    fn provider(&self, store: &str, listen: &str) -> (Program, String) {
        let store = self.store(store);
        let arguments = ["provide", "--demo", "--show-calls", "--listen", listen, "--keys-store", &store, "--center"];
        listening(&[&arguments[..], &[&self.center]].concat())
    }

    /// It is killed, and another one begins at the same address.
    fn restart(&self, provider: Program, address: &str, store: &str) -> Program {
        provider.signal("KILL");
        provider.end();
        self.provider(store, address).0
    }

    /// Calls under a key, and makes its connection again until it has an answer.
    fn client(&self, address: &str) -> Client {
        let reconnect = Reconnect { longest: Duration::from_millis(100), ..Reconnect::default() };
        let builder = Client::builder().session(SessionMode::Require).session_timeout(PATIENCE).timeout(PATIENCE);
        let builder = builder.reconnect(reconnect).retry(RetryPolicy::default());
        self.runtime.block_on(builder.connect(address)).unwrap()
    }

    fn start(&self, client: &Client, ms: u64) -> tokio::task::JoinHandle<Result<u64, CallError>> {
        let client = client.with_idempotency_key("k");
        self.runtime.spawn(async move { client.call("sleep", &json!({"ms": ms})).await })
    }

    fn end(&self, call: tokio::task::JoinHandle<Result<u64, CallError>>) -> Result<u64, CallError> {
        self.runtime.block_on(call).unwrap()
    }
}

/// What it has served is told in order.
fn serves_add_next(provider: &mut Program, address: &str) {
    assert_eq!(run(&["call", "add", r#"{"num1":1,"num2":2}"#, "--at", address]).ok(), ["3"]);
    assert_eq!(provider.line(), "served add");
}

#[test]
fn an_answer_that_was_on_its_way_when_its_provider_was_killed_is_given_by_the_next_one() {
    let house = House::new();
    let (mut provider, address) = house.provider("answers", "127.0.0.1:0");
    let target: SocketAddr = address.trim_start_matches("tcp://").parse().unwrap();
    let proxy = house.runtime.block_on(FaultProxy::start(target));
    let client = house.client(&proxy.address().to_string());
    let call = house.start(&client, 1_500);
    assert_eq!(provider.line(), "served sleep");
    // What its provider answers is lost.
    proxy.set(Weather::Silent);
    let witness = house.client(&address);
    assert_eq!(house.end(house.start(&witness, 1_500)).unwrap(), 1_500, "it has ended");
    let mut next = house.restart(provider, &address, "answers");
    assert!(!call.is_finished());
    proxy.set(Weather::Fair);
    proxy.cut();
    assert_eq!(house.end(call).unwrap(), 1_500);
    assert_eq!(client.retry_metrics().retries, 1);
    serves_add_next(&mut next, &address);
}

#[test]
fn a_call_that_ran_when_its_provider_was_killed_is_not_run_again_and_nobody_knows_what_it_did() {
    let house = House::new();
    let (mut provider, address) = house.provider("answers", "127.0.0.1:0");
    let client = house.client(&address);
    let call = house.start(&client, 600_000);
    assert_eq!(provider.line(), "served sleep");
    let mut next = house.restart(provider, &address, "answers");
    let error = house.end(call).unwrap_err();
    assert_eq!((error.executed(), error.code()), (Executed::Unknown, Some(ResultCode::InternalError)), "{error}");
    assert!(error.to_string().contains("may have begun for the first call under this idempotency key"), "{error}");
    let error = house.end(house.start(&client, 1)).unwrap_err();
    assert_eq!((error.executed(), error.code()), (Executed::No, Some(ResultCode::Conflict)), "{error}");
    serves_add_next(&mut next, &address);
}

#[test]
fn one_with_another_store_is_not_asked_and_nobody_knows() {
    let house = House::new();
    let (mut provider, address) = house.provider("answers", "127.0.0.1:0");
    let client = house.client(&address);
    let call = house.start(&client, 600_000);
    assert_eq!(provider.line(), "served sleep");
    let mut next = house.restart(provider, &address, "others");
    let error = house.end(call).unwrap_err();
    assert_eq!(error.executed(), Executed::Unknown, "{error}");
    assert!(error.to_string().contains("does not know its key"), "{error}");
    serves_add_next(&mut next, &address);
}

#[test]
fn a_repeat_by_hand_after_a_restart_anywhere_gets_the_answer_of_before() {
    let house = House::new();
    let call = |text: &str| {
        run(&["call", "echo", &json!({"text": text}).to_string(), "--key", "order-17", "--center", &house.center])
    };
    let (mut provider, _) = house.provider("answers", "127.0.0.1:0");
    assert_eq!(call("paid").ok(), [r#""paid""#]);
    assert_eq!(provider.line(), "served echo");
    for signal in ["KILL", "TERM"] {
        provider.signal(signal);
        provider.end();
        let address;
        (provider, address) = house.provider("answers", "127.0.0.1:0");
        assert_eq!(call("paid").ok(), [r#""paid""#]);
        assert!(call("other").failed(1).contains("with other parameters"));
        serves_add_next(&mut provider, &address);
    }
}

#[test]
fn a_store_that_is_in_use_or_none_is_told_before_anything_is_served() {
    let house = House::new();
    let (_provider, _) = house.provider("answers", "127.0.0.1:0");
    fs::write(house.store("notes"), "these are notes\n".repeat(1_000)).unwrap();
    let missing = house.folder.path().join("none").join("answers").display().to_string();
    let rows = [
        (house.store("answers"), "are in use by another provider: each needs a store of its own"),
        (house.store("notes"), "holds no answers, or is damaged"),
        (missing, "can't be read or written: No such file or directory"),
    ];
    for (store, says) in rows {
        let line = run(&["provide", "--demo", "--keys-store", &store, "--center", &house.center]).failed(1);
        assert!(line.contains(says) && line.contains(&store), "{line}");
    }
}
