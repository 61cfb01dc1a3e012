//! Thrift with volo (TTHeader + framed + binary, its default codec).
//! --transport tcp | unix          one request per connection at a time: volo's
//!                                 pool opens one connection per outstanding call
//! --transport tcp-mux | unix-mux  its multiplexed transport on one connection
use anyhow::Result;
use faststr::FastStr;
use load::{Meter, Opt, closed_loop};
use volo::net::Address;

mod generated {
    #![allow(warnings)]
    include!(concat!(env!("OUT_DIR"), "/volo_gen.rs"));
}
use generated::volo_gen::calc::{Calc, CalcClientBuilder, CalcServer};

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
    let m = Meter::start(&opt);
    let size = load::echo_size(&opt.method);
    let mut tasks = Vec::new();
    for c in clients {
        for k in 0..opt.outstanding as i64 {
            let (c, m) = (c.clone(), m.clone());
            tasks.push(tokio::spawn(async move {
                if size == 0 {
                    let mut i = 0;
                    closed_loop!(&m, {
                        i += 1;
                        match c.add(i, k).await {
                            Ok(r) => load::check(r == i + k),
                            Err(e) => Err(e.into()),
                        }
                    })
                } else {
                    // FastStr clones are reference counts; copy, as the others do
                    let text = load::payload(size);
                    closed_loop!(&m, {
                        match c.echo(FastStr::from_string(text.clone())).await {
                            Ok(r) => load::check(r.len() == size),
                            Err(e) => Err(e.into()),
                        }
                    })
                }
            }));
        }
    }
    for t in tasks {
        t.await?;
    }
    m.finish(&opt)
}
