//! Providers that come and go, and a caller that hears of it and never loses a call.

#![expect(clippy::print_stdout, reason = "a demo tells what it sees")]

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use callboard::{Caller, Center, Provider, Router, Server};
use serde_json::json;
use tokio_stream::StreamExt;

/// Serves `whoami` under a name, and registers it.
async fn provide(center: &str, name: &'static str) -> Result<(Server, Provider)> {
    let router = Router::new().method("whoami", move |_: serde_json::Value| Ok(name));
    let server = Server::builder().router(router.clone()).listen("127.0.0.1:0").loops(1).start().await?;
    let provider = Provider::connect(center).await?.announce(router.names(), server.addresses()).await?;
    Ok((server, provider))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let center = Center::builder().listen("127.0.0.1:0").loops(1).start().await?;
    let caller = Caller::connect(center.address()).await?;
    let mut notices = caller.notices();
    let Err(error) = caller.call::<String>("whoami", &json!({})).await else { bail!("nobody answered") };
    println!("{error}");

    // Who has asked hears of the first provider.
    let (ada_server, ada) = provide(&center.address(), "Ada").await?;
    caller.wait_for_provider("whoami", Duration::from_secs(10)).await?;
    let notice = notices.next().await.context("the center has something to tell")?;
    println!("{notice}");
    ensure!(notice.online);
    let (_server, _grace) = provide(&center.address(), "Grace").await?;
    let notice = notices.next().await.context("the center has something to tell")?;
    println!("{notice}");

    // Calls take turns.
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(caller.call::<String>("whoami", &json!({})).await?);
    }
    println!("{answers:?}");
    ensure!(answers.contains(&"Ada".to_owned()) && answers.contains(&"Grace".to_owned()));

    // One goes, without a farewell to the caller.
    drop(ada);
    drop(ada_server);
    let notice = notices.next().await.context("the center has something to tell")?;
    println!("{notice}");
    ensure!(!notice.online);
    for _ in 0..4 {
        ensure!(caller.call::<String>("whoami", &json!({})).await? == "Grace");
    }

    // The center is not on the way of a call.
    center.shutdown().await;
    ensure!(caller.call::<String>("whoami", &json!({})).await? == "Grace");
    println!("Grace answers, without Ada and without a center");
    Ok(())
}
