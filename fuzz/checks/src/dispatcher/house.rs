use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use callboard_common::{
    Codec, Connection, Decode, Dispatcher, Feature, Handler, Json, Limits, ListedHost, Message, MessageType, Raw,
    Recorder, ResultCode, RpcResponse, ServiceAnswer, ServiceOp, ServiceRequest, SessionAnswer, TopicOp, TopicRequest,
};
use callboard_pubsub::TopicService;
use callboard_registry::{RegistryService, TableSize};
use callboard_server::{Router, Sessions};
use serde_json::{Value, json};

use super::model::{Answer, Id, Model, Peer, Push, REGISTRY_LIMITS, TOPIC_LIMITS};
use super::script::{PEERS, Step, What};

type Topics = Arc<TopicService<Recorder>>;
type Registry = Arc<RegistryService<Recorder>>;

/// A center without sockets, the peers that it serves, and what the contract says of both.
pub(super) struct House {
    dispatcher: Dispatcher<Router, Topics, Registry, Sessions>,
    topics: Topics,
    registry: Registry,
    model: Model,
    guests: Vec<Guest>,
    last_id: Id,
}

struct Guest {
    conn: Recorder,
    peer: Peer,
    is_full: bool,
    /// The last that it was told of each method that it watches.
    revisions: BTreeMap<String, u64>,
    /// It is closed, and the center was not told yet.
    is_gone: bool,
}

impl House {
    pub(super) fn new() -> Self {
        let topics = Topics::new(TopicService::with_limits(TOPIC_LIMITS));
        let registry = Registry::new(RegistryService::new(REGISTRY_LIMITS));
        let router = Router::new()
            .method("add", |p: Value| Ok(p["num1"].as_i64().zip(p["num2"].as_i64()).map(|(a, b)| a.wrapping_add(b))))
            .method("echo", |p: Value| Ok(p))
            .method("nothing", |_: Value| Ok(()));
        let dispatcher = Dispatcher::new()
            .on_rpc(router)
            .on_topic(Arc::clone(&topics))
            .on_service(Arc::clone(&registry))
            .on_session(Sessions::new("center", Limits::default()));
        let mut house = Self { dispatcher, topics, registry, model: Model::default(), guests: Vec::new(), last_id: 0 };
        for _ in 0..PEERS {
            let guest = house.new_guest();
            house.guests.push(guest);
        }
        house
    }

    fn new_guest(&mut self) -> Guest {
        self.last_id += 1;
        let peer = Peer { id: self.last_id, session: None, is_new: true };
        Guest { conn: Recorder::new(peer.id), peer, is_full: false, revisions: BTreeMap::new(), is_gone: false }
    }

    pub(super) fn take(&mut self, step: &Step) {
        let guest = &mut self.guests[step.peer];
        match &step.what {
            What::Close => guest.leave(),
            What::Fill => {
                guest.conn.fill();
                guest.is_full = true;
            }
            What::Send { mtype, id, body } => {
                let message = guest.conn.message(*mtype, id, body);
                self.send(step.peer, &message);
            }
        }
        self.replace_closed();
        let size = (self.topics.topic_count(), self.registry.size().connections);
        assert_eq!(size.0, self.model.topics.len());
        assert!(size.1 <= PEERS);
    }

    /// All leave, and nothing of them is kept.
    pub(super) fn close_all(mut self) {
        for at in 0..self.guests.len() {
            self.guests[at].leave();
            self.replace_closed();
        }
        assert_eq!(self.topics.subscriber_count(), 0);
        assert_eq!(self.registry.size(), TableSize::default());
    }

    fn send(&mut self, sender: usize, message: &Message) {
        let guest = &mut self.guests[sender];
        let outcome = self.model.take(&guest.peer, message);
        guest.peer.is_new = false;
        self.dispatcher.handle(&guest.conn, message.clone());
        if let Answer::Session(features) = outcome.answer {
            guest.peer.session = Some(features);
        }
        assert_eq!(guest.conn.session().map(|session| session.features), guest.peer.session);
        let answered = self.came(&outcome.pushes);
        for (at, answers) in answered.into_iter().enumerate() {
            let expected = if at == sender { &outcome.answer } else { &Answer::Nothing };
            self.guests[at].check_answers(message, expected, &answers);
        }
    }

    /// Compares what was pushed to each guest with what was expected; hands back the other frames that each got.
    fn came(&mut self, expected: &[(Id, Push)]) -> Vec<Vec<Message>> {
        self.guests.iter_mut().map(|guest| guest.came(expected)).collect()
    }

    /// Ends the connections that were closed, by the script or by the center, until no end makes another.
    fn replace_closed(&mut self) {
        while let Some(at) = self.guests.iter().position(|guest| guest.is_gone) {
            let new = self.new_guest();
            let gone = std::mem::replace(&mut self.guests[at], new);
            let expected = self.model.close(gone.peer.id);
            self.dispatcher.closed(&gone.conn);
            assert!(self.came(&expected).iter().all(Vec::is_empty), "a connection's end answers nobody");
            assert_eq!(gone.conn.in_flight(), 0);
            assert_eq!(gone.conn.take(), [], "nothing is sent to one that is closed");
        }
    }
}

impl Guest {
    fn leave(&mut self) {
        self.conn.close("the script says so".into());
        self.is_gone = true;
    }

    /// What of all that is pushed should reach it, as it should see it.
    fn expects(&self, all: &[(Id, Push)]) -> Vec<Push> {
        let own = all.iter().filter(|(id, _)| *id == self.peer.id).map(|(_, push)| push);
        match self.peer.session {
            None => own.filter(|push| !matches!(push, Push::Removed { .. })).map(Push::to_v1).collect(),
            Some(_) => own.cloned().collect(),
        }
    }

    fn came(&mut self, all: &[(Id, Push)]) -> Vec<Message> {
        let came: Vec<Message> = self.conn.take().into_iter().map(|sent| sent.0).collect();
        let (pushed, answers): (Vec<_>, Vec<_>) = came.into_iter().partition(|message| message.kind().is_request());
        let expected = if self.is_gone { Vec::new() } else { self.expects(all) };
        if self.is_full && !expected.is_empty() {
            self.is_gone = true;
            assert_eq!(pushed, []);
        } else {
            let mut read = Vec::new();
            for message in &pushed {
                read.push(self.read_push(message));
            }
            let pushed = read;
            assert_eq!(pushed, expected);
        }
        assert_eq!(self.conn.close_reason().is_some(), self.is_gone, "who has no room for a push is closed, no other");
        answers
    }

    fn read_push(&mut self, message: &Message) -> Push {
        assert_eq!((message.codec(), message.flags()), (0, 0));
        match message.kind() {
            MessageType::ServiceRequest => {
                let ServiceRequest { method, op, host, revision, .. } =
                    ServiceRequest::decode::<Json>(message.body()).unwrap();
                assert!(matches!(op, ServiceOp::Online | ServiceOp::Offline));
                self.check_members(message, &["method", "optype", "host"]);
                let method = method.into_owned();
                let last = self.revisions.get(&method).copied().unwrap_or_default();
                self.check_revision(&method, revision, |revision| revision == last + 1);
                Push::Notice { method, host: host.unwrap(), online: op == ServiceOp::Online }
            }
            MessageType::TopicRequest => {
                let request = TopicRequest::decode::<Json>(message.body()).unwrap();
                assert!(request.canonical, "what is pushed is spelled as the contract says");
                let topic = request.topic.into_owned();
                match request.op {
                    TopicOp::Remove => Push::Removed { topic },
                    op => {
                        assert_eq!(op, TopicOp::Publish);
                        self.read_news(message.id(), topic, request.message.unwrap())
                    }
                }
            }
            other => panic!("{other} is not for the center to send"),
        }
    }

    fn read_news(&self, id: &[u8], topic: String, message: Raw<'_>) -> Push {
        let message = if self.peer.session.is_some() {
            let mut compact = BytesMut::new();
            Json::write_compact(message, &mut compact);
            compact.to_vec()
        } else {
            Json::text(message).expect("a v1 peer takes only strings").into_owned().into_bytes()
        };
        Push::News { id: id.to_vec(), topic, message }
    }

    /// To those who asked for it each change of a method has its number, and no number is left out; others get none.
    fn check_revision(&mut self, method: &str, revision: Option<u64>, follows: impl Fn(u64) -> bool) {
        assert_eq!(revision.is_some(), self.peer.has(Feature::Revisions));
        if let Some(revision) = revision {
            assert!(follows(revision), "revision {revision} of {method:?}");
            self.revisions.insert(method.to_owned(), revision);
        }
    }

    fn check_answers(&mut self, request: &Message, expected: &Answer, answers: &[Message]) {
        // Who was closed on the way may have missed its answer.
        if *expected == Answer::Nothing || self.is_gone && answers.is_empty() {
            return assert_eq!(answers, []);
        }
        let [answer] = answers else { panic!("{request:?} was answered {} times", answers.len()) };
        assert_eq!((answer.id(), answer.kind()), (request.id(), request.kind().answer()));
        assert_eq!((answer.codec(), answer.flags()), (0, 0));
        if *expected == Answer::Pong {
            return assert_eq!(answer.body(), b"");
        }
        let rcode = serde_json::from_slice::<Value>(answer.body()).unwrap()["rcode"].as_i64().unwrap();
        match expected {
            Answer::Nothing | Answer::Pong => {}
            Answer::Any => assert!(matches!(ResultCode::from_wire(rcode), ResultCode::Ok | ResultCode::InvalidParams)),
            Answer::Code(code) => assert_eq!(ResultCode::from_wire(rcode), *code),
            Answer::Hosts(hosts) => {
                let read = ServiceAnswer::decode::<Json>(answer.body()).unwrap();
                let code = if hosts.is_empty() { ResultCode::NotFoundService } else { ResultCode::Ok };
                assert_eq!((read.code, read.op), (code, Some(ServiceOp::Discover)));
                let listed = |listed: ListedHost| listed.host;
                assert_eq!(read.hosts.map(|hosts| hosts.iter().map(listed).collect()), Some(hosts.clone()));
                let method = read.method.unwrap();
                let last = self.revisions.get(&*method).copied();
                self.check_revision(&method, read.revision, |revision| last.is_none_or(|last| revision == last));
            }
            Answer::Session(features) => {
                let read = SessionAnswer::decode::<Json>(answer.body()).unwrap();
                assert_eq!((read.code, read.version), (ResultCode::Ok, 2));
                assert!(read.features.iter().map(|name| &**name).eq(features.names()));
            }
        }
        self.check_dialect(answer);
    }

    /// A peer without a session gets what the contract's first three sections have, and nothing else.
    fn check_dialect(&self, answer: &Message) {
        match answer.kind() {
            MessageType::RpcResponse => {
                self.check_members(answer, &["rcode", "result", "error"]);
                let result = RpcResponse::decode::<Json>(answer.body()).unwrap().result;
                let null = result.is_none_or(|result| result.bytes() == b"null");
                assert!(self.peer.session.is_some() || !null, "a v1 peer would wait for a result for ever");
            }
            MessageType::ServiceResponse => {
                self.check_members(answer, &["rcode", "optype", "method", "host", "error"]);
            }
            MessageType::SessionResponse if self.peer.session.is_some() => {}
            _ => self.check_members(answer, &["rcode", "error"]),
        }
        let body: Value = serde_json::from_slice(answer.body()).unwrap();
        if body["rcode"] != json!(0) {
            assert!(body["error"]["message"].is_string() && body["error"]["executed"].is_string(), "{body}");
        }
    }

    fn check_members(&self, message: &Message, known: &[&str]) {
        let body: serde_json::Map<String, Value> = serde_json::from_slice(message.body()).unwrap();
        let strange = body.keys().find(|key| !known.contains(&key.as_str()));
        assert!(self.peer.session.is_some() || strange.is_none(), "a v1 peer was sent {strange:?}");
    }
}
