//! A network whose packets are dropped, made of network namespaces: only root can do that.

use std::os::unix::fs::MetadataExt;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use std::{env, fs};

use callboard_tests::{FarHost, Unable, not_tested};

use crate::faults::{Watcher, center_with};
use crate::stage::{Program, callboard, provider};

/// Who falls silent has none of it.
const LONG_GRACE: [(&str, &str); 1] = [("CALLBOARD_PROVIDER_GRACE_MS", "600000")];

const DROPPED: &str = "a_provider_behind_a_dropped_network_is_told_offline_and_online_again_when_it_is_back";

#[test]
fn a_provider_behind_a_dropped_network_is_told_offline_and_online_again_when_it_is_back() {
    let far = match FarHost::new() {
        Ok(far) => far,
        Err(why @ Unable::NotAllowed(_)) => return not_tested("a dropped network", why),
        Err(why @ Unable::Failed(_)) => panic!("a dropped network was not tested: {why}"),
    };
    let (_center, center) = center_with(&format!("{}:0", far.here()), &LONG_GRACE);
    let listen = format!("{}:0", far.there());
    let mut inside =
        Program::spawn(far.inside(&callboard(&["provide", "--demo", "--listen", &listen, "--center", &center])));
    let at = inside.address();
    let (_other, _) = provider(&center);
    let mut watcher = Watcher::new(&center);
    watcher.calls(4);

    far.set_connected(false).unwrap();
    let began = Instant::now();
    assert_eq!(watcher.change(), (at.clone(), false));
    println!("told offline after {:?}", began.elapsed());
    assert!(began.elapsed() > Duration::from_secs(1), "nobody could know it sooner");
    watcher.calls(20);

    far.set_connected(true).unwrap();
    assert_eq!(watcher.change(), (at.clone(), true));
    watcher.calls(20);

    // Now it is the provider that gives up first.
    far.set_hears(false).unwrap();
    assert_eq!(watcher.change(), (at.clone(), false));
    far.set_hears(true).unwrap();
    assert_eq!(watcher.change(), (at, true));
}

/// The exit code and the words of that test, run by one who may not change the network.
fn tried_by_nobody(ci: Option<&str>) -> (Option<i32>, String) {
    let mut command = Command::new(env::current_exe().unwrap());
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        let program = command;
        command = Command::new("setpriv");
        command.arg("--bounding-set=-all").arg(program.get_program());
    }
    command.args(["--exact", &format!("namespaces::{DROPPED}"), "--nocapture"]).env_remove("CI");
    command.envs(ci.map(|ci| ("CI", ci)));
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

#[test]
fn where_everything_has_to_be_tested_a_test_that_cannot_be_run_fails() {
    for ci in [None, Some("")] {
        let (code, told) = tried_by_nobody(ci);
        assert!(code == Some(0) && told.contains("a dropped network was NOT tested: "), "{code:?} {told}");
    }
    let (code, told) = tried_by_nobody(Some("true"));
    assert!(code != Some(0) && told.contains("has to be where CI is set: this process may not"), "{code:?} {told}");
}
