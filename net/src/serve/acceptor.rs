use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use callboard_common::{Handler, Protocol};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use crate::churn::Churn;
use crate::conn::wait;
use crate::driver::{Driver, Registration};
use crate::lane::{self, Account, Turn};
use crate::metrics::add;
use crate::shared_state::SharedState;
use crate::task_group::spawn_on;
use crate::{Conn, Ends, Transport};

/// Accepts on one listener and deals the connections out.
pub(super) struct Acceptor<T, P: Protocol, H> {
    transport: T,
    handles: Vec<Handle>,
    next: Arc<AtomicUsize>,
    /// Of all listeners.
    churn: Arc<Mutex<Churn>>,
    shared: Arc<SharedState<P>>,
    handler: Arc<H>,
}

/// How long accepting rests after it failed, for example for lack of file descriptors: at first, and at most.
const REST: Duration = Duration::from_millis(5);
const LONGEST_REST: Duration = Duration::from_millis(500);

impl<T: Transport, P: Protocol, H: Handler<Conn<P>>> Acceptor<T, P, H> {
    pub(super) fn new(transport: T, loops: Vec<Handle>, shared: Arc<SharedState<P>>, handler: Arc<H>) -> Self {
        let churn = Churn::new(shared.limits.churn_per_second, Instant::now());
        Self { transport, handles: loops, next: Arc::default(), churn: Arc::new(Mutex::new(churn)), shared, handler }
    }

    /// A listener whose connections come by this loop.
    pub(super) fn listen(&self, bound: T::Bound, handle: &Handle) -> io::Result<T::Listener> {
        let _entered = handle.enter();
        self.transport.listen(bound)
    }

    /// The next loop in turn.
    pub(super) fn deal(&self) -> Handle {
        let number = self.next.fetch_add(1, Relaxed) % self.handles.len().max(1);
        // There is at least one loop; the current runtime stands in for none.
        self.handles.get(number).cloned().unwrap_or_else(Handle::current)
    }

    pub(super) async fn run(self, listener: T::Listener) {
        let (mut rest, mut account) = (REST, Account::default());
        let mut next = self.next(&listener).await;
        while let Some(accepted) = next {
            let more = match accepted {
                Ok((accepted, ends)) => {
                    rest = REST;
                    let mut turn = lane::turn(&mut account).await.admitting();
                    self.admit(accepted, ends);
                    let (others, failure) = self.admit_more(&listener, &mut turn).await;
                    lane::leave(&mut account, turn, None);
                    self.pause(1 + others).await;
                    failure
                }
                Err(_) if self.shared.stopping.get().is_some() => return,
                Err(e) => {
                    add(&self.shared.metrics.accept_failures);
                    tracing::warn!("can't accept a connection (trying again in {rest:?}): {e}");
                    tokio::time::sleep(rest).await;
                    rest = (rest * 2).min(LONGEST_REST);
                    None
                }
            };
            next = match more {
                Some(failure) => Some(Err(failure)),
                None => self.next(&listener).await,
            };
        }
    }

    /// Those who are there already, until the turn is over: the system takes longer to hand one out than we to let it in,
    /// and a thousand may come at once. How many they were, and why that failed, if it did.
    async fn admit_more(&self, listener: &T::Listener, turn: &mut Turn) -> (usize, Option<io::Error>) {
        let most = self.churn().at_once() - 1;
        for admitted in 0..most {
            if turn.is_over() {
                return (admitted, None);
            }
            match poll_once(self.transport.accept(listener)).await {
                Some(Ok((accepted, ends))) => self.admit(accepted, ends),
                Some(Err(failure)) => return (admitted, Some(failure)),
                None => return (admitted, None),
            }
        }
        (most, None)
    }

    /// Lets nobody in for a moment, where too many have come and gone, after so many were let in. Once the server stops it
    /// takes all that are there.
    async fn pause(&self, let_in: usize) {
        let metrics = &self.shared.metrics;
        let ended = metrics.closed.load(Relaxed) + metrics.turned_away.load(Relaxed);
        let until = self.churn().pauses_until(let_in, ended, Instant::now());
        let stops = || self.shared.stopping.get().is_some();
        if let Some(until) = until
            && !stops()
        {
            add(&metrics.accept_pauses);
            // Time up is an ordinary end of the wait.
            let _ = timeout_at(until, wait(&self.shared.stop, stops)).await;
        }
    }

    fn churn(&self) -> MutexGuard<'_, Churn> {
        self.churn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next stream; `None` once the server stops and all are taken that had come by then: one that is left to the
    /// system is reset, and nobody knows what became of its requests.
    async fn next(&self, listener: &T::Listener) -> Option<io::Result<(T::Accepted, Ends)>> {
        tokio::select! {
            biased;
            accepted = self.transport.accept(listener) => Some(accepted),
            () = wait(&self.shared.stop, || self.shared.stopping.get().is_some()) => {
                // The loop looks at its sockets between two turns of its tasks.
                tokio::task::yield_now().await;
                poll_once(self.transport.accept(listener)).await
            }
        }
    }

    fn admit(&self, accepted: T::Accepted, ends: Ends) {
        let shared = &self.shared;
        if shared.connections.len() >= shared.limits.max_connections {
            add(&shared.metrics.turned_away);
            tracing::warn!(peer = %ends.peer, "turned away: there are max_connections ({}) already", shared.limits.max_connections);
            return;
        }
        add(&shared.metrics.accepted);
        // Entered before it is dealt out, so that the bound counts those on their way.
        let registration = Registration::new(Conn::new(Arc::clone(shared), ends), Arc::clone(&self.handler));
        if let Some(until) = shared.stopping.get() {
            // It came while the others were told.
            registration.conn.drain(until.saturating_duration_since(Instant::now()));
        }
        let handle = self.deal();
        // Here and not in the task, which is as large as all that it ever holds, for as long as the connection lives.
        let stream = {
            let _entered = handle.enter();
            self.transport.adopt(accepted)
        };
        match stream {
            Ok(stream) => drop(spawn_on(&handle, Driver::new(stream, registration))),
            Err(e) => registration.conn.end(format!("it could not be taken in: {e}")),
        }
    }
}

/// What there is without a wait.
async fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

impl<T: Clone, P: Protocol, H> Clone for Acceptor<T, P, H> {
    fn clone(&self) -> Self {
        Self {
            transport: self.transport.clone(),
            handles: self.handles.clone(),
            next: Arc::clone(&self.next),
            churn: Arc::clone(&self.churn),
            shared: Arc::clone(&self.shared),
            handler: Arc::clone(&self.handler),
        }
    }
}
