//! A network that drops packets, made of a network namespace behind a bridge; only root can do that.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::departures::{METHOD, Watcher};
use crate::process::Part;

pub(crate) async fn dropped(times: usize) -> Result<Vec<Duration>> {
    let net = Net::new()?;
    let center = Part::center(&format!("tcp://{BRIDGE}:0"), &[]).await?;
    let mut watcher = Watcher::new(&center.address).await?;
    let mut took = Vec::new();
    for _ in 0..times {
        let _provider = Part::provider_inside(&net.name, &center.address, METHOD, INSIDE).await?;
        watcher.told(true).await?;
        net.set_connected(false)?;
        let began = Instant::now();
        watcher.told(false).await?;
        took.push(began.elapsed());
        net.set_connected(true)?;
    }
    Ok(took)
}

/// A host of its own; taken down with this value.
struct Net {
    name: String,
}

impl Net {
    fn new() -> Result<Self> {
        let net = Self { name: format!("cb{}", std::process::id()) };
        let name = &net.name;
        ip(&format!("netns add {name}"))?;
        // With an address of its own: else it has that of its port, which would go on taking packets without it.
        ip(&format!("link add {name}b address 02:00:00:00:00:01 type bridge"))?;
        ip(&format!("addr add {BRIDGE}/29 dev {name}b"))?;
        ip(&format!("link set {name}b up"))?;
        ip(&format!("link add {name}o type veth peer name {name}i netns {name}"))?;
        ip(&format!("link set {name}o up"))?;
        ip(&format!("-n {name} addr add {INSIDE}/29 dev {name}i"))?;
        ip(&format!("-n {name} link set {name}i up"))?;
        ip(&format!("-n {name} link set lo up"))?;
        net.set_connected(true)?;
        Ok(net)
    }

    /// Whether packets come through. If not they are dropped: both ends are up, and nobody is told.
    fn set_connected(&self, connected: bool) -> Result<()> {
        let name = &self.name;
        ip(&if connected { format!("link set {name}o master {name}b") } else { format!("link set {name}o nomaster") })
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = ip(&format!("netns del {}", self.name));
        let _ = ip(&format!("link del {}o", self.name));
        let _ = ip(&format!("link del {}b", self.name));
    }
}

fn ip(line: &str) -> Result<()> {
    let output = Command::new("ip").args(line.split(' ')).output().context("there is no `ip`; install iproute2")?;
    ensure!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

// Addresses that are set aside for tests of networks.
const BRIDGE: &str = "198.18.214.1";
const INSIDE: &str = "198.18.214.2";
