//! A center inside a program, which serves methods of its own on the same port.

#![expect(clippy::print_stdout, reason = "a demo tells what it sees")]

use anyhow::{Result, ensure};
use callboard::{Caller, Center, Client, Provider, Router};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let router = Router::new().method("version", |_: Value| Ok(env!("CARGO_PKG_VERSION")));
    let center = Center::builder().router(router.clone()).listen("127.0.0.1:0").loops(2).start().await?;
    println!("one port for registry, topics and methods: {}", center.address());

    // Called directly, by whoever knows the address.
    let client = Client::connect(center.address()).await?;
    let version: String = client.call("version", &json!({})).await?;

    // Or registered with itself, and then found like any other method.
    let provider = Provider::connect(center.address()).await?.announce(router.names(), center.addresses()).await?;
    let caller = Caller::connect(center.address()).await?;
    let found: String = caller.call("version", &json!({})).await?;
    println!("version {version}, at {:?}", caller.hosts("version").await?);
    ensure!(version == found);

    // It counts what it does.
    let metrics = center.metrics();
    println!("{} connections, {} frames taken", metrics.connections, metrics.frames_in);
    ensure!(metrics.frames_in > 0 && center.registry_size().methods == 1);

    provider.withdraw().await?;
    center.shutdown().await;
    Ok(())
}
