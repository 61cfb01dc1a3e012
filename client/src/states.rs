use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_stream::{Stream, StreamExt};

/// What becomes of a [`Client`](crate::Client)'s connection.
///
/// ```text
/// Online ── Lost ── Connecting ── Resumed ── Lost ── Connecting ── ... ── Closed
/// ```
///
/// One that [connects in the background](crate::ClientBuilder::connect_in_background) begins with `Connecting`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientState {
    /// The first connection was made.
    Online,
    /// The connection has ended, and is about to be made again.
    Lost {
        /// Why.
        reason: String,
    },
    /// It is being made, for the first time or again; what was not sent yet waits.
    Connecting,
    /// It was made again, and what the client had asked for (subscriptions, discoveries, registrations) was asked for
    /// again.
    Resumed,
    /// It has ended for good: it was closed, or is not made again.
    Closed {
        /// Why.
        reason: String,
    },
}

/// A client's state as it is, then each change of it; see [`Client::states`](crate::Client::states). It ends after
/// [`ClientState::Closed`], and with the client.
///
/// One who does not look for long misses the oldest changes: 64 are kept.
#[derive(Debug)]
pub struct ClientStates {
    first: Option<ClientState>,
    changes: BroadcastStream<ClientState>,
}

impl ClientStates {
    /// The state as it was when this was asked for, then the next change; `None` at the end.
    ///
    /// # Cancel safety
    /// No change is lost.
    pub async fn next(&mut self) -> Option<ClientState> {
        StreamExt::next(self).await
    }
}

impl Stream for ClientStates {
    type Item = ClientState;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ClientState>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        loop {
            match Pin::new(&mut self.changes).poll_next(cx) {
                Poll::Ready(Some(Err(BroadcastStreamRecvError::Lagged(_)))) => {}
                Poll::Ready(next) => return Poll::Ready(next.and_then(Result::ok)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// Keeps a client's state and tells of its changes.
#[derive(Debug)]
pub(crate) struct Teller(Mutex<Told>);

#[derive(Debug)]
struct Told {
    state: ClientState,
    /// Gone after the last change.
    changes: Option<broadcast::Sender<ClientState>>,
}

impl Teller {
    pub(crate) fn new(state: ClientState) -> Self {
        Self(Mutex::new(Told { state, changes: Some(broadcast::Sender::new(KEPT)) }))
    }

    pub(crate) fn tell(&self, state: ClientState) {
        let mut told = self.told();
        if told.changes.is_none() {
            return; // nothing follows the end
        }
        if let Some(changes) = &told.changes {
            // Perhaps nobody listens.
            let _ = changes.send(state.clone());
        }
        if matches!(state, ClientState::Closed { .. }) {
            told.changes = None;
        }
        told.state = state;
    }

    pub(crate) fn state(&self) -> ClientState {
        self.told().state.clone()
    }

    pub(crate) fn states(&self) -> ClientStates {
        let told = self.told();
        let changes = told.changes.as_ref().map_or_else(|| broadcast::channel(1).1, broadcast::Sender::subscribe);
        ClientStates { first: Some(told.state.clone()), changes: BroadcastStream::new(changes) }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const KEPT: usize = 64;
