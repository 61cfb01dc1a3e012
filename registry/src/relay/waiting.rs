//! What becomes of calls whose provider may be back soon.

use std::sync::Arc;
use std::time::Duration;

use callboard_common::{CallerTag, Codec as _, Connection, Head, Host, InFlight, Json, Message, refuse};
use tokio::time::Instant;

use super::book::{Call, CallerId};
use super::lobby::Waiting;
use super::refusals::{NotPassed, another, draining, gone, in_flight, made_room, no_room, out_of_time};
use super::{AT_ONCE, Asked, Relay, check, learns_callers, pass_on_one_way, permits};
use crate::service::{Line, has_store};

/// A call as it came.
#[derive(Debug)]
pub(super) struct Held<C: Connection> {
    message: Message,
    instance: Box<str>,
    store: Option<Box<str>>,
    is_keyed: bool,
    deadline: Option<Instant>,
    /// It waits for as long as it has time.
    ends_in_time: bool,
    in_flight: Option<InFlight<C>>,
    /// What its provider is to know its caller by, which may have gone when a one-way call is passed on.
    tag: CallerTag,
}

impl<C: Connection> Relay<C> {
    /// The call waits until its provider is back, or until then.
    pub(super) fn wait(&self, conn: &C, message: &Message, asked: &Asked<'_>, until: Instant) -> Result<(), NotPassed> {
        if asked.is_out_of_time() {
            return Err(out_of_time());
        }
        let is_one_way = message.is_one_way();
        let in_flight = if is_one_way { None } else { Some(conn.begin_request().ok_or_else(|| in_flight(conn))?) };
        let (deadline, now) = (asked.deadline(), Instant::now());
        // A little before its caller looks, which does not know that it was passed on to nobody.
        let in_time = deadline.map(|deadline| deadline - (deadline.saturating_duration_since(now) / 2).min(EARLY));
        let tag = self.desk().tag(conn);
        let waiting = Waiting {
            caller: conn.clone(),
            id: (!is_one_way).then(|| CallerId::from_slice(message.id())),
            host: Host::relayed(&asked.instance),
            method: Arc::from(&*asked.request.method),
            until: in_time.map_or(until, |in_time| in_time.min(until)),
            bytes: message.frame().len() + WAITING_BYTES,
            held: Held {
                message: message.detach(),
                instance: Box::from(&*asked.instance),
                store: asked.store.as_deref().map(Box::from),
                is_keyed: asked.is_keyed(),
                deadline,
                ends_in_time: in_time.is_some_and(|in_time| in_time < until),
                in_flight,
                tag,
            },
        };
        let mut desk = self.desk();
        let gave_way = desk.lobby.make_room(conn, waiting.bytes).map_err(no_room)?;
        let wakes = desk.is_too_late_for(waiting.until);
        desk.lobby.enter(waiting);
        desk.metrics.waited += 1;
        self.registry.awaits(desk.lobby.len());
        drop(desk);
        if wakes {
            self.woken.notify_one();
        }
        self.refuse_all(gave_way, |_| made_room());
        Ok(())
    }

    /// Passes on some of what has waited for a provider that is back, and goes on there the next time; whether there may be
    /// more.
    pub(super) fn resume(&self) -> bool {
        let Some((host, first)) = self.next_to_resume() else { return false };
        let methods = self.desk().lobby.methods(host, &first, AT_ONCE);
        // To look at a method costs about as much as to pass a call on.
        let mut left = AT_ONCE;
        for method in methods {
            left -= 1;
            self.registry.with_line(&method, host, None, |line| {
                let Line::There(provider, offer) = line else { return };
                while left > 0 && self.resume_one(host, provider, &method, offer.methods) {
                    left -= 1;
                }
            });
            if left == 0 {
                self.desk().resumes = Some((host, method));
                break;
            }
        }
        true
    }

    /// The provider whose calls are to be passed on now, and from which method on.
    fn next_to_resume(&self) -> Option<(Host, Arc<str>)> {
        let mut desk = self.desk();
        if let Some(resumes) = desk.resumes.take() {
            return Some(resumes);
        }
        let host = self.registry.next_returned(desk.resumed)?;
        desk.resumed = Some(host);
        Some((host, Arc::from("")))
    }

    /// Whether one has waited.
    fn resume_one(&self, host: Host, provider: &C, method: &Arc<str>, methods: usize) -> bool {
        let mut desk = self.desk();
        let Some(waiting) = desk.lobby.pop(host, method) else { return false };
        self.registry.awaits(desk.lobby.len());
        let Waiting { caller, id, method, held, .. } = waiting;
        let Held { message, instance, store, is_keyed, deadline, in_flight, tag, .. } = held;
        let tag = learns_callers(provider).then_some(tag);
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // The loop may be late.
        let in_time = if left.is_some_and(|left| left.is_zero()) { Err(out_of_time()) } else { Ok(()) };
        let is_it = if has_store(provider, store.as_deref()) { Ok(()) } else { Err(another(&instance)) };
        // Of its time the provider is told what is left.
        let message = left.and_then(|left| with_time(&message, left)).unwrap_or(message);
        let checked = in_time.and(is_it).and_then(|()| check(provider, &message, is_keyed));
        let passed = match checked.map(|()| id.zip(in_flight)) {
            Err(why) => {
                drop(desk);
                Err(why)
            }
            Ok(None) => {
                drop(desk);
                pass_on_one_way(provider, &caller, tag, &message)
            }
            Ok(Some((id, held))) => {
                let (caller, asked) = (caller.clone(), provider.clone());
                let call = Call {
                    caller,
                    id,
                    tag,
                    provider: asked,
                    method,
                    deadline,
                    goes_back: false,
                    bytes: message.frame().len(),
                    at: 0,
                    held,
                };
                // Within the same lock: else nobody could give it up for a moment.
                let entered = desk.book.enter(call, permits(provider, methods));
                let wakes = deadline.is_some_and(|deadline| desk.is_too_late_for(deadline));
                drop(desk);
                self.send(provider, tag, entered, wakes, &message)
            }
        };
        {
            let metrics = &mut self.desk().metrics;
            *(if passed.is_ok() { &mut metrics.resumed } else { &mut metrics.refused }) += 1;
        }
        if let Err((code, error)) = passed {
            refuse(&caller, &message, code, None, &error);
        }
        true
    }

    /// The time of these is over: they were passed on to nobody.
    pub(super) fn refuse_late(&self, late: Vec<Waiting<C, Held<C>>>) {
        self.refuse_all(late, |waiting| {
            let Held { ends_in_time, instance, .. } = &waiting.held;
            if *ends_in_time { out_of_time() } else { gone(&waiting.method, instance) }
        });
    }

    /// To be called before the center closes its connections: what waits for a provider that may be back is refused, and
    /// nothing waits so any more.
    pub fn drain(&self) {
        loop {
            // One statement: others have the lock between the pieces.
            let waited = self.desk().lobby.close(AT_ONCE);
            if waited.is_empty() {
                return;
            }
            self.refuse_all(waited, |_| draining());
        }
    }

    fn refuse_all(&self, refused: Vec<Waiting<C, Held<C>>>, why: impl Fn(&Waiting<C, Held<C>>) -> NotPassed) {
        if refused.is_empty() {
            return;
        }
        let mut desk = self.desk();
        desk.metrics.refused += u64::try_from(refused.len()).unwrap_or(u64::MAX);
        self.registry.awaits(desk.lobby.len());
        drop(desk);
        for waiting in refused {
            let (code, error) = why(&waiting);
            refuse(&waiting.caller, &waiting.held.message, code, None, &error);
        }
    }
}

/// The same call with that much time. `None` if it does not say how much it has.
fn with_time(message: &Message, left: Duration) -> Option<Message> {
    let body = message.body();
    let [meta] = Json::members(body, ["meta"]).ok()?;
    let [time] = Json::members(meta?.bytes(), ["timeout_ms"]).ok()?;
    let time = time?.bytes();
    let at = (time.as_ptr() as usize).checked_sub(body.as_ptr() as usize)?;
    let (before, after) = (body.get(..at)?, body.get(at + time.len()..)?);
    // Less than a millisecond is not none: that would be refused as such.
    let body = [before, left.as_millis().max(1).to_string().as_bytes(), after].concat();
    Message::new(Head { flags: message.flags(), ..Head::new(message.kind(), message.id()) }, message.codec(), &body)
        .ok()
}

/// What a call that waits takes beside its frame, in bytes: an estimate, on the safe side.
const WAITING_BYTES: usize = 512;
/// So much earlier than its time is over a call is refused at most.
const EARLY: Duration = Duration::from_millis(100);
