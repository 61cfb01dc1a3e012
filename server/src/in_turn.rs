//! How calls are run in place that come from many over one connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use callboard_common::{Connection, Decode, Event, Json, RpcRequest, SendError};
use callboard_net::spawn;
use tokio::task::yield_now;
use tokio::time::Instant;

use crate::Router;
use crate::admission::Full;
use crate::answer::{Caller, Failure, Waits};
use crate::backlog::{Backlog, Held, Pushed, SLICE};
use crate::caller_id::CallerId;
use crate::gatekeeper::Waited;
use crate::handler::{Invoke, contain};
use crate::router::Route;
use crate::routing::{InFlightFull, refuse_overload, run_to_bytes, with_call};

impl Router {
    /// Runs a call that has just come at once, or when it is its turn.
    pub(crate) fn run_in_turn<C: Connection>(
        &self,
        conn: &C,
        caller: CallerId,
        held: impl FnOnce() -> Held,
        run: impl FnOnce(),
    ) {
        let backlog = self.0.backlogs.of(conn.id(), self.0.queue_bytes());
        let now = Instant::now();
        if backlog.may_run_at_once(now) {
            run();
            return backlog.has_run(now, Instant::now());
        }
        let held = held();
        // It is in flight as long as it waits: who leaves answers it first.
        if held.message.is_one_way() {
            conn.enter_aside();
        } else if !conn.enter_request() {
            return refuse_overload(conn, &held.message, InFlightFull::Waiting);
        }
        let Pushed { gone, bound, is_first } = backlog.push(caller, held);
        for held in gone {
            if let Some(route) = self.route_of(&held) {
                caller_of(conn, &held, route).fail(Failure::Full(Full::Bytes { bound }));
            }
            has_ended(conn, &held);
        }
        if is_first {
            let (router, conn) = (self.clone(), conn.clone());
            drop(spawn(async move { router.work_off(&conn, &backlog).await }));
        }
    }

    async fn work_off<C: Connection>(&self, conn: &C, backlog: &Backlog) {
        let mut slice = SLICE;
        loop {
            let began = Instant::now();
            loop {
                let Some(held) = backlog.next() else { return };
                let begins = Instant::now();
                if let Some(route) = self.route_of(&held) {
                    self.run_held(conn, &held, route).await;
                }
                has_ended(conn, &held);
                let ended = Instant::now();
                // Where one alone takes as long, no answer is to wait for the next one: it may be such a one.
                if ended - begins >= SLICE {
                    slice = Duration::ZERO;
                }
                if ended - began >= slice {
                    break;
                }
            }
            // What was answered is written, the connection is read, and others have their turn.
            yield_now().await;
        }
    }

    async fn run_held<C: Connection>(&self, conn: &C, held: &Held, route: &Route) {
        let caller = caller_of(conn, held, route);
        let Some(Waits { frame, executed }) = caller.queue(self.outcome_of(conn, held, route)) else { return };
        // As many answers wait as may. Had the peer gone meanwhile, there would be nobody to tell.
        if let Err(SendError::Full) = conn.send(frame).await {
            caller.drop_answer(executed);
        }
    }

    fn outcome_of<C: Connection>(&self, conn: &C, held: &Held, route: &Route) -> Result<BytesMut, Failure> {
        let Held { message, since, deadline, .. } = held;
        let is_over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        #[cfg(feature = "planted")]
        let is_over = is_over && !callboard_common::Planted::HeldTooLong.is_planted();
        if is_over {
            return Err(Failure::Waited(Waited::Expired));
        }
        let age = self.0.queue_age();
        if !message.is_one_way() && since.elapsed() >= age {
            return Err(Failure::Waited(Waited::TooLong(age)));
        }
        // It was read before, so it can be read again.
        let request =
            RpcRequest::decode::<Json>(message.body()).map_err(|why| Failure::Panicked(why.message.into()))?;
        with_call(conn, &self.0.asked, message, &request, route, &|| *deadline, |call| match &route.invoke {
            Invoke::Inline(run) => contain(|| run_to_bytes(call, &**run)),
            Invoke::Task(_) | Invoke::Blocking(_) => Err(Failure::Panicked("it does not run in place".to_owned())),
        })
    }

    fn route_of(&self, held: &Held) -> Option<&Route> {
        self.0.methods.get_index(held.method).map(|(_, route)| route)
    }
}

/// Those that wait are given up.
pub(crate) fn end_held<C: Connection>(conn: &C, backlog: &Arc<Backlog>) {
    backlog.give_up_all().iter().for_each(|held| given_up(conn, held));
}

/// Nobody waits for it any longer.
pub(crate) fn given_up<C: Connection>(conn: &C, held: &Held) {
    conn.count(Event::Cancelled);
    has_ended(conn, held);
}

fn has_ended<C: Connection>(conn: &C, held: &Held) {
    if held.message.is_one_way() {
        conn.end_aside();
    } else {
        conn.end_request();
    }
}

fn caller_of<'a, C: Connection>(conn: &'a C, held: &'a Held, route: &'a Route) -> Caller<'a, C> {
    Caller::new(conn, held.message.id(), &route.method, held.message.is_one_way())
}
