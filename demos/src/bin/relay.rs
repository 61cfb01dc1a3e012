//! A provider that listens nowhere: the center passes calls on over the connection that the provider made.

#![expect(clippy::print_stdout, reason = "a demo tells what it sees")]

use std::time::Duration;

use anyhow::{Result, ensure};
use callboard::{Caller, Center, Client, Place, Provider, Router};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let center = Center::builder().listen("127.0.0.1:0").loops(2).start().await?;

    // Behind a firewall, say: nobody can connect to it, and it has no server.
    let router = Router::new().method("double", |n: i64| Ok(n * 2));
    let connection = Client::builder().serves(router.clone()).connect(center.address()).await?;
    let provider = Provider::new(connection).announce(router.names(), Place::Relay).await?;

    // Its callers do as ever: the center is where they look for it, and where their calls go.
    let caller = Caller::connect(center.address()).await?;
    caller.wait_for_provider("double", Duration::from_secs(5)).await?;
    let doubled: i64 = caller.call("double", &21).await?;
    println!("21 doubled is {doubled}, by {:?}", caller.hosts("double").await?);
    ensure!(doubled == 42 && caller.hosts("double").await?.iter().all(|host| host.is_relayed()));

    provider.withdraw().await?;
    center.shutdown().await;
    Ok(())
}
