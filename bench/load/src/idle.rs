//! Connections that do nothing, and what a server's memory pays for each.
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::usage::sum_kb;
use crate::{Opt, print, ready};

/// Connections that are opened at once.
const ABREAST: usize = 64;

/// Opens `opt.conns` plain TCP connections, sends `hello` on each, waits for the first bytes of an answer if one is
/// expected, says `READY`, holds them for `opt.secs`, and reports what they cost.
pub async fn idle(opt: &Opt, hello: Vec<u8>, reply: bool) -> Result<()> {
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before_kb = sum_kb(&opt.pids, "VmRSS");
    let began = Instant::now();
    let held = open(opt, Arc::new(hello), reply).await?;
    let connect_s = began.elapsed().as_secs_f64();
    ready();
    tokio::time::sleep(Duration::from_secs_f64(opt.secs)).await;
    let after_kb = sum_kb(&opt.pids, "VmRSS");
    print(&json!({
        "conns": opt.conns,
        // A server that dropped connections would seem to need little for them.
        "lost": held.iter().filter(|stream| closed(stream)).count(),
        "connect_s": connect_s,
        "rss_before_kb": before_kb,
        "rss_after_kb": after_kb,
        "per_conn_kb": per_connection(before_kb, after_kb, opt.conns),
    }))
}

async fn open(opt: &Opt, hello: Arc<Vec<u8>>, reply: bool) -> Result<Vec<TcpStream>> {
    let mut held = Vec::with_capacity(opt.conns);
    while held.len() < opt.conns {
        let mut batch = JoinSet::new();
        for _ in 0..ABREAST.min(opt.conns - held.len()) {
            batch.spawn(greet(opt.addr.clone(), Arc::clone(&hello), reply));
        }
        while let Some(stream) = batch.join_next().await {
            held.push(stream??);
        }
    }
    Ok(held)
}

async fn greet(addr: String, hello: Arc<Vec<u8>>, reply: bool) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&hello).await?;
    if reply {
        ensure!(stream.read(&mut [0; 4096]).await? > 0, "closed by the server");
    }
    Ok(stream)
}

fn closed(stream: &TcpStream) -> bool {
    loop {
        match stream.try_read(&mut [0; 4096]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "memory in KiB and connections are far below 2^52")]
fn per_connection(before_kb: u64, after_kb: u64, connections: usize) -> f64 {
    (after_kb as f64 - before_kb as f64) / connections as f64
}
