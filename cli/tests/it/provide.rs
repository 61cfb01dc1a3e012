use std::io::Write;
use std::net::{TcpListener, TcpStream};

use tempfile::tempdir;

use crate::stage::{PROMISED, Program, answer, center, frame, listening, provider, run, v1};

#[test]
fn a_provider_withdraws_when_it_is_stopped() {
    let (_center, center) = center();
    for signal in ["INT", "TERM"] {
        let (provider, _) = provider(&center);
        run(&["discover", "add", "--center", &center]).ok();
        provider.signal(signal);
        let ended = provider.end();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        run(&["discover", "add", "--center", &center]).failed(1);
    }
}

#[test]
fn a_call_that_outlasts_the_grace_does_not_hold_up_the_end() {
    let (_center, center) = center();
    let (provider, _peer) = sleeping(&center, "300ms", 600_000);
    provider.signal("TERM");
    let ended = provider.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.took < PROMISED, "{:?}", ended.took);
    assert!(ended.err.iter().any(|line| line.contains("1 outlasted the grace")), "{ended:?}");
}

#[test]
fn a_call_under_way_is_answered_before_the_end() {
    let (_center, center) = center();
    let (provider, mut peer) = sleeping(&center, "60s", 700);
    provider.signal("TERM");
    assert!(answer(&mut peer).contains(r#""rcode":0"#));
    let ended = provider.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.err.iter().any(|line| line.contains("1 calls in flight were answered")), "{ended:?}");
}

#[test]
fn a_second_signal_stops_a_provider_at_once() {
    let (_center, center) = center();
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let (mut provider, _peer) = sleeping(&center, "10m", 600_000);
        provider.signal("TERM");
        while !provider.remark().contains("leaving, with 1 calls in flight") {}
        // It has left once the center has told.
        while run(&["discover", "add", "--center", &center]).code == Some(0) {}
        provider.signal(signal);
        let ended = provider.end();
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert!(ended.took < PROMISED, "{:?}", ended.took);
    }
}

/// A provider with a call of `sleep` under way, and the peer that waits for its answer.
fn sleeping(center: &str, grace: &str, millis: u32) -> (Program, TcpStream) {
    let arguments = ["provide", "--demo", "--show-calls", "--grace", grace, "--center", center];
    let (mut provider, at) = listening(&arguments);
    let mut peer = v1(&at);
    let call = format!(r#"{{"method":"sleep","parameters":{{"ms":{millis}}}}}"#);
    peer.write_all(&frame(0, b"1", &call)).unwrap();
    assert_eq!(provider.line(), "served sleep");
    (provider, peer)
}

#[test]
fn a_provider_that_listens_nowhere_is_called_through_its_center_and_leaves_in_good_order() {
    let (_center, center) = center();
    let start = |more: &[&str]| {
        let arguments = ["provide", "--demo", "--relay", "--show-calls", "--center", &center];
        let mut provider = Program::start(&[&arguments[..], more].concat());
        assert_eq!(provider.line(), format!("relayed by {center}"));
        provider
    };
    let mut provider = start(&[]);
    assert!(run(&["discover", "add", "--center", &center]).ok()[0].starts_with("relay:"));
    assert_eq!(run(&["call", "add", r#"{"num1":1,"num2":2}"#, "--center", &center]).ok(), ["3"]);
    assert_eq!(provider.line(), "served add");
    let call = Program::start(&["call", "sleep", r#"{"ms":700}"#, "--center", &center]);
    assert_eq!(provider.line(), "served sleep");
    provider.signal("TERM");
    let (call, ended) = (call.end(), provider.end());
    assert_eq!((call.code, ended.code), (Some(0), Some(0)), "{call:?} {ended:?}");
    assert!(ended.err.iter().any(|line| line.contains("1 calls in flight were answered")), "{ended:?}");
    run(&["discover", "add", "--center", &center]).failed(1);
    // One that takes longer than it may is cut.
    let mut provider = start(&["--grace", "300ms"]);
    let call = Program::start(&["call", "sleep", r#"{"ms":600000}"#, "--center", &center, "--timeout", "60s"]);
    assert_eq!(provider.line(), "served sleep");
    provider.signal("TERM");
    let (ended, call) = (provider.end(), call.end());
    assert_eq!((ended.code, call.code), (Some(0), Some(1)), "{ended:?} {call:?}");
    assert!(ended.took < PROMISED && ended.err.iter().any(|line| line.contains("1 outlasted the grace")), "{ended:?}");
    assert!(call.err.iter().any(|line| line.contains("executed: unknown")), "{call:?}");
}

#[test]
fn who_listens_nowhere_listens_nowhere() {
    let refused = run(&["provide", "--demo", "--relay", "--listen", "127.0.0.1:0"]).failed(1);
    assert!(refused.contains("--listen"), "{refused}");
}

#[test]
fn a_provider_serves_on_without_its_center() {
    let (center, address) = center();
    let (provider, at) = provider(&address);
    center.signal("KILL");
    center.end();
    assert_eq!(run(&["call", "add", r#"{"num1":1,"num2":2}"#, "--at", &at]).ok(), ["3"]);
    provider.signal("TERM");
    assert_eq!(provider.end().code, Some(0));
}

#[test]
fn a_center_that_does_not_answer_does_not_keep_signals_out() {
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let center = deaf.local_addr().unwrap().to_string();
    let provider = Program::start(&["provide", "--demo", "--timeout", "99years", "--center", &center]);
    let (_held, _) = deaf.accept().unwrap();
    provider.signal("TERM");
    let ended = provider.end();
    assert_eq!((ended.code, ended.out.len()), (Some(0), 0), "{ended:?}");
    assert!(ended.took < PROMISED, "{:?}", ended.took);
}

#[test]
fn a_provider_may_listen_on_several_addresses() {
    let (_center, center) = center();
    let directory = tempdir().unwrap();
    let socket = format!("unix://{}", directory.path().join("demo.sock").display());
    let arguments = ["provide", "--demo", "--listen", "127.0.0.1:0", "--listen", &socket, "--center", &center];
    let mut provider = Program::start(&arguments);
    for address in [provider.address(), provider.address()] {
        assert_eq!(run(&["call", "echo", r#"{"text":"hello"}"#, "--at", &address]).ok(), ["\"hello\""]);
    }
}
