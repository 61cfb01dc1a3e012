//! `callboard call --key`: the call is executed once, however often it is made.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

use callboard_registry::Provider;
use callboard_server::{Router, Server};
use tokio::runtime::Runtime;

use crate::stage::{center, run};

/// A provider, in this process, of the method `count`, which gives how often it has run.
struct Counting {
    runs: Arc<AtomicUsize>,
    server: Server,
    _provider: Provider,
    _runtime: Runtime,
}

impl Counting {
    fn announced_at(center: &str) -> Self {
        let (runtime, runs) = (Runtime::new().unwrap(), Arc::<AtomicUsize>::default());
        let count = Arc::clone(&runs);
        let router = Router::new().method("count", move |_: serde_json::Value| Ok(count.fetch_add(1, SeqCst) + 1));
        let starting = Server::builder().listen("tcp://127.0.0.1:0").router(router).start();
        let server = runtime.block_on(starting).unwrap();
        let announcing =
            async { Provider::connect(center).await.unwrap().announce(["count"], server.addresses()).await };
        let provider = runtime.block_on(announcing).unwrap();
        Self { runs, server, _provider: provider, _runtime: runtime }
    }

    fn runs(&self) -> usize {
        self.runs.load(SeqCst)
    }
}

#[test]
fn a_call_under_a_key_is_executed_once_and_its_key_is_for_no_other_call() {
    let (_center, center) = center();
    let counting = Counting::announced_at(&center);
    let at = counting.server.addresses()[0].to_string();
    let call = |place: [&str; 2], more: &[&str]| run(&[&["call", "count"], more, &place].concat());
    let places = [["--center", &center], ["--at", &at]];
    for (runs, (place, other)) in (1..).zip([(places[0], places[1]), (places[1], places[0])]) {
        let key = format!("a key, {}", place[0]);
        // Each is a process of its own; the provider is the same, whichever way it is reached.
        for place in [place, place, other] {
            assert_eq!(call(place, &["[1]", "--key", &key]).ok(), [runs.to_string()], "{place:?}");
        }
        assert_eq!(counting.runs(), runs);
        let told = call(place, &["[2]", "--key", &key]).failed(1);
        let conflict = "CONFLICT: method \"count\" was called under this idempotency key with other parameters; \
                        take a new key (executed: no)";
        assert!(told.starts_with("error: method \"count\" at ") && told.contains(conflict), "{told}");
        assert_eq!(counting.runs(), runs);
    }
    for (runs, more) in [(3, &["[1]"][..]), (4, &["[1]"]), (5, &["[1]", "--key", "another key"])] {
        assert_eq!(call(places[0], more).ok(), [runs.to_string()]);
    }
}

/// A peer that opens no session: it closes two connections on which it is asked for one, and keeps the next.
fn v1_peer() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || listener.incoming().skip(2).collect::<Vec<_>>());
    address
}

#[test]
fn a_key_that_would_be_of_no_use_is_told_before_anything_is_sent() {
    let rows = [
        (
            vec!["--key", "k", "--at"],
            "the peer knows no idempotency keys, so that a repeat might be executed twice (executed: no)",
        ),
        (vec!["--key", "", "--at"], "its idempotency key is not of 1 to 255 bytes (executed: no)"),
    ];
    for (arguments, told) in rows {
        let peer = v1_peer();
        let line = run(&[&["call", "count"], &arguments[..], &[&peer]].concat()).failed(1);
        assert!(line.contains(told), "{line}");
    }
}
