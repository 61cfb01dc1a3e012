//! A short run of the kills at six points of a call. In a program of its own, so that no other test runs beside it.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::process::{Command, Output};

use serde_json::Value;

fn kills(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kills")).args(arguments).output().unwrap()
}

fn rows(output: &Output) -> Vec<Value> {
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn whoever_is_killed_at_whatever_point_of_a_call_its_caller_is_told_the_truth() {
    let output = kills(&["--kills", "6", "--calls", "600"]);
    let rows = rows(&output);
    assert!(output.status.success(), "{rows:#?}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(rows.len(), 18, "six points and three victims");
    for row in rows {
        assert_eq!((&row["calls"], &row["kills"]), (&200.into(), &2.into()), "{row}");
    }
}

#[test]
fn callers_that_repeat_what_may_have_run_are_found() {
    let output = kills(&["--kills", "1", "--calls", "100", "--point", "running", "--victim", "provider", "--careless"]);
    assert_eq!(output.status.code(), Some(1));
    let duplicates = rows(&output)[0]["duplicates"].as_u64().unwrap();
    assert!(duplicates > 0, "{output:?}");
}
