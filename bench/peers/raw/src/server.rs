//! The answering side: every frame comes back, or the answer to the JSON in it.
use std::fs;

use anyhow::Result;
use load::Opt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

use crate::frames::{Inbox, put};
use crate::json::Methods;

#[derive(Clone, Copy)]
enum Mode {
    Each,
    Batch,
    Json,
}

pub async fn run(opt: &Opt) -> Result<()> {
    let mode = match opt.mode.as_str() {
        "each" => Mode::Each,
        "json" => Mode::Json,
        _ => Mode::Batch,
    };
    if opt.transport == "unix" { serve_unix(opt, mode).await } else { serve_tcp(opt, mode).await }
}

async fn serve_tcp(opt: &Opt, mode: Mode) -> Result<()> {
    let listener = TcpListener::bind(&opt.addr).await?;
    load::ready();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(serve(stream, mode));
    }
}

async fn serve_unix(opt: &Opt, mode: Mode) -> Result<()> {
    let _ = fs::remove_file(&opt.addr);
    let listener = UnixListener::bind(&opt.addr)?;
    load::ready();
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(serve(stream, mode));
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, mode: Mode) -> Result<()> {
    let mut inbox = Inbox::new(ROOM);
    let (mut out, methods) = (Vec::with_capacity(ROOM), Methods::new());
    loop {
        let read = stream.read(inbox.room()).await?;
        if read == 0 {
            return Ok(());
        }
        inbox.filled(read);
        let taken = match mode {
            Mode::Each => each(&mut stream, &inbox).await?,
            Mode::Batch => {
                let taken = inbox.frames(|_| Ok(()))?;
                stream.write_all(inbox.front(taken)).await?;
                taken
            }
            Mode::Json => {
                let taken = inbox.frames(|frame| put(&mut out, |out| methods.answer(frame, out)))?;
                stream.write_all(&out).await?;
                out.clear();
                taken
            }
        };
        inbox.take(taken);
    }
}

async fn each(stream: &mut (impl AsyncWrite + Unpin), inbox: &Inbox) -> Result<usize> {
    let mut lens = Vec::new();
    let taken = inbox.frames(|frame| {
        lens.push(frame.len());
        Ok(())
    })?;
    let mut rest = inbox.front(taken);
    for len in lens {
        let Some((frame, behind)) = rest.split_at_checked(len) else { break };
        stream.write_all(frame).await?;
        rest = behind;
    }
    Ok(taken)
}

pub const ROOM: usize = 256 * 1024;
