use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use tempfile::tempdir;

use crate::stage::{PROMISED, Program, ask, callboard, center, frame, listening, run, v1};

const SUBSCRIBE: &str = r#"{"topic_key":"news","optype":2}"#;
const CREATE: &str = r#"{"topic_key":"news","optype":0}"#;

fn unix(directory: &Path, name: &str) -> String {
    format!("unix://{}", directory.join(name).display())
}

#[test]
fn each_address_is_reported_and_serves() {
    let directory = tempdir().unwrap();
    let socket = unix(directory.path(), "center.sock");
    let mut center = Program::start(&["center", "--listen", "127.0.0.1:0", "--listen", &socket, "--loops", "1"]);
    let addresses = [center.address(), center.address()];
    assert!(addresses[0].starts_with("tcp://127.0.0.1:") && !addresses[0].ends_with(":0"), "{addresses:?}");
    assert_eq!(addresses[1], socket);
    for address in &addresses {
        let told = run(&["discover", "add", "--center", address]).failed(1);
        assert!(told.contains("add"), "{told}");
    }
    center.signal("TERM");
    assert_eq!(center.end().code, Some(0));
    assert!(!directory.path().join("center.sock").exists(), "the socket's file is left");
}

#[test]
fn flag_goes_over_environment_over_file() {
    let directory = tempdir().unwrap();
    let [file, environment, flag] = ["file", "environment", "flag"].map(|name| unix(directory.path(), name));
    let path = directory.path().join("callboard.toml");
    std::fs::write(&path, format!("loops = 1\nlisten = [{file:?}]")).unwrap();
    let path = path.to_str().unwrap();
    let rows = [
        (vec!["center", "--config", path], None, &file),
        (vec!["center", "--config", path], Some(&environment), &environment),
        (vec!["center", "--config", path, "--listen", &flag], Some(&environment), &flag),
        (vec!["center", "--listen", &flag], None, &flag),
        (vec!["center"], Some(&environment), &environment),
    ];
    for (arguments, listen, expected) in rows {
        let mut command = callboard(&arguments);
        command.envs(listen.map(|listen| ("CALLBOARD_LISTEN", listen)));
        assert_eq!(&Program::spawn(command).address(), expected, "{arguments:?}");
    }
}

#[test]
fn the_file_may_be_named_in_the_environment() {
    let directory = tempdir().unwrap();
    let (path, socket) = (directory.path().join("c.toml"), unix(directory.path(), "c.sock"));
    std::fs::write(&path, format!("listen = [{socket:?}]")).unwrap();
    let mut command = callboard(&["center"]);
    command.env("CALLBOARD_CONFIG", &path);
    assert_eq!(Program::spawn(command).address(), socket);
}

#[test]
fn an_address_in_use_is_an_error() {
    let (_center, address) = center();
    let told = run(&["center", "--listen", &address]).failed(1);
    assert!(told.contains(&address) && told.contains("in use"), "{told}");

    let directory = tempdir().unwrap();
    let socket = unix(directory.path(), "center.sock");
    let (_center, _) = listening(&["center", "--listen", &socket]);
    let told = run(&["center", "--listen", &socket]).failed(1);
    assert!(told.contains(&socket) && told.contains("in use"), "{told}");
}

#[test]
fn signals_stop_it_at_once() {
    for signal in ["INT", "TERM"] {
        let (center, address) = center();
        let mut peer = v1(&address);
        assert!(ask(&mut peer, 2, CREATE).contains("\"rcode\":0"));
        center.signal(signal);
        let ended = center.end();
        assert_eq!((ended.code, ended.out.len()), (Some(0), 0), "{ended:?}");
        assert!(ended.took < PROMISED, "{signal}: {:?}", ended.took);
    }
}

#[test]
fn a_signal_counts_before_the_settings_are_read() {
    let directory = tempdir().unwrap();
    let config = directory.path().join("config.toml");
    assert!(Command::new("mkfifo").arg(&config).status().unwrap().success());
    let center = Program::start(&["center", "--listen", "127.0.0.1:0", "--config", config.to_str().unwrap()]);
    // Opened once the center reads it.
    let writer = File::options().write(true).open(&config).unwrap();
    center.signal("TERM");
    drop(writer);
    assert_eq!(center.end().code, Some(0), "not ended by the signal itself");
}

/// A subscriber that reads nothing of what waits for it.
fn deaf(address: &str) -> TcpStream {
    let (mut deaf, mut publisher) = (v1(address), v1(address));
    assert!(ask(&mut publisher, 2, CREATE).contains("\"rcode\":0"));
    assert!(ask(&mut deaf, 2, SUBSCRIBE).contains("\"rcode\":0"));
    // More than the kernel's buffers take, less than what the center queues for one.
    let message = format!(r#"{{"topic_key":"news","optype":4,"topic_msg":"{}"}}"#, "x".repeat(1 << 20));
    for _ in 0..24 {
        assert!(ask(&mut publisher, 2, &message).contains("\"rcode\":0"));
    }
    deaf
}

#[test]
fn a_peer_that_reads_nothing_does_not_hold_up_the_end() {
    let (center, address) = center();
    let _deaf = deaf(&address);
    // And a frame that stays unfinished.
    let mut half = v1(&address);
    half.write_all(&frame(2, b"1", CREATE)[..9]).unwrap();
    center.signal("TERM");
    let ended = center.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.took < PROMISED, "{:?}", ended.took);
}

#[test]
fn a_second_signal_does_not_wait_for_the_grace() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let mut command = callboard(&["center", "--listen", "127.0.0.1:0"]);
        command.env("CALLBOARD_GRACE_MS", "600000");
        let mut center = Program::spawn(command);
        let _deaf = deaf(&center.address());
        center.signal("TERM");
        while !center.remark().contains("SIGTERM: stopping") {}
        center.signal(signal);
        let ended = center.end();
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert!(ended.took < PROMISED, "{:?}", ended.took);
    }
}

#[test]
fn it_serves_on_if_nobody_reads_its_log() {
    let mut command = callboard(&["center", "--listen", "127.0.0.1:0"]);
    command.env("CALLBOARD_LOG", "trace");
    let (mut center, _held) = Program::unread_log(command);
    let address = center.address();
    // Each is closed for its bytes, which is logged: more than a pipe holds.
    for _ in 0..1000 {
        let mut closed = v1(&address);
        closed.write_all(&[0; 16]).unwrap();
        assert!(matches!(closed.read(&mut [0; 1]), Ok(0) | Err(_)));
    }
    assert!(ask(&mut v1(&address), 2, CREATE).contains("\"rcode\":0"));
}
