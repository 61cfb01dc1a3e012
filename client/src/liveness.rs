use std::time::Duration;

use callboard_common::{Connection, Encode, Feature, Head, Ping};
use tokio::sync::oneshot;

use crate::Client;
use crate::calls::{Outcome, Place, Waiter};
use crate::deadline::Deadline;
use crate::link::Link;

/// For the layers above: whether the peer of the moment is alive.
impl Client {
    /// Has `hook` called each time that calls over the connection of the moment were not answered in time, after they
    /// have heard of it. It runs on a thread that all clients share, so it must not block. Only the first hook of a
    /// connection counts, and the next connection has none.
    pub fn on_overdue(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.link().calls.on_overdue(hook);
    }

    /// How many answers have come over the connection of the moment, too late or not: each is a sign of life.
    pub fn answers(&self) -> u64 {
        self.link().calls.answers()
    }

    /// Asks the peer of the moment for a sign of life, and waits for it up to `limit`, half a second at the least. It
    /// needs no place among the calls that wait. A peer that can't be asked, for lack of a session, is only waited for.
    /// Whether an answer, or anything else, has come meanwhile.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the question asked; nobody hears the answer.
    pub async fn gives_sign(&self, limit: Duration) -> bool {
        gives_sign(&self.link(), limit).await
    }

    /// For one who waits for an answer for too long: where the peer of the moment gives no sign of life up to `limit`
    /// either, its connection is ended, so that the next one goes to another address. With a single address nothing is
    /// done.
    ///
    /// # Cancel safety
    /// As [`gives_sign`](Self::gives_sign).
    pub async fn turn_from_silence(&self, limit: Duration) {
        let link = self.link();
        if self.shared.may_turn_elsewhere() && !gives_sign(&link, limit).await {
            link.conn.end("it does not answer, and there is another address");
        }
    }
}

async fn gives_sign(link: &Link, limit: Duration) -> bool {
    let before = link.conn.reads();
    // One that holds this side back says so each quarter of a second.
    let until = Deadline::after(limit.max(LEAST_LIMIT)).at();
    let (told, answered) = oneshot::channel();
    let knows = link.conn.session().is_some_and(|session| session.features.has(Feature::Ping));
    let asked = knows.then(|| {
        let waiter = Waiter::InOrder(Box::new(move |outcome| {
            // Perhaps nobody waits any more.
            let _ = told.send(matches!(outcome, Outcome::Answered(_)));
        }));
        let id = link.calls.enter(&link.conn, waiter, Ping.kind(), until, Place::None).ok()?;
        link.conn.request(Head::new(Ping.kind(), &id.to_wire()), &Ping).ok()
    });
    match asked.flatten() {
        Some(_) if answered.await.unwrap_or(false) => return true,
        Some(_) => {}
        None => drop(tokio::time::timeout_at(until, link.conn.closed()).await),
    }
    link.conn.reads() != before
}

const LEAST_LIMIT: Duration = Duration::from_millis(500);
