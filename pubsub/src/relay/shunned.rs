use std::time::Duration;

use callboard_client::{Centers, Client};
use tokio::time::Instant;

/// Which centers, by their place in the list, were silent, and when that was seen.
#[derive(Debug, Default)]
pub(super) struct Shunned(Vec<(usize, Instant)>);

/// A center that was silent is turned to last for so long: longer than it takes to find a connection dead.
pub(super) const SHUNNED: Duration = Duration::from_mins(1);

impl Shunned {
    pub(super) fn add(&mut self, place: usize) {
        self.0.retain(|(noted, _)| *noted != place);
        self.0.push((place, Instant::now()));
    }

    fn has(&self, place: usize) -> bool {
        self.0.iter().any(|(noted, at)| *noted == place && at.elapsed() < SHUNNED)
    }

    /// Whether another one is online that is not silent.
    pub(super) fn is_another(&self, centers: &Centers, place: usize) -> bool {
        let mut others = centers.iter().enumerate().filter(|(other, _)| *other != place && !self.has(*other));
        others.any(|(_, center)| center.is_online())
    }

    /// The first that is online, where there is one without those that are silent.
    pub(super) fn choose<'a>(&self, centers: &'a Centers) -> Option<(usize, &'a Client)> {
        let mut online = centers.iter().enumerate().filter(|(_, center)| center.is_online());
        online.clone().find(|(place, _)| !self.has(*place)).or_else(|| online.next())
    }
}
