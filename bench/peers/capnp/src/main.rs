//! Cap'n Proto RPC. Its Rust runtime is !Send, so both sides are single threaded
//! (a `LocalSet`) whatever --rt says. --transport tcp | unix
use anyhow::Result;
use capnp_rpc::{RpcSystem, rpc_twoparty_capnp::Side, twoparty};
use futures::AsyncReadExt;
use load::Opt;
use std::rc::Rc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::compat::TokioAsyncReadCompatExt;

#[allow(warnings, clippy::all, clippy::pedantic, clippy::restriction, reason = "generated")]
mod calc_capnp {
    include!(concat!(env!("OUT_DIR"), "/calc_capnp.rs"));
}
use calc_capnp::calc;

struct Svc;

impl calc::Server for Svc {
    async fn add(self: Rc<Self>, p: calc::AddParams, mut r: calc::AddResults) -> Result<(), capnp::Error> {
        let p = p.get()?;
        r.get().set_sum(p.get_num1() + p.get_num2());
        Ok(())
    }
    async fn echo(self: Rc<Self>, p: calc::EchoParams, mut r: calc::EchoResults) -> Result<(), capnp::Error> {
        r.get().set_text(p.get()?.get_text()?);
        Ok(())
    }
}

fn main() {
    load::main_with(
        |o| async { tokio::task::LocalSet::new().run_until(server(o)).await },
        |o| async { tokio::task::LocalSet::new().run_until(client(o)).await },
    );
}

fn serve<S: AsyncRead + AsyncWrite + 'static>(s: S, svc: calc::Client) {
    let (rd, wr) = s.compat().split();
    let net = twoparty::VatNetwork::new(
        futures::io::BufReader::new(rd),
        futures::io::BufWriter::new(wr),
        Side::Server,
        capnp::message::ReaderOptions::default(),
    );
    tokio::task::spawn_local(RpcSystem::new(Box::new(net), Some(svc.client)));
}

async fn server(opt: Opt) -> Result<()> {
    let svc: calc::Client = capnp_rpc::new_client(Svc);
    if opt.transport == "unix" {
        let _ = std::fs::remove_file(&opt.addr);
        let l = UnixListener::bind(&opt.addr)?;
        load::ready();
        loop {
            let (s, _) = l.accept().await?;
            serve(s, svc.clone());
        }
    }
    let l = TcpListener::bind(&opt.addr).await?;
    load::ready();
    loop {
        let (s, _) = l.accept().await?;
        s.set_nodelay(true)?;
        serve(s, svc.clone());
    }
}

fn attach<S: AsyncRead + AsyncWrite + 'static>(s: S) -> calc::Client {
    let (rd, wr) = s.compat().split();
    let net = twoparty::VatNetwork::new(
        futures::io::BufReader::new(rd),
        futures::io::BufWriter::new(wr),
        Side::Client,
        capnp::message::ReaderOptions::default(),
    );
    let mut sys = RpcSystem::new(Box::new(net), None);
    let c = sys.bootstrap(Side::Server);
    tokio::task::spawn_local(sys);
    c
}

async fn add(c: &mut calc::Client, num1: i64, num2: i64) -> Result<()> {
    let mut r = c.add_request();
    r.get().set_num1(num1);
    r.get().set_num2(num2);
    let v = r.send().promise.await?;
    load::check(v.get()?.get_sum() == num1 + num2)
}

async fn echo(c: &mut calc::Client, text: &str) -> Result<()> {
    let mut r = c.echo_request();
    r.get().set_text(text);
    let v = r.send().promise.await?;
    load::check(v.get()?.get_text()?.to_str()?.len() == text.len())
}

async fn client(opt: Opt) -> Result<()> {
    if opt.job == "idle" {
        return load::idle(&opt, vec![], false).await;
    }
    let mut clients = Vec::new();
    for _ in 0..opt.conns {
        let mut c = if opt.transport == "unix" {
            attach(UnixStream::connect(&opt.addr).await?)
        } else {
            let s = TcpStream::connect(&opt.addr).await?;
            s.set_nodelay(true)?;
            attach(s)
        };
        add(&mut c, 1, 2).await?;
        clients.push(c);
    }
    load::chains!(&opt, clients, tokio::task::spawn_local, add, echo)
}
