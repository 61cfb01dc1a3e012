use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use callboard_client::{CallError, CallErrorKind, Line};
use callboard_common::{
    Decode, Feature, Json, Message, ResultCode, TopicAnswer, TopicOp, TopicOperation, TopicOptions,
};
use tokio::sync::oneshot;

use crate::backlog::{End, Mark};
use crate::hub::{Hub, subject};
use crate::listeners::Again;

/// How subscriptions go on when their connection is lost and another one takes its place.
impl Hub {
    /// The connection was lost, and another one takes its place: who listens is told, and waits.
    pub(crate) fn connection_lost(&self) {
        let away = self.lock().lost();
        for queue in away {
            queue.mark(Mark::Lost).let_go();
        }
    }

    /// Subscribes again over the connection that takes the place of one that was lost.
    ///
    /// # Errors
    /// That connection is of no use either.
    pub(crate) async fn subscribe_again(self: &Arc<Self>, over: &impl Asker) -> Result<(), CallError> {
        let restarted = self.is_restarted(over.instance());
        let again = self.lock().again();
        let ops: &[TopicOp] = if restarted { &[TopicOp::Create, TopicOp::Subscribe] } else { &[TopicOp::Subscribe] };
        let mut ahead: VecDeque<Answered> = VecDeque::new();
        let asks: Vec<_> = again.iter().flat_map(|topic| ops.iter().map(move |op| (topic, *op))).collect();
        for (topic, op) in asks {
            loop {
                if ahead.len() < AT_ONCE {
                    match self.ask_again(over, topic, op) {
                        Ok(answered) => break ahead.push_back(answered),
                        // Fewer are permitted at once; an answer makes room.
                        Err(error) if matches!(error.kind(), CallErrorKind::Overloaded) && !ahead.is_empty() => {}
                        Err(error) => return Err(error),
                    }
                }
                if let Some(oldest) = ahead.pop_front() {
                    oldest.await.unwrap_or(Ok(()))?;
                }
            }
        }
        for answered in ahead {
            answered.await.unwrap_or(Ok(()))?;
        }
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
        let answer = TopicAnswer::decode::<Json>(answer.body()).ok();
        if answer.as_ref().is_some_and(|answer| answer.code == ResultCode::Unavailable) {
            // A center that is about to end says nothing of the topic: another connection is to be made.
            return Err(CallError::remote("the center", subject(topic), ResultCode::Unavailable, None));
        }
        let answer = answer.filter(|answer| answer.code == ResultCode::Ok);
        let Some(answer) = answer else {
            let ended = self.lock().not_resumed(topic);
            for queue in ended {
                queue.end(End::TopicRemoved).let_go();
            }
            return Ok(());
        };
        let Some((resumed, back)) = self.lock().resumed(topic, answer.subscribed) else { return Ok(()) };
        for queue in back {
            queue.mark(Mark::Resumed(resumed)).let_go();
        }
        Ok(())
    }

    /// Whether the center is another run of its program than the one that was asked last.
    fn is_restarted(&self, instance: Option<&str>) -> bool {
        let known = self.instance.lock().unwrap_or_else(PoisonError::into_inner);
        // One that does not tell may be another one each time.
        instance.is_none() || known.as_deref() != instance
    }
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

/// So many subscribes wait for their answers at a time: within what a center permits, and of no account to others.
const AT_ONCE: usize = 256;

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

    use callboard_common::{Encode, Features, Handler, Limits, MessageType, Missed, Recorder, Session, TopicRequest};

    use super::*;
    use crate::backlog::{Bounds, Next};
    use crate::hub::Arrivals;
    use crate::listeners::Wants;
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
            let session =
                Session { name, instance: instance.to_owned(), features: Features::ALL, limits, heartbeats: None };
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

    struct Broken(&'static str);
    impl Asker for Broken {
        fn counts(&self) -> bool {
            true
        }

        fn instance(&self) -> Option<&str> {
            Some(self.0)
        }
        fn ask(&self, s: &str, _o: &TopicOperation<'_>, _d: Done) -> Result<(), CallError> {
            Err(CallError::new(CallErrorKind::Disconnected, "x", s.to_owned(), "gone"))
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
        let line = Line::new(&after, 2, "b", &hub);
        hub.subscribe_again(&line).await.unwrap();
        let heard = heard(&queue);
        println!("RV failed resume: {heard:?}");
        assert!(!heard.contains(&"TopicRemoved".to_owned()));
    }

    #[tokio::test]
    async fn a_subscribe_that_the_lost_connection_answered_is_sent_again() {
        let (center, hub) = (center(10), Arc::new(Hub::new(Some("a"))));
        let line = Line::new(&center, 1, "a", &hub);
        line.send(br#"{"topic_key":"t","optype":0}"#);
        let queue = Arc::new(Queue::new(Bounds::default()));
        let who = hub.join("t", Arc::clone(&queue), Wants::default());
        let got: Arc<Mutex<Option<Message>>> = Arc::default();
        let g = Arc::clone(&got);
        let op: Arc<str> = "t".into();
        line.ask(
            "",
            &operation(&op, TopicOp::Subscribe, TopicOptions::default()),
            Box::new(move |answer| *g.lock().unwrap() = answer.ok()),
        )
        .unwrap();
        // answered, but the task that opens it has not run yet: the connection is lost and made again
        hub.connection_lost();
        center.closed(&line.conn);
        let line = Line::new(&center, 2, "a", &hub);
        hub.subscribe_again(&line).await.unwrap();
        let answer = got.lock().unwrap().take().unwrap();
        let answer = TopicAnswer::decode::<Json>(answer.body()).unwrap();
        let confirmed = hub.confirm(&who, answer.subscribed);
        line.publish("t", 3);
        println!("RV confirmed {confirmed:?}, subscribers {}, heard {:?}", center.subscriber_count(), heard(&queue));
        assert!(confirmed.is_none() || center.subscriber_count() == 1);
    }

    struct Refusing;
    impl Asker for Refusing {
        fn counts(&self) -> bool {
            true
        }

        fn instance(&self) -> Option<&str> {
            Some("a")
        }
        fn ask(&self, _s: &str, _o: &TopicOperation<'_>, done: Done) -> Result<(), CallError> {
            done(Ok(Recorder::new(9).message(
                3,
                b"id",
                br#"{"rcode":22,"error":{"message":"this center stops","executed":"no"}}"#,
            )));
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_center_that_is_about_to_end_says_nothing_of_a_topic() {
        let (center, hub) = (center(10), Arc::new(Hub::new(Some("a"))));
        let line = Line::new(&center, 1, "a", &hub);
        line.send(br#"{"topic_key":"t","optype":0}"#);
        let queue = subscribe(&line, "t");
        hub.connection_lost();
        println!("RV resume said {:?}", hub.subscribe_again(&Refusing).await.is_ok());
        let heard = heard(&queue);
        println!("RV refused otherwise: {heard:?}");
        assert!(!heard.contains(&"TopicRemoved".to_owned()));
    }
}
