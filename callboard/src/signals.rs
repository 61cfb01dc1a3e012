use std::fmt;
use std::io;
use std::process::ExitCode;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// SIGINT and SIGTERM, from the moment on that this exists: as long as nobody has made one, either of them ends the
/// program at once (or, of process 1 of a container, does nothing).
///
/// The first asks the program to leave in good order; a second one does not wait for that:
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use callboard::{Center, Signals};
///
/// let mut signals = Signals::new()?;
/// let center = Center::builder().listen("0.0.0.0:7070").start().await?;
/// signals.next().await;
/// if let Err(second) = signals.unless_again(center.shutdown()).await {
///     eprintln!("{second}: stopped at once");
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Signals {
    interrupt: Stream,
    terminate: Stream,
}

/// What asks a program to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT: somebody pressed Ctrl-C.
    Interrupt,
    /// SIGTERM: a service manager, or `kill`.
    Terminate,
}

impl Signals {
    /// Takes both signals from now on.
    ///
    /// # Errors
    /// The system does not permit it.
    ///
    /// # Panics
    /// Outside of a tokio runtime with its I/O driver.
    pub fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for either.
    ///
    /// # Cancel safety
    /// A signal is not lost.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
        }
    }

    /// What `leaving` gives, unless a signal comes before: then it is dropped.
    ///
    /// # Errors
    /// The signal that came.
    ///
    /// # Cancel safety
    /// That of `leaving`; a signal is not lost.
    pub async fn unless_again<T>(&mut self, leaving: impl Future<Output = T>) -> Result<T, Signal> {
        tokio::select! {
            biased;
            done = leaving => Ok(done),
            signal = self.next() => Err(signal),
        }
    }
}

impl Signal {
    /// The exit code of a program that was stopped at once by it, as shells have it: 130 or 143.
    pub const fn code(self) -> u8 {
        match self {
            Self::Interrupt => 128 + 2,
            Self::Terminate => 128 + 15,
        }
    }
}

impl From<Signal> for ExitCode {
    fn from(signal: Signal) -> Self {
        signal.code().into()
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        })
    }
}
