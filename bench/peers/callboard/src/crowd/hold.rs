//! `--conns` connections that hold a session, `--mode from=ADDRESS` from an address of this machine.
//! For each line of input, each of them asks who provides a method.
use std::time::Instant;

use anyhow::{Result, ensure};
use callboard::common::{ServiceOp, ServiceRequest};
use futures::{StreamExt, TryStreamExt};
use load::Opt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::provide::METHOD;
use crate::idle;
use crate::mode::Mode;

pub async fn run(opt: Opt) -> Result<()> {
    let begun = Instant::now();
    let mut held = idle::open_from(&opt, opt.conns, Mode::of(&opt).text("from").unwrap_or("127.0.0.1")).await?;
    super::tell_ready(begun)?;
    let mut commands = super::commands();
    while commands.recv().await.is_some() {
        let begun = Instant::now();
        ask(&mut held).await?;
        super::tell(&serde_json::json!({ "answered": held.len(), "secs": begun.elapsed().as_secs_f64() }))?;
    }
    super::tell(&serde_json::json!({ "held": held.len(), "lost": idle::lost(&held) }))
}

/// One request over each connection, and its answer; some at the same time.
async fn ask(held: &mut [TcpStream]) -> Result<()> {
    let request = ServiceRequest::new(METHOD, ServiceOp::Discover);
    let frame = idle::frame(b"2", &request)?;
    let asked = held.iter_mut().map(|stream| exchange(stream, &frame));
    futures::stream::iter(asked).buffer_unordered(super::AT_ONCE).try_collect().await
}

async fn exchange(stream: &mut TcpStream, frame: &[u8]) -> Result<()> {
    stream.write_all(frame).await?;
    let mut answer = [0; 1024];
    ensure!(stream.read(&mut answer).await? > 0, "closed in place of an answer");
    Ok(())
}
