//! What runs in a process of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use anyhow::{Context, Result};
use callboard::{Signals, serve_until};
use callboard_center::{Center, Config};
use callboard_registry::Provider;
use callboard_server::{Router, Server};
use callboard_tests::methods;

/// A center with the settings that the environment has, as `callboard center` reads them.
pub(crate) async fn center() -> Result<()> {
    let mut signals = Signals::new()?;
    let mut config = Config::default();
    config.apply_environment(|name| std::env::var_os(name))?;
    let center = Center::builder().config(config).start().await?;
    println!("{}", center.address());
    signals.next().await;
    center.shutdown().await;
    Ok(())
}

/// A provider of what a load calls. As it leaves it says how many one-way calls it has executed.
pub(crate) async fn called(center: &str, listen: &str) -> Result<()> {
    let mut signals = Signals::new()?;
    let noted = Arc::<AtomicU64>::default();
    let router = methods(&noted);
    let names = router.names();
    let server = Server::builder().router(router).loops(1).listen(listen).start().await?;
    let provider = Provider::connect(center).await?.announce(names, server.addresses()).await?;
    println!("{}", server.addresses().first().context("it listens")?);
    serve_until(&mut signals, provider, server).await;
    println!("{}", noted.load(SeqCst));
    Ok(())
}

/// A provider of one method that listens at the address.
pub(crate) async fn provider(center: &str, method: &str, ip: &str) -> Result<()> {
    let router = Router::new().method(method, |(): ()| Ok(std::process::id()));
    let server = Server::builder().router(router).loops(1).listen(format!("{ip}:0")).start().await?;
    let provider = Provider::connect(center).await?.announce([method], server.addresses()).await?;
    println!("{}", server.addresses().first().context("it listens")?);
    provider.closed().await;
    Ok(())
}
