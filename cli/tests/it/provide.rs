use std::io::Write;
use std::net::TcpListener;

use tempfile::tempdir;

use crate::stage::{PROMISED, Program, center, frame, listening, provider, run, v1};

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
fn a_call_under_way_does_not_hold_up_the_end() {
    let (_center, center) = center();
    let (provider, at) = listening(&["provide", "--demo", "--show-calls", "--center", &center]);
    let mut provider = provider;
    let mut peer = v1(&at);
    peer.write_all(&frame(0, b"1", r#"{"method":"sleep","parameters":{"ms":600000}}"#)).unwrap();
    assert_eq!(provider.line(), "served sleep");
    provider.signal("TERM");
    let ended = provider.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.took < PROMISED, "{:?}", ended.took);
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
