//! What a provider tells several centers.

use std::sync::Arc;

use callboard_client::{Centers, most_together};
use callboard_common::Host;
use tokio::time::timeout;

use crate::announcer::Announcer;
use crate::provider::hosts;
use crate::{Place, ProviderError};

/// Announces at all centers; done when each that is there has answered, or a while after one has taken it. Those that
/// are away, and those that refuse while another one does not, are told in the background.
///
/// # Errors
/// An address can't be announced, or none of the centers took it: the error is that of the first in the list.
pub(crate) async fn register_at_all(
    centers: &Centers,
    announcers: &[Arc<Announcer>],
    methods: Vec<String>,
    place: &Place,
) -> Result<(), ProviderError> {
    // If none is there in time, registering says so.
    let _ = timeout(centers.timeout(), centers.wait_online()).await;
    let (mut there, mut away): (Vec<_>, Vec<_>) =
        announcers.iter().cloned().partition(|announcer| announcer.center().is_online());
    if there.is_empty() {
        std::mem::swap(&mut there, &mut away);
    }
    let mut places: Vec<Arc<[Host]>> = Vec::new();
    for announcer in &there {
        places.push(Arc::from(hosts(place, announcer.center()).await?));
    }
    // All of it before any is told: what a lost connection keeps from being told is told over the next one.
    for (announcer, known) in there.iter().zip(&places) {
        announcer.enter(&methods, known);
    }
    // How a center that is away reaches this machine is not known; most likely as the others do.
    let known = places.last().cloned().unwrap_or_default();
    for announcer in &away {
        announcer.enter(&methods, &known);
        announcer.tell_in_background();
    }
    let telling = there.iter().zip(&places).map(|(announcer, known)| announcer.register(&methods, known));
    let outcomes = most_together(telling, Result::is_ok).await;
    let (taken, refused): (Vec<_>, Vec<_>) =
        there.iter().zip(outcomes).partition(|(_, told)| matches!(told, Some(Ok(()))));
    if taken.is_empty() {
        return refused.into_iter().find_map(|(_, told)| told).map_or(Ok(()), |told| Ok(told?));
    }
    for (announcer, told) in refused {
        if let Some(Err(error)) = told {
            tracing::warn!(%error, "a center does not take a provider that others have taken; it is asked again");
        }
        announcer.tell_in_background();
    }
    Ok(())
}
