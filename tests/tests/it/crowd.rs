//! Many at once, in processes of their own: one process may open only so many files.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use callboard_tests::{RawPeer, is_ci, within};

use crate::house::{address, center, until};

/// A process of ours, killed with the test.
struct Helper(Child);

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Helper {
    fn start(program: &str, argument: &str) -> Self {
        let mut command = Command::new(program);
        command.arg(argument).stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    /// The next line that it prints.
    async fn line(&mut self) -> String {
        let mut stdout = BufReader::new(self.0.stdout.take().unwrap());
        let reading = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            stdout.read_line(&mut line).unwrap();
            (line, stdout.into_inner())
        });
        let (line, stdout) = tokio::time::timeout(Duration::from_mins(1), reading).await.unwrap().unwrap();
        self.0.stdout = Some(stdout);
        line.trim().to_owned()
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.0.stdin.as_mut().unwrap(), "{line}").unwrap();
    }
}

#[tokio::test]
async fn ten_thousand_connections_that_say_nothing_hold_up_nobody() {
    let files = usize::try_from(callboard_net::raise_open_files().unwrap()).unwrap();
    let many = files.saturating_sub(1000).min(10_000);
    assert!(many == 10_000 || !is_ci(), "the limit of open files is {files}");
    let center = center().await;
    let mut crowd = Helper::start(env!("CARGO_BIN_EXE_crowd"), &address(&center).to_string());
    crowd.tell(&many.to_string());
    assert_eq!(crowd.line().await, format!("connected {many}"));
    let mut peer = RawPeer::connect(address(&center)).await;
    peer.expect_quiet().await;
    until("all are accepted", || center.metrics().connections == many as u64 + 1).await;
    peer.expect_quiet().await;
    drop(crowd);
    until("all are gone", || center.metrics().connections == 1).await;
    peer.expect_quiet().await;
}

#[tokio::test]
async fn without_file_descriptors_it_serves_on_and_accepts_again_when_it_can() {
    let mut center = Helper::start(env!("CARGO_BIN_EXE_few_files"), "64");
    let address = center.line().await;
    let mut first = RawPeer::connect(&address).await;
    first.expect_quiet().await;
    let mut others = Vec::new();
    for _ in 0..100 {
        others.push(RawPeer::connect(&address).await); // the kernel takes them; the center can't accept them all
    }
    center.tell("failures?");
    let failures: u64 = center.line().await.parse().unwrap();
    assert!(failures > 0, "it has run out of files");
    first.expect_quiet().await;
    others.truncate(5);
    let mut last = RawPeer::connect(&address).await;
    within(last.expect_quiet()).await;
}
