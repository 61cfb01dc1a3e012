//! A call's way to its method and back.

use std::borrow::Cow;
use std::cell::RefCell;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use callboard_common::{
    BodyError, Codec, Connection, Decode, ErrorInfo, Event, Feature, Handler, Json, Message, MessageType, Raw,
    ResultCode, RpcRequest, Session, refuse, refuse_body,
};
use callboard_net::deadline_after;
use tokio::time::Instant;

use crate::Router;
use crate::admission::Arrival;
use crate::answer::{BadKey, Caller, Failure};
use crate::asked::Asked;
use crate::backlog::Held;
use crate::caller_id::CallerId;
use crate::context::Context;
use crate::gatekeeper::{Admitted, Gatekeeper};
use crate::handler::{Call, Inline, Invoke, contain};
use crate::in_turn::{end_held, given_up};
use crate::later::{Later, Path, Turn, Work};
use crate::parameters::shorten;
use crate::router::Route;
use crate::running::{GivenUp, Running};
use crate::shelf::Placed;

impl<C: Connection> Handler<C> for Router {
    fn handle(&self, conn: &C, message: Message) {
        #[cfg(feature = "planted")]
        if message.kind() == MessageType::Cancel && callboard_common::Planted::CancelIgnored.is_planted() {
            return;
        }
        if message.kind() == MessageType::Cancel {
            self.end_calls(conn, |running| running.cancel(conn.id(), message.id()));
            if let Some(backlog) = self.0.backlogs.known(conn.id()) {
                backlog.give_up(message.id()).iter().for_each(|held| given_up(conn, held));
            }
            return;
        }
        if message.kind() == MessageType::RpcResponse {
            return self.0.asked.answered(conn, message);
        }
        match RpcRequest::decode::<Json>(message.body()) {
            Ok(request) => self.route(conn, &message, &request),
            Err(why) => refuse_body(conn, &message, &why),
        }
    }

    fn ended(&self, conn: &C) {
        // One that knows how to give calls up has given up these; another may still wait for their answers.
        if conn.session().is_some_and(|session| session.features.has(Feature::Cancel)) {
            self.end_calls(conn, |running| running.cancel_all(conn.id()));
            self.0.backlogs.known(conn.id()).iter().for_each(|backlog| end_held(conn, backlog));
        }
    }

    fn closed(&self, conn: &C) {
        self.end_calls(conn, |running| running.cancel_all(conn.id()));
        self.0.backlogs.forget(conn.id()).iter().for_each(|backlog| end_held(conn, backlog));
        self.0.asked.closed(conn.id());
    }

    fn store(&self) -> Option<&str> {
        self.0.shelf().store_id()
    }
}

impl Router {
    fn route<C: Connection>(&self, conn: &C, message: &Message, request: &RpcRequest<'_>) {
        let Some((at, _, route)) = self.0.methods.get_full(&*request.method) else {
            return refuse_unknown(conn, message, &request.method);
        };
        if let Some(key) = request.meta.and_then(|meta| meta.idempotency_key)
            && conn.session().is_some_and(|session| session.features.has(Feature::Keys))
        {
            return self.route_keyed(conn, message, request, (at, route), key);
        }
        if left(conn, request) == Some(Duration::ZERO) {
            return Caller::new(conn, message.id(), &route.method, message.is_one_way()).fail(Failure::Late);
        }
        let (deadline, asked) = (|| deadline(conn, request), &self.0.asked);
        let caller = CallerId::of_call(conn, message.id());
        if let Invoke::Inline(run) = &route.invoke {
            let run = |call: &Call<'_>| run_inline(conn, message, call, &**run);
            let run = || with_call(conn, asked, message, request, route, &deadline, run);
            if caller.is_behind_center() {
                let held =
                    || Held { message: message.detach(), method: at, since: Instant::now(), deadline: deadline() };
                return self.run_in_turn(conn, caller, held, run);
            }
            return run();
        }
        let keeper = self.0.keeper();
        if let Err(full) = enter(conn, message, keeper, caller) {
            return refuse_overload(conn, message, full);
        }
        let mut later = Later::new(conn, message, keeper, at);
        match keeper.enter(Arrival { method: at, caller, bytes: message.frame().len() }) {
            Admitted::Now(pass) => {
                later.let_in(Some(pass));
                // It begins in place, so that what is wrong with the parameters is told at once.
                match begin(conn, asked, message, request, route, &deadline) {
                    Ok(work) => later.run(work, &deadline),
                    Err(failure) => later.fail(failure),
                }
            }
            Admitted::Later(queued) => {
                let deadline = deadline();
                let (router, conn, message) = (self.clone(), conn.clone(), message.detach());
                later.run_in_turn(queued, deadline, move || begin_again(&router, &conn, &message, deadline));
            }
            Admitted::Never(full) => later.fail(Failure::Full(full)),
        }
    }

    /// A call under a key is a task however its method runs: it may have to wait for another one.
    fn route_keyed<C: Connection>(
        &self,
        conn: &C,
        message: &Message,
        request: &RpcRequest<'_>,
        (at, route): (usize, &Route),
        key: Raw<'_>,
    ) {
        let key = match read_key(key) {
            Ok(key) => key,
            Err(why) => return refuse_body(conn, message, &why),
        };
        let (keeper, caller) = (self.0.keeper(), CallerId::of_call(conn, message.id()));
        if let Err(full) = enter(conn, message, keeper, caller) {
            return refuse_overload(conn, message, full);
        }
        let later = Later::new(conn, message, keeper, at);
        let answers = self.0.shelf();
        let turn = match answers.enter(caller, &request.method, &key, request.parameters.bytes()) {
            Placed::First(first) => Turn::First(first),
            Placed::Waits(waiting) => match keeper.enter_repeat(caller, message.frame().len()) {
                Ok(repeat) => Turn::After(waiting, repeat),
                Err(full) => return later.fail(Failure::Full(full)),
            },
            Placed::Ended(kept) => return later.repeat(kept, answers.bytes()),
            Placed::Conflict => return later.fail(Failure::Key(BadKey::Conflict)),
        };
        let call = Arrival { method: at, caller, bytes: message.frame().len() };
        let (deadline, waits) = (deadline(conn, request), route.waits());
        let (router, conn, message) = (self.clone(), conn.clone(), message.detach());
        let keeper = Arc::clone(keeper);
        let path = Path {
            enter: move || waits.then(|| keeper.enter(call)),
            begin: move || begin_again(&router, &conn, &message, deadline),
        };
        later.run_once(turn, deadline, path);
    }

    /// Ends calls whose caller has gone.
    fn end_calls<C: Connection>(&self, conn: &C, end: impl FnOnce(&Running) -> GivenUp) {
        let Some(keeper) = self.0.known_keeper() else { return };
        let GivenUp { dropped, go_on } = end(&keeper.running);
        for _ in 0..dropped {
            conn.end_request();
            conn.count(Event::Cancelled);
        }
        // A center has given their places to others.
        for id in go_on {
            conn.set_aside();
            let caller = CallerId::of_call(conn, &id);
            if caller.is_behind_center() {
                keeper.asides.add(caller);
            }
        }
    }
}

/// Finds a place for it among the requests in flight.
fn enter<C: Connection>(
    conn: &C,
    message: &Message,
    keeper: &Gatekeeper,
    caller: CallerId,
) -> Result<(), InFlightFull> {
    let (behind, asides, bound) = (caller.is_behind_center(), &keeper.asides, conn.max_in_flight());
    // Nobody waits for a one-way call.
    if !message.is_one_way() {
        if behind && !asides.has_room(caller, bound) {
            return Err(InFlightFull::Aside);
        }
        return if conn.enter_request() { Ok(()) } else { Err(InFlightFull::Waiting) };
    }
    if behind && !asides.enter(caller, bound) {
        return Err(InFlightFull::Aside);
    }
    if !conn.enter_aside() {
        if behind {
            asides.leave(caller);
        }
        return Err(InFlightFull::Waiting);
    }
    Ok(())
}

/// Of which requests there are as many in flight as may.
#[derive(Clone, Copy, Debug)]
pub(crate) enum InFlightFull {
    /// Those over this connection.
    Waiting,
    /// Those of this caller behind a center that nobody waits for.
    Aside,
}

fn read_key(key: Raw<'_>) -> Result<Cow<'_, str>, BodyError> {
    let text = Json::text(key).filter(|text| (1..=MAX_KEY_BYTES).contains(&text.len()));
    text.ok_or_else(|| {
        BodyError::invalid(format!("\"idempotency_key\" must be a string of 1 to {MAX_KEY_BYTES} bytes"))
    })
}

/// Reads the parameters, and makes what runs the call.
fn begin<C: Connection>(
    conn: &C,
    asked: &Arc<Asked>,
    message: &Message,
    request: &RpcRequest<'_>,
    route: &Route,
    deadline: &dyn Fn() -> Option<Instant>,
) -> Result<Work, Failure> {
    with_call(conn, asked, message, request, route, deadline, |call| match &route.invoke {
        Invoke::Task(start) => contain(|| start(call)).map(Work::Task),
        Invoke::Blocking(start) => contain(|| start(call)).map(Work::Job),
        Invoke::Inline(run) => contain(|| run_aside(call, &**run)),
    })
}

/// The same for a call that has waited. It was read before, so it can be read again.
fn begin_again<C: Connection>(
    router: &Router,
    conn: &C,
    message: &Message,
    deadline: Option<Instant>,
) -> Result<Work, Failure> {
    let request = RpcRequest::decode::<Json>(message.body()).map_err(|why| Failure::Panicked(why.message.into()))?;
    let route = router.0.methods.get(&*request.method);
    let route = route.ok_or_else(|| Failure::Panicked("the method has gone".to_owned()))?;
    begin(conn, &router.0.asked, message, &request, route, &|| deadline)
}

pub(crate) fn with_call<C: Connection, T>(
    conn: &C,
    asked: &Arc<Asked>,
    message: &Message,
    request: &RpcRequest<'_>,
    route: &Route,
    deadline: &dyn Fn() -> Option<Instant>,
    with: impl FnOnce(&Call<'_>) -> T,
) -> T {
    let context = || Context::new(conn, asked, message.id(), &route.method, deadline());
    let v1 = conn.session().is_none();
    with(&Call { method: &route.method, parameters: request.parameters, v1, context: &context })
}

/// For how long the caller waits, as far as it said so. A v1 peer never agreed to what `meta` means.
fn left<C: Connection>(conn: &C, request: &RpcRequest<'_>) -> Option<Duration> {
    let left = request.meta?.timeout_ms?;
    conn.session().map(|_| Duration::from_millis(left))
}

/// When it waits no longer.
fn deadline<C: Connection>(conn: &C, request: &RpcRequest<'_>) -> Option<Instant> {
    left(conn, request).map(deadline_after)
}

fn run_inline<C: Connection>(conn: &C, message: &Message, call: &Call<'_>, run: &Inline) {
    let caller = Caller::new(conn, message.id(), call.method, message.is_one_way());
    // Writing the result is contained as well: it runs code of the result's type.
    if let Err(failure) = contain(|| run(call, &|result| caller.answer(result))) {
        caller.fail(failure);
    }
}

/// Runs one that would run in place where its answer is wanted as bytes.
fn run_aside(call: &Call<'_>, run: &Inline) -> Result<Work, Failure> {
    run_to_bytes(call, run).map(|body| Work::Task(Box::pin(ready(Ok(body)))))
}

pub(crate) fn run_to_bytes(call: &Call<'_>, run: &Inline) -> Result<BytesMut, Failure> {
    let body = RefCell::new(BytesMut::new());
    run(call, &|result| result(&mut body.borrow_mut()).map_err(Failure::unsendable))?;
    Ok(body.into_inner())
}

fn refuse_unknown<C: Connection>(conn: &C, message: &Message, name: &str) {
    let error = ErrorInfo::not_executed(format!("no method {:?} here", shorten(name)));
    refuse(conn, message, ResultCode::NotFoundService, None, &error);
}

pub(crate) fn refuse_overload<C: Connection>(conn: &C, message: &Message, full: InFlightFull) {
    let (text, bound) = match full {
        InFlightFull::Waiting => {
            let permits = |session: &Session| usize::try_from(session.limits.in_flight).unwrap_or(usize::MAX);
            let text = "too many calls in flight on this connection: wait for answers before calling again";
            (text, conn.session().map_or(0, permits))
        }
        InFlightFull::Aside => {
            let text = "too many of your calls go on here that nobody waits for (one way, or given up under a key or where \
                        they must finish): call again when some have ended";
            (text, conn.max_in_flight())
        }
    };
    let error = ErrorInfo::not_executed(text).with_limit("in_flight", bound);
    refuse(conn, message, ResultCode::Overloaded, None, &error);
}

/// The longest idempotency key.
const MAX_KEY_BYTES: usize = 255;
