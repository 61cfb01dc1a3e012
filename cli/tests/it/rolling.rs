//! A rolling restart of real processes: each is asked to leave and started anew, under load, and no call is lost.

use std::time::Instant;

use callboard_tests::Load;
use tokio::runtime::Runtime;

use crate::stage::{PATIENCE, Program, listening, run};

const PROVIDERS: usize = 4;
const CALLERS: usize = 8;

/// Asks it to leave, waits until it has, and starts it anew at the same address.
fn restart(part: Program, arguments: &[&str]) -> Program {
    part.signal("TERM");
    let ended = part.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let (again, _) = listening(arguments);
    again
}

#[test]
fn a_rolling_restart_of_all_processes_loses_no_call() {
    let (mut center, at) = listening(&["center", "--listen", "127.0.0.1:0"]);
    let provide = |listen: &str| listening(&["provide", "--demo", "--center", &at, "--listen", listen]);
    let mut providers: Vec<_> = (0..PROVIDERS).map(|_| provide("127.0.0.1:0")).collect();
    let runtime = Runtime::new().unwrap();
    let load = runtime.block_on(Load::start(&at, CALLERS));
    let go_on = || {
        let calls = load.go_on(4 * (PROVIDERS * CALLERS) as u64);
        runtime.block_on(async { tokio::time::timeout(PATIENCE, calls).await }).expect("calls go on");
    };
    go_on();
    for _ in 0..PROVIDERS {
        let (provider, listen) = providers.remove(0);
        let again = restart(provider, &["provide", "--demo", "--center", &at, "--listen", &listen]);
        providers.push((again, listen));
        go_on();
    }
    center = restart(center, &["center", "--listen", &at]);
    go_on();
    // A new caller finds all of them: they have registered again by themselves.
    let patience = Instant::now() + PATIENCE;
    while run(&["discover", "add", "--center", &at]).out.len() < PROVIDERS {
        assert!(Instant::now() < patience, "they have not registered again");
    }
    let report = runtime.block_on(load.stop());
    assert_eq!((report.failed, &report.errors[..]), (0, &[][..]), "{} calls", report.calls);
    drop(center);
}
