//! A network that drops packets.

use std::time::{Duration, Instant};

use anyhow::Result;
use callboard_tests::FarHost;

use crate::departures::{METHOD, Watcher};
use crate::process::Part;

pub(crate) async fn dropped(times: usize) -> Result<Vec<Duration>> {
    let far = FarHost::new()?;
    let center = Part::center(&format!("tcp://{}:0", far.here()), &[]).await?;
    let mut watcher = Watcher::new(&center.address).await?;
    let mut took = Vec::new();
    for _ in 0..times {
        let _provider = Part::provider_far(&far, &center.address, METHOD).await?;
        watcher.told(true).await?;
        far.set_connected(false)?;
        let began = Instant::now();
        watcher.told(false).await?;
        took.push(began.elapsed());
        far.set_connected(true)?;
    }
    Ok(took)
}
