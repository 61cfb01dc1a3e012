//! What runs in a process of its own.

use anyhow::{Context, Result};
use callboard_center::{Center, Config};
use callboard_registry::Provider;
use callboard_server::{Router, Server};

/// A center with the settings that the environment has, as `callboard center` reads them.
pub(crate) async fn center() -> Result<()> {
    let mut config = Config::default();
    config.apply_environment(|name| std::env::var_os(name))?;
    let center = Center::builder().config(config).start().await?;
    println!("{}", center.address());
    std::future::pending().await
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
