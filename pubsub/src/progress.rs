#[cfg(feature = "planted")]
use callboard_common::Planted;
use callboard_common::{Missed, Subscribed, TopicOptions, TopicPosition};

/// How far one connection has heard a topic: what is asked when another connection takes its place, and what the answer
/// means. Pure state.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    /// The topic's life, once an answer has told it.
    epoch: Option<u64>,
    /// The highest number that has come, or that was the last one when the subscription began.
    heard: u64,
    /// How many have come without a number.
    unnumbered: u64,
    /// The topic keeps its last message.
    retain: bool,
}

/// How a subscription goes on over another connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resumed {
    /// Up to here messages had come before.
    pub(crate) before: u64,
    /// What was published meanwhile and does not come.
    pub(crate) missed: Missed,
    /// The number of the next message.
    pub(crate) next: u64,
}

impl Progress {
    /// A subscribe was answered, perhaps after messages had come.
    pub(crate) fn subscribed(&mut self, answer: Option<Subscribed>) {
        let Some(answer) = answer.filter(|answer| self.epoch != Some(answer.at.epoch)) else { return };
        self.epoch = Some(answer.at.epoch);
        self.heard = self.heard.max(answer.at.seq - answer.replayed);
        self.retain = answer.retain;
    }

    /// So many messages have come; gives the number of the first, one of our own where the center gives none.
    pub(crate) fn arrived(&mut self, first_seq: Option<u64>, messages: u64) -> u64 {
        let Some(first) = first_seq else {
            self.unnumbered += messages;
            return self.unnumbered - messages + 1;
        };
        self.heard((first + messages).saturating_sub(1));
        first
    }

    /// Messages up to this number have come, or do not come.
    pub(crate) fn heard(&mut self, seq: u64) {
        self.heard = self.heard.max(seq);
    }

    /// The number that comes next where the center gives none.
    pub(crate) const fn next_unnumbered(&self) -> u64 {
        self.unnumbered + 1
    }

    /// What a subscribe on another connection adds.
    pub(crate) fn ask(&self) -> TopicOptions {
        #[cfg(feature = "planted")]
        match self.epoch {
            _ if Planted::ResumedBlindly.is_planted() => return TopicOptions::default(),
            Some(epoch) if Planted::HeardAgain.is_planted() => {
                let after = Some(TopicPosition { epoch, seq: self.heard.saturating_sub(1) });
                return TopicOptions { after, ..TopicOptions::default() };
            }
            _ => {}
        }
        let after = self.epoch.map(|epoch| TopicPosition { epoch, seq: self.heard });
        TopicOptions { after, ..TopicOptions::default() }
    }

    /// What a create adds, at a center that was started anew and has lost the topic.
    pub(crate) fn create(&self) -> TopicOptions {
        TopicOptions { retain: self.retain.then_some(true), ..TopicOptions::default() }
    }

    /// That subscribe was answered.
    pub(crate) fn resumed(&mut self, answer: Option<Subscribed>) -> Resumed {
        let before = if self.epoch.is_some() { self.heard } else { self.unnumbered };
        let missed = answer.and_then(|answer| answer.missed).unwrap_or(Missed::Unknown);
        #[cfg(feature = "planted")]
        let missed = match missed {
            _ if Planted::ResumedBlindly.is_planted() => Missed::Exactly(0),
            _ if Planted::MissedForgotten.is_planted() => Missed::Unknown,
            Missed::Exactly(missed) if missed > 0 && Planted::MissedTooMany.is_planted() => Missed::Exactly(missed + 1),
            missed => missed,
        };
        *self = Self::default();
        self.subscribed(answer);
        Resumed { before, missed, next: answer.map_or(1, Subscribed::next) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use callboard_common::{
        Codec, Connection, Decode, Features, Handler, Json, Limits, Message, MessageType, Recorder, Session,
        SlowPolicy, TopicAnswer, TopicOp, TopicOperation, TopicRequest,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::sequence::{Gap, Heard, Sequence};
    use crate::{TopicLimits, TopicService};

    fn subscribed(epoch: u64, seq: u64, replayed: u64, missed: Option<Missed>) -> Subscribed {
        Subscribed { at: TopicPosition { epoch, seq }, replayed, missed, retain: false }
    }

    #[test]
    fn it_asks_for_what_follows_the_last_that_came() {
        let mut progress = Progress::default();
        assert_eq!(progress.ask(), TopicOptions::default(), "nothing is known");
        progress.heard(7);
        progress.subscribed(Some(subscribed(3, 6, 0, None)));
        progress.subscribed(Some(subscribed(3, 9, 0, None)));
        let after = |epoch, seq| Some(TopicPosition { epoch, seq });
        assert_eq!(
            progress.ask().after,
            after(3, 7),
            "a second one's answer tells nothing of what the first has heard"
        );
        let exactly = Missed::Exactly(2);
        let resumed = progress.resumed(Some(subscribed(3, 12, 3, Some(exactly))));
        assert_eq!(resumed, Resumed { before: 7, missed: exactly, next: 10 });
        assert_eq!(progress.ask().after, after(3, 9));
        let resumed = progress.resumed(Some(subscribed(4, 1, 1, Some(Missed::Unknown))));
        assert_eq!(resumed, Resumed { before: 9, missed: Missed::Unknown, next: 1 });
        assert_eq!(progress.ask().after, after(4, 0));
        let resumed = progress.resumed(None);
        assert_eq!(resumed, Resumed { before: 0, missed: Missed::Unknown, next: 1 });
        assert_eq!(progress.ask().after, None, "a center without numbers");
        assert_eq!((progress.arrived(None, 3), progress.arrived(None, 2), progress.next_unnumbered()), (1, 4, 6));
        assert_eq!(progress.resumed(None), Resumed { before: 5, missed: Missed::Unknown, next: 1 });
    }

    #[derive(Clone, Debug)]
    enum Step {
        Publish(usize, Size),
        /// So many bytes leave the center.
        Write(usize),
        /// So many frames reach the client.
        Arrive(usize),
        Lose,
        /// On a new connection if there is none, else once more on this one.
        Subscribe(SlowPolicy, u64),
        Remove,
        Create,
    }

    #[derive(Clone, Copy, Debug)]
    enum Size {
        Small,
        /// More than a small ring takes.
        Large,
        /// With its number it is larger than a frame may be.
        Full,
    }

    const MAX_FRAME_BYTES: usize = 600;
    const QUEUE_BYTES: usize = 3000;
    const SMALL_RING_BYTES: usize = 250;

    fn step() -> impl Strategy<Value = Step> {
        let size = prop_oneof![6 => Just(Size::Small), 3 => Just(Size::Large), 1 => Just(Size::Full)];
        let waits = prop::sample::select(vec![100, 1_000_000]);
        prop_oneof![
            6 => (1..4_usize, size).prop_map(|(count, size)| Step::Publish(count, size)),
            5 => (1..6_usize).prop_map(Step::Arrive),
            4 => (1..QUEUE_BYTES).prop_map(Step::Write),
            1 => Just(Step::Lose),
            4 => (policy(), waits).prop_map(|(policy, bytes)| Step::Subscribe(policy, bytes)),
            1 => Just(Step::Remove),
            2 => Just(Step::Create),
        ]
    }

    fn policy() -> impl Strategy<Value = SlowPolicy> {
        use SlowPolicy::{Disconnect, DropNewest, DropOldest, Hold, Latest};
        prop::sample::select(vec![Hold, DropOldest, DropNewest, Latest, Disconnect])
    }

    /// A subscriber as the client's parts make it, without sockets.
    struct Subscriber {
        conn: Option<Recorder>,
        policy: SlowPolicy,
        /// Sent and not yet there.
        on_the_way: VecDeque<Message>,
        progress: Option<Progress>,
        sequence: Sequence,
        /// The next number when this stretch began: since then all is accounted for.
        begun: Option<u64>,
        last: u64,
        received: u64,
        told: u64,
    }

    struct House {
        topics: TopicService<Recorder>,
        publisher: Recorder,
        subscriber: Subscriber,
        last_id: u64,
        /// What was published in this life of the topic.
        published: Option<u64>,
    }

    fn counting_peer(id: u64) -> Recorder {
        let session = Session {
            name: String::new(),
            instance: String::new(),
            store: None,
            features: Features::ALL,
            limits: Limits::default(),
            heartbeats: None,
            serving: None,
        };
        Recorder::with_session(id, session)
    }

    fn body(operation: &impl callboard_common::Encode) -> Vec<u8> {
        let mut out = bytes::BytesMut::new();
        operation.encode::<Json>(&mut out).unwrap();
        out.to_vec()
    }

    /// The id of a subscribe on a connection that is subscribed, perhaps.
    const AGAIN: &[u8] = b"again";

    impl House {
        fn new(limits: TopicLimits) -> Self {
            let subscriber = Subscriber {
                conn: None,
                policy: SlowPolicy::Hold,
                on_the_way: VecDeque::new(),
                progress: None,
                sequence: Sequence::from(1),
                begun: None,
                last: 0,
                received: 0,
                told: 0,
            };
            let topics = TopicService::with_limits(limits);
            let publisher = Recorder::new(1);
            publisher.set_bounds(MAX_FRAME_BYTES, usize::MAX);
            Self { topics, publisher, subscriber, last_id: 1, published: None }
        }

        fn send(&mut self, peer: &Recorder, id: &[u8], body: &[u8]) {
            self.topics.handle(peer, peer.message(2, id, body));
            self.publisher.take();
            self.carry();
        }

        fn carry(&mut self) {
            let Some(conn) = &self.subscriber.conn else { return };
            self.subscriber.on_the_way.extend(conn.take().into_iter().map(|sent| sent.0));
            if conn.close_reason().is_some() {
                let may_be_closed = matches!(self.subscriber.policy, SlowPolicy::Hold | SlowPolicy::Disconnect);
                assert!(may_be_closed || self.published.is_none(), "{:?}", conn.close_reason());
                self.lose();
            }
        }

        fn write(&mut self, bytes: usize) {
            if let Some(conn) = &self.subscriber.conn {
                conn.written(bytes);
            }
            self.carry();
        }

        fn publish(&mut self, count: usize, size: Size) {
            let (publisher, next) = (self.publisher.clone(), self.published.map_or(1, |count| count + 1));
            let message = |n: u64| {
                let frame =
                    |pad: usize| publisher.message(2, b"id", &body(&TopicRequest::publish("t", (n, "x".repeat(pad)))));
                match size {
                    Size::Small => frame(0),
                    Size::Large => frame(SMALL_RING_BYTES),
                    Size::Full => frame(MAX_FRAME_BYTES - frame(0).frame().len()),
                }
            };
            let messages: Vec<_> = (next..next + count as u64).map(message).collect();
            self.topics.handle_all(&publisher, &mut messages.into_iter());
            self.published = self.published.map(|published| published + count as u64);
            self.send(&publisher, b"id", br#"{"topic_key":"quiet","optype":3}"#);
        }

        fn take(&mut self, step: &Step) {
            let publisher = self.publisher.clone();
            match step {
                Step::Publish(count, size) => self.publish(*count, *size),
                Step::Write(bytes) => self.write(*bytes),
                Step::Arrive(count) => (0..*count).for_each(|_| self.subscriber.arrive()),
                Step::Lose => self.lose(),
                Step::Subscribe(policy, max_bytes) => self.subscribe(*policy, *max_bytes),
                Step::Remove => {
                    self.published = None;
                    self.send(&publisher, b"id", br#"{"topic_key":"t","optype":1}"#);
                }
                Step::Create => {
                    self.published.get_or_insert(0);
                    self.send(&publisher, b"id", br#"{"topic_key":"t","optype":0}"#);
                }
            }
        }

        fn lose(&mut self) {
            if let Some(conn) = self.subscriber.conn.take() {
                self.topics.closed(&conn);
                self.subscriber.on_the_way.clear();
            }
        }

        fn subscribe(&mut self, policy: SlowPolicy, max_bytes: u64) {
            let (id, asked) = match (&self.subscriber.conn, self.subscriber.progress) {
                (Some(_), _) => (AGAIN, TopicOptions::default()),
                (None, progress) => (&b"id"[..], progress.map(|progress| progress.ask()).unwrap_or_default()),
            };
            self.last_id += 1;
            let anew = || {
                let conn = counting_peer(self.last_id);
                conn.set_bounds(MAX_FRAME_BYTES, QUEUE_BYTES);
                conn
            };
            let conn = self.subscriber.conn.take().unwrap_or_else(anew);
            self.subscriber.conn = Some(conn.clone());
            if self.published.is_some() {
                self.subscriber.policy = policy;
            }
            let options = TopicOptions { policy: Some(policy), max_bytes: Some(max_bytes), ..asked };
            let subscribe = TopicOperation { topic: "t".into(), op: TopicOp::Subscribe, options };
            self.send(&conn, id, &body(&subscribe));
        }

        /// All that is on the way arrives; what was published is what was received and what was told.
        fn settle(&mut self, gives_up: bool) {
            self.check_all();
            for policy in [SlowPolicy::Latest, SlowPolicy::DropOldest] {
                self.subscribe(policy, 100);
                self.publish(5, Size::Large);
                self.check_all();
                let (last, published) = (self.subscriber.last, self.published.unwrap_or(0));
                assert!(gives_up || published == 0 || last == published, "it does not end with {published}: {last}");
            }
            self.lose();
            self.subscribe(SlowPolicy::Hold, 100);
            self.check_all();
            assert_eq!(self.subscriber.begun.is_some(), self.published.is_some());
        }

        fn check_all(&mut self) {
            while self.subscriber.conn.as_ref().is_some_and(|conn| conn.queued_bytes() > 0) {
                self.write(QUEUE_BYTES);
            }
            while !self.subscriber.on_the_way.is_empty() {
                self.subscriber.arrive();
            }
            let next = self.subscriber.begun.map(|begun| begun + self.subscriber.received + self.subscriber.told);
            if self.subscriber.conn.is_some() {
                assert!(next.is_none_or(|next| Some(next - 1) == self.published), "{next:?} {:?}", self.published);
            }
        }
    }

    impl Subscriber {
        fn arrive(&mut self) {
            let Some(message) = self.on_the_way.pop_front() else { return };
            if message.kind() == MessageType::TopicResponse {
                let answer = TopicAnswer::decode::<Json>(message.body()).unwrap();
                let tells_nothing = message.id() == AGAIN && self.progress.is_some() && answer.subscribed.is_some();
                if !tells_nothing {
                    self.answered(&answer);
                }
                return;
            }
            let request = TopicRequest::decode::<Json>(message.body()).unwrap();
            match request.op {
                TopicOp::Publish => self.hear(&request),
                TopicOp::Remove => self.end(),
                TopicOp::Subscribe => self.reach(request.seq.unwrap()),
                other => panic!("{other:?}"),
            }
        }

        fn answered(&mut self, answer: &TopicAnswer) {
            let Some(subscribed) = answer.subscribed else { return self.end() };
            let Some(mut progress) = self.progress else { return self.begins(subscribed) };
            let resumed = progress.resumed(answer.subscribed);
            assert_eq!(self.sequence.reach(resumed.before), None);
            self.progress = Some(progress);
            self.sequence = Sequence::from(resumed.next);
            match resumed.missed {
                Missed::Exactly(count) => self.told += count,
                Missed::Unknown => self.begin(resumed.next),
            }
        }

        fn begins(&mut self, subscribed: Subscribed) {
            let mut progress = Progress::default();
            progress.subscribed(Some(subscribed));
            self.progress = Some(progress);
            let next = subscribed.next();
            self.sequence = Sequence::from(next);
            self.begin(next);
        }

        fn reach(&mut self, seq: u64) {
            self.progress.as_mut().unwrap().heard(seq);
            if let Some(Gap { from, to }) = self.sequence.reach(seq) {
                self.told += to - from + 1;
            }
        }

        fn begin(&mut self, next: u64) {
            (self.begun, self.received, self.told) = (Some(next), 0, 0);
        }

        /// The topic is gone, and the subscription with it.
        fn end(&mut self) {
            self.progress = None;
            self.begun = None;
        }

        fn hear(&mut self, request: &TopicRequest<'_>) {
            let seq = request.seq.unwrap();
            let (number, _): (u64, String) = Json::read(request.message.unwrap()).unwrap();
            assert_eq!(seq, number, "the number is that of the message");
            self.progress.as_mut().unwrap().arrived(request.seq, 1);
            match self.sequence.hear(seq) {
                Heard::New => {}
                Heard::After(Gap { from, to }) => self.told += to - from + 1,
                Heard::Again => panic!("{seq} came twice"),
            }
            self.received += 1;
            self.last = seq;
            assert_eq!(self.begun.unwrap() + self.received + self.told, seq + 1, "all is accounted for");
        }
    }

    proptest! {
        #[test]
        fn what_was_received_and_what_was_told_is_what_was_published(
            steps in prop::collection::vec(step(), 1..120),
            ring_messages in 0..6_usize,
            ring_bytes in prop_oneof![Just(SMALL_RING_BYTES), Just(1 << 20)],
            total_ring_bytes in prop_oneof![Just(150_usize), Just(1 << 20)],
        ) {
            let limits = TopicLimits { ring_messages, ring_bytes, total_ring_bytes, ..TopicLimits::default() };
            let mut house = House::new(limits);
            for step in &steps {
                house.take(step);
            }
            house.settle(total_ring_bytes == 150);
        }
    }
}
