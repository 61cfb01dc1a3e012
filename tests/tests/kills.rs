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
    let (of_kills, of_ways): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row["way"].is_null());
    assert_eq!((of_kills.len(), of_ways.len()), (18, 9), "six points and three victims, and nine ways to call");
    for row in of_kills {
        assert_eq!((&row["calls"], &row["kills"]), (&200.into(), &2.into()), "{row}");
    }
    for row in of_ways {
        assert!(row["kills"].as_u64() >= Some(4), "{row}");
    }
}

#[test]
fn callers_that_repeat_what_may_have_run_are_found_however_they_call() {
    for way in ["plain", "keyed", "stored", "relayed", "relayed-stored", "blocking"] {
        let at = ["--kills", "1", "--calls", "100", "--point", "running", "--victim", "provider", "--careless"];
        let output = kills(&[&at[..], &["--way", way]].concat());
        assert_eq!(output.status.code(), Some(1), "{way}");
        let duplicates = rows(&output)[0]["duplicates"].as_u64().unwrap();
        assert!(duplicates > 0, "{way}: {output:?}");
    }
}
