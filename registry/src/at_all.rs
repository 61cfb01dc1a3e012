//! What a provider tells several centers.

use std::future::Future;
use std::sync::Arc;

use callboard_client::{Centers, Together};
use callboard_common::Host;
use tokio::time::timeout;

use crate::announcer::Announcer;
use crate::provider::hosts;
use crate::{Place, ProviderError};

/// Announces at all centers; done when each that is there has answered. Those that are away, and those that refuse while
/// another one does not, are told in the background.
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
    let (methods, mut places): (Arc<[String]>, _) = (methods.into(), places.into_iter());
    let outcomes = told_all(&there, |announcer| {
        let (methods, hosts) = (Arc::clone(&methods), places.next().unwrap_or_default());
        async move { announcer.register(&methods, &hosts).await }
    });
    let (refused, taken): (Vec<_>, Vec<_>) = there.iter().zip(outcomes.await).partition(|(_, told)| told.is_err());
    if taken.is_empty() {
        return refused.into_iter().next().map_or(Ok(()), |(_, told)| Ok(told?));
    }
    for (announcer, told) in refused {
        if let Err(error) = told {
            tracing::warn!(%error, "a center does not take a provider that others have taken; it is asked again");
        }
        announcer.tell_in_background();
    }
    Ok(())
}

/// Does something with each center, all at the same time, and gives the outcomes in their order. Dropped, it does no more.
pub(crate) async fn told_all<T, F: Future<Output = T> + Send>(
    announcers: &[Arc<Announcer>],
    mut tell: impl FnMut(Arc<Announcer>) -> F,
) -> Vec<T> {
    let telling = announcers.iter().enumerate().map(|(place, announcer)| {
        let told = tell(Arc::clone(announcer));
        Box::pin(async move { (place, told.await) })
    });
    let mut telling: Together<_> = telling.collect();
    let mut outcomes = Vec::with_capacity(announcers.len());
    while let Some(told) = telling.next().await {
        outcomes.push(told);
    }
    outcomes.sort_unstable_by_key(|(place, _)| *place);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}
