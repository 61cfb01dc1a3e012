use std::iter;
use std::sync::Arc;

use callboard_common::{
    Codec, Decode, Dispatcher, ErrorInfo, Handler, Json, Message, MessageType, ResultCode, RpcRequest, ServiceOp,
    ServiceRequest, Unhandled, refuse, refuse_body,
};
use callboard_net::Conn;

use crate::RequestId;
use crate::calls::Calls;
use crate::inbox::InboxSlot;

/// What a client does with what comes over its connection.
pub(crate) struct Dispatch {
    calls: Arc<Calls>,
    inboxes: Arc<Inboxes>,
    dispatcher: Dispatcher<Rpc, Topic, Service, Unhandled, Answers>,
}

/// Where what comes unasked goes.
#[derive(Default)]
pub(crate) struct Inboxes {
    pub(crate) topic: InboxSlot,
    pub(crate) service: InboxSlot,
}

impl Dispatch {
    pub(crate) fn new(calls: Arc<Calls>, inboxes: Arc<Inboxes>) -> Self {
        let dispatcher = Dispatcher::new()
            .on_rpc(Rpc(Arc::clone(&inboxes)))
            .on_topic(Topic(Arc::clone(&inboxes)))
            .on_service(Service(Arc::clone(&inboxes)))
            .on_response(Answers(Arc::clone(&calls)));
        Self { calls, inboxes, dispatcher }
    }

    /// Completes a call; a sign of life that no call asked for is a matter of topics.
    fn pass_by(&self, conn: &Conn, message: Message) {
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
        } else {
            self.dispatcher.handle(conn, message);
        }
    }

    fn handle_all(&self, conn: &Conn, messages: &mut dyn Iterator<Item = Message>) {
        loop {
            // What stands before it has been handed over once it is completed.
            let mut past = None;
            let mut run = iter::from_fn(|| {
                let message = messages.next()?;
                if !passes_dispatcher_by(&message) {
                    return Some(message);
                }
                past = Some(message);
                None
            })
            .fuse();
            self.dispatcher.handle_all(conn, &mut run);
            match past {
                Some(message) => self.pass_by(conn, message),
                None => return,
            }
        }
    }

    /// Calls fail first, so that an inbox hears of the end last.
    fn closed(&self, conn: &Conn) {
        self.calls.closed(conn);
        self.inboxes.topic.closed(conn);
        self.inboxes.service.closed(conn);
    }
}

/// What opens a session must not settle the connection, and the dispatcher has no slot for what answers a heartbeat.
fn passes_dispatcher_by(message: &Message) -> bool {
    matches!(message.kind(), MessageType::SessionResponse | MessageType::Pong)
}

/// Answers complete calls.
struct Answers(Arc<Calls>);

impl Handler<Conn> for Answers {
    fn handle(&self, conn: &Conn, message: Message) {
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

/// A client provides no methods; but some centers send their notices as calls.
struct Rpc(Arc<Inboxes>);

impl Handler<Conn> for Rpc {
    fn handle(&self, conn: &Conn, message: Message) {
        if is_notice(message.body()) {
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
            let error = ErrorInfo::not_executed(format!("{:?}: a client provides no methods", request.method));
            refuse(conn, message, ResultCode::NotFoundService, None, &error);
        }
        Err(why) => refuse_body(conn, message, &why),
    }
}
