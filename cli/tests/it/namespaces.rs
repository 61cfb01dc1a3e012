//! A network whose packets are dropped, made of network namespaces: only root can do that.

use std::time::{Duration, Instant};

use callboard_tests::{FarHost, Unable};

use crate::faults::{Watcher, center_with};
use crate::stage::{Program, callboard, provider};

/// Who falls silent has none of it.
const LONG_GRACE: [(&str, &str); 1] = [("CALLBOARD_PROVIDER_GRACE_MS", "600000")];

#[test]
fn a_provider_behind_a_dropped_network_is_told_offline_and_online_again_when_it_is_back() {
    let far = match FarHost::new() {
        Ok(far) => far,
        Err(why @ Unable::NotAllowed(_)) => return println!("A dropped network was NOT tested: {why}"),
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
