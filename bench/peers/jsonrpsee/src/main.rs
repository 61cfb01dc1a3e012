//! JSON-RPC 2.0 with jsonrpsee. --transport ws | http
//! HTTP/1.1 cannot multiplex: N outstanding requests become N pooled connections.
#![expect(missing_docs, reason = "what the macro generates is public")]
use anyhow::Result;
use jsonrpsee::core::client::ClientT;
use jsonrpsee::core::{RpcResult, async_trait};
use jsonrpsee::http_client::HttpClientBuilder;
use jsonrpsee::proc_macros::rpc;
use jsonrpsee::server::{ServerBuilder, ServerConfig};
use jsonrpsee::ws_client::WsClientBuilder;
use load::Opt;
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
    for client in &clients {
        load::check(client.add(1, 2).await? == 3)?;
    }
    load::chains!(&opt, clients, tokio::spawn, add, echo)
}

async fn add<C: ClientT + Send + Sync>(client: &mut Arc<C>, num1: i64, num2: i64) -> Result<()> {
    load::check(client.add(num1, num2).await? == num1 + num2)
}

async fn echo<C: ClientT + Send + Sync>(client: &mut Arc<C>, text: &str) -> Result<()> {
    let back = client.echo(text.to_owned()).await?;
    load::check(back.len() == text.len())
}
