use crate::stage::{Program, callboard, center, provider, run};

#[test]
fn a_call_prints_its_result_as_json() {
    let (_center, center) = center();
    let (_provider, at) = provider(&center);
    let rows = [
        ("add", r#"{"num1": 1, "num2": 2}"#, "3"),
        ("add", r#"{"num1": 1.5, "num2": 2}"#, "3.5"),
        ("add", r#"{"num1": 9223372036854775807, "num2": 1}"#, "9223372036854775808"),
        ("echo", r#"{"text": "two\nlines"}"#, r#""two\nlines""#),
        ("sleep", r#"{"ms": 1}"#, "1"),
    ];
    for (method, params, result) in rows {
        assert_eq!(run(&["call", method, params, "--center", &center]).ok(), [result], "{method} {params}");
        assert_eq!(run(&["call", method, params, "--at", &at]).ok(), [result], "{method} {params} at {at}");
    }
}

#[test]
fn what_goes_wrong_with_a_call_is_one_line() {
    let (_center, center) = center();
    let (_provider, at) = provider(&center);
    let rows = [
        (vec!["call", "subtract", "{}", "--center", &center], "subtract"),
        (vec!["call", "subtract", "--at", &at], "subtract"),
        (vec!["call", "add", "--center", &center], "num1"),
        (vec!["call", "add", r#"{"num1": "1", "num2": 2}"#, "--at", &at], "num1"),
        (vec!["call", "add", r#"{"num1": 18446744073709551615, "num2": 1}"#, "--at", &at], "out of range"),
        (vec!["call", "sleep", r#"{"ms": 60000}"#, "--timeout", "200ms", "--center", &center], "sleep"),
        (vec!["call", "sleep", r#"{"ms": 60000}"#, "--timeout", "200ms", "--at", &at], "sleep"),
        (vec!["discover", "subtract", "--center", &center], "nobody provides \"subtract\""),
    ];
    for (arguments, told) in rows {
        let line = run(&arguments).failed(1);
        assert!(line.contains(told), "{arguments:?}: {line}");
    }
}

#[test]
fn the_parameters_are_checked_before_anything_is_sent() {
    // Nobody listens there, so an attempt to connect would be told instead.
    let line = run(&["call", "add", "{num1: 1}", "--center", "127.0.0.1:1"]).failed(1);
    assert!(line.contains("the parameters are not JSON") && line.contains("column 2"), "{line}");
    let line = run(&["pub", "news", "[1,", "--json", "--center", "127.0.0.1:1"]).failed(1);
    assert!(line.contains("the message is not JSON"), "{line}");
}

#[test]
fn a_peer_that_cannot_be_reached_is_named() {
    let rows = [
        vec!["call", "add", "--center", "127.0.0.1:1"],
        vec!["call", "add", "--at", "127.0.0.1:1"],
        vec!["discover", "add", "--center", "127.0.0.1:1"],
        vec!["pub", "news", "text", "--center", "127.0.0.1:1"],
        vec!["sub", "news", "--center", "127.0.0.1:1"],
        vec!["provide", "--demo", "--center", "127.0.0.1:1"],
    ];
    for arguments in rows {
        let line = run(&arguments).failed(1);
        let told =
            "error: can't connect to tcp://127.0.0.1:1: Connection refused; check the address and that the peer runs";
        assert_eq!(line, told, "{arguments:?}");
    }
}

#[test]
fn a_call_is_made_again_as_it_is_told() {
    let (_center, center) = center();
    let (_provider, at) = provider(&center);
    let nap = r#"{"ms": 60000}"#;
    let short = ["--try-timeout", "50ms", "--timeout", "20s"];
    for place in [["--center", &center], ["--at", &at]] {
        let call = |more: &[&str]| run(&[&["call", "sleep", nap], &place[..], &short[..], more].concat()).failed(1);
        let line = call(&["--retries", "1", "--idempotent"]);
        assert!(line.contains("no answer within 50ms, the last of 2 tries (executed: unknown)"), "{line}");
        let line = call(&["--idempotent"]);
        assert!(line.contains("the last of 3 tries (executed: unknown)"), "{line}");
        for once in [&["--retries", "0", "--idempotent"][..], &[]] {
            let line = call(once);
            assert!(line.contains("no answer within 50ms (executed: unknown)"), "{once:?}: {line}");
        }
    }
}

#[test]
fn a_hedge_is_for_idempotent_calls_of_several_providers() {
    let (_center, center) = center();
    let _providers = [provider(&center), provider(&center)];
    let nap = ["call", "sleep", r#"{"ms": 300}"#, "--center", &center, "--hedge", "1ms"];
    assert_eq!(run(&[&nap[..], &["--idempotent"]].concat()).ok(), ["300"]);
    assert!(run(&nap).failed(1).contains("--idempotent"));
    assert!(run(&[&nap[..], &["--idempotent", "--at", "127.0.0.1:1"]].concat()).failed(1).contains("--at"));
}

#[test]
fn discover_prints_a_host_a_line() {
    let (_center, center) = center();
    let providers = [provider(&center), provider(&center)];
    let mut hosts: Vec<_> = providers.iter().map(|(_, address)| address.trim_start_matches("tcp://")).collect();
    hosts.sort_unstable();
    let mut found = run(&["discover", "echo", "--center", &center]).ok();
    found.sort_unstable();
    assert_eq!(found, hosts);
}

#[test]
fn the_center_may_be_named_in_the_environment() {
    let (_center, center) = center();
    let (_provider, _) = provider(&center);
    let discover = |arguments: &[&str], variable: &str| {
        let mut command = callboard(arguments);
        command.env("CALLBOARD_CENTER", variable);
        Program::spawn(command).end()
    };
    assert_eq!(discover(&["discover", "add"], &center).ok().len(), 1);
    assert_eq!(discover(&["discover", "add", "--center", &center], "127.0.0.1:1").ok().len(), 1);
    assert!(discover(&["discover", "add"], "127.0.0.1:1").failed(1).contains("127.0.0.1:1"));
}
