use std::fmt::Display;

/// Says on standard output what a test can't try here, and why.
///
/// # Panics
/// Where the environment variable `CI` is set: what nobody looks at passes over nothing in silence.
#[expect(clippy::print_stdout, reason = "it is what a test says")]
#[track_caller]
pub fn not_tested(what: &str, why: impl Display) {
    assert!(!is_ci(), "{what} was not tested, and has to be where CI is set: {why}");
    println!("{what} was NOT tested: {why}");
}

/// Whether this is a machine that is to test everything.
pub fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty())
}
