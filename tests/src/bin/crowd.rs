//! Connects as many times as each line of its input says, says so, and says nothing on any of the connections.

#![expect(clippy::print_stdout, reason = "its lines are what the test reads")]

use std::net::TcpStream;

fn main() -> anyhow::Result<()> {
    rlimit::increase_nofile_limit(u64::MAX)?;
    let address = std::env::args().nth(1).unwrap_or_default();
    let address = address.trim_start_matches("tcp://");
    let mut connections = Vec::new();
    for line in std::io::stdin().lines() {
        for _ in 0..line?.trim().parse::<usize>()? {
            connections.push(TcpStream::connect(address)?);
        }
        println!("connected {}", connections.len());
    }
    Ok(())
}
