use std::sync::{Arc, PoisonError};

use callboard_client::{CallError, Line, ask_ahead};
use callboard_common::{
    Decode, ErrorInfo, Feature, Json, Message, ResultCode, Subscribed, TopicAnswer, TopicOp, TopicOperation,
    TopicOptions,
};
use tokio::sync::oneshot;

use crate::backlog::{End, Mark};
use crate::hub::{Hub, subject};
use crate::listeners::Again;
use crate::queue::Freed;

/// How subscriptions go on when their connection is lost and another one takes its place.
impl Hub {
    /// The connection was lost, and another one takes its place: who listens is told, and waits.
    pub(crate) fn connection_lost(&self) {
        let (away, in_doubt) = self.lock().lost();
        for queue in away {
            queue.mark(Mark::Lost).let_go();
        }
        in_doubt.iter().map(|queue| queue.clear()).for_each(Freed::let_go);
    }

    /// Subscribes again over the connection that takes the place of one that was lost.
    ///
    /// # Errors
    /// That connection is of no use either.
    pub(crate) async fn subscribe_again(self: &Arc<Self>, over: &impl Asker) -> Result<(), CallError> {
        let restarted = self.is_restarted(over.instance());
        let again = self.lock().again();
        let ops: &[TopicOp] = if restarted { &[TopicOp::Create, TopicOp::Subscribe] } else { &[TopicOp::Subscribe] };
        let asks: Vec<_> = again.iter().flat_map(|topic| ops.iter().map(move |op| (topic, *op))).collect();
        ask_ahead(asks, AT_ONCE, |(topic, op)| {
            let answered = self.ask_again(over, topic, *op)?;
            Ok(Some(async { answered.await.unwrap_or(Ok(())) }))
        })
        .await?;
        // Only now: where it failed on the way, the next connection has to create the topics too.
        *self.instance.lock().unwrap_or_else(PoisonError::into_inner) = over.instance().map(str::to_owned);
        Ok(())
    }

    fn ask_again(self: &Arc<Self>, over: &impl Asker, again: &Again, op: TopicOp) -> Result<Answered, CallError> {
        let (told, answered) = oneshot::channel();
        let topic = &again.topic;
        let (hub, name) = (Arc::clone(self), Arc::clone(topic));
        let is_create = op == TopicOp::Create;
        // One that does not count is told nothing beyond v1.
        let options = match (over.counts(), is_create) {
            (false, _) => TopicOptions::default(),
            (true, true) => again.create,
            (true, false) => again.subscribe,
        };
        // In order with the messages that follow: those are to be heard.
        let done = Box::new(move |answer: Result<Message, CallError>| {
            let done = answer.and_then(|answer| if is_create { Ok(()) } else { hub.resumed(&name, &answer) });
            let _ = told.send(done);
        });
        over.ask(&subject(topic), &operation(topic, op, options), done)?;
        Ok(answered)
    }

    fn resumed(&self, topic: &str, answer: &Message) -> Result<(), CallError> {
        let why = match TopicAnswer::decode::<Json>(answer.body()) {
            Ok(answer) if answer.code == ResultCode::Ok => {
                self.goes_on(topic, answer.subscribed);
                return Ok(());
            }
            // A center that is about to end says nothing of the topic: another connection is to be made.
            Ok(TopicAnswer { code: code @ ResultCode::Unavailable, error, .. }) => {
                return Err(CallError::remote("the center", subject(topic), code, error));
            }
            Ok(TopicAnswer { code: ResultCode::NotFoundTopic, .. }) => End::TopicRemoved,
            Ok(TopicAnswer { code, error, .. }) => refused(code, error),
            Err(why) => End::Refused { why: format!("the answer can't be read: {why}").into() },
        };
        let ended = self.lock().not_resumed(topic);
        for queue in ended {
            queue.end(why.clone()).let_go();
        }
        Ok(())
    }

    fn goes_on(&self, topic: &str, answer: Option<Subscribed>) {
        let Some((resumed, back)) = self.lock().resumed(topic, answer) else { return };
        for queue in back {
            queue.mark(Mark::Resumed(resumed)).let_go();
        }
    }

    /// Whether the center is another run of its program than the one that was asked last.
    pub(crate) fn is_restarted(&self, instance: Option<&str>) -> bool {
        let known = self.instance.lock().unwrap_or_else(PoisonError::into_inner);
        // One that does not tell may be another one each time.
        instance.is_none() || known.as_deref() != instance
    }
}

fn refused(code: ResultCode, error: Option<ErrorInfo>) -> End {
    let why = error.map_or_else(|| code.to_string(), |error| format!("{code}: {}", error.message));
    End::Refused { why: why.into() }
}

/// Asks over one connection, whichever it is.
pub(crate) trait Asker {
    /// Which run of the center is asked, where it tells.
    fn instance(&self) -> Option<&str>;

    /// Whether the center numbers messages.
    fn counts(&self) -> bool;

    /// Sends a request; `done` gets the answer on the connection's task, in order with what else comes.
    ///
    /// # Errors
    /// What keeps it from being sent; then `done` is not called.
    fn ask(&self, subject: &str, operation: &TopicOperation<'_>, done: Done) -> Result<(), CallError>;
}

type Done = Box<dyn FnOnce(Result<Message, CallError>) + Send>;
type Answered = oneshot::Receiver<Result<(), CallError>>;

/// So many requests wait for their answers at a time: within what a center permits, and of no account to others.
pub(crate) const AT_ONCE: usize = 256;

impl Asker for Line {
    fn instance(&self) -> Option<&str> {
        self.session().map(|session| &*session.instance)
    }

    fn counts(&self) -> bool {
        self.session().is_some_and(|session| session.features.has(Feature::Seq))
    }

    fn ask(&self, subject: &str, operation: &TopicOperation<'_>, done: Done) -> Result<(), CallError> {
        self.exchange_in_order(subject, operation, done)
    }
}

fn operation(topic: &Arc<str>, op: TopicOp, options: TopicOptions) -> TopicOperation<'_> {
    TopicOperation { topic: (&**topic).into(), op, options }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::task::{Context, Poll, Waker};

    use callboard_client::CallErrorKind;
    use callboard_common::{Encode, Features, Handler, Limits, MessageType, Missed, Recorder, Session, TopicRequest};

    use super::*;
    use crate::backlog::{Bounds, Next};
    use crate::hub::Arrivals;
    use crate::listeners::{ListenerId, Wants};
    use crate::queue::{Hold, Queue};
    use crate::{TopicLimits, TopicService};

    /// A connection to a center without sockets: what comes over it is handed to the hub.
    struct Line<'a> {
        center: &'a TopicService<Recorder>,
        conn: Recorder,
        instance: &'static str,
        hub: Arc<Hub>,
        waiting: Mutex<Vec<Done>>,
    }

    impl<'a> Line<'a> {
        fn new(center: &'a TopicService<Recorder>, id: u64, instance: &'static str, hub: &Arc<Hub>) -> Self {
            let (name, limits) = (String::new(), Limits::default());
            let session = Session {
                name,
                instance: instance.to_owned(),
                store: None,
                features: Features::ALL,
                limits,
                heartbeats: None,
                serving: None,
            };
            let (hub, waiting) = (Arc::clone(hub), Mutex::default());
            Self { center, conn: Recorder::with_session(id, session), instance, hub, waiting }
        }

        fn send(&self, body: &[u8]) {
            self.center.handle(&self.conn, self.conn.message(2, b"id", body));
            self.deliver();
        }

        fn deliver(&self) {
            for sent in self.conn.take() {
                if sent.0.kind() == MessageType::TopicResponse {
                    let done = self.waiting.lock().unwrap().pop();
                    if let Some(done) = done {
                        done(Ok(sent.0.clone()));
                    }
                } else {
                    let request = TopicRequest::decode::<Json>(sent.0.body()).unwrap();
                    self.hub.hand_on(Arrivals::new(&sent.0, &request), || -> Hold { Box::new(()) }, |_| true);
                }
            }
        }

        fn publish(&self, topic: &str, count: u64) {
            for n in 1..=count {
                let mut body = bytes::BytesMut::new();
                TopicRequest::publish(topic, n).encode::<Json>(&mut body).unwrap();
                self.center.handle(&Recorder::new(0), self.conn.message(2, b"id", &body));
            }
            self.deliver();
        }
    }

    impl Asker for Line<'_> {
        fn instance(&self) -> Option<&str> {
            Some(self.instance)
        }

        fn counts(&self) -> bool {
            true
        }

        fn ask(&self, _subject: &str, operation: &TopicOperation<'_>, done: Done) -> Result<(), CallError> {
            let mut body = bytes::BytesMut::new();
            operation.encode::<Json>(&mut body).unwrap();
            self.waiting.lock().unwrap().push(done);
            self.send(&body);
            Ok(())
        }
    }

    /// Subscribes as a client does, and gives where its messages come.
    fn subscribe(line: &Line<'_>, topic: &str) -> Arc<Queue> {
        let queue = Arc::new(Queue::new(Bounds::default()));
        let who = line.hub.join(topic, Arc::clone(&queue), Wants::default());
        let hub = Arc::clone(&line.hub);
        let done = move |answer: Result<Message, CallError>| {
            let answer = TopicAnswer::decode::<Json>(answer.unwrap().body()).unwrap();
            assert!(hub.confirm(&who, answer.subscribed).is_some());
        };
        line.ask("", &operation(&topic.into(), TopicOp::Subscribe, TopicOptions::default()), Box::new(done)).unwrap();
        queue
    }

    /// Numbers, and marks in words.
    fn heard(queue: &Queue) -> Vec<String> {
        let mut heard = Vec::new();
        let cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(next) = queue.poll(&cx) {
            match next {
                Ok(Next::Messages(bundle)) => heard.extend(bundle.map(|news| news.number().to_string())),
                Ok(Next::Mark(mark)) => heard.push(match mark {
                    Mark::Resumed(resumed) => format!("{:?} then {}", resumed.missed, resumed.next),
                    mark => format!("{mark:?}"),
                }),
                Err(end) => return [heard, vec![format!("{end:?}")]].concat(),
            }
        }
        heard
    }

    fn center(ring_messages: usize) -> TopicService<Recorder> {
        TopicService::with_limits(TopicLimits { ring_messages, ..TopicLimits::default() })
    }

    #[tokio::test]
    async fn after_a_loss_each_subscription_goes_on_where_it_was_and_hears_what_it_has_missed() {
        let (center, hub) = (center(3), Arc::new(Hub::new(Some("a"))));
        let line = Line::new(&center, 1, "a", &hub);
        for topic in ["t", "u"] {
            line.send(format!(r#"{{"topic_key":"{topic}","optype":0}}"#).as_bytes());
        }
        let (one, other, music) = (subscribe(&line, "t"), subscribe(&line, "t"), subscribe(&line, "u"));
        line.publish("t", 2);
        hub.connection_lost();
        center.closed(&line.conn);
        let line = Line::new(&center, 2, "a", &hub);
        line.publish("t", 5);
        line.send(br#"{"topic_key":"u","optype":1}"#);
        hub.subscribe_again(&line).await.unwrap();
        line.publish("t", 1);
        for queue in [one, other] {
            let missed = format!("{:?} then 5", Missed::Exactly(2));
            assert_eq!(heard(&queue), ["1", "2", "Lost", &missed, "5", "6", "7", "8"]);
        }
        assert_eq!(heard(&music), ["Lost", "TopicRemoved"], "the same center has it no more");
    }

    #[tokio::test]
    async fn a_center_that_was_started_anew_gets_its_topics_again() {
        let (before, after, hub) = (center(3), center(3).after_epoch(100), Arc::new(Hub::new(Some("a"))));
        let line = Line::new(&before, 1, "a", &hub);
        line.send(br#"{"topic_key":"t","optype":0,"retain":true}"#);
        let queue = subscribe(&line, "t");
        line.publish("t", 2);
        hub.connection_lost();
        let line = Line::new(&after, 2, "b", &hub);
        hub.subscribe_again(&line).await.unwrap();
        line.publish("t", 2);
        assert_eq!(heard(&queue), ["1", "2", "Lost", "Unknown then 1", "1", "2"]);
        let new = subscribe(&line, "t");
        assert_eq!(heard(&new), ["2"], "it retains its last message again");
    }

    /// A connection that ends before anything is sent.
    struct Broken(&'static str);

    impl Asker for Broken {
        fn instance(&self) -> Option<&str> {
            Some(self.0)
        }

        fn counts(&self) -> bool {
            true
        }

        fn ask(&self, subject: &str, _operation: &TopicOperation<'_>, _done: Done) -> Result<(), CallError> {
            Err(CallError::new(CallErrorKind::Disconnected, "the center", subject.to_owned(), "the connection ended"))
        }
    }

    #[tokio::test]
    async fn a_restarted_center_gets_its_topics_back_at_the_second_attempt_too() {
        let (before, after, hub) = (center(3), center(3).after_epoch(100), Arc::new(Hub::new(Some("a"))));
        let line = Line::new(&before, 1, "a", &hub);
        line.send(br#"{"topic_key":"t","optype":0}"#);
        let queue = subscribe(&line, "t");
        hub.connection_lost();
        hub.subscribe_again(&Broken("b")).await.unwrap_err();
        hub.subscribe_again(&Line::new(&after, 2, "b", &hub)).await.unwrap();
        assert_eq!(heard(&queue), ["Lost", "Unknown then 1"]);
    }

    /// Subscribes, and loses the connection between the center's answer and the moment at which it is looked at.
    fn subscribe_in_doubt(line: &Line<'_>, before_the_loss: u64) -> (Arc<Queue>, ListenerId, Option<Subscribed>) {
        let (hub, queue) = (&line.hub, Arc::new(Queue::new(Bounds::default())));
        let who = hub.join("t", Arc::clone(&queue), Wants::default());
        let got: Arc<Mutex<Option<Message>>> = Arc::default();
        let answered = Arc::clone(&got);
        let done = Box::new(move |answer: Result<Message, CallError>| *answered.lock().unwrap() = answer.ok());
        line.ask("", &operation(&"t".into(), TopicOp::Subscribe, TopicOptions::default()), done).unwrap();
        line.publish("t", before_the_loss);
        hub.connection_lost();
        line.center.closed(&line.conn);
        let answer = got.lock().unwrap().take().unwrap();
        (queue, who, TopicAnswer::decode::<Json>(answer.body()).unwrap().subscribed)
    }

    #[tokio::test]
    async fn a_subscribe_that_the_lost_connection_answered_is_sent_again_and_hears_only_what_comes_then() {
        let (before, after, hub) = (center(10), center(10).after_epoch(100), Arc::new(Hub::new(Some("a"))));
        let line = Line::new(&before, 1, "a", &hub);
        line.send(br#"{"topic_key":"t","optype":0}"#);
        let (queue, who, answer) = subscribe_in_doubt(&line, 40);
        let line = Line::new(&after, 2, "b", &hub);
        line.send(br#"{"topic_key":"t","optype":0}"#);
        hub.subscribe_again(&line).await.unwrap();
        assert_eq!(hub.confirm(&who, answer), None, "nobody can tell whether that answer counts");
        line.publish("t", 2);
        let (confirming, next) = (Arc::clone(&hub), Arc::new(Mutex::new(None)));
        let told = Arc::clone(&next);
        let done = Box::new(move |answer: Result<Message, CallError>| {
            let answer = TopicAnswer::decode::<Json>(answer.unwrap().body()).unwrap();
            *told.lock().unwrap() = confirming.confirm(&who, answer.subscribed);
        });
        line.ask("", &operation(&"t".into(), TopicOp::Subscribe, TopicOptions::default()), done).unwrap();
        line.publish("t", 2);
        assert_eq!((*next.lock().unwrap(), heard(&queue)), (Some(3), vec!["3".to_owned(), "4".to_owned()]));
        let lines = hub.lock().again();
        assert_eq!(lines, [], "it is subscribed");
        hub.connection_lost();
        let after: Vec<_> = hub.lock().again().iter().map(|again| again.subscribe.after.unwrap().seq).collect();
        assert_eq!(after, [4], "and asks for what follows on this center, not on the one before");
    }

    #[tokio::test]
    async fn what_the_lost_connection_still_had_on_its_way_does_not_count() {
        let (center, hub) = (center(10), Arc::new(Hub::new(Some("a"))));
        let line = Line::new(&center, 1, "a", &hub);
        line.send(br#"{"topic_key":"t","optype":0}"#);
        let queue = subscribe(&line, "t");
        line.publish("t", 1);
        hub.connection_lost();
        line.publish("t", 2);
        line.hub.reached("t", 3);
        center.closed(&line.conn);
        hub.subscribe_again(&Line::new(&center, 2, "a", &hub)).await.unwrap();
        hub.reached("t", 3);
        let none = format!("{:?} then 2", Missed::Exactly(0));
        assert_eq!(heard(&queue), ["1", "Lost", &none, "2", "3", "Reached(3)"]);
    }

    /// A center that answers each request alike.
    struct Refusing(&'static [u8]);

    impl Asker for Refusing {
        fn instance(&self) -> Option<&str> {
            Some("a")
        }

        fn counts(&self) -> bool {
            true
        }

        fn ask(&self, _subject: &str, _operation: &TopicOperation<'_>, done: Done) -> Result<(), CallError> {
            done(Ok(Recorder::new(9).message(3, b"id", self.0)));
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_center_that_does_not_subscribe_again_says_why_and_one_that_is_about_to_end_says_nothing() {
        let rows: [(&[u8], bool, &[&str]); 4] = [
            (br#"{"rcode":22,"error":{"message":"this center stops","executed":"no"}}"#, false, &["Lost"]),
            (br#"{"rcode":7}"#, true, &["Lost", "TopicRemoved"]),
            (
                br#"{"rcode":17,"error":{"message":"2 at most","executed":"no"}}"#,
                true,
                &["Lost", r#"Refused { why: "OVERLOADED: 2 at most" }"#],
            ),
            (b"?", true, &["Lost", r#"Refused { why: "the answer can't be read: "#]),
        ];
        for (answer, is_of_use, expected) in rows {
            let (center, hub) = (center(10), Arc::new(Hub::new(Some("a"))));
            let line = Line::new(&center, 1, "a", &hub);
            line.send(br#"{"topic_key":"t","optype":0}"#);
            let queue = subscribe(&line, "t");
            hub.connection_lost();
            assert_eq!(hub.subscribe_again(&Refusing(answer)).await.is_ok(), is_of_use);
            let heard = heard(&queue);
            let is_as_expected = heard.iter().zip(expected).all(|(heard, expected)| heard.starts_with(expected));
            assert!(heard.len() == expected.len() && is_as_expected, "{heard:?} {expected:?}");
        }
    }
}
