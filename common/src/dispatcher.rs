use bytes::BytesMut;

use crate::message::{FLAG_ONE_WAY, FLAG_RELAY};
use crate::{
    BodyError, Codec, Connection, Decode, Encode, EncodeError, ErrorInfo, Event, Feature, Handler, Json, Message,
    MessageType, Refusal, ResultCode, ServiceRequest, Session,
};

/// Maps each type of message to its handler: calls, and what gives them up, to `rpc`, topic operations to `topic`, registry operations to
/// `service`, the opening of sessions to `session`, and every answer to `response`.
///
/// The set is closed, so it is a `match`: no map, no lock, no `dyn`. A slot that nobody filled refuses its requests
/// with INVALID_MSG and ignores its answers.
///
/// ```
/// use callboard_common::{Dispatcher, Handler, LengthValue, Message, Protocol, Recorder};
/// struct Count(std::sync::atomic::AtomicUsize);
/// impl<C: Send + Sync> Handler<C> for Count {
///     fn handle(&self, _conn: &C, _message: Message) {
///         self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
///     }
/// }
/// let dispatcher = Dispatcher::new().on_topic(Count(Default::default()));
/// let conn = Recorder::new(1);
/// dispatcher.handle(&conn, conn.message(2, b"id", br#"{"topic_key":"t","optype":0}"#)); // goes to Count
/// dispatcher.handle(&conn, conn.message(0, b"id", br#"{"method":"add"}"#)); // goes nowhere
/// assert!(conn.sent()[0].text().contains("\"rcode\":2"));
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Dispatcher<
    Rpc = Unhandled,
    Topic = Unhandled,
    Service = Unhandled,
    Sessions = Unhandled,
    Response = Unhandled,
> {
    rpc: Rpc,
    topic: Topic,
    service: Service,
    session: Sessions,
    response: Response,
}

/// The empty slot of a [`Dispatcher`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Unhandled;

impl Dispatcher {
    /// A dispatcher with all slots empty.
    pub const fn new() -> Self {
        Self { rpc: Unhandled, topic: Unhandled, service: Unhandled, session: Unhandled, response: Unhandled }
    }
}

impl<Rpc, Topic, Service, Sessions, Response> Dispatcher<Rpc, Topic, Service, Sessions, Response> {
    /// Calls go to `rpc`, and so does what gives a call up (CANCEL) where the session knows it.
    pub fn on_rpc<H>(self, rpc: H) -> Dispatcher<H, Topic, Service, Sessions, Response> {
        let Self { topic, service, session, response, .. } = self;
        Dispatcher { rpc, topic, service, session, response }
    }

    /// Topic operations, and messages pushed to a subscriber, go to `topic`.
    pub fn on_topic<H>(self, topic: H) -> Dispatcher<Rpc, H, Service, Sessions, Response> {
        let Self { rpc, service, session, response, .. } = self;
        Dispatcher { rpc, topic, service, session, response }
    }

    /// Registry operations, notices, and a session peer's word that it goes (GOAWAY), go to `service`.
    pub fn on_service<H>(self, service: H) -> Dispatcher<Rpc, Topic, H, Sessions, Response> {
        let Self { rpc, topic, session, response, .. } = self;
        Dispatcher { rpc, topic, service, session, response }
    }

    /// The opening of sessions goes to `session`.
    pub fn on_session<H>(self, session: H) -> Dispatcher<Rpc, Topic, Service, H, Response> {
        let Self { rpc, topic, service, response, .. } = self;
        Dispatcher { rpc, topic, service, session, response }
    }

    /// Answers of every kind go to `response`.
    pub fn on_response<H>(self, response: H) -> Dispatcher<Rpc, Topic, Service, Sessions, H> {
        let Self { rpc, topic, service, session, .. } = self;
        Dispatcher { rpc, topic, service, session, response }
    }
}

impl<C, Rpc, Topic, Service, Sessions, Response> Handler<C> for Dispatcher<Rpc, Topic, Service, Sessions, Response>
where
    C: Connection,
    Rpc: Handler<C>,
    Topic: Handler<C>,
    Service: Handler<C>,
    Sessions: Handler<C>,
    Response: Handler<C>,
{
    fn handle(&self, conn: &C, message: Message) {
        let kind = message.kind();
        if kind != MessageType::SessionRequest {
            conn.settle();
        }
        if !is_negotiated(conn.session(), &message) {
            conn.settle();
            return refuse_kind(conn, &message, "it uses a codec or a flag that was not negotiated in a session");
        }
        match kind {
            MessageType::RpcRequest => self.rpc.handle(conn, message),
            MessageType::TopicRequest => self.topic.handle(conn, message),
            MessageType::ServiceRequest => self.service.handle(conn, message),
            MessageType::SessionRequest => {
                self.session.handle(conn, message);
                conn.settle(); // a second one comes too late, also after one that was refused
            }
            MessageType::RpcResponse
            | MessageType::TopicResponse
            | MessageType::ServiceResponse
            | MessageType::SessionResponse => self.response.handle(conn, message),
            MessageType::Ping if conn.session().is_some() => {
                // The peer may have gone meanwhile; then there is nobody to tell.
                let _ = conn.answer(message.id(), &Pong);
            }
            // That it came is what it says.
            MessageType::Pong if conn.session().is_some() => {}
            MessageType::Cancel if has(conn.session(), Feature::Cancel) => self.rpc.handle(conn, message),
            // Where providers register, it says that they go.
            MessageType::GoAway if conn.session().is_some() => self.service.handle(conn, message),
            _ => Unhandled.handle(conn, message),
        }
    }

    /// Topic operations that follow each other stay together: at full speed they come by the hundred.
    fn handle_all(&self, conn: &C, messages: &mut dyn Iterator<Item = Message>) {
        let mut next = messages.next();
        while let Some(message) = next.take() {
            if is_topic_operation(conn, &message) {
                conn.settle();
                let mut run = Run { conn, first: Some(message), rest: messages, next: &mut next };
                self.topic.handle_all(conn, &mut run);
                run.for_each(drop);
            } else {
                self.handle(conn, message);
                next = messages.next();
            }
        }
    }

    fn ended(&self, conn: &C) {
        self.rpc.ended(conn);
        self.topic.ended(conn);
        self.service.ended(conn);
        self.session.ended(conn);
        self.response.ended(conn);
    }

    fn closed(&self, conn: &C) {
        self.rpc.closed(conn);
        self.topic.closed(conn);
        self.service.closed(conn);
        self.session.closed(conn);
        self.response.closed(conn);
    }
}

/// Topic operations up to the first message that is none; that one comes `next`.
struct Run<'a, C> {
    conn: &'a C,
    first: Option<Message>,
    rest: &'a mut dyn Iterator<Item = Message>,
    next: &'a mut Option<Message>,
}

impl<C: Connection> Iterator for Run<'_, C> {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        // One variable, which is returned whatever it is: that spares each message a move.
        let mut message = if self.first.is_some() {
            self.first.take()
        } else if self.next.is_some() {
            None
        } else {
            self.rest.next()
        };
        if message.as_ref().is_some_and(|message| !is_topic_operation(self.conn, message)) {
            *self.next = message.take();
        }
        message
    }
}

fn is_topic_operation<C: Connection>(conn: &C, message: &Message) -> bool {
    message.kind() == MessageType::TopicRequest && is_negotiated(conn.session(), message)
}

impl<C: Connection> Handler<C> for Unhandled {
    fn handle(&self, conn: &C, message: Message) {
        refuse_kind(conn, &message, "nobody here handles this kind of message");
    }
}

/// INVALID_MSG to what asks; what only tells is counted.
fn refuse_kind<C: Connection>(conn: &C, message: &Message, why: &str) {
    let heartbeat = matches!(message.kind(), MessageType::Ping | MessageType::Cancel);
    if heartbeat || !message.kind().is_request() {
        conn.count(Event::Ignored);
    } else {
        let error = ErrorInfo::not_executed(format!("{}: {why}", message.kind()));
        refuse(conn, message, ResultCode::InvalidMessage, known_optype(message), &error);
    }
}

/// The optype that the answer to a registry operation repeats, though nobody here takes the operation.
fn known_optype(message: &Message) -> Option<i64> {
    if message.kind() != MessageType::ServiceRequest || message.codec() != Json::ID {
        return None;
    }
    match ServiceRequest::decode::<Json>(message.body()) {
        Ok(request) => Some(request.op.to_wire()),
        Err(why) => why.optype,
    }
}

/// Answers a request that did not reach its handler, in the form of its kind; a one-way request is only counted.
pub fn refuse<C: Connection>(conn: &C, message: &Message, code: ResultCode, optype: Option<i64>, error: &ErrorInfo) {
    conn.count(if code == ResultCode::Overloaded { Event::Overloaded } else { Event::Refused });
    // A flag that was not negotiated says nothing: its sender waits for the answer that the contract promises.
    if message.is_one_way() && has(conn.session(), Feature::OneWay) {
        return;
    }
    let refusal = Refusal { code, request: message.kind(), optype, error, v1: conn.session().is_none() };
    // The peer may have gone meanwhile; then there is nobody to tell.
    let _ = conn.answer(message.id(), &refusal);
}

/// Answers a request that came while its connection drains: it did not run and may be repeated elsewhere.
pub fn refuse_draining<C: Connection>(conn: &C, message: &Message) {
    if matches!(message.kind(), MessageType::Ping | MessageType::Cancel) {
        return conn.count(Event::Ignored);
    }
    let error = ErrorInfo::not_executed("this side is about to end: ask another one");
    refuse(conn, message, ResultCode::Unavailable, known_optype(message), &error);
}

/// Answers a body that could not be read.
pub fn refuse_body<C: Connection>(conn: &C, message: &Message, why: &BodyError) {
    refuse(conn, message, why.code, why.optype, &ErrorInfo::not_executed(why.message.clone()));
}

fn is_negotiated(session: Option<&Session>, message: &Message) -> bool {
    message.codec() == Json::ID && (message.flags() == 0 || message.flags() & !known_flags(session, message) == 0)
}

fn known_flags(session: Option<&Session>, message: &Message) -> u8 {
    let one_way = if has(session, Feature::OneWay) { FLAG_ONE_WAY } else { 0 };
    let passes_on = message.kind() == MessageType::RpcRequest && has(session, Feature::Relay);
    if passes_on { one_way | FLAG_RELAY } else { one_way }
}

fn has(session: Option<&Session>, feature: Feature) -> bool {
    session.is_some_and(|session| session.features.has(feature))
}

/// Kind 19, empty body.
struct Pong;

impl Encode for Pong {
    fn kind(&self) -> MessageType {
        MessageType::Pong
    }

    fn encode<C: Codec>(&self, _out: &mut BytesMut) -> Result<(), EncodeError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recorder;

    #[test]
    fn a_kind_that_nobody_takes_is_refused_in_its_own_form() {
        let rows: [(u32, &str, &str); 5] = [
            (0, r#"{"method":"add"}"#, r#"{"rcode":2,"result":{},"error":"#),
            (2, r#"{"topic_key":"t","optype":0}"#, r#"{"rcode":2,"error":"#),
            (4, r#"{"method":"add","optype":1}"#, r#"{"rcode":2,"optype":1,"error":"#),
            (4, r#"{"method":"add","optype":9}"#, r#"{"rcode":2,"optype":4,"error":"#),
            (6, "{}", r#"{"rcode":2,"error":"#),
        ];
        for (kind, body, start) in rows {
            let conn = Recorder::new(1);
            Dispatcher::new().handle(&conn, conn.message(kind, b"id", body.as_bytes()));
            let sent = conn.take();
            assert!(sent[0].text().starts_with(start), "{}", sent[0].text());
            assert_eq!((sent[0].0.kind().to_wire(), sent[0].0.id()), (u16::try_from(kind).unwrap() + 1, &b"id"[..]));
        }
    }

    #[test]
    fn what_one_read_brought_is_handled_in_order_and_topic_operations_together() {
        #[derive(Default)]
        struct Log(std::sync::Mutex<Vec<String>>);
        struct Together(std::sync::Arc<Log>);
        impl Handler<Recorder> for Log {
            fn handle(&self, _conn: &Recorder, message: Message) {
                self.0.lock().unwrap().push(String::from_utf8_lossy(message.id()).into_owned());
            }
        }
        impl Handler<Recorder> for Together {
            fn handle(&self, _conn: &Recorder, _message: Message) {}
            fn handle_all(&self, _conn: &Recorder, messages: &mut dyn Iterator<Item = Message>) {
                let ids = messages.map(|message| String::from_utf8_lossy(message.id()).into_owned());
                let ids = ids.collect::<Vec<_>>().join("+");
                self.0.0.lock().unwrap().push(ids);
            }
        }
        let log = std::sync::Arc::new(Log::default());
        let topic = Together(std::sync::Arc::clone(&log));
        let dispatcher = Dispatcher::new().on_topic(topic).on_rpc(std::sync::Arc::clone(&log));
        let conn = Recorder::new(1);
        let kinds = [2, 2, 0, 2, 2 | 1 << 24, 2, 0];
        let mut messages = kinds.iter().zip(b'a'..).map(|(kind, id)| conn.message(*kind, &[id], b"{}"));
        dispatcher.handle_all(&conn, &mut messages);
        assert_eq!(*log.0.lock().unwrap(), ["a+b", "c", "d", "f", "g"]);
        assert_eq!(conn.take()[0].0.id(), b"e", "a flag that was not negotiated is refused");
    }

    #[test]
    fn a_call_is_given_up_where_the_session_knows_that() {
        struct Count(std::sync::Arc<std::sync::atomic::AtomicUsize>);
        impl Handler<Recorder> for Count {
            fn handle(&self, _conn: &Recorder, message: Message) {
                assert_eq!((message.kind(), message.id()), (MessageType::Cancel, &b"id"[..]));
                self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let given_up = std::sync::Arc::default();
        let dispatcher = Dispatcher::new().on_rpc(Count(std::sync::Arc::clone(&given_up)));
        let session = |features| Session {
            name: String::new(),
            instance: String::new(),
            store: None,
            features: crate::Features::from_names(features),
            limits: crate::Limits::default(),
            heartbeats: None,
            serving: None,
        };
        let knows = Recorder::with_session(1, session(vec!["cancel"]));
        let others = [Recorder::new(2), Recorder::with_session(3, session(vec!["one_way", "ping"]))];
        dispatcher.handle(&knows, knows.message(20, b"id", b""));
        assert_eq!((given_up.load(std::sync::atomic::Ordering::Relaxed), knows.events()), (1, vec![]));
        for conn in others {
            dispatcher.handle(&conn, conn.message(20, b"id", b""));
            assert_eq!((conn.events(), conn.sent().len()), (vec![Event::Ignored], 0));
        }
        assert_eq!(given_up.load(std::sync::atomic::Ordering::Relaxed), 1);
    }

    #[test]
    fn what_only_tells_is_counted_and_not_answered() {
        for kind in [1, 3, 5, 7, 17, 18, 19, 20, 21] {
            let conn = Recorder::new(1);
            Dispatcher::new().handle(&conn, conn.message(kind, b"id", b"{}"));
            assert_eq!((conn.sent().len(), conn.events()), (0, vec![Event::Ignored]), "{kind}");
        }
    }
}
