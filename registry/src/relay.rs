mod back;
mod book;
mod callers;
mod handlers;
mod limits;
mod lines;
mod lobby;
mod passing;
mod refusals;
mod waiting;

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use callboard_client::deadline_after;
use callboard_common::{
    CallerTag, Codec, Connection, Decode, Event, Executed, Feature, Head, Host, InFlight, Json, Message, MessageType,
    ResultCode, RpcRequest, SendError, Verbatim, refuse, refuse_body,
};
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::Instant;

use self::book::{Book, Call, CallerId, Entered, Full, Number, Permits};
use self::callers::Callers;
pub use self::handlers::{RelayAnswers, RelayCalls};
pub use self::limits::{RelayLimits, RelayMetrics};
pub(crate) use self::lines::Lines;
use self::lobby::{Lobby, LobbyBounds};
use self::passing::{
    asked_of, cancel, cancel_all, cancel_at, check, count_given_up, knows, learns_callers, pass_on_one_way, permits,
    request_of, tell,
};
use self::refusals::{NotPassed, another, full, gone, in_flight, out_of_time, unnamed, unsent};
use self::waiting::Held;
use crate::RegistryService;
use crate::reach::until;
use crate::service::Line;

/// Passes calls on to providers that listen nowhere: each over the connection over which that provider registered, its
/// answer back over the caller's.
///
/// Bodies pass untouched. What waits is bounded: of a caller by its requests in flight, of a provider by what it permits,
/// and in all. A provider that reads slowly fills its own outbox, and no more calls are passed on to it until it reads.
/// Calls to one whose connection was lost wait for it as long as it may be back, unless somebody else provides the method.
///
/// ```
/// use std::sync::Arc;
/// use callboard_common::{Dispatcher, Recorder};
/// use callboard_registry::{RegistryService, Relay};
/// use callboard_server::Router;
///
/// let registry = Arc::new(RegistryService::<Recorder>::default());
/// let (router, relay) = (Router::new(), Arc::new(Relay::new(Arc::clone(&registry), RelayLimits::default())));
/// let center = Dispatcher::new()
///     .on_response(RelayAnswers::new(&relay, router.answers()))
///     .on_rpc(RelayCalls::new(&relay, router))
///     .on_service(registry);
/// # use callboard_registry::{RelayAnswers, RelayCalls, RelayLimits};
/// ```
#[derive(Debug)]
pub struct Relay<C: Connection> {
    registry: Arc<RegistryService<C>>,
    desk: Mutex<Desk<C>>,
    /// There is an earlier deadline than the one that is waited for.
    woken: Notify,
}

/// The calls that are here, passed on or not.
#[derive(Debug)]
struct Desk<C: Connection> {
    book: Book<C, InFlight<C>>,
    lobby: Lobby<C, Held<C>>,
    callers: Callers<C>,
    /// Whose calls are being passed on that have waited, and the first of the methods that are still to be looked at.
    resumes: Option<(Host, Arc<str>)>,
    /// Whose calls were the last that were: all that are back have their turn.
    resumed: Option<Host>,
    metrics: RelayMetrics,
}

/// What a call says of itself.
struct Asked<'a> {
    request: &'a RpcRequest<'a>,
    /// Its provider.
    instance: Cow<'a, str>,
    /// Where that keeps its answers to calls under keys, as the caller knows it.
    store: Option<Cow<'a, str>>,
}

/// How a call is to be passed on.
struct Asking {
    method: Arc<str>,
    permits: Permits,
    deadline: Option<Instant>,
    /// To one who has called.
    goes_back: bool,
}

impl<C: Connection> Relay<C> {
    /// Passes on calls to what is registered in `registry`.
    pub fn new(registry: Arc<RegistryService<C>>, limits: RelayLimits) -> Self {
        let bounds = LobbyBounds { calls: limits.waiting_calls, bytes: limits.waiting_bytes };
        let (book, lobby) = (Book::new(limits.calls), Lobby::new(bounds));
        Self {
            registry,
            desk: Mutex::new(Desk {
                book,
                lobby,
                callers: Callers::default(),
                resumes: None,
                resumed: None,
                metrics: RelayMetrics::default(),
            }),
            woken: Notify::new(),
        }
    }

    /// What was counted so far.
    pub fn metrics(&self) -> RelayMetrics {
        let desk = self.desk();
        let (passed_on, waiting, waiting_bytes) = (desk.book.len(), desk.lobby.len(), desk.lobby.bytes());
        RelayMetrics { passed_on, waiting, waiting_bytes, ..desk.metrics }
    }

    /// Answers the calls whose callers wait no longer, and passes on those whose providers are back. It runs as long as the
    /// center does, as one task of it.
    ///
    /// # Cancel safety
    /// From then on calls wait for their answers for as long as those take, and for providers for ever.
    ///
    /// # Panics
    /// Outside of a tokio runtime with a timer.
    pub async fn keep(&self) {
        loop {
            // A piece of each, so that neither keeps the other waiting, nor both anybody else.
            let (has_resumed, now) = (self.resume(), Instant::now());
            let deadline = self.on_time(now);
            if has_resumed || deadline.is_some_and(|deadline| deadline <= now) {
                yield_now().await;
                continue;
            }
            tokio::select! {
                biased;
                () = self.registry.provider_returned() => {}
                () = self.woken.notified() => {}
                () = until(deadline) => {}
            }
        }
    }

    /// Some of what is due of each kind: with more, the next deadline has passed.
    fn on_time(&self, now: Instant) -> Option<Instant> {
        let (expired, late, next) = {
            let mut desk = self.desk();
            (desk.book.expired(now, AT_ONCE), desk.lobby.expired(now, AT_ONCE), desk.look_next())
        };
        self.refuse_late(late);
        for (number, call) in expired {
            cancel(&call, number);
            let text = format!("{} has not answered in time; it may have run", asked_of(&call));
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
        let meta = request.meta.unwrap_or_default();
        if let Some(caller) = meta.caller.filter(|_| meta.instance.is_none()) {
            return self.pass_back(conn, message, request, caller);
        }
        let instance = meta.instance.and_then(Json::text).ok_or_else(unnamed)?;
        let asked = Asked { request, instance, store: meta.store.and_then(Json::text) };
        let (host, store) = (Host::relayed(&asked.instance), asked.store.as_deref());
        self.registry.with_line(&request.method, host, store, |line| match line {
            Line::There(provider, offer) => {
                check(provider, message, asked.is_keyed())?;
                if asked.is_out_of_time() {
                    return Err(out_of_time());
                }
                if message.is_one_way() {
                    let tag = self.desk().tag_for(provider, conn, false);
                    return pass_on_one_way(provider, conn, tag, message);
                }
                let (permits, deadline) = (permits(provider, offer.methods), asked.deadline());
                self.enter(
                    conn,
                    message,
                    provider,
                    Asking { method: offer.method, permits, deadline, goes_back: false },
                )
            }
            Line::MayBeBack(until) => self.wait(conn, message, &asked, until),
            Line::Another => Err(another(&asked.instance)),
            Line::Gone => Err(gone(&request.method, &asked.instance)),
        })
    }

    /// Enters a call, and sends it.
    fn enter(&self, conn: &C, message: &Message, provider: &C, asking: Asking) -> Result<(), NotPassed> {
        let Asking { method, permits, deadline, goes_back } = asking;
        let held = conn.begin_request().ok_or_else(|| in_flight(conn))?;
        let (caller, id, provider) = (conn.clone(), CallerId::from_slice(message.id()), provider.clone());
        let mut desk = self.desk();
        let tag = desk.tag_for(&provider, conn, goes_back);
        let call = Call {
            caller,
            id,
            tag,
            provider: provider.clone(),
            method,
            deadline,
            goes_back,
            bytes: message.frame().len(),
            at: 0,
            held,
        };
        let entered = desk.book.enter(call, permits);
        let wakes = deadline.is_some_and(|deadline| desk.is_too_late_for(deadline));
        drop(desk);
        self.send(&provider, tag, entered, wakes, message)
    }

    /// Sends a call that was entered.
    fn send(
        &self,
        provider: &C,
        tag: Option<CallerTag>,
        entered: Result<Entered<C, InFlight<C>>, Full>,
        wakes: bool,
        message: &Message,
    ) -> Result<(), NotPassed> {
        let Entered { number, gave_way } = entered.map_err(full)?;
        if wakes {
            self.woken.notify_one();
        }
        if let Some((number, call)) = gave_way {
            call.caller.count(Event::Overloaded);
            cancel(&call, number);
            tell(&call, ResultCode::Overloaded, GAVE_WAY, Executed::Unknown);
        }
        let id = number.id_of(tag);
        match provider.request(Head::new(MessageType::RpcRequest, &id), &request_of(message)) {
            Ok(at) => {
                // Where it is no longer there it was answered, or given up before the provider knew of it.
                if !self.desk().book.sent(number, at) {
                    cancel_at(provider, &id);
                }
                Ok(())
            }
            // Where it was taken out meanwhile, its caller has been told.
            Err(why) => self.take(number).map_or(Ok(()), |_call| Err(unsent(&why))),
        }
    }

    fn take(&self, number: Number) -> Option<Call<C, InFlight<C>>> {
        self.desk().book.take(number)
    }

    /// An answer has come. `false` if nobody waits for it.
    fn answered(&self, provider: &C, number: Number, message: &Message) -> bool {
        // One statement: the lock is not held while the answer is written.
        let call = self.desk().book.answered(provider, number);
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
        let mut desk = self.desk();
        let (given_up, waited) = (desk.book.give_up(caller, id), desk.lobby.give_up(caller, id));
        drop(desk);
        cancel_all(&given_up);
        count_given_up(&waited);
        !(given_up.is_empty() && waited.is_empty())
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
        let lost = self.desk().book.lose(conn, conn.sent_bytes());
        for (_, call) in lost {
            let text = format!("the connection of {} {ENDED}", asked_of(&call));
            tell(&call, ResultCode::Disconnected, text, Executed::Unknown);
        }
    }

    /// The connection has ended.
    fn leave(&self, conn: &C) {
        self.registry.cut_line(conn);
        self.give_up_all(conn);
        let mut desk = self.desk();
        desk.callers.forget(conn);
        let lost = desk.book.lose(conn, u64::MAX);
        drop(desk);
        let sent_bytes = conn.sent_bytes();
        #[cfg(feature = "planted")]
        let sent_bytes = if callboard_common::Planted::PassedOnUnsaid.is_planted() { 0 } else { sent_bytes };
        for (_, call) in lost {
            let (what, executed) =
                if call.at < sent_bytes { (ENDED, Executed::Unknown) } else { (ENDED_BEFORE, Executed::No) };
            let text = format!("the connection of {} {what}", asked_of(&call));
            tell(&call, ResultCode::Disconnected, text, executed);
        }
    }

    fn give_up_all(&self, caller: &C) {
        let mut desk = self.desk();
        let (given_up, waited) = (desk.book.give_up_all(caller), desk.lobby.give_up_all(caller));
        drop(desk);
        cancel_all(&given_up);
        count_given_up(&waited);
    }

    fn desk(&self) -> MutexGuard<'_, Desk<C>> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Connection> Desk<C> {
    /// What this provider is to know this caller by.
    fn tag_for(&mut self, provider: &C, caller: &C, goes_back: bool) -> Option<CallerTag> {
        let tag = learns_callers(provider).then(|| self.tag(caller))?;
        // Who is called back calls as ever, and not by this way.
        Some(if goes_back { CallerTag::new(tag.number(), false) } else { tag })
    }

    /// What providers know this caller by, whose connection has not ended.
    fn tag(&mut self, caller: &C) -> CallerTag {
        self.callers.tag(caller, caller.session().is_some_and(|session| session.serving.is_some()))
    }

    /// When the keeper is to look next; it will.
    fn look_next(&mut self) -> Option<Instant> {
        self.book.look_next(self.lobby.next_due())
    }

    /// Whether the keeper would look too late for this one.
    fn is_too_late_for(&self, deadline: Instant) -> bool {
        self.book.is_too_late_for(deadline)
    }
}

impl Asked<'_> {
    fn is_keyed(&self) -> bool {
        self.request.meta.is_some_and(|meta| meta.idempotency_key.is_some())
    }

    fn is_out_of_time(&self) -> bool {
        self.request.meta.and_then(|meta| meta.timeout_ms) == Some(0)
    }

    /// When its caller waits no longer, if it began to wait now.
    fn deadline(&self) -> Option<Instant> {
        let left = self.request.meta.and_then(|meta| meta.timeout_ms);
        left.map(|left| deadline_after(Duration::from_millis(left)))
    }
}

const GAVE_WAY: &str = "as many calls wait for this provider, or in this center, as may, and you had most of them: your last \
                        one has given way to another caller's; it may have run";
const ENDED: &str = "has ended before the answer came";
const ENDED_BEFORE: &str = "has ended before the call had left";
/// So many calls are worked on before others have their turn.
const AT_ONCE: usize = 256;

#[cfg(test)]
mod tests;
