mod book;
mod lines;
mod refusals;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use callboard_client::deadline_after;
use callboard_common::{
    Cancel, Codec, Connection, Decode, EncodeError, ErrorInfo, Event, Executed, FLAG_ONE_WAY, FLAG_RELAY, Feature,
    HEADER_BYTES, Handler, Head, InFlight, Json, Limits, Message, MessageType, RequestId, ResultCode, RpcError,
    RpcRequest, SendError, Verbatim, refuse, refuse_body,
};
use tokio::sync::Notify;
use tokio::time::Instant;

use self::book::{Book, Call, CallerId, Entered, Full, Number, Permits};
pub(crate) use self::lines::Lines;
use self::refusals::{NotPassed, full, gone, in_flight, knows_no_keys, out_of_time, too_large, unnamed, unsent};
use crate::RegistryService;
use crate::reach::until;
use crate::table::Offer;

/// Passes calls on to providers that listen nowhere: each over the connection over which that provider registered, its
/// answer back over the caller's.
///
/// Bodies pass untouched. What waits is bounded: of a caller by its requests in flight, of a provider by what it permits,
/// and in all. A provider that reads slowly fills its own outbox, and no more calls are passed on to it until it reads.
///
/// ```
/// use std::sync::Arc;
/// use callboard_common::{Dispatcher, Recorder};
/// use callboard_registry::{RegistryService, Relay};
/// use callboard_server::Router;
///
/// let registry = Arc::new(RegistryService::<Recorder>::default());
/// let (router, relay) = (Router::new(), Arc::new(Relay::new(Arc::clone(&registry), 65_536)));
/// let center = Dispatcher::new()
///     .on_response(RelayAnswers::new(&relay, router.answers()))
///     .on_rpc(RelayCalls::new(&relay, router))
///     .on_service(registry);
/// # use callboard_registry::{RelayAnswers, RelayCalls};
/// ```
#[derive(Debug)]
pub struct Relay<C: Connection> {
    registry: Arc<RegistryService<C>>,
    book: Mutex<Book<C, InFlight<C>>>,
    /// There is an earlier deadline than the one that is waited for.
    woken: Notify,
}

/// Takes the calls of a center: those that are to be passed on, and hands all others to what serves here.
#[derive(Debug)]
pub struct RelayCalls<C: Connection, H> {
    relay: Arc<Relay<C>>,
    here: H,
}

/// Takes the answers that come to a center: those to calls that were passed on, and hands all others on.
#[derive(Debug)]
pub struct RelayAnswers<C: Connection, H> {
    relay: Arc<Relay<C>>,
    here: H,
}

impl<C: Connection> Relay<C> {
    /// Passes on calls to what is registered in `registry`; up to `bound` of them wait for their answers at once.
    pub fn new(registry: Arc<RegistryService<C>>, bound: usize) -> Self {
        Self { registry, book: Mutex::new(Book::new(bound)), woken: Notify::new() }
    }

    /// How many calls wait for the answers of providers.
    pub fn waiting(&self) -> usize {
        self.book().len()
    }

    /// Answers the calls whose callers wait no longer. It runs as long as the center does, as one task of it.
    ///
    /// # Cancel safety
    /// From then on calls wait for their answers for as long as those take.
    ///
    /// # Panics
    /// Outside of a tokio runtime with a timer.
    pub async fn keep(&self) {
        loop {
            let deadline = self.on_time(Instant::now());
            tokio::select! {
                biased;
                () = self.woken.notified() => {}
                () = until(deadline) => {}
            }
        }
    }

    fn on_time(&self, now: Instant) -> Option<Instant> {
        let (expired, next) = {
            let mut book = self.book();
            (book.expired(now), book.look_next())
        };
        for (number, call) in expired {
            cancel(&call.provider, number);
            let text = "its provider has not answered in time; it may have run";
            tell(&call, ResultCode::Timeout, text, Executed::Unknown);
        }
        next
    }

    fn pass_on(&self, conn: &C, message: &Message) {
        let request = match RpcRequest::decode::<Json>(message.body()) {
            Ok(request) => request,
            Err(why) => return refuse_body(conn, message, &why),
        };
        if let Err((code, error)) = self.try_pass_on(conn, message, &request) {
            refuse(conn, message, code, None, &error);
        }
    }

    fn try_pass_on(&self, conn: &C, message: &Message, request: &RpcRequest<'_>) -> Result<(), NotPassed> {
        let instance = request.meta.as_ref().and_then(|meta| meta.instance);
        let instance = instance.and_then(Json::text).ok_or_else(unnamed)?;
        let pass_on = |provider: &C, Offer { method, methods }: Offer| {
            check(provider, message, request)?;
            if message.is_one_way() {
                return pass_on_one_way(provider, message);
            }
            let left = request.meta.as_ref().and_then(|meta| meta.timeout_ms);
            let deadline = left.map(|left| deadline_after(Duration::from_millis(left)));
            let held = conn.begin_request().ok_or_else(|| in_flight(conn))?;
            let (caller, id, provider) = (conn.clone(), CallerId::from_slice(message.id()), provider.clone());
            self.send(Call { caller, id, provider, method, deadline, at: 0, held }, methods, message)
        };
        self.registry.with_line(&request.method, &instance, pass_on).ok_or_else(|| gone(&request.method, &instance))?
    }

    fn send(&self, call: Call<C, InFlight<C>>, methods: usize, message: &Message) -> Result<(), NotPassed> {
        let provider = call.provider.clone();
        let calls = usize::try_from(serving(&provider).in_flight).unwrap_or(usize::MAX);
        let number = self.enter(call, Permits { calls, methods }).map_err(full)?;
        match provider.request(Head::new(MessageType::RpcRequest, &number.to_wire()), &request_of(message)) {
            Ok(at) => {
                self.book().sent(number, at);
                Ok(())
            }
            // Where it was taken out meanwhile, its caller has been told.
            Err(why) => self.take(number).map_or(Ok(()), |_call| Err(unsent(&why))),
        }
    }

    fn enter(&self, call: Call<C, InFlight<C>>, permits: Permits) -> Result<Number, Full> {
        let deadline = call.deadline;
        let mut book = self.book();
        let Entered { number, gave_way } = book.enter(call, permits)?;
        let wakes = deadline.is_some_and(|deadline| book.is_too_late_for(deadline));
        drop(book);
        if wakes {
            self.woken.notify_one();
        }
        if let Some((number, call)) = gave_way {
            call.caller.count(Event::Overloaded);
            cancel(&call.provider, number);
            tell(&call, ResultCode::Overloaded, GAVE_WAY, Executed::Unknown);
        }
        Ok(number)
    }

    fn take(&self, number: Number) -> Option<Call<C, InFlight<C>>> {
        self.book().take(number)
    }

    /// An answer has come. `false` if nobody waits for it.
    fn answered(&self, provider: &C, number: Number, message: &Message) -> bool {
        // One statement: the lock is not held while the answer is written.
        let call = self.book().answered(provider, number);
        let Some(call) = call else { return false };
        let answer = Verbatim { kind: MessageType::RpcResponse, body: message.body() };
        match call.caller.try_answer(&call.id, &answer) {
            Err(SendError::Full) => {
                let text =
                    "it was answered, but so much waits for you already that the answer finds no room: read faster";
                tell(&call, ResultCode::Overloaded, text, Executed::Unknown);
            }
            Err(SendError::Encode(why)) => {
                let text = format!("it was answered, but the answer can't be passed on: {why}");
                tell(&call, ResultCode::TooLarge, text, Executed::Unknown);
            }
            // Else the caller may have gone; then there is nobody to tell.
            _ => {}
        }
        true
    }

    /// The caller gives up what it calls so. `false` if nothing of the kind waits.
    fn give_up(&self, caller: &C, id: &[u8]) -> bool {
        let given_up = self.book().give_up(caller, id);
        cancel_all(&given_up);
        !given_up.is_empty()
    }

    /// No more comes from this peer.
    ///
    /// What the socket has not taken by now may still leave, as long as the connection is there: of that nothing is said
    /// before it has ended.
    fn sends_no_more(&self, conn: &C) {
        // First: what is passed on from now on goes elsewhere.
        self.registry.cut_line(conn);
        // One that knows how to give calls up has given up all.
        if knows(conn, Feature::Cancel) {
            self.give_up_all(conn);
        }
        let lost = self.book().lose(conn, conn.sent_bytes());
        for (_, call) in lost {
            tell(&call, ResultCode::Disconnected, ENDED, Executed::Unknown);
        }
    }

    /// The connection has ended.
    fn leave(&self, conn: &C) {
        self.registry.cut_line(conn);
        self.give_up_all(conn);
        let (lost, sent_bytes) = (self.book().lose(conn, u64::MAX), conn.sent_bytes());
        for (_, call) in lost {
            let (text, executed) =
                if call.at < sent_bytes { (ENDED, Executed::Unknown) } else { (ENDED_BEFORE, Executed::No) };
            tell(&call, ResultCode::Disconnected, text, executed);
        }
    }

    fn give_up_all(&self, caller: &C) {
        let given_up = self.book().give_up_all(caller);
        cancel_all(&given_up);
    }

    fn book(&self) -> MutexGuard<'_, Book<C, InFlight<C>>> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Connection, H> RelayCalls<C, H> {
    /// `here` takes the calls that are not to be passed on.
    pub fn new(relay: &Arc<Relay<C>>, here: H) -> Self {
        Self { relay: Arc::clone(relay), here }
    }
}

impl<C: Connection, H> RelayAnswers<C, H> {
    /// `here` takes the answers to calls that were not passed on.
    pub fn new(relay: &Arc<Relay<C>>, here: H) -> Self {
        Self { relay: Arc::clone(relay), here }
    }
}

impl<C: Connection, H: Handler<C>> Handler<C> for RelayCalls<C, H> {
    fn handle(&self, conn: &C, message: Message) {
        match message.kind() {
            MessageType::RpcRequest if message.flags() & FLAG_RELAY != 0 => self.relay.pass_on(conn, &message),
            MessageType::Cancel if self.relay.give_up(conn, message.id()) => {}
            _ => self.here.handle(conn, message),
        }
    }

    fn ended(&self, conn: &C) {
        self.relay.sends_no_more(conn);
        self.here.ended(conn);
    }

    fn closed(&self, conn: &C) {
        self.relay.leave(conn);
        self.here.closed(conn);
    }
}

impl<C: Connection, H: Handler<C>> Handler<C> for RelayAnswers<C, H> {
    fn handle(&self, conn: &C, message: Message) {
        let number = Some(message.id()).filter(|_| message.kind() == MessageType::RpcResponse);
        match number.and_then(Number::from_wire) {
            Some(number) if self.relay.answered(conn, number, &message) => {}
            Some(_) => conn.count(Event::Ignored),
            None => self.here.handle(conn, message),
        }
    }

    fn ended(&self, conn: &C) {
        self.here.ended(conn);
    }

    fn closed(&self, conn: &C) {
        self.here.closed(conn);
    }
}

/// Why this provider can't be passed this call.
fn check<C: Connection>(provider: &C, message: &Message, request: &RpcRequest<'_>) -> Result<(), NotPassed> {
    let meta = request.meta.as_ref();
    if meta.is_some_and(|meta| meta.idempotency_key.is_some()) && !knows(provider, Feature::Keys) {
        return Err(knows_no_keys(provider));
    }
    let max_frame_bytes = usize::try_from(serving(provider).max_frame_bytes).unwrap_or(usize::MAX);
    let frame_bytes = HEADER_BYTES - LENGTH_BYTES + Number::WIRE_BYTES + message.body().len();
    if frame_bytes > max_frame_bytes {
        return Err(too_large(&EncodeError::TooLarge { frame_bytes, max_frame_bytes }));
    }
    if meta.and_then(|meta| meta.timeout_ms) == Some(0) {
        return Err(out_of_time());
    }
    Ok(())
}

fn serving<C: Connection>(provider: &C) -> Limits {
    provider.session().and_then(|session| session.serving).unwrap_or_default()
}

/// The call as it came.
fn request_of(message: &Message) -> Verbatim<'_> {
    Verbatim { kind: MessageType::RpcRequest, body: message.body() }
}

fn pass_on_one_way<C: Connection>(provider: &C, message: &Message) -> Result<(), NotPassed> {
    // One that knows no such calls answers, which is ignored.
    let flags = if knows(provider, Feature::OneWay) { FLAG_ONE_WAY } else { 0 };
    let id = RequestId::unanswered(0);
    let head = Head { flags, ..Head::new(MessageType::RpcRequest, &id) };
    let passed = provider.request(head, &request_of(message));
    passed.map(drop).map_err(|why| unsent(&why))
}

/// Tells the provider that nobody waits for a call any longer, if it knows that. Where there is no room it is not told, and
/// executes the call in vain.
fn cancel<C: Connection>(provider: &C, number: Number) {
    if knows(provider, Feature::Cancel) {
        let _ = provider.request(Head::new(MessageType::Cancel, &number.to_wire()), &Cancel);
    }
}

/// Their callers have given them up.
fn cancel_all<C: Connection>(given_up: &[(Number, Call<C, InFlight<C>>)]) {
    for (number, call) in given_up {
        call.caller.count(Event::Cancelled);
        cancel(&call.provider, *number);
    }
}

fn knows<C: Connection>(conn: &C, feature: Feature) -> bool {
    conn.session().is_some_and(|session| session.features.has(feature))
}

/// Answers a call that was passed on.
fn tell<C: Connection>(call: &Call<C, InFlight<C>>, code: ResultCode, text: impl Into<String>, executed: Executed) {
    let error = ErrorInfo { executed, ..ErrorInfo::not_executed(text) };
    // The caller may have gone meanwhile; then there is nobody to tell.
    let _ = call.caller.answer(&call.id, &RpcError { code, error: &error, v1: false });
}

const GAVE_WAY: &str = "as many calls wait for this provider, or in this center, as may, and you had most of them: your last \
                        one has given way to another caller's; it may have run";
const ENDED: &str = "the connection of its provider has ended before the answer came";
const ENDED_BEFORE: &str = "the connection of its provider has ended before the call had left";
/// The part of a header that its length field does not count.
const LENGTH_BYTES: usize = 4;

#[cfg(test)]
mod tests;
