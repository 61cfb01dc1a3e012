use tempfile::tempdir;

use crate::stage::{Program, callboard, run};

#[test]
fn mistakes_in_the_file_are_told_with_file_and_line() {
    let rows = [
        ("loops = 1\nqueue_byte = 1", r#"line 2: unknown key "queue_byte"; the nearest known key is "queue_bytes""#),
        ("\n\nloops = \"two\"", r#"line 3: loops: must be an integer of at least 0, not the string "two""#),
        ("listen = [\"http://x:1\"]", r#"line 1: listen: "http://x:1" is not an address: unknown scheme"#),
        ("loops = ", "line 1: not TOML"),
        ("queue_bytes = 2048", "queue_bytes (2048) must be at least"),
        ("listen = []", "no address to listen on"),
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
fn mistakes_on_the_command_line_are_one_line_each() {
    let rows = [
        (vec!["center", "--port", "1"], "unexpected argument '--port' found"),
        (vec!["center", "--loop", "1"], "a similar argument exists: '--loops'"),
        (vec!["center", "--loops", "many"], "invalid value 'many' for '--loops <N>'"),
        (vec!["center", "--listen", "here"], "\"here\" is not an address: the port is missing"),
        (vec!["call", "add", "--timeout", "5"], "invalid value '5' for '--timeout <DURATION>': time unit needed"),
        (vec!["call", "add", "--timeout", "0s"], "more than nothing"),
        (vec!["call", "add", "--center", "nowhere"], "\"nowhere\" is not an address"),
        (vec!["call"], "<METHOD>"),
        (vec!["sub", "news", "--count", "0"], "--count"),
        (vec!["provide"], "--demo"),
        (vec!["perform"], "unrecognized subcommand 'perform'"),
    ];
    for (arguments, told) in rows {
        let line = run(&arguments).failed(2);
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
