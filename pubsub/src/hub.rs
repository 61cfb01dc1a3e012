use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, iter};

use bytes::Bytes;
use callboard_client::{Client, Conn, Inbox, Line, Resuming, WeakLine};
use callboard_common::{
    Connection, Decode, Event, FLAG_ONE_WAY, Feature, Head, Json, Message, MessageType, PublishId, Raw, SendError,
    Subscribed, TopicOp, TopicOptions, TopicRequest,
};

use crate::backlog::{End, Mark};
use crate::bundle::{Bundle, Number, Part};
use crate::gathering::{Gathering, PING_ID};
use crate::listeners::{ListenerId, Listeners, Wants};
use crate::publication::COPY_BELOW_BYTES;
use crate::queue::{Freed, Hold, Queue};
use crate::spelling::Spelling;
use crate::wishes::Wishes;

/// What a client's connection does with messages of topics: hands each to those who listen, sharing its bytes.
///
/// Its lock is taken by the connection's task for each message. Cancels are queued under it, so that none overtakes the
/// subscribe of one who joins later.
pub(crate) struct Hub {
    listeners: Mutex<Listeners<Arc<Queue>>>,
    gathering: Gathering,
    /// Which run of the center was asked last, where it tells.
    pub(crate) instance: Mutex<Option<String>>,
    /// Topics that this center is to have, as one of several.
    pub(crate) wished: Mutex<Wished>,
}

/// Topics that are to be created again, and the connection over which they were last.
#[derive(Default)]
pub(crate) struct Wished {
    pub(crate) topics: Wishes,
    pub(crate) over: Option<WeakLine>,
    /// Somebody asks again for what was refused.
    pub(crate) settles: bool,
}

impl Hub {
    /// The hub of a client's connection.
    pub(crate) fn of(client: &Client) -> Arc<Self> {
        client.topic_inbox(|| Self::new(client.session().map(|session| session.instance).as_deref()))
    }

    pub(crate) fn new(instance: Option<&str>) -> Self {
        let (listeners, gathering) = (Mutex::new(Listeners::new()), Gathering::default());
        Self { listeners, gathering, instance: Mutex::new(instance.map(str::to_owned)), wished: Mutex::default() }
    }

    /// Whether what is published over the connection waits for company.
    pub(crate) const fn gathering(&self) -> &Gathering {
        &self.gathering
    }

    /// See [`Listeners::join`].
    pub(crate) fn join(&self, topic: &str, queue: Arc<Queue>, wants: Wants) -> ListenerId {
        self.lock().join(topic, queue, wants)
    }

    /// See [`Listeners::wants`].
    pub(crate) fn wants(&self, topic: &str) -> TopicOptions {
        self.lock().wants(topic)
    }

    /// See [`Listeners::confirm`].
    pub(crate) fn confirm(&self, who: &ListenerId, answer: Option<Subscribed>) -> Option<u64> {
        self.lock().confirm(who, answer)
    }

    /// Takes one out; after the last one of a topic, tells the center.
    pub(crate) fn leave(self: &Arc<Self>, client: &Client, who: &ListenerId) {
        let mut listeners = self.lock();
        let Some(cancel) = listeners.leave(who) else { return };
        let (hub, answered) = (Arc::clone(self), cancel.clone());
        let request = <TopicRequest<'_>>::new(&*who.topic, TopicOp::Cancel);
        let sent = client.exchange_in_order(&subject(&who.topic), &request, move |_| hub.lock().cancelled(&answered));
        if sent.is_err() {
            listeners.not_cancelled(&cancel);
        }
    }

    fn publish(&self, conn: &Conn, arrivals: Arrivals) {
        let hold = || -> Hold { Box::new(conn.hold_reading()) };
        self.hand_on(arrivals, hold, |topic| cancel_again(conn, topic).is_ok());
    }

    /// Hands messages to those who listen; `hold` keeps more from coming, `cancel` sends a cancel that is owed.
    pub(crate) fn hand_on(&self, mut arrivals: Arrivals, hold: impl Fn() -> Hold, cancel: impl FnOnce(&str) -> bool) {
        let topic = std::mem::take(&mut arrivals.topic);
        let mut listeners = self.lock();
        let freed: Vec<_> = match listeners.arrived(&topic, arrivals.first_seq, arrivals.len()) {
            None => return,
            Some((name, first, queues)) => {
                let bundle = arrivals.bundle(name, first);
                let freed = queues.map(|queue| queue.push(bundle.clone(), &hold));
                freed.filter(|freed| !freed.is_nothing()).collect()
            }
        };
        if listeners.owes_cancel(&topic) && cancel(&topic) {
            listeners.settled(&topic);
        }
        drop(listeners);
        freed.into_iter().for_each(Freed::let_go);
    }

    /// All up to this number has come, or does not come.
    pub(crate) fn reached(&self, topic: &str, seq: u64) {
        let queues = self.lock().reached(topic, seq);
        for queue in queues {
            queue.mark(Mark::Reached(seq)).let_go();
        }
    }

    fn remove(&self, topic: &str) -> Vec<Freed> {
        let (ended, in_doubt) = self.lock().end_topic(topic);
        let ended = ended.iter().map(|queue| queue.end(End::TopicRemoved));
        ended.chain(in_doubt.iter().map(|queue| queue.clear())).collect()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Listeners<Arc<Queue>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("gathering", &self.gathering).finish_non_exhaustive()
    }
}

impl Inbox for Hub {
    fn message(&self, conn: &Conn, message: Message) {
        self.messages(conn, &mut iter::once(message));
    }

    fn messages(&self, conn: &Conn, messages: &mut dyn Iterator<Item = Message>) {
        let mut arrivals: Option<Arrivals> = None;
        let mut spelling = Spelling::default();
        for message in messages {
            if let Some(open) = arrivals.as_mut().filter(|open| open.has_room_for(message.body()))
                && let Some(value) = spelling.read(message.body())
            {
                open.add(value.raw.bytes(), value.is_plain, message.id());
                continue;
            }
            if let Some(done) = arrivals.take() {
                self.publish(conn, done);
            }
            if message.kind() == MessageType::Pong {
                if message.id() == PING_ID {
                    self.gathering.answered(conn);
                }
                continue;
            }
            match TopicRequest::decode::<Json>(message.body()) {
                Ok(request) if request.op == TopicOp::Publish => {
                    spelling.learn(&message, &request);
                    arrivals = Some(Arrivals::new(&message, &request));
                }
                Ok(request) if request.op == TopicOp::Remove => {
                    self.remove(&request.topic).into_iter().for_each(Freed::let_go);
                }
                Ok(TopicRequest { op: TopicOp::Subscribe, seq: Some(seq), topic, .. }) => self.reached(&topic, seq),
                _ => conn.count(Event::Ignored),
            }
        }
        if let Some(done) = arrivals {
            self.publish(conn, done);
        }
    }

    fn lost(&self) {
        self.connection_lost();
        self.gathering.reset();
    }

    fn resume(self: Arc<Self>, line: &Line) -> Resuming<'_> {
        // A PING that left over the connection that leaves is not answered here.
        self.gathering.reset();
        Box::pin(async move {
            self.create_again(line).await?;
            self.subscribe_again(line).await
        })
    }

    fn closed(&self) {
        let ended = self.lock().end_all();
        for queue in ended {
            queue.end(End::Disconnected).let_go();
        }
    }
}

/// Room for more messages than this is not made at once: about as many small ones as one read brings.
const MANY_PARTS: usize = 512;

/// Messages of one topic, copied out of the buffer that they came in.
pub(crate) struct Arrivals {
    topic: String,
    /// The number of the first.
    first_seq: Option<u64>,
    /// The first where it is large.
    large: Option<Bytes>,
    values: Vec<u8>,
    parts: Vec<Part>,
    /// What they are known by; empty as long as none of them may be repeated.
    ids: Vec<Option<PublishId>>,
}

impl Arrivals {
    pub(crate) fn new(message: &Message, request: &TopicRequest<'_>) -> Self {
        let value = request.message.map(Raw::bytes).unwrap_or_default();
        let large = (value.len() >= COPY_BELOW_BYTES).then(|| message.frame().slice_ref(value));
        let is_large = large.is_some();
        let (topic, first_seq) = (request.topic.to_string(), request.seq);
        let mut arrivals = Self { topic, first_seq, large, values: Vec::new(), parts: Vec::new(), ids: Vec::new() };
        if is_large {
            arrivals.know(0, message.id());
        } else {
            arrivals.add(value, Json::is_plain_string(value), message.id());
        }
        arrivals
    }

    /// Whether the message in this body may come with them: a large one stays where it is, and alone.
    fn has_room_for(&self, body: &[u8]) -> bool {
        self.large.is_none() && self.values.len() + body.len() <= COPY_BELOW_BYTES
    }

    fn add(&mut self, value: &[u8], is_plain: bool, id: &[u8]) {
        self.know(self.parts.len(), id);
        if self.parts.len() == 1 {
            self.values.reserve_exact(COPY_BELOW_BYTES.saturating_sub(self.values.len()));
            self.parts.reserve_exact((COPY_BELOW_BYTES / value.len().max(1)).min(MANY_PARTS));
        }
        self.values.extend_from_slice(value);
        self.parts.push(Part { end: self.values.len(), is_plain });
    }

    /// By what the message is known that comes behind so many.
    fn know(&mut self, before: usize, id: &[u8]) {
        let id = PublishId::split(id).map(|(id, _)| id);
        if id.is_some() || !self.ids.is_empty() {
            self.ids.resize(before, None);
            self.ids.push(id);
        }
    }

    fn len(&self) -> u64 {
        self.parts.len().max(1) as u64
    }

    fn bundle(mut self, topic: Arc<str>, first: u64) -> Bundle {
        let first = Number { seq: first, is_told: self.first_seq.is_some() };
        if let Some(value) = self.large {
            return Bundle::single(topic, value, first, self.ids);
        }
        // What waits takes what it counts as.
        self.values.shrink_to_fit();
        self.parts.shrink_to_fit();
        self.ids.shrink_to_fit();
        Bundle::copied(topic, self.values, self.parts, first, self.ids)
    }
}

/// What errors about a topic name.
pub(crate) fn subject(topic: &str) -> String {
    format!("topic {topic:?}")
}

/// Nobody waits for the answer: a session peer sends none, and any other is ignored.
fn cancel_again(conn: &Conn, topic: &str) -> Result<(), SendError> {
    let one_way = conn.session().is_some_and(|session| session.features.has(Feature::OneWay));
    let head =
        Head { flags: if one_way { FLAG_ONE_WAY } else { 0 }, ..Head::new(MessageType::TopicRequest, b"cancel") };
    conn.request(head, &<TopicRequest<'_>>::new(topic, TopicOp::Cancel)).map(drop)
}

#[cfg(test)]
mod tests {
    use callboard_common::Recorder;

    use super::*;

    fn message(bytes: usize) -> Message {
        let body = format!(r#"{{"topic_key":"t","optype":4,"topic_msg":{}}}"#, "1".repeat(bytes));
        Recorder::new(0).message(2, b"1", body.as_bytes())
    }

    #[test]
    fn a_bundle_stays_small_whatever_comes_behind_a_small_message() {
        let arrivals_of = |first: usize, others: usize| {
            let (first, other) = (message(first), message(others));
            let mut arrivals = Arrivals::new(&first, &TopicRequest::decode::<Json>(first.body()).unwrap());
            for _ in 0..10_000 {
                if arrivals.has_room_for(other.body()) {
                    arrivals.add(&vec![b'1'; others], false, b"1");
                }
            }
            arrivals
        };
        for (first, others, alone) in [
            (10, 10, false),
            (10, 20_000, false),
            (20_000, 20_000, true),
            (10, COPY_BELOW_BYTES, true),
            (10, 16 << 20, true),
            (COPY_BELOW_BYTES - 1, 10, true),
        ] {
            let arrivals = arrivals_of(first, others);
            assert_eq!(arrivals.parts.len() == 1, alone, "{first} {others}");
            assert!(arrivals.values.capacity() <= COPY_BELOW_BYTES, "{first} {others}");
        }
        assert!(arrivals_of(COPY_BELOW_BYTES, 10).parts.is_empty(), "a large one is alone");
    }
}
