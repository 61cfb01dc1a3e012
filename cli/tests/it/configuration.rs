use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use tempfile::tempdir;

use crate::stage::{Program, callboard, center, run};

#[test]
fn mistakes_in_the_file_are_told_with_file_and_line() {
    let rows = [
        ("loops = 1\nqueue_byte = 1", r#"line 2: unknown key "queue_byte"; the nearest known key is "queue_bytes""#),
        ("\n\nloops = \"two\"", r#"line 3: loops: must be an integer of at least 0, not the string "two""#),
        ("listen = [\"http://x:1\"]", r#"line 1: listen: "http://x:1" is not an address: unknown scheme"#),
        ("loops = ", "line 1: not TOML"),
        ("queue_bytes = 2048", "queue_bytes (2048) must be at least"),
        ("listen = []", "line 1: listen: no address to listen on"),
        ("listen = [7]", "line 1: listen: must hold strings only, each an address, not 7"),
    ];
    let directory = tempdir().unwrap();
    let path = directory.path().join("callboard.toml");
    for (text, told) in rows {
        std::fs::write(&path, text).unwrap();
        let line = run(&["center", "--config", path.to_str().unwrap()]).failed(1);
        assert!(line.contains(told), "{text:?}: {line}");
        assert!(!told.starts_with("line") || line.contains("callboard.toml"), "{line}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let directory = tempdir().unwrap();
    for name in ["missing.toml", "."] {
        let path = directory.path().join(name);
        let line = run(&["center", "--config", path.to_str().unwrap()]).failed(1);
        assert!(line.contains(path.to_str().unwrap()) && line.contains("cannot read it: "), "{line}");
    }
}

#[test]
fn a_mistake_in_the_environment_names_the_variable() {
    let rows = [
        ("CALLBOARD_LOOPS", "two", r#"CALLBOARD_LOOPS: loops: must be an integer of at least 0, not "two""#),
        ("CALLBOARD_LISTEN", "127.0.0.1", "CALLBOARD_LISTEN: listen: \"127.0.0.1\" is not an address"),
        ("CALLBOARD_LOG", "a=b=c", "CALLBOARD_LOG: \"a=b=c\" is not a filter for logs"),
    ];
    for (name, value, told) in rows {
        let mut command = callboard(&["center"]);
        command.env(name, value);
        let line = Program::spawn(command).end().failed(1);
        assert!(line.contains(told), "{line}");
    }
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let mut command = callboard(&["center", "--listen", "127.0.0.1:0"]);
    for name in ["CALLBOARD_CONFIG", "CALLBOARD_LOOPS", "CALLBOARD_LISTEN", "CALLBOARD_LOG", "CALLBOARD_LOOPZ"] {
        command.env(name, "");
    }
    let mut center = Program::spawn(command);
    center.address();
    center.signal("TERM");
    let ended = center.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.err.concat().contains("LOOPZ"), "{ended:?}");

    // The default center may run there, or nobody may: in either case the variable is no mistake.
    let mut command = callboard(&["discover", "a method that nobody provides"]);
    command.env("CALLBOARD_CENTER", "");
    let line = Program::spawn(command).end().failed(1);
    assert!(line.contains("127.0.0.1:7070"), "{line}");
}

#[test]
fn a_variable_that_is_not_text_is_named() {
    let rows = [
        (vec!["discover", "add"], "CALLBOARD_CENTER"),
        (vec!["discover", "add"], "CALLBOARD_LOG"),
        (vec!["center"], "CALLBOARD_LISTEN"),
        (vec!["center"], "CALLBOARD_CONFIG"),
    ];
    for (arguments, name) in rows {
        let mut command = callboard(&arguments);
        command.env(name, OsStr::from_bytes(b"/no\xff"));
        let line = Program::spawn(command).end().failed(1);
        let named = if name == "CALLBOARD_CONFIG" { "configuration file /no\u{fffd}" } else { name };
        assert!(line.contains(named), "{name}: {line}");
    }
}

#[test]
fn a_variable_that_is_no_setting_is_warned_of() {
    let mut command = callboard(&["center", "--listen", "127.0.0.1:0"]);
    command.env("CALLBOARD_LOOPZ", "3");
    let mut center = Program::spawn(command);
    let warning = center.remark();
    assert!(warning.contains("WARN") && warning.contains("CALLBOARD_LOOPZ"), "{warning}");
    assert!(warning.ends_with("the nearest known one is CALLBOARD_LOOPS"), "{warning}");
    center.address();
}

#[test]
fn of_an_option_given_twice_the_last_counts() {
    let (_center, center) = center();
    let twice = ["--timeout=1ns", "--timeout=20s", "--center", "127.0.0.1:1", "--center", &center];
    run(&[&["pub", "news", "text", "--create", "--create"], twice.as_slice()].concat()).ok();
    // One that may be given more than once still adds up.
    let listen = ["--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0"];
    let mut both = Program::start(&[&["center", "--loops", "2", "--loops", "1"], listen.as_slice()].concat());
    assert_ne!(both.address(), both.address());
}

#[test]
fn mistakes_on_the_command_line_are_one_line_each() {
    let rows = [
        (vec!["center", "--port", "1"], "unexpected argument '--port' found"),
        (vec!["center", "--loop", "1"], "a similar argument exists: '--loops'"),
        (vec!["center", "--loops", "many"], "invalid value 'many' for '--loops <N>'"),
        (vec!["center", "--listen", "here"], "\"here\" is not an address: the port is missing"),
        (vec!["call", "add", "--timeout", "5"], "invalid value '5' for '--timeout <DURATION>': time unit needed"),
        (vec!["call", "add", "--timeout", "0s"], "must be more than 0"),
        (vec!["call", "add", "--timeout", "0"], "must be more than 0"),
        (vec!["sub", "news", "--timeout", "400000000000years"], "must be less than a century"),
        (vec!["call", "add", "--center", "nowhere"], "\"nowhere\" is not an address"),
        (vec!["call"], "<METHOD>"),
        (vec!["sub", "news", "--count", "0"], "'0' for '--count <N>': must be more than 0"),
        (vec!["provide"], "--demo"),
        (vec!["perform"], "unrecognized subcommand 'perform'"),
    ];
    for (arguments, told) in rows {
        let line = run(&arguments).failed(1);
        assert!(line.contains(told), "{arguments:?}: {line}");
    }
}

#[test]
fn the_documentation_lists_every_setting_and_its_default() {
    let documentation = include_str!("../../../docs/configuration.md");
    for setting in callboard_center::Config::settings() {
        let row = format!("| `{}` | `{}` | ", setting.key(), setting.default());
        assert!(documentation.contains(&row), "{row}");
    }
}

#[test]
fn help_lists_every_setting_and_its_default() {
    let help = run(&["center", "--help"]).ok().join("\n");
    for line in
        ["listen = [\"tcp://127.0.0.1:7070\"]", "max_frame_bytes = 16777216", "CALLBOARD_LISTEN", "stall_ms = 500"]
    {
        assert!(help.contains(line), "{line} in {help}");
    }
    assert_eq!(run(&["--version"]).ok(), [format!("callboard {}", env!("CARGO_PKG_VERSION"))]);
}

#[test]
fn a_variable_that_a_flag_overrides_is_not_looked_at() {
    let mut command = callboard(&["center", "--listen", "127.0.0.1:0", "--loops", "1"]);
    command.env("CALLBOARD_LISTEN", "bogus").env("CALLBOARD_LOOPS", "many");
    let mut center = Program::spawn(command);
    center.address();
    center.signal("TERM");
    assert_eq!(center.end().code, Some(0));
}

#[test]
fn a_mistake_in_the_arguments_is_an_error_like_any_other() {
    for arguments in
        [&["call"][..], &["sub", "t", "--count", "0"], &["pub", "t", "-x"], &["call", "m", "--timeout", "1x"]]
    {
        run(arguments).failed(1);
    }
}
