use crate::stage::{Program, center, listening, run};

fn subscribed(arguments: &[&str]) -> Program {
    let mut subscriber = Program::start(arguments);
    assert_eq!(subscriber.remark(), "subscribed");
    subscriber
}

#[test]
fn messages_are_printed_as_they_come() {
    let (_center, center) = center();
    let mut subscriber = subscribed(&["sub", "news", "--create", "--center", &center]);
    let rows = [
        (vec!["curtain up"], "curtain up"),
        (vec!["{\"a\": 1}"], "{\"a\": 1}"),
        (vec!["{ \"b\": [1, 2.50], \"a\": null }", "--json"], r#"{"b":[1,2.50],"a":null}"#),
        (vec!["\"quoted\"", "--json"], "quoted"),
        (vec!["-5", "--json"], "-5"),
        (vec!["null", "--json"], "null"),
        (vec![""], ""),
    ];
    for (message, printed) in rows {
        let arguments = [&["pub", "news", "--center", &center], message.as_slice()].concat();
        assert_eq!(run(&arguments).ok(), [""; 0]);
        assert_eq!(subscriber.line(), printed);
    }
    subscriber.signal("TERM");
    assert!(subscriber.end().ok().is_empty());
}

#[test]
fn a_subscriber_ends_after_its_count() {
    let (_center, center) = center();
    let subscriber = subscribed(&["sub", "news", "--create", "--count", "2", "--center", &center]);
    for message in ["one", "two", "three"] {
        run(&["pub", "news", message, "--center", &center]).ok();
    }
    assert_eq!(subscriber.end().ok(), ["one", "two"]);
}

#[test]
fn a_topic_must_exist_unless_it_is_created() {
    let (_center, center) = center();
    for arguments in [vec!["pub", "news", "text"], vec!["sub", "news"]] {
        let line = run(&[arguments.as_slice(), &["--center", &center]].concat()).failed(1);
        assert!(line.contains("news"), "{line}");
    }
    run(&["pub", "news", "text", "--create", "--center", &center]).ok();
    run(&["pub", "news", "text", "--center", &center]).ok();
}

#[test]
fn signals_end_a_subscriber_quietly() {
    let (_center, center) = center();
    for signal in ["INT", "TERM"] {
        let subscriber = subscribed(&["sub", "news", "--create", "--center", &center]);
        subscriber.signal(signal);
        assert!(subscriber.end().ok().is_empty());
    }
}

#[test]
fn a_closed_output_ends_a_subscriber_quietly() {
    let (_center, center) = center();
    let (mut subscriber, output) = Program::unread(&["sub", "news", "--create", "--center", &center]);
    assert_eq!(subscriber.remark(), "subscribed");
    // Nothing is published: it is seen without a try to write.
    drop(output);
    assert!(subscriber.end().ok().is_empty());
}

#[test]
fn an_output_that_nobody_reads_does_not_keep_signals_out() {
    let (_center, center) = center();
    let (mut subscriber, _held) = Program::unread(&["sub", "news", "--create", "--center", &center]);
    assert_eq!(subscriber.remark(), "subscribed");
    // More than a pipe holds.
    let message = "x".repeat(100_000);
    run(&["pub", "news", &message, "--center", &center]).ok();
    subscriber.signal("TERM");
    assert!(subscriber.end().ok().is_empty());
}

#[test]
fn a_subscriber_says_so_when_the_center_is_gone_and_goes_on_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("unix://{}", folder.path().join("center").display());
    let (center, _) = listening(&["center", "--listen", &address]);
    let mut subscriber = subscribed(&["sub", "news", "--create", "--center", &address]);
    center.signal("KILL");
    assert_eq!(subscriber.remark(), format!("the connection to {address} was lost; it is made again"));
    drop(center);
    let _center = listening(&["center", "--listen", &address]);
    let again = format!("subscribed again at {address}; nobody knows how many messages are missing");
    assert_eq!(subscriber.remark(), again);
    run(&["pub", "news", "still here", "--center", &address]).ok();
    assert_eq!(subscriber.line(), "still here");
}
