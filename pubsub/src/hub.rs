use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use callboard_client::{Client, Conn, Inbox};
use callboard_common::{
    Connection, Decode, Event, FLAG_ONE_WAY, Feature, Head, Json, Message, MessageType, SendError, TopicOp,
    TopicRequest,
};

use crate::News;
use crate::backlog::End;
use crate::listeners::{ListenerId, Listeners};
use crate::publication::to_keep;
use crate::queue::{Freed, Queue};

/// What a client's connection does with messages of topics: hands each to those who listen, sharing its bytes.
///
/// Its lock is taken by the connection's task for each message. Cancels are queued under it, so that none overtakes the
/// subscribe of one who joins later.
pub(crate) struct Hub {
    listeners: Mutex<Listeners<Arc<Queue>>>,
}

impl Hub {
    /// The hub of a client's connection.
    pub(crate) fn of(client: &Client) -> Arc<Self> {
        client.topic_inbox(|| Self { listeners: Mutex::new(Listeners::new()) })
    }

    /// See [`Listeners::join`].
    pub(crate) fn join(&self, topic: &str, queue: Arc<Queue>) -> ListenerId {
        self.lock().join(topic, queue)
    }

    /// See [`Listeners::confirm`].
    pub(crate) fn confirm(&self, who: &ListenerId) -> bool {
        self.lock().confirm(who)
    }

    /// Takes one out; after the last one of a topic, tells the center.
    pub(crate) fn leave(self: &Arc<Self>, client: &Client, who: &ListenerId) {
        let mut listeners = self.lock();
        if !listeners.leave(who) {
            return;
        }
        let (hub, topic) = (Arc::clone(self), Arc::clone(&who.topic));
        let cancel = <TopicRequest<'_>>::new(&*who.topic, TopicOp::Cancel);
        let sent = client.exchange_in_order(&subject(&who.topic), &cancel, move |_| hub.lock().cancelled(&topic));
        if sent.is_err() {
            listeners.not_cancelled(&who.topic);
        }
    }

    fn publish(&self, conn: &Conn, message: &Message, request: &TopicRequest<'_>) -> Vec<Freed> {
        let mut listeners = self.lock();
        let Some((topic, queues)) = listeners.hearing(&request.topic) else {
            return Vec::new();
        };
        let value = request.message.map(|value| message.frame().slice_ref(value.bytes())).unwrap_or_default();
        let bytes = message.frame().len() + size_of::<News>();
        let news = News::new(Arc::clone(topic), value);
        let freed = queues.map(|queue| queue.push(news.clone(), bytes, || Box::new(conn.hold_reading())));
        let freed = freed.filter(|freed| !freed.is_nothing()).collect();
        if listeners.owes_cancel(&request.topic) && cancel_again(conn, &request.topic).is_ok() {
            listeners.settled(&request.topic);
        }
        freed
    }

    fn remove(&self, topic: &str) -> Vec<Freed> {
        let (ended, in_doubt) = self.lock().end_topic(topic);
        let ended = ended.iter().map(|queue| queue.end(End::TopicRemoved));
        ended.chain(in_doubt.iter().map(|queue| queue.clear())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Listeners<Arc<Queue>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inbox for Hub {
    fn message(&self, conn: &Conn, message: Message) {
        let message = to_keep(&message);
        let freed = match TopicRequest::decode::<Json>(message.body()) {
            Ok(request) if request.op == TopicOp::Publish => self.publish(conn, &message, &request),
            Ok(request) if request.op == TopicOp::Remove => self.remove(&request.topic),
            _ => return conn.count(Event::Ignored),
        };
        freed.into_iter().for_each(Freed::let_go);
    }

    fn closed(&self) {
        let ended = self.lock().end_all();
        for queue in ended {
            queue.end(End::Disconnected).let_go();
        }
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
