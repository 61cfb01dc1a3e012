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
