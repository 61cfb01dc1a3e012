//! A network that drops packets.

use std::time::{Duration, Instant};

use anyhow::Result;
use callboard_tests::{FarHost, Unable};

use crate::departures::{METHOD, Watcher};
use crate::process::Part;

/// Which packets are dropped.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Dropped {
    All,
    /// Those to the provider.
    There,
    /// Those of the provider.
    Back,
}

impl Dropped {
    fn set(self, far: &FarHost, pass: bool) -> Result<(), Unable> {
        match self {
            Self::All => far.set_connected(pass),
            Self::There => far.set_hears(pass),
            Self::Back => far.set_heard(pass),
        }
    }
}

pub(crate) async fn dropped(times: usize, which: Dropped, settings: &[(&str, &str)]) -> Result<Vec<Duration>> {
    let far = FarHost::new()?;
    let center = Part::center(&format!("tcp://{}:0", far.here()), settings).await?;
    let mut took = Vec::new();
    for _ in 0..times {
        // Another one each time: who comes and goes too often is told later.
        let mut watcher = Watcher::new(&center.address).await?;
        let _provider = Part::provider_far(&far, &center.address, METHOD).await?;
        watcher.told(true).await?;
        which.set(&far, false)?;
        let began = Instant::now();
        watcher.told(false).await?;
        took.push(began.elapsed());
        which.set(&far, true)?;
    }
    Ok(took)
}
