//! JSON-RPC 2.0 with jsonrpsee. --transport ws | http
//! HTTP/1.1 cannot multiplex: N outstanding requests become N pooled connections.
use anyhow::Result;
use jsonrpsee::core::client::ClientT;
use jsonrpsee::core::{RpcResult, async_trait};
use jsonrpsee::http_client::HttpClientBuilder;
use jsonrpsee::proc_macros::rpc;
use jsonrpsee::server::{ServerBuilder, ServerConfig};
use jsonrpsee::ws_client::WsClientBuilder;
use load::{Meter, Opt, closed_loop};
use std::sync::Arc;

#[rpc(server, client)]
trait Calc {
    #[method(name = "add")]
    async fn add(&self, num1: i64, num2: i64) -> RpcResult<i64>;
    #[method(name = "echo")]
    async fn echo(&self, text: String) -> RpcResult<String>;
}

struct Svc;

#[async_trait]
impl CalcServer for Svc {
    async fn add(&self, num1: i64, num2: i64) -> RpcResult<i64> {
        Ok(num1 + num2)
    }
    async fn echo(&self, text: String) -> RpcResult<String> {
        Ok(text)
    }
}

fn main() {
    load::main_with(server, client);
}

async fn server(opt: Opt) -> Result<()> {
    // the default allows only 100 connections
    let cfg = ServerConfig::builder().max_connections(20_000).set_tcp_no_delay(true).build();
    let s = ServerBuilder::with_config(cfg).build(opt.addr.as_str()).await?;
    let h = s.start(Svc.into_rpc());
    load::ready();
    h.stopped().await;
    Ok(())
}

async fn client(opt: Opt) -> Result<()> {
    if opt.job == "idle" {
        let hello = format!(
            "GET / HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            opt.addr
        );
        return load::idle(&opt, hello.into_bytes(), true).await;
    }
    if opt.transport == "http" {
        let mut v = Vec::new();
        for _ in 0..opt.conns {
            let c = HttpClientBuilder::default().build(format!("http://{}", opt.addr))?;
            v.push(Arc::new(c));
        }
        load(v, opt).await
    } else {
        let mut v = Vec::new();
        for _ in 0..opt.conns {
            let b = WsClientBuilder::default().set_tcp_no_delay(true);
            v.push(Arc::new(b.build(format!("ws://{}", opt.addr)).await?));
        }
        load(v, opt).await
    }
}

async fn load<C: ClientT + Send + Sync + 'static>(clients: Vec<Arc<C>>, opt: Opt) -> Result<()> {
    for c in &clients {
        load::check(c.add(1, 2).await? == 3)?;
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
                    let text = load::payload(size);
                    closed_loop!(&m, {
                        match c.echo(text.clone()).await {
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
