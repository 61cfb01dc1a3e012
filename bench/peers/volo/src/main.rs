//! Thrift with volo (`TTHeader` + framed + binary, its default codec).
//! --transport tcp | unix          one request per connection at a time: volo's
//!                                 pool opens one connection per outstanding call
//! --transport tcp-mux | unix-mux  its multiplexed transport on one connection
use anyhow::Result;
use faststr::FastStr;
use load::Opt;
use volo::net::Address;

#[allow(unsafe_code, warnings, clippy::all, clippy::pedantic, clippy::restriction, reason = "generated")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/volo_gen.rs"));
}
use generated::volo_gen::calc::{Calc, CalcClient, CalcClientBuilder, CalcServer};

struct Svc;

impl Calc for Svc {
    async fn add(&self, num1: i64, num2: i64) -> Result<i64, volo_thrift::ServerError> {
        Ok(num1 + num2)
    }
    async fn echo(&self, text: FastStr) -> Result<FastStr, volo_thrift::ServerError> {
        Ok(text)
    }
}

fn main() {
    load::main_with(server, client);
}

fn address(opt: &Opt) -> Result<Address> {
    Ok(if opt.transport.starts_with("unix") {
        Address::from(std::os::unix::net::SocketAddr::from_pathname(&opt.addr)?)
    } else {
        Address::from(opt.addr.parse::<std::net::SocketAddr>()?)
    })
}

async fn server(opt: Opt) -> Result<()> {
    if opt.transport.starts_with("unix") {
        let _ = std::fs::remove_file(&opt.addr);
    }
    let s = CalcServer::new(Svc).multiplex(opt.transport.ends_with("mux"));
    let a = address(&opt)?;
    tokio::spawn(async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        load::ready();
    });
    s.run(a).await.map_err(|e| anyhow::anyhow!("{e}"))?;
    Ok(())
}

async fn client(opt: Opt) -> Result<()> {
    if opt.job == "idle" {
        return load::idle(&opt, vec![], false).await;
    }
    let mut clients = Vec::new();
    for _ in 0..opt.conns {
        let c =
            CalcClientBuilder::new("calc").address(address(&opt)?).multiplex(opt.transport.ends_with("mux")).build();
        load::check(c.add(1, 2).await? == 3)?;
        clients.push(c);
    }
    load::chains!(&opt, clients, tokio::spawn, add, echo, FastStr::from_string)
}

async fn add(client: &mut CalcClient, num1: i64, num2: i64) -> Result<()> {
    load::check(client.add(num1, num2).await? == num1 + num2)
}

async fn echo(client: &mut CalcClient, text: &FastStr) -> Result<()> {
    let back = client.echo(text.clone()).await?;
    load::check(back.len() == text.len())
}
