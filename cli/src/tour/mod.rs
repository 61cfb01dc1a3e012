//! The tour: a stage of real processes, the steps that are played on it, and what is printed of them.

mod caller;
mod play;
mod process;
mod report;

use callboard::Signals;
use clap::Args;

pub(crate) use self::caller::TourCaller;

/// See it all at once: a center, two providers, a caller and two subscribers, each a process of its own
///
/// One provider is killed, and comes back. The tour succeeds only if every step was seen to work.
#[derive(Debug, Args)]
pub(crate) struct Tour {}

impl Tour {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut signals = Signals::new()?;
        tokio::select! {
            played = play::play() => played,
            signal = signals.next() => anyhow::bail!("the tour was ended by {signal}"),
        }
    }
}
