//! `--center a,b`: either of them may be killed.

use tempfile::tempdir;

use crate::stage::{Program, listening, run};

#[test]
fn all_commands_take_several_centers_and_go_on_without_either() {
    let folder = tempdir().unwrap();
    let at = |name: &str| format!("unix://{}", folder.path().join(name).display());
    let start = |name: &str| listening(&["center", "--loops", "1", "--listen", &at(name)]).0;
    let both = format!("{},{}", at("a"), at("b"));
    let (a, b) = (start("a"), start("b"));
    let (_provider, _) = listening(&["provide", "--demo", "--center", &both]);
    let mut subscriber = Program::start(&["sub", "news", "--create", "--count", "4", "--center", &both]);
    assert_eq!(subscriber.remark(), "subscribed");
    let call = |center: &str| run(&["call", "add", r#"{"num1":1,"num2":2}"#, "--center", center]).ok();
    for center in [&at("a"), &at("b"), &both] {
        assert_eq!(call(center), ["3"]);
    }
    run(&["pub", "news", "1", "--center", &both]).ok();
    assert_eq!(subscriber.line(), "1");
    a.signal("KILL");
    a.end();
    assert_eq!(call(&both), ["3"]);
    run(&["pub", "news", "2", "--center", &both]).ok();
    assert_eq!(subscriber.line(), "2");
    let _a = start("a");
    while run(&["discover", "add", "--center", &at("a")]).code != Some(0) {}
    b.signal("KILL");
    b.end();
    assert_eq!(call(&both), ["3"]);
    // The subscriber creates the topic again at the one that was started anew.
    while run(&["pub", "news", "3", "--center", &both]).code != Some(0) {}
    assert_eq!(subscriber.line(), "3");
    run(&["pub", "news", "4", "--center", &at("a")]).ok();
    assert_eq!(subscriber.line(), "4");
    let ended = subscriber.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let lost = format!("the connection to {} was lost; it is made again", at("a"));
    assert!(ended.err.contains(&lost), "{ended:?}");
}
