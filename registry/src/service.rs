mod lines;
mod push;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use callboard_common::{
    BodyError, Connection, Decode, EncodeError, ErrorInfo, Event, Feature, Handler, Host, Json, Message, MessageType,
    ResultCode, SendError, ServiceAnswer, ServiceOp, ServiceRequest, Session, refuse, refuse_body, refuse_draining,
};
use tokio::sync::Notify;
use tokio::time::Instant;

pub(crate) use self::lines::{Line, has_store};
use self::push::Push;
use crate::availability::{Admission, Attempt, Availability, Claim, Unreached};
use crate::relay::Lines;
use crate::ticket::Ticket;
use crate::{AvailabilityPolicy, Listing, RegistryLimits, RegistryMetrics, TableSize};

/// The center's side of the registry: REQ_SERVICE in, answers and online/offline notices out.
///
/// Answers and notices are queued while the table is locked, so every watcher sees them in the order of the table. A
/// watcher that a notice does not fit to is closed: a list of hosts that is wrong for good is worse than a reconnect.
///
/// ```
/// use callboard_common::{Dispatcher, Handler, Recorder};
/// use callboard_registry::{RegistryLimits, RegistryService};
///
/// let center = Dispatcher::new().on_service(RegistryService::new(RegistryLimits::default()));
/// let provider = Recorder::new(1);
/// let body = br#"{"method":"add","optype":0,"host":{"ip":"127.0.0.1","port":7071}}"#;
/// center.handle(&provider, provider.message(4, b"1", body));
/// assert_eq!(provider.take()[0].text(), r#"{"rcode":0,"optype":0}"#);
///
/// let caller = Recorder::new(2);
/// center.handle(&caller, caller.message(4, b"2", br#"{"method":"add","optype":1}"#));
/// assert!(caller.take()[0].text().contains(r#""host":[{"ip":"127.0.0.1","port":7071}]"#));
/// ```
#[derive(Debug)]
pub struct RegistryService<C: Connection> {
    availability: Mutex<Availability<C, Ticket<C>>>,
    /// To the providers that listen nowhere. Kept as it is while a call is queued for one of them: taking back what it
    /// provides comes before that, and then the call goes elsewhere, or after it, and then its answer does too.
    lines: RwLock<Lines<C>>,
    /// There is something to try, or an earlier deadline.
    woken: Notify,
    /// Somebody does what is due: see [`keep`](Self::keep).
    is_kept: AtomicBool,
    /// How many calls wait for providers that may be back.
    awaited: AtomicUsize,
    /// Providers that have come while calls waited.
    returned: Mutex<BTreeSet<Host>>,
    return_told: Notify,
    /// Connections end because this center stops, which says nothing of the peers.
    draining: AtomicBool,
    /// Until when providers may be on their way back to a center that has begun anew; `None` for ever.
    warm_at: Option<Instant>,
}

impl<C: Connection> RegistryService<C> {
    /// An empty registry with these limits, which takes every provider at its word.
    pub fn new(limits: RegistryLimits) -> Self {
        Self::with_policy(limits, AvailabilityPolicy::trusting())
    }

    /// An empty registry that makes sure of its providers. Unless it is [kept](Self::keep), providers with a session are
    /// not answered.
    pub fn with_policy(limits: RegistryLimits, policy: AvailabilityPolicy) -> Self {
        Self {
            availability: Mutex::new(Availability::new(limits, policy)),
            lines: RwLock::default(),
            woken: Notify::new(),
            is_kept: AtomicBool::new(false),
            awaited: AtomicUsize::new(0),
            returned: Mutex::default(),
            return_told: Notify::new(),
            draining: AtomicBool::new(false),
            warm_at: Instant::now().checked_add(policy.warm_up),
        }
    }

    /// To be called before the center closes its connections: from now on nobody is told that a provider whose connection
    /// ends went offline. It did not: the center goes. Else the callers whose connections end last would forget whom they
    /// can call directly while there is no center. Registrations that wait are refused.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.availability().drain(&mut self.effects(None));
    }

    /// How much it holds.
    pub fn size(&self) -> TableSize {
        self.availability().size()
    }

    /// What was counted so far.
    pub fn metrics(&self) -> RegistryMetrics {
        self.availability().metrics()
    }

    fn availability(&self) -> MutexGuard<'_, Availability<C, Ticket<C>>> {
        self.availability.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody does what is due, until this is dropped.
    pub(crate) fn begin_to_keep(&self) -> impl Drop {
        struct Keeping<'a>(&'a AtomicBool);
        impl Drop for Keeping<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Relaxed);
            }
        }
        self.is_kept.store(true, Ordering::Relaxed);
        Keeping(&self.is_kept)
    }

    /// Waits until there is something to do.
    pub(crate) async fn woken(&self) {
        self.woken.notified().await;
    }

    /// How long an attempt may take.
    pub(crate) fn limit(&self, attempt: &Attempt<C>) -> Duration {
        self.availability().policy().limit(attempt.patience)
    }

    pub(crate) fn next_attempt(&self) -> Option<Attempt<C>> {
        self.availability().next_attempt()
    }

    pub(crate) fn tried(&self, attempt: &Attempt<C>, outcome: &Result<(), Unreached>) {
        self.availability().tried(attempt, outcome, Instant::now(), &mut self.effects(None));
    }

    /// Does what is due; returns when the next is.
    pub(crate) fn on_time(&self, now: Instant) -> Option<Instant> {
        let mut availability = self.availability();
        availability.on_time(now, &mut self.effects(None));
        availability.next_deadline()
    }

    fn effects<'a>(&self, from: Option<&'a C>) -> Push<'a, C> {
        Push { from, tells: !self.draining.load(Ordering::SeqCst) }
    }

    /// The keeper sees by itself what is due when it said so; this is what it did not know of. Where there is none, what
    /// is left to be taken back is so at once.
    fn wake(&self, availability: &mut Availability<C, Ticket<C>>, before: Option<Instant>) {
        if !self.is_kept.load(Ordering::Relaxed) {
            availability.leave_on(usize::MAX, Instant::now(), &mut self.effects(None));
        }
        let next = availability.next_deadline();
        let is_earlier = next.is_some_and(|next| before.is_none_or(|before| next < before));
        if is_earlier || availability.has_attempts() {
            self.woken.notify_one();
        }
    }

    fn register(&self, conn: &C, message: &Message, request: &ServiceRequest<'_>) {
        let named = instance(conn, request).and_then(|instance| Ok((place(conn, request)?, instance)));
        let (host, instance) = match named {
            Ok((host, _)) if host.is_relayed() => (host, conn.session().map(|session| &*session.instance)),
            Ok(named) => named,
            Err(why) => return refuse_body(conn, message, &why),
        };
        let is_v1 = conn.session().is_none() && !request.probe;
        let store = conn.session().and_then(|session| session.store.as_deref()).filter(|_| host.is_relayed());
        let claim = Claim { method: &request.method, host, instance, store, is_v1 };
        let lines = host.is_relayed().then(|| self.lines());
        let mut availability = self.availability();
        let before = availability.next_deadline();
        let is_repeat = host.is_relayed() && availability.provides(conn, &request.method, host);
        match availability.register(conn, &claim, Instant::now(), &mut self.effects(Some(conn))) {
            Ok(Admission::Entered) => {
                // A repeat changes nothing, where it comes over a known line: nothing waits then that did not before.
                if let Some(mut lines) = lines
                    && (lines.enter(host, conn) || !is_repeat)
                {
                    self.returned(host);
                }
                conn.set_provider();
                answer_ok(conn, message, ServiceOp::Register);
            }
            Ok(Admission::Waits) if self.draining.load(Ordering::SeqCst) => refuse_draining(conn, message),
            Ok(Admission::Waits) => match Ticket::new(conn, message) {
                Some(ticket) => availability.wait(conn, &claim, ticket, Instant::now()),
                None => refuse_in_flight(conn, message),
            },
            Err(why) => refuse_op(conn, message, request.op, why.code(), &why.to_error()),
        }
        self.wake(&mut availability, before);
    }

    /// The peer has said that it is about to go (GOAWAY): what it registered is offline now, and its end comes as no
    /// surprise.
    fn going(&self, conn: &C) {
        let _line = self.line_of(conn);
        self.availability().going(conn, Instant::now(), &mut self.effects(Some(conn)));
    }

    fn discover(&self, conn: &C, message: &Message, request: &ServiceRequest<'_>) {
        if message.is_one_way() {
            // It would hear of changes to a list that it was never given.
            return conn.count(Event::Refused);
        }
        if self.draining.load(Ordering::SeqCst) {
            // Providers leave with the center, and nobody is to conclude from that that nobody provides anything.
            return refuse_draining(conn, message);
        }
        let (mut availability, with_revision) = (self.availability(), is_told_revisions(conn));
        let (before, effects) = (availability.next_deadline(), &mut self.effects(Some(conn)));
        let listing = availability.discover(conn, &request.method, with_revision, Instant::now(), effects);
        self.wake(&mut availability, before);
        let listing = match listing {
            Ok(listing) => listing,
            Err(why) => return refuse_op(conn, message, request.op, why.code(), &why.to_error()),
        };
        let mut answer = host_list(&request.method, listing, with_revision, knows(conn, Feature::Relay));
        if with_revision && answer.code == ResultCode::NotFoundService {
            answer.warm_up_ms = self.warms_up_for(Instant::now());
        }
        if let Err(SendError::Encode(why)) = conn.answer(message.id(), &answer) {
            availability.stop_watching(conn, &request.method);
            refuse_list(conn, message, &why);
        }
    }

    /// How many more ms providers may be on their way back.
    fn warms_up_for(&self, now: Instant) -> Option<u64> {
        let left = self.warm_at.map_or(Duration::MAX, |at| at.saturating_duration_since(now));
        (!left.is_zero()).then(|| u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1))
    }

    fn withdraw(&self, conn: &C, message: &Message, request: &ServiceRequest<'_>) {
        if conn.session().is_none() {
            return refuse_here(
                conn,
                message,
                request.op,
                "withdrawing takes a session; without one, close the connection",
            );
        }
        let _line = self.line_of(conn);
        let (mut availability, effects) = (self.availability(), &mut self.effects(Some(conn)));
        let relayed = request.relay.then(|| conn.session().map(|session| Host::relayed(&session.instance))).flatten();
        availability.withdraw(conn, &request.method, request.host.or(relayed), Instant::now(), effects);
        answer_ok(conn, message, ServiceOp::Withdraw);
    }
}

impl<C: Connection> Default for RegistryService<C> {
    fn default() -> Self {
        Self::new(RegistryLimits::default())
    }
}

impl<C: Connection> Handler<C> for RegistryService<C> {
    fn handle(&self, conn: &C, message: Message) {
        if message.kind() == MessageType::GoAway {
            return self.going(conn);
        }
        let request = match ServiceRequest::decode::<Json>(message.body()) {
            Ok(request) => request,
            Err(why) => return refuse_body(conn, &message, &why),
        };
        match request.op {
            ServiceOp::Register => self.register(conn, &message, &request),
            ServiceOp::Discover => self.discover(conn, &message, &request),
            ServiceOp::Withdraw => self.withdraw(conn, &message, &request),
            ServiceOp::Online | ServiceOp::Offline => {
                refuse_here(conn, &message, request.op, "online and offline are a center's to tell");
            }
        }
    }

    fn closed(&self, conn: &C) {
        self.cut_line(conn);
        let mut availability = self.availability();
        let (before, effects) = (availability.next_deadline(), &mut self.effects(None));
        // Of a center that goes nobody comes back to it.
        let may_be_back = conn.session().is_some() && effects.tells;
        let patience = if may_be_back { conn.patience_left().unwrap_or(Duration::MAX) } else { Duration::ZERO };
        availability.ended(conn, patience, Instant::now(), effects);
        self.wake(&mut availability, before);
    }
}

/// Nothing beyond v1 goes to a peer that did not ask for it.
fn is_told_revisions<C: Connection>(conn: &C) -> bool {
    knows(conn, Feature::Revisions)
}

fn knows<C: Connection>(conn: &C, feature: Feature) -> bool {
    conn.session().is_some_and(|session| session.features.has(feature))
}

/// Where a provider registers: at a host, or behind its own connection, over which it takes calls.
fn place<C: Connection>(conn: &C, request: &ServiceRequest<'_>) -> Result<Host, BodyError> {
    let takes_calls = |session: &&Session| session.serving.is_some() && session.features.has(Feature::Relay);
    let relayed = || {
        let session = conn.session().filter(takes_calls)?;
        (!session.instance.is_empty()).then(|| Host::relayed(&session.instance))
    };
    request.host.or_else(relayed).ok_or_else(|| {
        let needs_none = "; only who takes calls over this connection, in a session with \"serves\", \"relay\" and an \
                          instance, needs none";
        let more = conn.session().map_or("", |_| needs_none);
        let why = format!("\"host\" is missing{more}");
        BodyError { optype: Some(request.op.to_wire()), ..BodyError::invalid(why) }
    })
}

/// Which run of a provider registers: a session peer's own, unless it says otherwise.
fn instance<'a, C: Connection>(conn: &'a C, request: &'a ServiceRequest<'_>) -> Result<Option<&'a str>, BodyError> {
    let Some(session) = conn.session() else { return Ok(None) };
    let instance = request.instance.as_deref().unwrap_or(&session.instance);
    if instance.len() > MAX_INSTANCE_BYTES {
        let bytes = instance.len();
        let why = format!("\"instance\" has {bytes} bytes, over {MAX_INSTANCE_BYTES}; nothing was registered");
        return Err(BodyError { optype: Some(request.op.to_wire()), ..BodyError::invalid(why) });
    }
    Ok((!instance.is_empty()).then_some(instance))
}

fn host_list(method: &str, listing: Listing, with_revision: bool, with_relayed: bool) -> ServiceAnswer<'_> {
    let Listing { mut hosts, revision } = listing;
    if !with_relayed {
        hosts.retain(|listed| !listed.host.is_relayed());
    }
    let none = hosts.is_empty();
    if !with_revision {
        for listed in hosts.iter_mut().filter(|listed| !listed.host.is_relayed()) {
            listed.instance = None;
        }
    }
    ServiceAnswer {
        code: if none { ResultCode::NotFoundService } else { ResultCode::Ok },
        op: Some(ServiceOp::Discover),
        method: Some(Cow::Borrowed(method)),
        hosts: Some(hosts.into()),
        revision: with_revision.then_some(revision),
        warm_up_ms: None,
        error: none.then(|| ErrorInfo::not_executed("nobody provides this method now; the first to come is told")),
    }
}

fn answer_ok<C: Connection>(conn: &C, message: &Message, op: ServiceOp) {
    if !message.is_one_way() {
        // The peer may have gone meanwhile; then there is nobody to tell.
        let _ = conn.answer(message.id(), &ServiceAnswer::ok(op));
    }
}

/// An operation that this peer may not ask for.
fn refuse_here<C: Connection>(conn: &C, message: &Message, op: ServiceOp, why: &str) {
    refuse_op(conn, message, op, ResultCode::InvalidOptype, &ErrorInfo::not_executed(why));
}

fn refuse_in_flight<C: Connection>(conn: &C, message: &Message) {
    let error =
        ErrorInfo::not_executed("as many requests of this connection are in flight as may be: wait for an answer");
    refuse_op(conn, message, ServiceOp::Register, ResultCode::Overloaded, &error);
}

fn refuse_list<C: Connection>(conn: &C, message: &Message, why: &EncodeError) {
    let text = format!("the hosts do not fit into an answer ({why}); changes are not told");
    let error = ErrorInfo::not_executed(text).with_limit_of(why);
    refuse_op(conn, message, ServiceOp::Discover, ResultCode::TooLarge, &error);
}

fn refuse_op<C: Connection>(conn: &C, message: &Message, op: ServiceOp, code: ResultCode, error: &ErrorInfo) {
    refuse(conn, message, code, Some(op.to_wire()), error);
}

/// The longest instance that a provider may give, in bytes: as in a session.
const MAX_INSTANCE_BYTES: usize = 256;
#[cfg(test)]
mod tests;
