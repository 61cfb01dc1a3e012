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
/// Answers and messages are queued under one lock, so every peer sees them in the order of the table: a subscriber's
/// first message comes after the answer to its subscribe, none comes after the answer to its cancel, and a publisher's
/// answer comes when its message is queued for everyone. Queueing never blocks. A subscriber whose outbox is full is
/// closed, and nobody else notices.
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
                let is_string = is_string(value);
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
mod tests {
    use callboard_common::{Codec, Features, Limits, Recorder, Sent, Session};

    use super::*;

    const REQ_TOPIC: u32 = 2;
    const ONE_WAY: u32 = REQ_TOPIC | 1 << 24;

    fn session_peer(id: u64) -> Recorder {
        let (name, instance) = ("peer".to_owned(), id.to_string());
        Recorder::with_session(id, Session { name, instance, features: Features::ALL, limits: Limits::default() })
    }

    /// What came since the last look: kind, flags, id and body of each frame.
    fn came(peer: &Recorder) -> Vec<String> {
        let line = |m: &Message, text: &str| {
            assert_eq!((m.flags(), m.codec()), (0, 0));
            format!("{} {} {text}", m.kind(), String::from_utf8_lossy(m.id()))
        };
        peer.take().iter().map(|sent| line(&sent.0, &sent.text())).collect()
    }

    fn send(topics: &TopicService<Recorder>, peer: &Recorder, id: &str, body: &str) {
        topics.handle(peer, peer.message(REQ_TOPIC, id.as_bytes(), body.as_bytes()));
    }

    /// A service with the topic `t`, and these subscribed to it.
    fn with_subscribers(peers: &[&Recorder]) -> TopicService<Recorder> {
        let topics = TopicService::new();
        topics.lock().topics.create("t").unwrap();
        for peer in peers {
            send(&topics, peer, "s", r#"{"topic_key":"t","optype":2}"#);
            assert_eq!(came(peer), [r#"RSP_TOPIC s {"rcode":0}"#]);
        }
        topics
    }

    const MISSING: &str = r#"{"rcode":7,"error":{"message":"topic \"u\" does not exist","executed":"no"}}"#;

    #[test]
    fn each_operation_is_answered_with_the_code_of_the_contract() {
        let ok = r#"{"rcode":0}"#;
        let rows = [
            (r#"{"topic_key":"u","optype":0}"#, ok),
            (r#"{"topic_key":"t","optype":0}"#, ok),
            (r#"{"topic_key":"t","optype":1}"#, ok),
            (r#"{"topic_key":"u","optype":1}"#, ok),
            (r#"{"topic_key":"t","optype":2}"#, ok),
            (r#"{"topic_key":"u","optype":2}"#, MISSING),
            (r#"{"topic_key":"t","optype":3}"#, ok),
            (r#"{"topic_key":"u","optype":3}"#, ok),
            (r#"{"topic_key":"t","optype":4,"topic_msg":null}"#, ok),
            (r#"{"topic_key":"u","optype":4,"topic_msg":"x"}"#, MISSING),
            (r#"{"key":"t","optype":"TOPIC_PUBLISH","message":"x"}"#, ok),
            (
                r#"{"topic_key":"t","optype":4}"#,
                r#"{"rcode":2,"error":{"message":"\"topic_msg\" is missing","executed":"no"}}"#,
            ),
            (
                r#"{"topic_key":"t","optype":9}"#,
                r#"{"rcode":6,"error":{"message":"optype 9 is not one of this kind's","executed":"no"}}"#,
            ),
            ("[]", r#"{"rcode":2,"error":{"message":"the body is not an object","executed":"no"}}"#),
        ];
        for (body, expected) in rows {
            let (topics, peer) = (with_subscribers(&[]), Recorder::new(1));
            send(&topics, &peer, "id", body);
            assert_eq!(came(&peer), [format!("RSP_TOPIC id {expected}")], "{body}");
        }
        let peer = Recorder::new(1);
        send(&with_subscribers(&[]), &peer, "id", "{");
        assert!(peer.take()[0].text().starts_with(r#"{"rcode":1,"error":{"message":"the body is not valid JSON"#));
    }

    #[test]
    fn a_full_table_names_its_limit() {
        let rows = [
            (
                r#"{"topic_key":"u","optype":0}"#,
                TopicLimits { topics: 1, ..TopicLimits::default() },
                r#""executed":"no","data":{"limit":"topics","bound":1}}}"#,
                17,
            ),
            (
                r#"{"topic_key":"t","optype":2}"#,
                TopicLimits { subscribed_per_connection: 0, ..TopicLimits::default() },
                r#""executed":"no","data":{"limit":"subscribed_per_connection","bound":0}}}"#,
                17,
            ),
            (
                r#"{"topic_key":"long","optype":0}"#,
                TopicLimits { max_name_bytes: 3, ..TopicLimits::default() },
                r#""executed":"no","data":{"limit":"max_name_bytes","bound":3}}}"#,
                21,
            ),
        ];
        for (body, limits, end, code) in rows {
            let (topics, peer) = (TopicService::with_limits(limits), Recorder::new(1));
            topics.lock().topics.create("t").unwrap();
            send(&topics, &peer, "id", body);
            let text = peer.take()[0].text().into_owned();
            assert!(text.starts_with(&format!(r#"{{"rcode":{code},"error""#)) && text.ends_with(end), "{text}");
        }
    }

    #[test]
    fn what_is_published_reaches_each_subscriber_in_its_form() {
        let string = r#"{"optype" : 4, "topic_key":"t", "topic_msg":"m\uff1a0", "more":[1]}"#;
        let object = r#"{"topic_key":"t","optype":4,"topic_msg": {"a" : [1.50, "x y"]} }"#;
        // What is published, what a v1 subscriber gets, what a session subscriber gets.
        let rows = [
            (string, string, string),
            (
                r#"{"key":"t","optype":"TOPIC_PUBLISH","message":"m\u0041"}"#,
                r#"{"topic_key":"t","optype":4,"topic_msg":"m\u0041"}"#,
                r#"{"topic_key":"t","optype":4,"topic_msg":"m\u0041"}"#,
            ),
            (object, r#"{"topic_key":"t","optype":4,"topic_msg":"{\"a\":[1.50,\"x y\"]}"}"#, object),
            (
                r#"{"key":"t","optype":4,"message":1e999}"#,
                r#"{"topic_key":"t","optype":4,"topic_msg":"1e999"}"#,
                r#"{"topic_key":"t","optype":4,"topic_msg":1e999}"#,
            ),
            (
                r#"{"topic_key":"t","optype":4,"topic_msg":null}"#,
                r#"{"topic_key":"t","optype":4,"topic_msg":"null"}"#,
                r#"{"topic_key":"t","optype":4,"topic_msg":null}"#,
            ),
        ];
        for (body, to_v1, to_session) in rows {
            let (v1, session, publisher) = (Recorder::new(1), session_peer(2), Recorder::new(3));
            let topics = with_subscribers(&[&v1, &session]);
            send(&topics, &publisher, "p", body);
            assert_eq!(came(&v1), [format!("REQ_TOPIC p {to_v1}")]);
            assert_eq!(came(&session), [format!("REQ_TOPIC p {to_session}")]);
            assert_eq!(came(&publisher), [r#"RSP_TOPIC p {"rcode":0}"#]);
        }
    }

    #[test]
    fn a_large_frame_is_forwarded_without_a_copy_and_a_small_one_in_bytes_of_its_own() {
        let publisher = Recorder::new(1);
        for (letters, same) in [(10, false), (8 << 10, false), (64 << 10, true)] {
            let body = format!(r#"{{"topic_key":"t","optype":4,"topic_msg":"{}"}}"#, "x".repeat(letters));
            let message = publisher.message(REQ_TOPIC, b"p", body.as_bytes());
            let request = TopicRequest::decode::<Json>(message.body()).unwrap();
            let mut publication = Publication::new(&publisher, &message, &request).unwrap();
            publication.add(message.clone(), true);
            publication.make_value();
            let frame = publication.frames(&publisher).unwrap().frame().clone();
            assert_eq!(&frame, message.frame());
            assert_eq!(frame.as_ptr() == message.frame().as_ptr(), same, "{letters}");
        }
    }

    #[test]
    fn flags_of_a_publisher_reach_no_subscriber_and_spare_it_the_answer() {
        let (subscriber, publisher) = (Recorder::new(1), session_peer(2));
        let topics = with_subscribers(&[&subscriber]);
        let body = r#"{"optype":4,"topic_key":"t","topic_msg":"x"}"#;
        topics.handle(&publisher, publisher.message(ONE_WAY, b"p", body.as_bytes()));
        assert_eq!(came(&subscriber), [format!("REQ_TOPIC p {body}")]);
        topics.handle(&publisher, publisher.message(ONE_WAY, b"p", br#"{"optype":4,"topic_key":"u","topic_msg":"x"}"#));
        topics.handle(&publisher, publisher.message(ONE_WAY, b"p", br#"{"optype":2,"topic_key":"t"}"#));
        assert_eq!(came(&publisher), [""; 0]);
        send(&topics, &publisher, "q", body);
        assert_eq!(came(&publisher), [format!("REQ_TOPIC q {body}"), r#"RSP_TOPIC q {"rcode":0}"#.to_owned()]);
    }

    #[test]
    fn a_publisher_that_hears_itself_hears_before_it_is_answered_and_nothing_after_its_cancel() {
        let peer = Recorder::new(1);
        let topics = with_subscribers(&[&peer]);
        let body = |n: u8| format!(r#"{{"topic_key":"t","optype":4,"topic_msg":"{n}"}}"#);
        for n in 0..3 {
            send(&topics, &peer, &n.to_string(), &body(n));
        }
        send(&topics, &peer, "c", r#"{"topic_key":"t","optype":3}"#);
        send(&topics, &peer, "3", &body(3));
        let push = |n: u8| format!("REQ_TOPIC {n} {}", body(n));
        let ok = |id: &str| format!(r#"RSP_TOPIC {id} {{"rcode":0}}"#);
        assert_eq!(came(&peer), [push(0), ok("0"), push(1), ok("1"), push(2), ok("2"), ok("c"), ok("3")]);
    }

    #[test]
    fn removing_a_topic_tells_session_subscribers_and_creating_it_again_restores_none() {
        let (v1, session, other) = (Recorder::new(1), session_peer(2), session_peer(3));
        let topics = with_subscribers(&[&v1, &session, &other]);
        send(&topics, &other, "r", r#"{"topic_key":"t","optype":1}"#);
        let told = r#"REQ_TOPIC 1 {"topic_key":"t","optype":1}"#;
        assert_eq!(came(&v1), [""; 0]);
        assert_eq!(came(&session), [told]);
        assert_eq!(came(&other), [told, r#"RSP_TOPIC r {"rcode":0}"#]);
        send(&topics, &other, "c", r#"{"topic_key":"t","optype":0}"#);
        send(&topics, &other, "p", r#"{"topic_key":"t","optype":4,"topic_msg":"x"}"#);
        assert_eq!(came(&other), [r#"RSP_TOPIC c {"rcode":0}"#, r#"RSP_TOPIC p {"rcode":0}"#]);
        assert_eq!(came(&session), [""; 0]);
        send(&topics, &session, "s", r#"{"topic_key":"t","optype":2}"#);
        send(&topics, &other, "r", r#"{"topic_key":"t","optype":1}"#);
        assert_eq!(came(&session)[1], r#"REQ_TOPIC 2 {"topic_key":"t","optype":1}"#, "each notice has its own id");
    }

    #[test]
    fn a_full_subscriber_is_closed_and_nobody_else_notices() {
        let (first, full, last, publisher) = (Recorder::new(1), Recorder::new(2), Recorder::new(3), Recorder::new(4));
        let topics = with_subscribers(&[&first, &full, &last]);
        full.fill();
        for id in ["1", "2"] {
            send(&topics, &publisher, id, r#"{"topic_key":"t","optype":4,"topic_msg":"x"}"#);
            assert_eq!(came(&publisher), [format!(r#"RSP_TOPIC {id} {{"rcode":0}}"#)]);
            assert_eq!((came(&first).len(), came(&last).len()), (1, 1));
        }
        let reason = full.close_reason().unwrap();
        assert_eq!(reason, "a message of topic \"t\" can't be queued for it: slow subscriber: its outbox is full");
        for other in [first, last, publisher] {
            assert_eq!(other.close_reason(), None);
        }
        topics.closed(&full);
        assert_eq!(topics.subscriber_count(), 2);
    }

    #[test]
    fn one_whose_form_does_not_fit_into_a_frame_is_closed_and_the_others_hear() {
        let (v1, session, publisher) = (Recorder::new(1), session_peer(2), Recorder::new(3));
        let topics = with_subscribers(&[&v1, &session]);
        // Grows by two thirds as text in a string.
        let value = format!("[{}0]", "\"\",".repeat(4 << 20));
        send(&topics, &publisher, "p", &format!(r#"{{"topic_key":"t","optype":4,"topic_msg":{value}}}"#));
        assert_eq!(came(&publisher), [r#"RSP_TOPIC p {"rcode":0}"#]);
        assert_eq!(session.take().len(), 1);
        assert!(v1.close_reason().unwrap().ends_with(NO_FORM));
    }

    #[test]
    fn a_connection_that_ends_leaves_nothing_but_its_topics() {
        let (one, other) = (Recorder::new(1), session_peer(2));
        let topics = with_subscribers(&[&one, &other]);
        topics.closed(&one);
        topics.closed(&other);
        topics.closed(&other);
        assert_eq!((topics.topic_count(), topics.subscriber_count()), (1, 0));
    }

    #[test]
    fn messages_come_between_the_answers_to_subscribe_and_cancel_and_in_their_publishers_order() {
        let (topics, subscriber) = (with_subscribers(&[]), Recorder::new(0));
        std::thread::scope(|scope| {
            for publisher in 1..=2 {
                let (topics, peer) = (&topics, Recorder::new(publisher));
                scope.spawn(move || {
                    for n in 0..500 {
                        let body = format!(r#"{{"topic_key":"t","optype":4,"topic_msg":{n}}}"#);
                        send(topics, &peer, &publisher.to_string(), &body);
                    }
                });
            }
            for _ in 0..100 {
                send(&topics, &subscriber, "subscribe", r#"{"topic_key":"t","optype":2}"#);
                send(&topics, &subscriber, "cancel", r#"{"topic_key":"t","optype":3}"#);
            }
        });
        let (mut hears, mut last) = (false, [None, None]);
        for Sent(message) in subscriber.take() {
            match message.id() {
                b"subscribe" => hears = true,
                b"cancel" => hears = false,
                publisher => {
                    assert!(hears);
                    let request = TopicRequest::decode::<Json>(message.body()).unwrap();
                    let number: u32 = Json::text(request.message.unwrap()).unwrap().parse().unwrap();
                    let last = &mut last[usize::from(publisher == b"1")];
                    assert!(*last < Some(number));
                    *last = Some(number);
                }
            }
        }
    }
}
