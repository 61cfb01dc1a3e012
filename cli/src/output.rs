use std::fmt;
use std::io::{self, Write};

use serde_json::value::RawValue;

/// Nobody reads standard output any more. A command that meets this has no more to do, and nothing to complain of.
#[derive(Debug)]
pub(crate) struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output is closed")
    }
}

impl std::error::Error for Closed {}

/// Prints a line on standard output, at once.
///
/// # Errors
/// [`Closed`], or what the system said.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    let written = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
    written.map_err(unwritten)
}

/// Prints a line for whoever started a service; a service goes on if nobody reads.
///
/// # Errors
/// What the system said.
pub(crate) fn announce(text: &str) -> anyhow::Result<()> {
    line(text).or_else(|error| if error.is::<Closed>() { Ok(()) } else { Err(error) })
}

/// Prints what already ends in line ends on standard output, at once.
///
/// # Errors
/// [`Closed`], or what the system said.
pub(crate) fn block(text: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text).and_then(|()| stdout.flush()).map_err(unwritten)
}

/// Prints `error: ...` on standard error, in one line.
pub(crate) fn complain(text: &str) {
    tell(&format!("error: {text}"));
}

/// Prints a line on standard error.
pub(crate) fn tell(text: &str) {
    // If nobody reads standard error there is nobody to tell.
    let _ = writeln!(io::stderr(), "{}", one_line(text));
}

/// The text with every run of white space that holds a line end made one space.
pub(crate) fn one_line(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(" ")
}

fn unwritten(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        anyhow::Error::new(Closed)
    } else {
        anyhow::Error::new(error).context("cannot write to standard output")
    }
}

/// JSON in its shortest form, its numbers and the order of its keys untouched.
pub(crate) fn compact(json: &RawValue) -> String {
    let (mut quoted, mut escaped) = (false, false);
    let mut needed = |char: &char| {
        let needed = quoted || !char.is_ascii_whitespace();
        quoted ^= *char == '"' && !escaped;
        escaped = *char == '\\' && !escaped;
        needed
    };
    json.get().chars().filter(|char| needed(char)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_printed_short_and_unchanged() {
        let rows = [
            (r#" { "b" : 1.10, "a" : [ 1 , 2 ] } "#, r#"{"b":1.10,"a":[1,2]}"#),
            (r#""two  words \" \\""#, r#""two  words \" \\""#),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ("[\n\"a b\",\n\"\\\\\" ]", "[\"a b\",\"\\\\\"]"),
        ];
        for (json, short) in rows {
            let json: Box<RawValue> = serde_json::from_str(json).unwrap();
            assert_eq!(compact(&json), short);
        }
    }
}
