//! A minute of the soak. In a program of its own, so that no other test runs beside it.

use std::process::Command;

/// As long a run as there is time for beside all other tests. In a minute the center's memory has not settled: what it
/// keeps for others fills up (messages for subscribers that come back, who came and went within the last minute), so
/// the bound is wider than that of a long run.
#[test]
fn of_clients_that_come_and_go_for_a_minute_a_center_keeps_nothing() {
    let soak = Command::new(env!("CARGO_BIN_EXE_soak")).args(["--seconds", "60", "--growth", "1.5"]).output().unwrap();
    let (told, failed) = (String::from_utf8_lossy(&soak.stdout), String::from_utf8_lossy(&soak.stderr));
    assert!(soak.status.success(), "{}\n{failed}", told.lines().next_back().unwrap_or_default());
}
