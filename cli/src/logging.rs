use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::environment;

/// Logs to standard error, by the filter in CALLBOARD_LOG, else in RUST_LOG, else from `level` on.
///
/// A thread of its own writes. If nobody reads standard error, lines are dropped and counted, and no event loop is held
/// up. `tracing-appender` does the same but may take more than a second to end, and then prints to standard output.
pub(crate) fn start(level: &str) -> anyhow::Result<Log> {
    let set = [environment::LOG, "RUST_LOG"].into_iter().find(|name| environment::value(name).is_some());
    let filter = match set {
        Some(name) => {
            let filter = environment::text(name)?.unwrap_or_default();
            EnvFilter::try_new(&filter).with_context(|| format!("{name}: \"{filter}\" is not a filter for logs"))?
        }
        None => EnvFilter::new(level),
    };
    let (lines, receiver) = sync_channel(QUEUED_LINES);
    let dropped = Arc::new(AtomicU64::new(0));
    let sink = Lines { queue: lines.clone(), dropped: Arc::clone(&dropped) };
    thread::Builder::new().name("log".to_owned()).spawn(move || write_all(&receiver, &dropped))?;
    let colour = io::stderr().is_terminal() && environment::value("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(sink).init();
    Ok(Log(lines))
}

/// The way to the thread that writes the log.
#[derive(Debug)]
pub(crate) struct Log(SyncSender<Line>);

impl Log {
    /// Waits a little for what was logged to be written.
    pub(crate) fn flush(&self) {
        let (written, wait) = sync_channel(1);
        if self.0.try_send(Line::Flush(written)).is_ok() {
            // Without a reader it is not written, and the program ends all the same.
            let _ = wait.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

#[derive(Debug)]
enum Line {
    Text(Vec<u8>),
    Flush(SyncSender<()>),
}

#[derive(Debug)]
struct Lines {
    queue: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

/// One event: the formatter writes each as a whole.
struct Entry<'a>(&'a Lines);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Entry<'a>;

    fn make_writer(&'a self) -> Entry<'a> {
        Entry(self)
    }
}

impl Write for Entry<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if self.0.queue.try_send(Line::Text(text.to_vec())).is_err() {
            self.0.dropped.fetch_add(1, Relaxed);
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(lines: &Receiver<Line>, dropped: &AtomicU64) {
    for line in lines {
        // A failure has nowhere to be reported to.
        let _ = match line {
            Line::Text(text) => io::stderr().write_all(&text),
            Line::Flush(written) => written.send(()).map_err(io::Error::other),
        };
        let missing = dropped.swap(0, Relaxed);
        if missing > 0 {
            let _ = writeln!(io::stderr(), "{missing} lines of the log were dropped: standard error was not read");
        }
    }
}

const QUEUED_LINES: usize = 4096;
const FLUSH_TIMEOUT: Duration = Duration::from_millis(200);
