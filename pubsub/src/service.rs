use std::iter;
use std::sync::{Mutex, MutexGuard, PoisonError};

use callboard_common::{
    Connection, Decode, EncodeError, ErrorInfo, Handler, Head, Json, Message, MessageType, ResultCode, SendError,
    Shared, TopicAnswer, TopicOp, TopicRequest, refuse, refuse_body,
};

use crate::publication::{Publication, is_string};
use crate::spelling::Spelling;
use crate::{TopicError, TopicLimits, TopicManager};

/// The center's side of topics: answers REQ_TOPIC, and pushes what is published to the subscribers.
///
/// Messages, and the answers to what changes the table, are queued under one lock, so every peer sees them in the order
/// of the table: a subscriber's first message comes after the answer to its subscribe, and none comes after the answer
/// to its cancel. A publisher's answer follows outside of the lock, once its message is queued for everyone. Queueing
/// never blocks. A subscriber whose outbox is full is closed, and nobody else notices.
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
    state: Mutex<State<C>>,
}

#[derive(Debug)]
struct State<C> {
    topics: TopicManager<C>,
    /// Ids of what the center itself has to tell.
    last_notice: u64,
}

impl<C: Connection> TopicService<C> {
    /// No topics yet; the default bounds.
    pub fn new() -> Self {
        Self::with_limits(TopicLimits::default())
    }

    /// No topics yet; these bounds.
    pub fn with_limits(limits: TopicLimits) -> Self {
        Self { state: Mutex::new(State { topics: TopicManager::with_limits(limits), last_notice: 0 }) }
    }

    /// How many topics there are.
    pub fn topic_count(&self) -> usize {
        self.lock().topics.topic_count()
    }

    /// How many connections are subscribed to something.
    pub fn subscriber_count(&self) -> usize {
        self.lock().topics.subscriber_count()
    }

    fn change(&self, conn: &C, message: &Message, request: &TopicRequest<'_>) {
        let mut state = self.lock();
        let changed = state.change(conn, request);
        // Still under the lock: another loop may have a message for this topic at hand.
        answer(conn, message, changed);
    }

    /// Queues messages for every subscriber, then answers them.
    fn publish(&self, mut publication: Publication<'_, C>) {
        publication.make_value();
        let mut queued = self.push_to_all(&publication);
        while let Ok(Queued::No) = queued {
            // Others go on meanwhile, so who needs what is asked again.
            publication.make_text();
            queued = self.push_to_all(&publication);
        }
        let (conn, refused) = (publication.publisher().clone(), queued.err());
        for message in publication.into_messages() {
            answer(&conn, &message, refused.clone().map_or(Ok(()), |why| Err(why.into())));
        }
    }

    /// Queues the messages for every subscriber, or for none if a form must be made first.
    fn push_to_all(&self, publication: &Publication<'_, C>) -> Result<Queued, TopicError> {
        let (state, topic) = (self.lock(), publication.topic());
        let subscribers = state.topics.subscribers(topic)?;
        if publication.lacks_text(subscribers.clone()) {
            return Ok(Queued::No);
        }
        for subscriber in subscribers {
            match publication.frames(subscriber) {
                Some(frames) => push(subscriber, frames, Some(publication.publisher()), topic),
                None => close(subscriber, topic, NO_FORM),
            }
        }
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
                            publication = Some(begun);
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
        self.lock().topics.close(conn);
    }
}

impl<C: Connection> Default for TopicService<C> {
    fn default() -> Self {
        Self::new()
    }
}

impl<C: Connection> State<C> {
    fn change(&mut self, conn: &C, request: &TopicRequest<'_>) -> Result<(), Refused> {
        let topic = &*request.topic;
        match request.op {
            TopicOp::Create => self.topics.create(topic)?,
            TopicOp::Remove => self.remove(conn, topic)?,
            TopicOp::Subscribe => self.topics.subscribe(conn, topic)?,
            TopicOp::Cancel => self.topics.cancel(conn, topic),
            TopicOp::Publish => {} // changes nothing
        }
        Ok(())
    }

    /// Ends a topic and tells those of its subscribers that have a session, all with the same frame.
    fn remove(&mut self, remover: &C, topic: &str) -> Result<(), EncodeError> {
        let mut told = self.topics.remove(topic).filter(|peer| peer.session().is_some()).peekable();
        if told.peek().is_none() {
            return Ok(());
        }
        self.last_notice += 1;
        let id = self.last_notice.to_string();
        let head = Head::new(MessageType::TopicRequest, id.as_bytes());
        let frame = remover.share(remover.encode(head, &<TopicRequest<'_>>::new(topic, TopicOp::Remove))?);
        told.for_each(|subscriber| push(&subscriber, &frame, None, topic));
        Ok(())
    }
}

/// Whether messages were queued.
#[derive(Clone, Copy, Debug)]
enum Queued {
    Yes,
    /// The form for v1 peers must be made first.
    No,
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

fn answer<C: Connection>(conn: &C, message: &Message, outcome: Result<(), Refused>) {
    match outcome {
        Ok(()) if message.is_one_way() => {}
        Ok(()) => {
            // The peer may have gone meanwhile; then there is nobody to tell.
            let _ = conn.answer(message.id(), &TopicAnswer::ok());
        }
        Err(why) => refuse(conn, message, why.code(), None, &why.to_error()),
    }
}

fn push<C: Connection>(subscriber: &C, frame: &Shared, publisher: Option<&C>, topic: &str) {
    if let Err(SendError::Full) = subscriber.push(frame, publisher) {
        close(subscriber, topic, "slow subscriber: its outbox is full");
    }
}

/// What can't be queued can't be skipped: the subscriber would take a history with a gap for a whole one.
fn close<C: Connection>(subscriber: &C, topic: &str, why: &str) {
    let topic: String = topic.chars().take(64).collect();
    subscriber.close(format!("a message of topic {topic:?} can't be queued for it: {why}").into());
}

const NO_FORM: &str = "it takes strings only, and as a string this is over the bound on frames";

#[cfg(test)]
mod tests;
