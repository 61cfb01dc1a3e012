use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use callboard_client::{CallError, CallErrorKind, Line, WeakLine, ask_ahead, spawn};
use callboard_common::{ResultCode, ServiceOp, ServiceRequest};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::state::{Listing, State};
use crate::errors::discovery_of;

/// How what is known is made certain again: over a new connection, and after a change was missed or a question refused.
impl State {
    /// Asks again for all that is known, over a new connection; what has changed is told.
    pub(super) async fn renew(self: Arc<Self>, line: &Line) -> Result<(), CallError> {
        let run = line.session().map(|session| session.instance.clone());
        let (methods, renewal) = {
            let mut knowledge = self.lock();
            let knowledge = &mut *knowledge;
            knowledge.is_anew |= knowledge.center_run != run || run.is_none() || knowledge.cache.has_unconfirmed();
            knowledge.renewals += 1;
            knowledge.warm_at = None;
            knowledge.line = Some(line.downgrade());
            knowledge.doubtful.clear();
            (knowledge.cache.asked_for(), knowledge.renewals)
        };
        self.ask_all(line, methods).await?;
        // Only now: where it failed on the way, it is still anew for the next connection.
        let is_anew = {
            let mut knowledge = self.lock();
            knowledge.center_run = run;
            knowledge.is_anew
        };
        if is_anew {
            spawn(drop_unconfirmed(Arc::downgrade(&self), renewal, self.keep_unconfirmed));
        }
        Ok(())
    }

    /// A change was missed, or there was no answer: it is asked for in the background until there is one.
    pub(super) fn doubt(&self, method: &Arc<str>) {
        let mut knowledge = self.lock();
        knowledge.doubtful.insert(Arc::clone(method));
        if !std::mem::replace(&mut knowledge.settles, true) {
            spawn(settle(self.weak()));
        }
    }

    /// Asks for all of these, some of them ahead of the answers, and waits for all answers.
    async fn ask_all(
        self: &Arc<Self>,
        line: &Line,
        methods: impl IntoIterator<Item = Arc<str>>,
    ) -> Result<(), CallError> {
        ask_ahead(methods, AHEAD, |method| {
            let done = self.ask_again(line, method)?;
            Ok(Some(answered(done, line)))
        })
        .await
    }

    fn ask_again(self: &Arc<Self>, line: &Line, method: &Arc<str>) -> Result<oneshot::Receiver<()>, CallError> {
        let body = ServiceRequest::new(&**method, ServiceOp::Discover);
        let (done, heard) = oneshot::channel();
        let (state, name) = (Arc::clone(self), Arc::clone(method));
        line.exchange_in_order(&discovery_of(method), &body, move |answer| {
            match answer.and_then(|message| state.read(&name, &message)) {
                #[cfg(feature = "planted")]
                Ok(_) if callboard_common::Planted::RenewalIgnored.is_planted() => {}
                Ok(listing) => state.renewed(&name, listing),
                Err(error) => state.not_renewed(&name, &error),
            }
            // Perhaps the connection was given up meanwhile.
            let _ = done.send(());
        })?;
        Ok(heard)
    }

    fn renewed(&self, method: &Arc<str>, listing: Listing) {
        let mut knowledge = self.lock();
        knowledge.doubtful.remove(method);
        if knowledge.cache.hosts(method).is_none() {
            drop(knowledge);
            // The first look-up, over the connection before, has not been answered yet.
            return self.conclude(method, Ok(listing));
        }
        knowledge.warms_up_for(listing.warm_up);
        let keep = knowledge.is_anew;
        let changes = knowledge.cache.renew(method, &listing.hosts, listing.revision, keep);
        drop(knowledge);
        self.told(changes);
    }

    /// What is known stays in use, and is asked for again.
    fn not_renewed(&self, method: &Arc<str>, error: &CallError) {
        if matches!(error.kind(), CallErrorKind::Disconnected) {
            return; // the next connection asks for all
        }
        tracing::warn!(%error, "not discovered again yet; it is asked again");
        if self.lock().cache.suspect(method) {
            self.doubt(method);
        }
    }

    /// What to ask for now, and over which connection; `None` when nothing is in doubt any more, or nobody can be asked.
    fn next_doubts(&self) -> Option<(BTreeSet<Arc<str>>, Option<WeakLine>)> {
        let mut knowledge = self.lock();
        knowledge.settles = !knowledge.doubtful.is_empty() && !knowledge.is_closed();
        knowledge.settles.then(|| (knowledge.doubtful.clone(), knowledge.line.clone()))
    }
}

/// Asks for what is in doubt, at once and then after pauses, until nothing is.
async fn settle(state: Weak<State>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(state) = state.upgrade() else { return };
        let Some((doubtful, line)) = state.next_doubts() else { return };
        // Without a connection the next one asks for all.
        if let Some(line) = line.and_then(|line| line.upgrade())
            && let Err(error) = state.ask_all(&line, doubtful).await
        {
            tracing::debug!(%error, "not discovered again yet");
        }
        if state.next_doubts().is_none() {
            return;
        }
        drop(state);
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Waits for a look-up that was asked again.
async fn answered(done: oneshot::Receiver<()>, line: &Line) -> Result<(), CallError> {
    let gone = |_| line.refused("discovery", ResultCode::Disconnected, None);
    done.await.map_err(gone)?;
    if line.conn().is_closed() { Err(line.refused("discovery", ResultCode::Disconnected, None)) } else { Ok(()) }
}

/// By then the center has heard of all who are there, unless another one was asked meanwhile.
async fn drop_unconfirmed(state: Weak<State>, renewal: u64, after: Duration) {
    sleep(after).await;
    let Some(state) = state.upgrade() else { return };
    let changes = {
        let mut knowledge = state.lock();
        if knowledge.renewals != renewal {
            return;
        }
        knowledge.is_anew = false;
        knowledge.cache.drop_unconfirmed()
    };
    state.told(changes);
}

/// So many questions go ahead of their answers.
const AHEAD: usize = 64;
/// How long to wait before a center that has not answered, or has refused, is asked again.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(100);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(5);
