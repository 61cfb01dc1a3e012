//! Parts are asked to leave (SIGTERM) and started anew, again and again, while callers call without a rest, and one-way too.

use anyhow::{Context, Result, ensure};
use callboard_registry::Caller;
use callboard_tests::{Load, Report};
use tokio::time::{Duration, Instant, sleep};

use crate::failover::Counts;
use crate::process::{PATIENCE, Part};

const PROVIDERS: usize = 4;
const CALLERS: usize = 8;
const ANY: &str = "tcp://127.0.0.1:0";
/// Else who is restarted so often would be announced later.
const SETTINGS: [(&str, &str); 1] = [("CALLBOARD_FLAP_CHANGES", "1000000")];

/// A center and providers, each a process.
struct House {
    center: Part,
    providers: Vec<Part>,
    /// One-way calls of which providers that have left say that they executed them.
    executed: u64,
}

/// All providers in turn, so many times.
pub(crate) async fn providers(times: u64) -> Result<Counts> {
    let (mut house, load) = House::under_load().await?;
    for _ in 0..times {
        for place in 0..PROVIDERS {
            house.restart_provider(place).await?;
            house.settle(&load).await?;
        }
    }
    house.end(load, times * PROVIDERS as u64).await
}

/// The center, so many times.
pub(crate) async fn center(times: u64) -> Result<Counts> {
    let (mut house, load) = House::under_load().await?;
    for _ in 0..times {
        house.center.leave().await?;
        house.center = Part::center(&house.center.address, &SETTINGS).await?;
        house.settle(&load).await?;
    }
    house.end(load, times).await
}

impl House {
    /// All is there, and every caller knows it.
    async fn under_load() -> Result<(Self, Load)> {
        let house = Self::build().await?;
        let load = Load::start_with_notes(&house.center.address, CALLERS).await;
        house.settle(&load).await?;
        Ok((house, load))
    }

    async fn build() -> Result<Self> {
        let center = Part::center(ANY, &SETTINGS).await?;
        let mut providers = Vec::new();
        for _ in 0..PROVIDERS {
            providers.push(Part::called(&center.address, ANY).await?);
        }
        Ok(Self { center, providers, executed: 0 })
    }

    async fn restart_provider(&mut self, place: usize) -> Result<()> {
        let provider = self.providers.get_mut(place).context("there is one")?;
        self.executed += leave(provider).await?;
        *provider = Part::called(&self.center.address, &provider.address).await?;
        Ok(())
    }

    /// Waits until a caller that comes anew finds all providers, and the others have used them.
    async fn settle(&self, load: &Load) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while Caller::connect(&self.center.address).await?.hosts("note").await?.len() < PROVIDERS {
            ensure!(Instant::now() < until, "not all providers have come back");
            sleep(Duration::from_millis(5)).await;
        }
        load.go_on(20 * (PROVIDERS * CALLERS) as u64).await;
        Ok(())
    }

    async fn end(mut self, load: Load, restarts: u64) -> Result<Counts> {
        let Report { calls, failed, errors, notes, longest } = load.stop().await;
        for error in &errors {
            eprintln!("{error}");
        }
        for provider in &mut self.providers {
            self.executed += leave(provider).await?;
        }
        self.center.leave().await?;
        Ok(vec![
            ("restarts", restarts),
            ("calls made", calls),
            ("longest call in ms", u64::try_from(longest.as_millis())?),
            ("one-way calls made", notes),
            ("calls failed", failed),
            ("one-way calls executed", self.executed),
        ])
    }
}

/// How many one-way calls it has executed.
async fn leave(provider: &mut Part) -> Result<u64> {
    Ok(provider.leave().await?.context("it says nothing")?.parse()?)
}
