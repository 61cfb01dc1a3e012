use std::panic::{AssertUnwindSafe, catch_unwind};

use callboard_client::{CallError, Centers, spawn};
use tokio::sync::oneshot;

use crate::{News, Subscription, SubscriptionError};

/// Subscribes to a topic, and runs `each` for every message, one after the other, on a task of the current runtime.
///
/// The last item may be the error that ended the subscription. While `each` runs, messages wait as they do for any
/// [`Subscription`]; it must not block for long, since other tasks share its thread. A panic in it is caught and
/// logged, and the subscription goes on with the next message.
///
/// ```no_run
/// # async fn run(client: callboard_client::Client) -> Result<(), callboard_client::CallError> {
/// let guard = callboard_pubsub::subscribe_with(&client, "news", |message| match message {
///     Ok(news) => println!("{}", news.text()),
///     Err(error) => eprintln!("{error}"),
/// })
/// .await?;
/// # drop(guard);
/// # Ok(()) }
/// ```
///
/// # Errors
/// Those of [`Subscription::open`].
///
/// # Panics
/// Outside of a tokio runtime.
///
/// # Cancel safety
/// That of [`Subscription::open`].
pub async fn subscribe_with(
    centers: impl Into<Centers>,
    topic: &str,
    each: impl FnMut(Result<News, SubscriptionError>) + Send + 'static,
) -> Result<SubscriptionGuard, CallError> {
    let news = Subscription::open(centers, topic).await?;
    let (guard, dropped) = oneshot::channel();
    spawn(listen(news, dropped, each));
    Ok(SubscriptionGuard { _dropped: guard })
}

/// Keeps a callback subscribed; see [`subscribe_with`]. Once it is dropped the callback gets at most the message that
/// is at hand.
#[derive(Debug)]
#[must_use = "dropping it ends the subscription"]
pub struct SubscriptionGuard {
    _dropped: oneshot::Sender<()>,
}

async fn listen(
    mut news: Subscription,
    mut dropped: oneshot::Receiver<()>,
    mut each: impl FnMut(Result<News, SubscriptionError>),
) {
    loop {
        let next = tokio::select! {
            biased; // else messages that wait already would come after the guard's end
            _ = &mut dropped => return,
            next = news.next() => next,
        };
        let Some(next) = next else { return };
        if catch_unwind(AssertUnwindSafe(|| each(next))).is_err() {
            tracing::error!(topic = news.topic(), "a subscription's callback panicked; the subscription goes on");
        }
    }
}
