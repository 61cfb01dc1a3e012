//! How long it takes until others are told that a provider is gone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use callboard_client::{Client, ClientState};
use callboard_registry::{Caller, Notices, Provider};
use callboard_server::{Router, Server};
use callboard_tests::RawPeer;
use serde_json::json;
use tokio::time::timeout;
use tokio_stream::StreamExt;

use crate::process::{PATIENCE, Part};

/// The settings with which a silent provider is noticed within half a second.
pub(crate) const EAGER: [(&str, &str); 2] =
    [("CALLBOARD_PROVIDER_HEARTBEAT_MS", "100"), ("CALLBOARD_PROVIDER_DEAD_MS", "400")];
pub(crate) const METHOD: &str = "m";
const ANY: &str = "tcp://127.0.0.1:0";

/// One who watches the method.
pub(crate) struct Watcher {
    _caller: Caller,
    notices: Notices,
}

impl Watcher {
    pub(crate) async fn new(center: &str) -> Result<Self> {
        let caller = Caller::connect(center).await?;
        let notices = caller.notices();
        caller.hosts(METHOD).await?;
        Ok(Self { _caller: caller, notices })
    }

    /// Waits until a provider has come, or gone.
    pub(crate) async fn told(&mut self, online: bool) -> Result<()> {
        let notice = timeout(PATIENCE, self.notices.next()).await.context("nobody is told")?;
        let notice = notice.context("the center is gone")?;
        if notice.online != online {
            bail!("told {notice} in place of the contrary");
        }
        Ok(())
    }
}

/// A provider that speaks v1 closes its connection.
pub(crate) async fn close(times: usize) -> Result<Vec<Duration>> {
    let center = Part::center(ANY, &[]).await?;
    let mut watcher = Watcher::new(&center.address).await?;
    let mut took = Vec::new();
    for port in (7001..).take(times) {
        let mut provider = RawPeer::connect(&center.address).await;
        let host = json!({"ip": "127.0.0.1", "port": port});
        provider.ask(4, &json!({"method": METHOD, "optype": 0, "host": host}).to_string()).await;
        watcher.told(true).await?;
        let began = Instant::now();
        drop(provider);
        watcher.told(false).await?;
        took.push(began.elapsed());
    }
    Ok(took)
}

async fn serve() -> Result<Server> {
    let router = Router::new().method(METHOD, |(): ()| Ok(())).method_async("wait", |(): ()| async {
        tokio::time::sleep(PATIENCE).await;
        Ok(())
    });
    Ok(Server::builder().router(router).loops(1).grace(Duration::from_millis(200)).listen(ANY).start().await?)
}

pub(crate) async fn withdrawal(times: usize) -> Result<Vec<Duration>> {
    let center = Part::center(ANY, &[]).await?;
    let mut took = Vec::new();
    for _ in 0..times {
        // Another one each time: who comes and goes too often is told later.
        let mut watcher = Watcher::new(&center.address).await?;
        let server = serve().await?;
        let provider = Provider::connect(&center.address).await?.announce([METHOD], server.addresses()).await?;
        watcher.told(true).await?;
        let began = Instant::now();
        let (told, withdrawn) = tokio::join!(watcher.told(false), provider.withdraw_method(METHOD));
        told?;
        took.push(began.elapsed());
        withdrawn?;
        server.shutdown().await;
    }
    Ok(took)
}

/// A provider stops while a call is under way: its callers are told to go elsewhere.
pub(crate) async fn go_away(times: usize) -> Result<Vec<Duration>> {
    let mut took = Vec::new();
    for _ in 0..times {
        let server = serve().await?;
        let client = Client::connect(server.addresses().first().context("it listens")?.to_string()).await?;
        let mut states = client.states();
        let _under_way = client.start::<()>("wait", &()).await?;
        client.call::<()>(METHOD, &()).await?;
        let began = Instant::now();
        let lost = async {
            while !matches!(states.next().await, Some(ClientState::Lost { .. }) | None) {}
            began.elapsed()
        };
        let (lost, _) = tokio::join!(timeout(PATIENCE, lost), server.shutdown());
        took.push(lost?);
    }
    Ok(took)
}

pub(crate) async fn kill(times: usize) -> Result<Vec<Duration>> {
    let center = Part::center(ANY, &[]).await?;
    let mut watcher = Watcher::new(&center.address).await?;
    let mut took = Vec::new();
    for _ in 0..times {
        let mut provider = Part::provider(&center.address, METHOD).await?;
        watcher.told(true).await?;
        let began = Instant::now();
        provider.start_kill()?;
        watcher.told(false).await?;
        took.push(began.elapsed());
    }
    Ok(took)
}

pub(crate) async fn stop(times: usize, settings: &[(&str, &str)]) -> Result<Vec<Duration>> {
    let center = Part::center(ANY, settings).await?;
    let mut watcher = Watcher::new(&center.address).await?;
    let mut took = Vec::new();
    for _ in 0..times {
        let provider = Part::provider(&center.address, METHOD).await?;
        watcher.told(true).await?;
        let began = Instant::now();
        provider.stop().await?;
        watcher.told(false).await?;
        took.push(began.elapsed());
    }
    Ok(took)
}
