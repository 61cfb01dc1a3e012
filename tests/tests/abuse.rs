//! Each attack for a moment. In a program of its own, so that no other test runs beside it.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::BTreeSet;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn abuse(arguments: &[&str]) -> Output {
    let short = ["--busy", "--connections", "50", "--attack-ms", "800", "--quiet-ms", "300", "--rate", "100"];
    Command::new(env!("CARGO_BIN_EXE_abuse")).args(short).args(arguments).output().unwrap()
}

fn rows(output: &Output) -> Vec<Value> {
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The bounds are wide: fifty connections are to take far less than all that a center permits its peers, and a delay of
/// so long is that of a busy machine, and the shortest after which a client would take the center for dead. Of the figures
/// of an attack in full, `docs/reliability.md` tells.
#[test]
fn whatever_attackers_do_normal_clients_are_served_and_the_centers_memory_is_bounded() {
    let output = abuse(&["--memory-mib", "1024", "--delay-ms", "3000"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows = rows(&output);
    let attacks: BTreeSet<_> = rows.iter().map(|row| row["attack"].to_string()).collect();
    assert_eq!(attacks.len(), 21, "{attacks:?}");
    for row in rows {
        let came = |phase: &str| row[phase]["kinds"]["connect"]["p50"].as_f64().unwrap() > 0.0;
        assert!(came("attacked") || came("later"), "nobody came: {row}");
    }
}

#[test]
fn who_holds_memory_gives_it_back_at_the_end_of_its_input() {
    let mut holder = Command::new(env!("CARGO_BIN_EXE_abuse"));
    let output = holder.args(["part", "hold", "10000000"]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "held\nnull\n");
}

#[test]
fn a_center_that_takes_more_than_its_bound_is_found() {
    let output = abuse(&["--attack", "half-frames", "--memory-mib", "1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("of memory"), "{output:?}");
}
