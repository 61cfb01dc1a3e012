use std::fmt;
use std::future::pending;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use serde_json::value::RawValue;
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};

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

/// Waits until nobody reads standard output any more; for ever where the system does not tell, as of a file.
///
/// # Cancel safety
/// It only watches.
pub(crate) async fn closed() {
    let Ok(stdout) = io::stdout().as_fd().try_clone_to_owned() else { return pending().await };
    if watch(stdout).await.is_err() {
        pending::<()>().await;
    }
}

/// Waits until the other end is gone.
#[expect(deprecated, reason = "what replaces it is unsafe, for the sake of descriptors that are not owned")]
async fn watch(end: OwnedFd) -> io::Result<()> {
    let end = AsyncFd::with_interest(end, Interest::WRITABLE)?;
    loop {
        let mut guard = end.writable().await?;
        if guard.ready().is_write_closed() {
            return Ok(());
        }
        guard.clear_ready_matching(Ready::WRITABLE);
    }
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
    use std::os::unix::net::UnixStream;
    use std::pin::pin;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// The watch sees nothing while there is a reader, and its end then.
    async fn sees_the_end_of(reader: impl Sized, end: OwnedFd) {
        let mut closed = pin!(watch(end));
        assert!(timeout(Duration::from_millis(20), &mut closed).await.is_err(), "the reader is still there");
        drop(reader);
        timeout(Duration::from_secs(20), closed).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_end_of_a_reader_is_seen_without_writing() {
        let (reader, writer) = io::pipe().unwrap();
        sees_the_end_of(reader, writer.into()).await;
        let (reader, writer) = UnixStream::pair().unwrap();
        sees_the_end_of(reader, writer.into()).await;

        let (reader, mut writer) = io::pipe().unwrap();
        let end = writer.try_clone().unwrap();
        // More than a pipe holds: it can't be written to, and the thread ends with its reader.
        let filling = std::thread::spawn(move || writer.write_all(&vec![0; 1 << 20]));
        sees_the_end_of(reader, end.into()).await;
        assert!(filling.join().unwrap().is_err());

        assert!(watch(tempfile::tempfile().unwrap().into()).await.is_err(), "a file has no reader");
    }

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
