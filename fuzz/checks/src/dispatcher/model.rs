use std::collections::{BTreeMap, BTreeSet};

use bytes::BytesMut;
use callboard_common::{
    BodyError, Codec, Decode, FLAG_ONE_WAY, Feature, Features, Host, Json, Message, MessageType, ResultCode,
    RpcRequest, ServiceOp, ServiceRequest, SessionRequest, TopicOp, TopicRequest,
};
use callboard_pubsub::TopicLimits;
use callboard_registry::RegistryLimits;

/// Small, so that a short script reaches them.
pub(super) const TOPIC_LIMITS: TopicLimits = TopicLimits {
    // Who holds a topic, and which one goes past these bounds, is no part of the contract.
    topics: usize::MAX,
    subscribed_per_connection: 2,
    max_name_bytes: 8,
    ring_messages: 4,
    ring_bytes: 1 << 10,
    total_ring_bytes: 1 << 11,
    created_per_connection: usize::MAX,
    total_bytes: usize::MAX,
};
pub(super) const REGISTRY_LIMITS: RegistryLimits = RegistryLimits {
    registered_per_connection: 3,
    watched_per_connection: 2,
    max_name_bytes: 8,
    total_bytes: usize::MAX,
};

/// A connection's number; they are never used twice.
pub(super) type Id = u64;

/// What the contract says that a center knows, kept in the plainest way: lists that are searched.
#[derive(Default)]
pub(super) struct Model {
    pub(super) topics: BTreeMap<String, Vec<Id>>,
    entries: Vec<Entry>,
    watches: BTreeSet<(String, Id)>,
}

/// A method at a host and all who registered it.
struct Entry {
    method: String,
    host: Host,
    by: BTreeSet<Id>,
}

/// What the contract says of a peer.
#[derive(Clone, Copy)]
pub(super) struct Peer {
    pub(super) id: Id,
    pub(super) session: Option<Features>,
    /// Nothing has come from it yet.
    pub(super) is_new: bool,
}

impl Peer {
    pub(super) fn has(&self, feature: Feature) -> bool {
        self.session.is_some_and(|features| features.has(feature))
    }
}

/// What a message makes the center do.
pub(super) struct Outcome {
    pub(super) answer: Answer,
    pub(super) pushes: Vec<(Id, Push)>,
}

/// What the sender is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Nothing,
    Code(ResultCode),
    /// A call whose result is the handler's.
    Any,
    Hosts(Vec<Host>),
    Pong,
    /// A session with these features.
    Session(Features),
}

/// What somebody is told unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Push {
    /// The publisher's id, the topic, and the message: to a session peer its JSON without white space, to a v1 peer a
    /// text, which is that JSON where the message is no string.
    News {
        id: Vec<u8>,
        topic: String,
        message: Vec<u8>,
    },
    Removed {
        topic: String,
    },
    Notice {
        method: String,
        host: Host,
        online: bool,
    },
}

impl Push {
    /// The same in the form that a v1 peer gets it in.
    pub(super) fn to_v1(&self) -> Self {
        let mut push = self.clone();
        if let Self::News { message, .. } = &mut push {
            let text = Json::text(Json::check(message).unwrap()).map(|text| text.into_owned().into_bytes());
            *message = text.unwrap_or_else(|| message.clone());
        }
        push
    }
}

impl Model {
    /// What a message of this peer's does. A session that it opens is the caller's to enter.
    pub(super) fn take(&mut self, peer: &Peer, message: &Message) -> Outcome {
        let mut pushes = Vec::new();
        let one_way = message.flags() & FLAG_ONE_WAY != 0 && peer.has(Feature::OneWay);
        let negotiated = message.codec() == 0 && (message.flags() == 0 || one_way && message.flags() == FLAG_ONE_WAY);
        let kind = message.kind();
        let never_answered = !kind.is_request() || matches!(kind, MessageType::Ping | MessageType::Cancel);
        let answer = match kind {
            MessageType::Ping if negotiated && peer.session.is_some() => {
                return Outcome { answer: Answer::Pong, pushes };
            }
            _ if never_answered => Answer::Nothing,
            _ if !negotiated => Answer::Code(ResultCode::InvalidMessage),
            MessageType::RpcRequest => call(message.body()),
            MessageType::TopicRequest => {
                self.topic(peer.id, message, &mut pushes).unwrap_or_else(|error| Answer::Code(error.code))
            }
            MessageType::ServiceRequest => {
                self.service(peer, message, one_way, &mut pushes).unwrap_or_else(|error| Answer::Code(error.code))
            }
            MessageType::SessionRequest => session(peer, message.body()),
            _ => Answer::Code(ResultCode::InvalidMessage),
        };
        Outcome { answer: if one_way { Answer::Nothing } else { answer }, pushes }
    }

    /// What a connection's end does.
    pub(super) fn close(&mut self, id: Id) -> Vec<(Id, Push)> {
        self.topics.values_mut().for_each(|subscribers| subscribers.retain(|one| *one != id));
        self.watches.retain(|(_, watcher)| *watcher != id);
        let mut left: Vec<(String, Host)> = Vec::new();
        for entry in &self.entries {
            if entry.by.contains(&id) {
                left.push((entry.method.clone(), entry.host));
            }
        }
        left.sort();
        let mut pushes = Vec::new();
        for (method, host) in left {
            self.unregister(id, &method, host, &mut pushes);
        }
        pushes
    }

    fn topic(&mut self, id: Id, message: &Message, pushes: &mut Vec<(Id, Push)>) -> Result<Answer, BodyError> {
        let request = TopicRequest::decode::<Json>(message.body())?;
        let topic = request.topic.into_owned();
        let subscribed = self.topics.values().filter(|subscribers| subscribers.contains(&id)).count();
        let code = match (request.op, self.topics.get_mut(&topic)) {
            (TopicOp::Create, None) if topic.len() > TOPIC_LIMITS.max_name_bytes => ResultCode::TooLarge,
            (TopicOp::Create, None) => {
                self.topics.insert(topic, Vec::new());
                ResultCode::Ok
            }
            (TopicOp::Create, Some(_)) | (TopicOp::Remove | TopicOp::Cancel, None) => ResultCode::Ok,
            (TopicOp::Subscribe | TopicOp::Publish, None) => ResultCode::NotFoundTopic,
            (TopicOp::Subscribe, Some(subscribers)) if subscribers.contains(&id) => ResultCode::Ok,
            (TopicOp::Subscribe, _) if subscribed == TOPIC_LIMITS.subscribed_per_connection => ResultCode::Overloaded,
            (TopicOp::Subscribe, Some(subscribers)) => {
                subscribers.push(id);
                ResultCode::Ok
            }
            (TopicOp::Cancel, Some(subscribers)) => {
                subscribers.retain(|one| *one != id);
                ResultCode::Ok
            }
            (TopicOp::Publish, Some(subscribers)) => {
                let published = request.message.unwrap();
                let mut compact = BytesMut::new();
                Json::write_compact(published, &mut compact);
                let news = Push::News { id: message.id().to_vec(), topic, message: compact.to_vec() };
                pushes.extend(subscribers.iter().map(|subscriber| (*subscriber, news.clone())));
                ResultCode::Ok
            }
            (TopicOp::Remove, Some(_)) => {
                let subscribers = self.topics.remove(&topic).unwrap();
                let removed = Push::Removed { topic };
                pushes.extend(subscribers.iter().map(|subscriber| (*subscriber, removed.clone())));
                ResultCode::Ok
            }
        };
        Ok(Answer::Code(code))
    }

    fn service(
        &mut self,
        peer: &Peer,
        message: &Message,
        one_way: bool,
        pushes: &mut Vec<(Id, Push)>,
    ) -> Result<Answer, BodyError> {
        let request = ServiceRequest::decode::<Json>(message.body())?;
        let (method, too_long) = (&*request.method, request.method.len() > REGISTRY_LIMITS.max_name_bytes);
        Ok(match request.op {
            // Nobody here passes calls on.
            ServiceOp::Register if request.host.is_none() => Answer::Code(ResultCode::InvalidMessage),
            ServiceOp::Register | ServiceOp::Discover if too_long => Answer::Code(ResultCode::TooLarge),
            ServiceOp::Register => Answer::Code(self.register(peer.id, method, request.host.unwrap(), pushes)),
            // Nobody is made to watch what it was never told.
            ServiceOp::Discover if one_way => Answer::Nothing,
            ServiceOp::Discover => self.discover(peer.id, method),
            ServiceOp::Withdraw if peer.session.is_some() => {
                let mut hosts: Vec<Host> = self.hosts(method);
                hosts.sort();
                for host in hosts.into_iter().filter(|host| request.host.is_none_or(|one| one == *host)) {
                    self.unregister(peer.id, method, host, pushes);
                }
                Answer::Code(ResultCode::Ok)
            }
            _ => Answer::Code(ResultCode::InvalidOptype),
        })
    }

    fn register(&mut self, id: Id, method: &str, host: Host, pushes: &mut Vec<(Id, Push)>) -> ResultCode {
        let registered = self.entries.iter().filter(|entry| entry.by.contains(&id)).count();
        let found = self.entries.iter_mut().find(|entry| entry.method == method && entry.host == host);
        match found {
            Some(entry) if entry.by.contains(&id) => return ResultCode::Ok,
            _ if registered == REGISTRY_LIMITS.registered_per_connection => return ResultCode::Overloaded,
            Some(entry) => {
                entry.by.insert(id);
            }
            None => {
                self.entries.push(Entry { method: method.to_owned(), host, by: BTreeSet::from([id]) });
                self.notify(method, host, true, pushes);
            }
        }
        ResultCode::Ok
    }

    fn discover(&mut self, id: Id, method: &str) -> Answer {
        let watch = (method.to_owned(), id);
        let watched = self.watches.iter().filter(|(_, watcher)| *watcher == id).count();
        if !self.watches.contains(&watch) && watched == REGISTRY_LIMITS.watched_per_connection {
            return Answer::Code(ResultCode::Overloaded);
        }
        self.watches.insert(watch);
        Answer::Hosts(self.hosts(method))
    }

    fn unregister(&mut self, id: Id, method: &str, host: Host, pushes: &mut Vec<(Id, Push)>) {
        let at = self.entries.iter().position(|entry| entry.method == method && entry.host == host).unwrap();
        let taken = self.entries[at].by.remove(&id);
        if taken && self.entries[at].by.is_empty() {
            self.entries.remove(at);
            self.notify(method, host, false, pushes);
        }
    }

    fn notify(&self, method: &str, host: Host, online: bool, pushes: &mut Vec<(Id, Push)>) {
        let watchers = self.watches.iter().filter(|(watched, _)| watched == method);
        let notice = Push::Notice { method: method.to_owned(), host, online };
        pushes.extend(watchers.map(|(_, watcher)| (*watcher, notice.clone())));
    }

    /// In the order in which they came.
    fn hosts(&self, method: &str) -> Vec<Host> {
        self.entries.iter().filter(|entry| entry.method == method).map(|entry| entry.host).collect()
    }
}

fn call(body: &[u8]) -> Answer {
    match RpcRequest::decode::<Json>(body) {
        Err(error) => Answer::Code(error.code),
        Ok(request) if matches!(&*request.method, "add" | "echo" | "nothing") => Answer::Any,
        Ok(_) => Answer::Code(ResultCode::NotFoundService),
    }
}

fn session(peer: &Peer, body: &[u8]) -> Answer {
    match SessionRequest::decode::<Json>(body) {
        Ok(request) if peer.is_new => {
            Answer::Session(Features::from_names(request.features.iter().map(|name| &**name)))
        }
        Ok(_) => Answer::Code(ResultCode::InvalidMessage),
        Err(error) => Answer::Code(error.code),
    }
}
