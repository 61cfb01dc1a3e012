//! tarpc over its serde transports: --transport tcp-json | tcp-bincode | unix-json | unix-bincode
use anyhow::Result;
use futures::prelude::*;
use load::Opt;
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::{Bincode, Json};
use tarpc::{client, context, serde_transport};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

#[tarpc::service]
trait Calc {
    async fn add(num1: i64, num2: i64) -> i64;
    async fn echo(text: String) -> String;
}

#[derive(Clone)]
struct Svc;

impl Calc for Svc {
    async fn add(self, _: context::Context, num1: i64, num2: i64) -> i64 {
        num1 + num2
    }
    async fn echo(self, _: context::Context, text: String) -> String {
        text
    }
}

fn main() {
    load::main_with(server, client);
}

async fn serve<S: AsyncRead + AsyncWrite + Send + 'static>(s: S, json: bool) {
    if json {
        let t = serde_transport::Transport::from((s, Json::default()));
        BaseChannel::with_defaults(t).execute(Svc.serve()).for_each(spawn).await;
    } else {
        let t = serde_transport::Transport::from((s, Bincode::default()));
        BaseChannel::with_defaults(t).execute(Svc.serve()).for_each(spawn).await;
    }
}

async fn spawn(f: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(f);
}

async fn server(opt: Opt) -> Result<()> {
    let json = opt.transport.ends_with("json");
    if opt.transport.starts_with("unix") {
        let _ = std::fs::remove_file(&opt.addr);
        let l = UnixListener::bind(&opt.addr)?;
        load::ready();
        loop {
            let (s, _) = l.accept().await?;
            tokio::spawn(serve(s, json));
        }
    }
    let l = TcpListener::bind(&opt.addr).await?;
    load::ready();
    loop {
        let (s, _) = l.accept().await?;
        s.set_nodelay(true)?;
        tokio::spawn(serve(s, json));
    }
}

fn attach<S: AsyncRead + AsyncWrite + Send + 'static>(s: S, json: bool) -> CalcClient {
    let cfg = client::Config::default();
    if json {
        CalcClient::new(cfg, serde_transport::Transport::from((s, Json::default()))).spawn()
    } else {
        CalcClient::new(cfg, serde_transport::Transport::from((s, Bincode::default()))).spawn()
    }
}

async fn client(opt: Opt) -> Result<()> {
    if opt.job == "idle" {
        return load::idle(&opt, vec![], false).await;
    }
    let json = opt.transport.ends_with("json");
    let mut clients = Vec::new();
    for _ in 0..opt.conns {
        let c = if opt.transport.starts_with("unix") {
            attach(UnixStream::connect(&opt.addr).await?, json)
        } else {
            let s = TcpStream::connect(&opt.addr).await?;
            s.set_nodelay(true)?;
            attach(s, json)
        };
        c.add(context::current(), 1, 2).await?;
        clients.push(c);
    }
    load::chains!(&opt, clients, tokio::spawn, add, echo)
}

async fn add(client: &mut CalcClient, num1: i64, num2: i64) -> Result<()> {
    load::check(client.add(context::current(), num1, num2).await? == num1 + num2)
}

async fn echo(client: &mut CalcClient, text: &str) -> Result<()> {
    let back = client.echo(context::current(), text.to_owned()).await?;
    load::check(back.len() == text.len())
}
