use std::borrow::Cow;
use std::iter;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use callboard_common::{
    Connection, Decode, EncodeError, ErrorInfo, Handler, Head, Json, Message, MessageType, Missed, ResultCode,
    Subscribed, TopicAnswer, TopicOp, TopicOptions, TopicRequest, refuse, refuse_body,
};

use indexmap::IndexSet;

use crate::delivery::{Delivery, push, short};
use crate::publication::{Form, Needs, Publication, is_string};
use crate::spelling::Spelling;
use crate::topic::Subscriber;
use crate::{TopicError, TopicLimits, TopicManager};

/// The center's side of topics: answers REQ_TOPIC, and pushes what is published to the subscribers.
///
/// Messages, and the answers to what changes the table, are queued under one lock, so every peer sees them in the order
/// of the table: a subscriber's first message comes after the answer to its subscribe, and none comes after the answer
/// to its cancel. A publisher's answer follows outside of the lock, once its message is queued for everyone. Queueing
/// never blocks. A subscriber whose outbox is full is closed, and nobody else notices. A message that is over the bound on
/// frames in the form that some of its subscribers take is [left out](Self::left_out) for these.
///
/// ```
/// use callboard_common::{Handler, Recorder};
/// use callboard_pubsub::TopicService;
/// let (topics, reader, writer) = (TopicService::new(), Recorder::new(1), Recorder::new(2));
/// topics.handle(&writer, writer.message(2, b"1", br#"{"topic_key":"news","optype":0}"#));
/// topics.handle(&reader, reader.message(2, b"2", br#"{"topic_key":"news","optype":2}"#));
/// topics.handle(&writer, writer.message(2, b"3", br#"{"topic_key":"news","optype":4,"topic_msg":"hello"}"#));
/// assert_eq!(reader.sent()[1].text(), r#"{"topic_key":"news","optype":4,"topic_msg":"hello"}"#);
/// ```
#[derive(Debug)]
pub struct TopicService<C> {
    /// Shared with what waits for subscribers that are behind.
    state: Arc<Mutex<State<C>>>,
}

#[derive(Debug)]
pub(crate) struct State<C> {
    pub(crate) topics: TopicManager<C>,
    /// Connections that were closed to make room for others.
    crowded_out: u64,
    /// Topics that these held, and that had to go with them.
    removed: u64,
    /// Messages that some of their subscribers could not have.
    left_out: u64,
    pub(crate) notices: Notices,
}

/// Ids of what the center itself has to tell.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    last: u64,
}

impl Notices {
    pub(crate) fn next(&mut self) -> String {
        self.last += 1;
        self.last.to_string()
    }
}

impl<C: Connection> TopicService<C> {
    /// No topics yet; the default bounds.
    pub fn new() -> Self {
        Self::with_limits(TopicLimits::default())
    }

    /// No topics yet; these bounds.
    pub fn with_limits(limits: TopicLimits) -> Self {
        let state = State {
            topics: TopicManager::with_limits(limits),
            crowded_out: 0,
            removed: 0,
            left_out: 0,
            notices: Notices::default(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// How many topics there are.
    pub fn topic_count(&self) -> usize {
        self.lock().topics.topic_count()
    }

    /// How many connections are subscribed to something.
    pub fn subscriber_count(&self) -> usize {
        self.lock().topics.subscriber_count()
    }

    /// What all topics keep for subscribers that come back, in bytes.
    pub fn kept_bytes(&self) -> usize {
        self.lock().topics.kept_bytes()
    }

    /// How often a topic has given up what it kept, since all of them kept too much: see
    /// [`TopicLimits::total_ring_bytes`].
    pub fn given_up(&self) -> u64 {
        self.lock().topics.given_up()
    }

    /// What topics and subscriptions take, as it counts against [`TopicLimits::total_bytes`].
    pub fn bytes(&self) -> usize {
        self.lock().topics.bytes()
    }

    /// How many topics were removed since there was no room for others: that nobody held any longer, or whose holder was
    /// [closed](Self::crowded_out) for them.
    pub fn dropped(&self) -> u64 {
        let state = self.lock();
        state.topics.dropped() + state.removed
    }

    /// How many connections were closed since they had most of the topics, or of what all take together, and another one
    /// had no room.
    pub fn crowded_out(&self) -> u64 {
        self.lock().crowded_out
    }

    /// How many messages were left out for some of their subscribers, since what these take of it is over the bound on
    /// frames: with its number, of which they are told, or for a v1 peer as a string.
    pub fn left_out(&self) -> u64 {
        self.lock().left_out
    }

    /// Topics that are created from now on have epochs above this one: each run of a center should begin elsewhere, so
    /// that a subscriber that comes back is not told that it has missed nothing of another topic.
    #[must_use]
    pub fn after_epoch(self, epoch: u64) -> Self {
        self.lock().topics.set_last_epoch(epoch);
        self
    }

    fn change(&self, conn: &C, message: &Message, request: &TopicRequest<'_>) {
        let options = match Form::of(conn) {
            Form::Numbered => TopicOptions::decode::<Json>(message.body()),
            Form::Text | Form::Value => Ok(TopicOptions::default()),
        };
        let options = match options {
            Ok(options) => options,
            Err(why) => return refuse_body(conn, message, &why),
        };
        let mut state = self.lock();
        let changed = state.change(conn, request, &options);
        // Still under the lock: another loop may have a message for this topic at hand.
        match changed {
            Ok(Changed::Subscribed(subscribed)) => {
                answer(conn, message, Ok(subscribed.into()));
                state.replay(conn, &request.topic, subscribed, &self.state);
            }
            changed => answer(conn, message, changed.map(|_| TopicAnswer::ok())),
        }
    }

    /// Before the next message is at hand: the turn may end there, and would end with a queueing for that one alone.
    fn publish_if_full<'a>(&self, publication: Option<Publication<'a, C>>) -> Option<Publication<'a, C>> {
        match publication {
            Some(full) if full.is_full() => {
                self.publish(full);
                None
            }
            open => open,
        }
    }

    /// Queues messages for every subscriber, then answers them.
    fn publish(&self, mut publication: Publication<'_, C>) {
        let mut queued = self.push_to_all(&mut publication);
        while let Ok(Queued::Lacks(needs)) = queued {
            // Others go on meanwhile, so what is needed is asked again.
            publication.make(needs);
            queued = self.push_to_all(&mut publication);
        }
        let (conn, refused) = (publication.publisher().clone(), queued.err());
        if let Some(why) = publication.left_out().filter(|_| refused.is_none()) {
            self.lock().left_out += publication.len();
            tracing::warn!(peer = conn.peer(), topic = short(publication.topic()), "its message is left out for {why}");
        }
        for message in publication.into_messages() {
            answer(&conn, &message, refused.clone().map_or(Ok(TopicAnswer::ok()), |why| Err(why.into())));
        }
    }

    /// Queues the messages for every subscriber, or for none if a form must be made first.
    fn push_to_all(&self, publication: &mut Publication<'_, C>) -> Result<Queued, TopicError> {
        let mut state = self.lock();
        let (topic, bounds, kept) = state.topics.publishing(publication.topic())?;
        let needs = topic.needs();
        if !publication.meets(needs) {
            return Ok(Queued::Lacks(needs));
        }
        let numbered = publication.count(needs.next);
        let name = Arc::clone(topic.name());
        let delivery = Delivery {
            publisher: publication.publisher(),
            topic: &name,
            epoch: topic.position().epoch,
            first: needs.next,
            state: &self.state,
        };
        for (subscriber, how) in topic.subscribers_mut() {
            if let Some(frames) = publication.frames(how.form) {
                delivery.deliver(subscriber, how, frames);
            }
        }
        topic.published(publication.len(), numbered.as_ref(), bounds, kept);
        state.topics.give_up();
        Ok(Queued::Yes)
    }

    fn lock(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Connection> Handler<C> for TopicService<C> {
    fn handle(&self, conn: &C, message: Message) {
        self.handle_all(conn, &mut iter::once(message));
    }

    fn handle_all(&self, conn: &C, messages: &mut dyn Iterator<Item = Message>) {
        let mut publication: Option<Publication<'_, C>> = None;
        let mut spelling = Spelling::default();
        for message in messages {
            if let Some(open) = publication.as_mut().filter(|open| open.has_room_for(&message))
                && let Some(value) = spelling.read(message.body())
            {
                let is_string = is_string(value.raw);
                open.add(message, is_string);
                publication = self.publish_if_full(publication);
                continue;
            }
            // What came before is queued first: all sees the order of the frames.
            if let Some(done) = publication.take() {
                self.publish(done);
            }
            match TopicRequest::decode::<Json>(message.body()) {
                Ok(request) if request.op == TopicOp::Publish => {
                    spelling.learn(&message, &request);
                    match Publication::new(conn, &message, &request) {
                        Ok(mut begun) => {
                            let is_string = request.message.is_some_and(is_string);
                            begun.add(message, is_string);
                            publication = self.publish_if_full(Some(begun));
                        }
                        Err(why) => answer(conn, &message, Err(why.into())),
                    }
                }
                Ok(request) => self.change(conn, &message, &request),
                Err(why) => refuse_body(conn, &message, &why),
            }
        }
        if let Some(done) = publication {
            self.publish(done);
        }
    }

    fn closed(&self, conn: &C) {
        #[cfg(feature = "planted")]
        if callboard_common::Planted::SubscriberKept.is_planted() {
            return;
        }
        self.lock().topics.close(conn);
    }
}

impl<C: Connection> Default for TopicService<C> {
    fn default() -> Self {
        Self::new()
    }
}

impl<C: Connection> State<C> {
    /// Where there is no room, the connection that has most is closed for it, if that is more than `conn` would have: but
    /// one for each change, and of the topics that it held as many go as must.
    fn change(&mut self, conn: &C, request: &TopicRequest<'_>, options: &TopicOptions) -> Result<Changed, Refused> {
        let mut outcome = self.try_change(conn, request, options);
        let Err(Refused::Topic(why)) = &outcome else { return outcome };
        let Some(largest) = self.topics.gives_way(conn, why, &request.topic) else { return outcome };
        let mut held = self.crowd_out(&largest);
        outcome = self.try_change(conn, request, options);
        // Its subscribers have inherited too much. They do not go for that: else they would one after the other.
        while let Err(Refused::Topic(TopicError::Topics { .. } | TopicError::Total { .. })) = &outcome
            && let Some(topic) = held.pop()
        {
            if *topic != *request.topic && self.topics.topic_mut(&topic).is_ok() {
                tracing::warn!(topic = short(&topic), "it is removed: who held it had most, and there is no room");
                self.removed += 1;
                self.remove(conn, &topic)?;
                outcome = self.try_change(conn, request, options);
            }
        }
        outcome
    }

    /// Closes the connection that has most; the topics that it held, the newest last.
    fn crowd_out(&mut self, largest: &C) -> IndexSet<Arc<str>> {
        let held = self.topics.take_all(largest);
        self.crowded_out += 1;
        tracing::warn!(peer = largest.peer(), "{CROWDED_OUT}");
        largest.close(Cow::Borrowed(CROWDED_OUT));
        held
    }

    fn try_change(&mut self, conn: &C, request: &TopicRequest<'_>, options: &TopicOptions) -> Result<Changed, Refused> {
        let topic = &*request.topic;
        match request.op {
            TopicOp::Create => self.create(conn, topic, options)?,
            TopicOp::Remove => self.remove(conn, topic)?,
            TopicOp::Subscribe => return Ok(self.subscribe(conn, topic, options)?),
            TopicOp::Cancel => self.topics.cancel(conn, topic),
            TopicOp::Publish => {} // changes nothing
        }
        Ok(Changed::Done)
    }

    fn create(&mut self, conn: &C, topic: &str, options: &TopicOptions) -> Result<(), TopicError> {
        self.topics.create(conn, topic)?;
        if options.retain == Some(true) {
            self.topics.topic_mut(topic)?.set_retain();
        }
        Ok(())
    }

    fn subscribe(&mut self, conn: &C, topic: &str, options: &TopicOptions) -> Result<Changed, TopicError> {
        let form = Form::of(conn);
        self.topics.subscribe_as(conn, topic, Subscriber::new(form, options, conn.max_queued_bytes()))?;
        if form != Form::Numbered {
            return Ok(Changed::Done);
        }
        let topic = self.topics.topic_mut(topic)?;
        let mut subscribed = topic.subscribed(options);
        if topic.subscriber_mut(conn).is_some_and(|subscriber| subscriber.behind.is_some()) {
            // What it is behind with comes first, or is told to be missing.
            subscribed.replayed = 0;
            subscribed.missed = subscribed.missed.map(|_| Missed::Unknown);
        }
        Ok(Changed::Subscribed(subscribed))
    }

    /// Ends a topic and tells those of its subscribers that have a session, all with the same frame.
    fn remove(&mut self, remover: &C, topic: &str) -> Result<(), EncodeError> {
        self.tell_those_behind(topic);
        let mut told = self.topics.remove(topic).filter(|peer| peer.session().is_some()).peekable();
        if told.peek().is_none() {
            return Ok(());
        }
        let id = self.notices.next();
        let head = Head::new(MessageType::TopicRequest, id.as_bytes());
        let frame = remover.share(remover.encode(head, &<TopicRequest<'_>>::new(topic, TopicOp::Remove))?);
        told.for_each(|subscriber| push(&subscriber, &frame, None, topic));
        Ok(())
    }
}

/// What an operation did.
#[derive(Debug)]
enum Changed {
    Done,
    /// One who counts is subscribed.
    Subscribed(Subscribed),
}

/// Whether messages were queued.
#[derive(Clone, Copy, Debug)]
enum Queued {
    Yes,
    /// All of this must be made first.
    Lacks(Needs),
}

/// Why a request is answered with an error.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error("it can't be put in the form that its subscribers need: {0}")]
    Encode(#[from] EncodeError),
}

impl Refused {
    const fn code(&self) -> ResultCode {
        match self {
            Self::Topic(why) => why.code(),
            Self::Encode(EncodeError::TooLarge { .. }) => ResultCode::TooLarge,
            Self::Encode(_) => ResultCode::InternalError,
        }
    }

    fn to_error(&self) -> ErrorInfo {
        match self {
            Self::Topic(why) => why.to_error(),
            Self::Encode(why) => ErrorInfo::not_executed(self.to_string()).with_limit_of(why),
        }
    }
}

fn answer<C: Connection>(conn: &C, message: &Message, outcome: Result<TopicAnswer, Refused>) {
    match outcome {
        Ok(_) if message.is_one_way() => {}
        Ok(answer) => {
            // The peer may have gone meanwhile; then there is nobody to tell.
            let _ = conn.answer(message.id(), &answer);
        }
        Err(why) => refuse(conn, message, why.code(), None, &why.to_error()),
    }
}

const CROWDED_OUT: &str = "topics and subscriptions are at their bound, and of that this connection had most";

#[cfg(test)]
mod tests;
