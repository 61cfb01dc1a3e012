use std::iter;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use callboard_common::{
    Codec, Connection, Decode, Dispatcher, ErrorInfo, Event, Feature, GoAway, Handler, Json, Message, MessageType,
    ResultCode, RpcRequest, ServiceOp, ServiceRequest, Unhandled, refuse, refuse_body,
};
use callboard_net::Conn;
use tokio::sync::Notify;

use crate::RequestId;
use crate::calls::Calls;
use crate::inbox::InboxSlot;
use crate::served::Served;

/// What a client does with what comes over its connection.
pub(crate) struct Dispatch {
    calls: Arc<Calls>,
    inboxes: Arc<Inboxes>,
    dispatcher: Dispatcher<Rpc, Topic, Service, Unhandled, Answers>,
    trial: Mutex<Trial>,
    /// Another connection has taken its place: what still comes unasked is nobody's business.
    retired: AtomicBool,
    leaving: Arc<Leaving>,
}

/// Whether the connection is about to be left.
#[derive(Debug, Default)]
pub(crate) struct Leaving {
    reason: OnceLock<String>,
    told: Notify,
}

impl Leaving {
    /// Why it is left; `None` while it is not.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.reason.get().map(String::as_str)
    }

    /// Waits until it is.
    pub(crate) async fn told(&self) {
        let told = self.told.notified();
        if self.reason.get().is_none() {
            told.await;
        }
    }

    fn tell(&self, reason: String) {
        let _ = self.reason.set(reason); // the first counts
        self.told.notify_waiters();
    }
}

/// Whether a connection came into use. The end of one that only asked for a session in vain is nobody's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trial {
    Going,
    Passed,
    Ended,
}

/// Where what comes unasked goes: the same over all connections of a client.
#[derive(Default)]
pub(crate) struct Inboxes {
    /// Takes the peer's calls.
    pub(crate) served: Option<Served>,
    pub(crate) topic: InboxSlot,
    pub(crate) service: InboxSlot,
    /// No connection comes after the one of the moment.
    last: AtomicBool,
}

impl Inboxes {
    pub(crate) fn new(served: Option<Served>) -> Self {
        Self { served, ..Self::default() }
    }

    /// The next end of a connection is that of the client.
    pub(crate) fn end_with_connection(&self) {
        self.last.store(true, SeqCst);
    }

    /// No more comes.
    pub(crate) fn closed(&self, conn: &Conn) {
        self.topic.closed(conn);
        self.service.closed(conn);
    }

    fn connection_ended(&self, conn: &Conn) {
        if self.last.load(SeqCst) {
            return self.closed(conn);
        }
        self.topic.lost(conn);
        self.service.lost(conn);
    }
}

impl Dispatch {
    pub(crate) fn new(calls: Arc<Calls>, inboxes: Arc<Inboxes>) -> Self {
        let dispatcher = Dispatcher::new()
            .on_rpc(Rpc(Arc::clone(&inboxes)))
            .on_topic(Topic(Arc::clone(&inboxes)))
            .on_service(Service(Arc::clone(&inboxes)))
            .on_response(Answers(Arc::clone(&calls), Arc::clone(&inboxes)));
        Self {
            calls,
            inboxes,
            dispatcher,
            trial: Mutex::new(Trial::Going),
            retired: AtomicBool::new(false),
            leaving: Arc::default(),
        }
    }

    /// The connection comes into use: from now on its end counts, and one that has come already counts now.
    pub(crate) fn pass(&self, conn: &Conn) {
        if self.turn(Trial::Passed) == Trial::Ended {
            self.inboxes.connection_ended(conn);
        }
    }

    /// Another connection is about to take its place.
    pub(crate) fn retire(&self, conn: &Conn) {
        self.retired.store(true, SeqCst);
        if self.turn(Trial::Ended) == Trial::Passed {
            self.inboxes.connection_ended(conn);
        }
    }

    /// No call enters any longer, those that wait get their answers, and the connection is made again.
    pub(crate) fn leave(&self, conn: &Conn, reason: String, grace: Duration) {
        // First, so that whoever finds a connection that takes no calls also finds why.
        self.leaving.tell(reason);
        self.calls.leave(conn, grace);
    }

    pub(crate) fn leaving(&self) -> &Arc<Leaving> {
        &self.leaving
    }

    fn turn(&self, next: Trial) -> Trial {
        std::mem::replace(&mut self.trial.lock().unwrap_or_else(PoisonError::into_inner), next)
    }

    /// Completes a call; a sign of life that no call asked for is a matter of topics.
    fn pass_by(&self, conn: &Conn, message: Message) {
        if message.kind() == MessageType::GoAway {
            if conn.session().is_some() {
                let told = GoAway::decode::<Json>(message.body()).map(|told| (told.reason.into_owned(), told.grace));
                let (why, grace) = told.unwrap_or_default();
                return self.leave(conn, format!("the peer is about to leave: {why}"), grace);
            }
            return conn.count(Event::Ignored);
        }
        if message.kind() == MessageType::Pong && RequestId::from_wire(message.id()).is_none() {
            self.inboxes.topic.message(conn, message);
        } else {
            self.calls.complete(conn, message);
        }
    }
}

impl Handler<Conn> for Dispatch {
    fn handle(&self, conn: &Conn, message: Message) {
        if passes_dispatcher_by(&message) {
            self.pass_by(conn, message);
        } else if self.retired.load(Relaxed) && is_unasked(&message) {
            conn.count(Event::Ignored);
        } else {
            self.dispatcher.handle(conn, message);
        }
    }

    fn handle_all(&self, conn: &Conn, messages: &mut dyn Iterator<Item = Message>) {
        if self.retired.load(Relaxed) {
            return messages.for_each(|message| self.handle(conn, message));
        }
        loop {
            // What stands before it has been handed over once it is completed.
            let mut past = None;
            let mut run = iter::from_fn(|| {
                // One variable, which is returned whatever it is: that spares each message a move.
                let mut message = if past.is_none() { messages.next() } else { None };
                if message.as_ref().is_some_and(passes_dispatcher_by) {
                    past = message.take();
                }
                message
            });
            self.dispatcher.handle_all(conn, &mut run);
            match past {
                Some(message) => self.pass_by(conn, message),
                None => return,
            }
        }
    }

    fn ended(&self, conn: &Conn) {
        if let Some(served) = &self.inboxes.served {
            served.ended(conn);
        }
    }

    /// Calls fail first, so that an inbox hears of the end last.
    fn closed(&self, conn: &Conn) {
        self.calls.closed(conn);
        if let Some(served) = &self.inboxes.served {
            served.closed(conn);
        }
        if self.turn(Trial::Ended) == Trial::Passed {
            self.inboxes.connection_ended(conn);
        }
    }
}

/// What opens a session must not settle the connection, and the dispatcher has no slot for what only tells.
fn passes_dispatcher_by(message: &Message) -> bool {
    matches!(message.kind(), MessageType::SessionResponse | MessageType::Pong | MessageType::GoAway)
}

/// What only the layers above take.
fn is_unasked(message: &Message) -> bool {
    matches!(message.kind(), MessageType::TopicRequest | MessageType::ServiceRequest)
}

/// Answers complete calls: this client's own, or those that the methods it offers have made to their callers.
struct Answers(Arc<Calls>, Arc<Inboxes>);

impl Handler<Conn> for Answers {
    fn handle(&self, conn: &Conn, message: Message) {
        if let Some(served) = &self.1.served
            && message.kind() == MessageType::RpcResponse
            && RequestId::of_call_back(message.id()).is_some()
        {
            return served.handle(conn, message);
        }
        self.0.complete(conn, message);
    }
}

/// Messages of topics are never answered.
struct Topic(Arc<Inboxes>);

impl Handler<Conn> for Topic {
    fn handle(&self, conn: &Conn, message: Message) {
        self.0.topic.message(conn, message);
    }

    fn handle_all(&self, conn: &Conn, messages: &mut dyn Iterator<Item = Message>) {
        self.0.topic.messages(conn, messages);
    }
}

/// Notices are never answered.
struct Service(Arc<Inboxes>);

impl Handler<Conn> for Service {
    fn handle(&self, conn: &Conn, message: Message) {
        self.0.service.message(conn, message);
    }
}

/// A client that offers methods takes calls. One that does not may get them all the same: some centers of v1 send their
/// notices as calls.
struct Rpc(Arc<Inboxes>);

impl Handler<Conn> for Rpc {
    fn handle(&self, conn: &Conn, message: Message) {
        let serves = || conn.session().is_some_and(|session| session.features.has(Feature::Serves));
        if let Some(served) = self.0.served.as_ref().filter(|_| serves()) {
            return served.handle(conn, message);
        }
        if message.kind() == MessageType::Cancel {
            conn.count(Event::Ignored);
        } else if is_notice(message.body()) {
            self.0.service.message(conn, message);
        } else {
            refuse_call(conn, &message);
        }
    }
}

/// Whether a call says online or offline and names a host. One that can't be read in full is a notice all the same: it
/// must not be answered.
fn is_notice(body: &[u8]) -> bool {
    let optype = match ServiceRequest::decode::<Json>(body) {
        Ok(request) => Some(request.op.to_wire()),
        Err(why) => why.optype,
    };
    let says = [ServiceOp::Online, ServiceOp::Offline].iter().any(|op| optype == Some(op.to_wire()));
    says && matches!(Json::members(body, ["host"]), Ok([Some(_)]))
}

fn refuse_call(conn: &Conn, message: &Message) {
    match RpcRequest::decode::<Json>(message.body()) {
        Ok(request) => {
            let error = ErrorInfo::not_executed(format!("{:?}: this client offers no methods", request.method));
            refuse(conn, message, ResultCode::NotFoundService, None, &error);
        }
        Err(why) => refuse_body(conn, message, &why),
    }
}
