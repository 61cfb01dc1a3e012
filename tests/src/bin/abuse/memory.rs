//! Memory that the machine has at hand.
//!
//! A virtual machine takes each page from its host when it is first touched, and may give it back once it is free: that took
//! up to 10 µs for 4 KiB, where a page that the system has takes 1.5. What an attack has the center take, half a GB in a
//! second, would tell of that. So another process takes as much before, and gives it back to the system just before the
//! attack begins.

use std::fs::read_to_string;
use std::hint::black_box;
use std::io::stdin;

use anyhow::{Context, Result};

use crate::process::{Part, Turn};

/// Starts a process that takes as much, or a fourth of what there is.
pub(crate) fn holder(bytes: u64) -> Result<Part> {
    let bytes = bytes.min(available(&read_to_string("/proc/meminfo")?)? / 4);
    Part::start(Turn::Equal, &["hold".to_owned(), bytes.to_string()])
}

/// Waits until it has.
pub(crate) async fn is_held(mut holder: Option<Part>) -> Result<Option<Part>> {
    if let Some(holder) = &mut holder {
        holder.line().await?;
    }
    Ok(holder)
}

/// Waits until it has given that back.
pub(crate) async fn let_go(holder: Option<Part>) -> Result<()> {
    match holder {
        Some(holder) => holder.end().await,
        None => Ok(()),
    }
}

/// Is that process: prints a line once it has them, and gives them back at the end of its input.
pub(crate) fn hold(bytes: usize) -> Result<()> {
    let held = black_box(vec![1_u8; bytes]);
    println!("held");
    for line in stdin().lines() {
        let _ = line?;
    }
    drop(held);
    println!("null");
    Ok(())
}

/// What processes may take, in bytes.
fn available(meminfo: &str) -> Result<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:")).context("no MemAvailable")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_is_read_in_bytes() {
        let meminfo = "MemTotal:  24683520 kB\nMemAvailable:   22764544 kB\nBuffers: 1 kB\n";
        assert_eq!(available(meminfo).unwrap(), 22_764_544 * 1024);
        assert!(available("MemTotal: 1 kB\n").is_err());
    }
}
