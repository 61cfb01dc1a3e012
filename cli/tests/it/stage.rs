//! What the tests start and listen to. Nothing waits without a deadline, and every process ends with its test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Generous, since a loaded machine is no failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A stop is promised within this, whatever the peers do.
pub(crate) const PROMISED: Duration = Duration::from_secs(2);

/// A `callboard` process.
#[derive(Debug)]
pub(crate) struct Program {
    child: Running,
    out: Receiver<String>,
    err: Receiver<String>,
}

/// A process that is killed with its test.
#[derive(Debug)]
struct Running(Child);

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: Vec<String>,
    pub(crate) err: Vec<String>,
    /// How long it took from the moment on that it was waited for.
    pub(crate) took: Duration,
}

/// The program with these arguments, and without any settings from the environment of the tests.
pub(crate) fn callboard(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_callboard"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CALLBOARD_") || name == "RUST_LOG") {
        command.env_remove(name);
    }
    command.args(arguments);
    command
}

/// Runs a command to its end.
pub(crate) fn run(arguments: &[&str]) -> Ended {
    Program::spawn(callboard(arguments)).end()
}

/// Starts a center on a port of the system's choice and returns it with its address.
pub(crate) fn center() -> (Program, String) {
    listening(&["center", "--listen", "127.0.0.1:0"])
}

/// Starts a provider of the demonstration's methods and returns it with its address.
pub(crate) fn provider(center: &str) -> (Program, String) {
    listening(&["provide", "--demo", "--center", center])
}

/// Starts a service and waits until it listens.
pub(crate) fn listening(arguments: &[&str]) -> (Program, String) {
    let mut service = Program::start(arguments);
    let address = service.address();
    (service, address)
}

impl Program {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::spawn(callboard(arguments))
    }

    pub(crate) fn spawn(command: Command) -> Self {
        Self::spawn_with_input(command, Stdio::null())
    }

    pub(crate) fn spawn_with_input(command: Command, input: Stdio) -> Self {
        let (program, out, err) = Self::spawn_reading(command, input);
        Self { out: lines(out), err: lines(err), ..program }
    }

    /// Starts it, and leaves it to the test whether its output is read, held or closed.
    pub(crate) fn unread(arguments: &[&str]) -> (Self, ChildStdout) {
        let (program, out, err) = Self::spawn_unread(callboard(arguments));
        (Self { err: lines(err), ..program }, out)
    }

    /// Starts it, and leaves it to the test whether its log is read.
    pub(crate) fn unread_log(command: Command) -> (Self, ChildStderr) {
        let (program, out, err) = Self::spawn_unread(command);
        (Self { out: lines(out), ..program }, err)
    }

    /// The next line of standard output.
    pub(crate) fn line(&mut self) -> String {
        match self.out.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(why) => panic!("no line on standard output ({why}); standard error: {:?}", self.said()),
        }
    }

    /// The address in the next `listening on ...`.
    pub(crate) fn address(&mut self) -> String {
        let line = self.line();
        line.strip_prefix("listening on ").unwrap_or_else(|| panic!("{line}")).to_owned()
    }

    /// The number of the process.
    pub(crate) fn id(&self) -> u32 {
        self.child.0.id()
    }

    /// The next line of standard error.
    pub(crate) fn remark(&mut self) -> String {
        self.err.recv_timeout(PATIENCE).unwrap()
    }

    /// Sends a signal: `TERM`, `INT`, `KILL`.
    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.0.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// Waits for the process to end by itself.
    pub(crate) fn end(mut self) -> Ended {
        let waited_from = Instant::now();
        let out = rest(&self.out);
        let took = waited_from.elapsed();
        let err = rest(&self.err);
        Ended { code: self.child.0.wait().unwrap().code(), out, err, took }
    }

    fn spawn_unread(command: Command) -> (Self, ChildStdout, ChildStderr) {
        Self::spawn_reading(command, Stdio::null())
    }

    fn spawn_reading(mut command: Command, input: Stdio) -> (Self, ChildStdout, ChildStderr) {
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        (Self { child: Running(child), out: channel().1, err: channel().1 }, out, err)
    }

    fn said(&self) -> Vec<String> {
        self.err.try_iter().collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Ended {
    /// Asserts success and returns what was printed.
    pub(crate) fn ok(self) -> Vec<String> {
        assert_eq!((self.code, self.err.as_slice()), (Some(0), [].as_slice()), "{:?}", self.out);
        self.out
    }

    /// Asserts this exit code, nothing on standard output and one line on standard error, and returns that line.
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!((self.code, self.out.len(), self.err.len()), (Some(code), 0, 1), "{self:?}");
        let line = self.err.concat();
        assert!(line.starts_with("error: "), "{line}");
        line
    }
}

/// A v1 frame.
pub(crate) fn frame(kind: u32, id: &[u8], body: &str) -> Vec<u8> {
    let length = u32::try_from(8 + id.len() + body.len()).unwrap();
    let id_length = u32::try_from(id.len()).unwrap();
    [&length.to_be_bytes(), &kind.to_be_bytes(), &id_length.to_be_bytes(), id, body.as_bytes()].concat()
}

/// A connection of a v1 peer.
pub(crate) fn v1(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address.trim_start_matches("tcp://")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends a request as a v1 peer and returns the body of its answer.
pub(crate) fn ask(stream: &mut TcpStream, kind: u32, body: &str) -> String {
    stream.write_all(&frame(kind, b"1", body)).unwrap();
    answer(stream)
}

/// The body of the next frame, whose id is `1`.
pub(crate) fn answer(stream: &mut TcpStream) -> String {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut rest = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut rest).unwrap();
    String::from_utf8(rest.split_off(9)).unwrap()
}

/// Reads lines on a thread, so that they can be waited for with a deadline.
fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let lines = BufReader::new(pipe).lines().map_while(Result::ok);
        lines.take_while(|line| sender.send(line.clone()).is_ok()).for_each(drop);
    });
    receiver
}

/// All lines up to the end of the process.
fn rest(lines: &Receiver<String>) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    let mut rest = Vec::new();
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => rest.push(line),
            Err(RecvTimeoutError::Disconnected) => return rest,
            Err(RecvTimeoutError::Timeout) => panic!("it did not end within {PATIENCE:?}; so far: {rest:?}"),
        }
    }
}
