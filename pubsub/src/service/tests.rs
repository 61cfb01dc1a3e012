use callboard_common::{Codec, Features, Limits, Recorder, Sent, Session};

use super::*;

mod resume;

const REQ_TOPIC: u32 = 2;
const MAX_FRAME_BYTES: usize = 4 << 10;
const ONE_WAY: u32 = REQ_TOPIC | 1 << 24;

/// One that counts.
fn session_peer(id: u64) -> Recorder {
    peer_with(id, Features::ALL)
}

/// One with a session in which messages have no numbers.
fn plain_peer(id: u64) -> Recorder {
    peer_with(id, Features::from_names(["one_way", "topic_removed"]))
}

fn peer_with(id: u64, features: Features) -> Recorder {
    let (name, instance) = ("peer".to_owned(), id.to_string());
    Recorder::with_session(
        id,
        Session { name, instance, store: None, features, limits: Limits::default(), heartbeats: None, serving: None },
    )
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
    topics.lock().topics.create(&Recorder::new(99), "t").unwrap();
    for peer in peers {
        send(&topics, peer, "s", r#"{"topic_key":"t","optype":2}"#);
        let position = if Form::of(*peer) == Form::Numbered { r#","epoch":1,"seq":0"# } else { "" };
        assert_eq!(came(peer), [format!(r#"RSP_TOPIC s {{"rcode":0{position}}}"#)]);
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
            r#"{"topic_key":"u","optype":0}"#,
            TopicLimits { created_per_connection: 1, ..TopicLimits::default() },
            r#""executed":"no","data":{"limit":"topics_per_connection","bound":1}}}"#,
            17,
        ),
        (
            r#"{"topic_key":"u","optype":0}"#,
            TopicLimits { total_bytes: 1700, ..TopicLimits::default() },
            r#""executed":"no","data":{"limit":"total_topic_bytes","bound":1700}}}"#,
            17,
        ),
        (
            r#"{"topic_key":"t","optype":2}"#,
            TopicLimits { total_bytes: 1000, ..TopicLimits::default() },
            r#""executed":"no","data":{"limit":"total_topic_bytes","bound":1000}}}"#,
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
        topics.lock().topics.create(&peer, "t").unwrap();
        send(&topics, &peer, "id", body);
        let text = peer.take()[0].text().into_owned();
        assert!(text.starts_with(&format!(r#"{{"rcode":{code},"error""#)) && text.ends_with(end), "{text}");
    }
}

#[test]
fn past_the_bounds_who_holds_most_is_closed_for_one_that_wants_less() {
    let rows = [
        TopicLimits { topics: 4, ..TopicLimits::default() },
        TopicLimits { total_bytes: 4 * 861 + 3, ..TopicLimits::default() },
    ];
    for limits in rows {
        let (topics, hoarder) = (TopicService::with_limits(limits), Recorder::new(1));
        for topic in ["a", "b", "c", "d", "e"] {
            send(&topics, &hoarder, "id", &format!(r#"{{"topic_key":"{topic}","optype":0}}"#));
        }
        let answers = came(&hoarder);
        assert!(answers[..4].iter().all(|answer| answer == r#"RSP_TOPIC id {"rcode":0}"#), "{answers:?}");
        assert!(answers[4].starts_with(r#"RSP_TOPIC id {"rcode":17"#) && hoarder.close_reason().is_none());
        let newcomers = [Recorder::new(2), Recorder::new(3)];
        for (newcomer, topic) in newcomers.iter().zip(["f", "g"]) {
            send(&topics, newcomer, "id", &format!(r#"{{"topic_key":"{topic}","optype":0}}"#));
            assert_eq!(came(newcomer), [r#"RSP_TOPIC id {"rcode":0}"#]);
            assert!(newcomer.close_reason().is_none());
        }
        assert_eq!(hoarder.close_reason().as_deref(), Some(CROWDED_OUT));
        assert_eq!((topics.crowded_out(), topics.dropped(), topics.topic_count()), (1, 2, 4));
        topics.closed(&hoarder);
        assert_eq!(topics.bytes(), 4 * 861);
    }
}

#[test]
fn for_one_change_one_connection_goes_and_no_more_topics_than_must_however_many_have_inherited() {
    let rows = [
        (TopicLimits { topics: 4, ..TopicLimits::default() }, r#"{"topic_key":"e","optype":0}"#),
        (TopicLimits { total_bytes: 4 * 861 + 12 * 200, ..TopicLimits::default() }, r#"{"topic_key":"e","optype":0}"#),
        (TopicLimits { total_bytes: 4 * 861 + 12 * 200, ..TopicLimits::default() }, r#"{"topic_key":"d","optype":2}"#),
    ];
    for (limits, request) in rows {
        let (topics, hoarder) = (TopicService::with_limits(limits), Recorder::new(9));
        let (subscribers, newcomer) = ([session_peer(1), session_peer(2), plain_peer(3)], Recorder::new(4));
        for topic in ["a", "b", "c", "d"] {
            send(&topics, &hoarder, "id", &format!(r#"{{"topic_key":"{topic}","optype":0}}"#));
            for subscriber in &subscribers {
                send(&topics, subscriber, "id", &format!(r#"{{"topic_key":"{topic}","optype":2}}"#));
            }
        }
        for subscriber in &subscribers {
            subscriber.take();
        }
        send(&topics, &newcomer, "id", request);
        assert_eq!(came(&newcomer), [r#"RSP_TOPIC id {"rcode":0}"#], "{limits:?}");
        assert_eq!((topics.crowded_out(), topics.dropped()), (1, 1));
        assert_eq!(hoarder.close_reason().as_deref(), Some(CROWDED_OUT));
        let gone = if request.contains("\"e\"") { "d" } else { "c" };
        let bytes = (topics.bytes(), topics.topic_count());
        assert_eq!(bytes, if gone == "d" { (4 * 861 + 9 * 200, 4) } else { (3 * 861 + 10 * 200, 3) });
        for subscriber in subscribers {
            let told = format!(r#"REQ_TOPIC 1 {{"topic_key":"{gone}","optype":1}}"#);
            assert_eq!((came(&subscriber), subscriber.close_reason()), (vec![told], None));
        }
    }
}

#[test]
fn what_is_published_reaches_each_subscriber_in_its_form() {
    let string = r#"{"optype" : 4, "topic_key":"t", "topic_msg":"m\uff1a0", "more":[1]}"#;
    let object = r#"{"topic_key":"t","optype":4,"topic_msg": {"a" : [1.50, "x y"]} }"#;
    let (numbered_string, numbered_object) =
        (string.replacen('{', r#"{"seq":1,"#, 1), object.replacen('{', r#"{"seq":1,"#, 1));
    // What is published, and what is pushed: to v1, within a session, and with numbers.
    let rows = [
        (string, string, string, &*numbered_string),
        (
            r#"{"key":"t","optype":"TOPIC_PUBLISH","message":"m\u0041"}"#,
            r#"{"topic_key":"t","optype":4,"topic_msg":"m\u0041"}"#,
            r#"{"topic_key":"t","optype":4,"topic_msg":"m\u0041"}"#,
            r#"{"seq":1,"topic_key":"t","optype":4,"topic_msg":"m\u0041"}"#,
        ),
        (object, r#"{"topic_key":"t","optype":4,"topic_msg":"{\"a\":[1.50,\"x y\"]}"}"#, object, &numbered_object),
        (
            r#"{"key":"t","optype":4,"message":1e999}"#,
            r#"{"topic_key":"t","optype":4,"topic_msg":"1e999"}"#,
            r#"{"topic_key":"t","optype":4,"topic_msg":1e999}"#,
            r#"{"seq":1,"topic_key":"t","optype":4,"topic_msg":1e999}"#,
        ),
        (
            r#"{"topic_key":"t","optype":4,"topic_msg":null}"#,
            r#"{"topic_key":"t","optype":4,"topic_msg":"null"}"#,
            r#"{"topic_key":"t","optype":4,"topic_msg":null}"#,
            r#"{"seq":1,"topic_key":"t","optype":4,"topic_msg":null}"#,
        ),
        (
            r#"{"seq":9,"topic_key":"t","optype":4,"topic_msg":"x"}"#,
            r#"{"seq":9,"topic_key":"t","optype":4,"topic_msg":"x"}"#,
            r#"{"seq":9,"topic_key":"t","optype":4,"topic_msg":"x"}"#,
            r#"{"seq":1,"topic_key":"t","optype":4,"topic_msg":"x"}"#,
        ),
        (
            r#" {"topic_key":"t","optype":4,"topic_msg":"x"}"#,
            r#" {"topic_key":"t","optype":4,"topic_msg":"x"}"#,
            r#" {"topic_key":"t","optype":4,"topic_msg":"x"}"#,
            r#"{"seq":1,"topic_key":"t","optype":4,"topic_msg":"x"}"#,
        ),
    ];
    for (body, to_v1, to_session, with_number) in rows {
        let (v1, session, counting, publisher) = (Recorder::new(1), plain_peer(2), session_peer(3), Recorder::new(4));
        let topics = with_subscribers(&[&v1, &session, &counting]);
        send(&topics, &publisher, "p", body);
        assert_eq!(came(&v1), [format!("REQ_TOPIC p {to_v1}")]);
        assert_eq!(came(&session), [format!("REQ_TOPIC p {to_session}")]);
        assert_eq!(came(&counting), [format!("REQ_TOPIC p {with_number}")]);
        assert_eq!(came(&publisher), [r#"RSP_TOPIC p {"rcode":0}"#]);
    }
}

/// The number and the message of each that was pushed.
fn numbers(peer: &Recorder) -> Vec<(u64, String)> {
    let read = |sent: &Sent| {
        let request = TopicRequest::decode::<Json>(sent.0.body()).unwrap();
        (request.seq.unwrap(), String::from_utf8(request.message.unwrap().bytes().to_vec()).unwrap())
    };
    peer.take().iter().map(read).collect()
}

#[test]
fn numbers_count_what_is_published_from_1_without_a_gap_whoever_publishes_it_and_however() {
    let (hearing, writers) = (session_peer(1), [Recorder::new(2), plain_peer(3), session_peer(4)]);
    let topics = with_subscribers(&[&hearing]);
    let spellings = [r#"{"topic_key":"t","optype":4,"topic_msg":1}"#, r#"{"key":"t","optype":4,"message":1}"#];
    let mut expected = Vec::new();
    for round in 0..7 {
        for (writer, body) in writers.iter().zip(spellings.iter().cycle().skip(round % 2)) {
            let mut messages = (0..=round).map(|_| writer.message(REQ_TOPIC, b"p", body.as_bytes()));
            topics.handle_all(writer, &mut messages);
            expected.extend((0..=round).map(|_| "1".to_owned()));
        }
    }
    assert_eq!(numbers(&hearing), (1..).zip(expected).collect::<Vec<_>>());
    let late = session_peer(5);
    send(&topics, &late, "s", r#"{"topic_key":"t","optype":2}"#);
    assert_eq!(came(&late), [r#"RSP_TOPIC s {"rcode":0,"epoch":1,"seq":84}"#]);
    send(&topics, &late, "s", r#"{"topic_key":"t","optype":2}"#);
    assert_eq!(came(&late), [r#"RSP_TOPIC s {"rcode":0,"epoch":1,"seq":84}"#], "the same again");
}

#[test]
fn a_topic_that_is_created_again_counts_anew_under_another_epoch() {
    let peer = session_peer(1);
    let topics = TopicService::new().after_epoch(1 << 40);
    for (epoch, id) in [(1, "a"), (2, "b")] {
        send(&topics, &peer, id, r#"{"topic_key":"t","optype":0}"#);
        send(&topics, &peer, id, r#"{"topic_key":"t","optype":2}"#);
        assert_eq!(
            came(&peer)[1],
            format!(r#"RSP_TOPIC {id} {{"rcode":0,"epoch":{},"seq":0}}"#, (1_u64 << 40) + epoch)
        );
        send(&topics, &peer, id, r#"{"topic_key":"t","optype":4,"topic_msg":"x"}"#);
        assert_eq!(came(&peer)[0], format!(r#"REQ_TOPIC {id} {{"seq":1,"topic_key":"t","optype":4,"topic_msg":"x"}}"#));
        send(&topics, &peer, id, r#"{"topic_key":"t","optype":1}"#);
        came(&peer);
    }
}

#[test]
fn two_publishers_at_once_do_not_share_a_number() {
    let (topics, hearing) = (with_subscribers(&[]), session_peer(0));
    send(&topics, &hearing, "s", r#"{"topic_key":"t","optype":2}"#);
    came(&hearing);
    std::thread::scope(|scope| {
        for publisher in 1..=3 {
            let (topics, peer) = (&topics, Recorder::new(publisher));
            scope.spawn(move || {
                for n in 0..300 {
                    let body = format!(r#"{{"topic_key":"t","optype":4,"topic_msg":{n}}}"#);
                    let mut run = (0..=(n % 3)).map(|_| peer.message(REQ_TOPIC, b"p", body.as_bytes()));
                    topics.handle_all(&peer, &mut run);
                }
            });
        }
    });
    let seen: Vec<_> = numbers(&hearing).into_iter().map(|(seq, _)| seq).collect();
    assert_eq!(seen, (1..=1800).collect::<Vec<_>>());
}

#[test]
fn a_message_that_its_number_takes_over_the_bound_is_left_out_for_those_who_count_and_they_are_told() {
    let (plain, counting, behind) = (plain_peer(1), session_peer(2), session_peer(4));
    let (topics, publisher) = (with_subscribers(&[&plain, &counting]), Recorder::new(3));
    publisher.set_bounds(MAX_FRAME_BYTES, usize::MAX);
    send(&topics, &behind, "s", r#"{"topic_key":"t","optype":2,"policy":"latest","max_bytes":100}"#);
    behind.take();
    let around = r#"{"topic_key":"t","optype":4,"topic_msg":""}"#.len() + 1 + 8;
    let body = |bytes: usize| format!(r#"{{"topic_key":"t","optype":4,"topic_msg":"{}"}}"#, "x".repeat(bytes));
    send(&topics, &publisher, "p", &body(MAX_FRAME_BYTES - around - r#""seq":1,"#.len()));
    assert_eq!((plain.take().len(), numbers(&counting).len()), (1, 1));
    send(&topics, &publisher, "p", &body(MAX_FRAME_BYTES - around));
    assert_eq!((plain.take().len(), behind.take().len(), topics.left_out()), (1, 2, 1));
    let told = |seq: u64| format!(r#"REQ_TOPIC p {{"seq":{seq},"topic_key":"t","optype":2}}"#);
    assert_eq!(came(&counting), [told(2)], "no message may follow for long");
    assert!(came(&publisher).iter().all(|answer| answer == r#"RSP_TOPIC p {"rcode":0}"#));
    behind.set_queued_bytes(101);
    send(&topics, &publisher, "p", &body(MAX_FRAME_BYTES - around));
    send(&topics, &publisher, "p", &body(0));
    assert_eq!(behind.take(), []);
    behind.set_queued_bytes(0);
    assert_eq!(came(&counting)[0], told(3));
    assert_eq!(numbers(&behind), [(4, r#""""#.to_owned())], "it goes on as its policy has it");
    let back = session_peer(5);
    send(&topics, &back, "s", r#"{"topic_key":"t","optype":2,"epoch":1,"after":1}"#);
    assert_eq!(back.take()[0].text(), r#"{"rcode":0,"epoch":1,"seq":4,"replayed":1,"missed":2}"#);
    for peer in [plain, counting, behind, publisher] {
        assert_eq!(peer.close_reason(), None);
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
        publication.make(Needs { text: true, value: false, numbered: false, next: 1 });
        let frame = publication.frames(Form::Text).unwrap().frame().clone();
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
    let pushed = body.replacen('{', r#"{"seq":2,"#, 1);
    assert_eq!(came(&publisher), [format!("REQ_TOPIC q {pushed}"), r#"RSP_TOPIC q {"rcode":0}"#.to_owned()]);
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
fn a_message_that_is_over_the_bound_as_a_string_is_left_out_for_v1_peers_and_the_others_hear() {
    let (v1, session, publisher) = (Recorder::new(1), session_peer(2), Recorder::new(3));
    let topics = with_subscribers(&[&v1, &session]);
    publisher.set_bounds(MAX_FRAME_BYTES, usize::MAX);
    // Grows by two thirds as text in a string.
    let value = format!("[{}0]", "\"\",".repeat(MAX_FRAME_BYTES / 4));
    send(&topics, &publisher, "p", &format!(r#"{{"topic_key":"t","optype":4,"topic_msg":{value}}}"#));
    assert_eq!(came(&publisher), [r#"RSP_TOPIC p {"rcode":0}"#]);
    assert_eq!((session.take().len(), topics.left_out()), (1, 1));
    send(&topics, &publisher, "p", r#"{"topic_key":"t","optype":4,"topic_msg":"short"}"#);
    assert_eq!(came(&v1), [r#"REQ_TOPIC p {"topic_key":"t","optype":4,"topic_msg":"short"}"#]);
    assert_eq!((session.take().len(), topics.left_out(), v1.close_reason()), (1, 1, None));
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

#[test]
fn what_fills_a_publication_goes_out_before_the_next_message_is_asked_for() {
    let (publisher, subscriber) = (session_peer(1), session_peer(2));
    let topics = with_subscribers(&[&subscriber]);
    let body =
        format!(r#"{{"topic_key":"t","optype":4,"topic_msg":"{}"}}"#, "x".repeat(publisher.max_shared_bytes() * 3 / 4));
    let mut asked = 0;
    let mut messages = iter::from_fn(|| {
        assert_eq!(subscriber.take().len(), usize::from(asked > 0), "all that was asked for before is queued");
        asked += 1;
        (asked <= 3).then(|| publisher.message(2, b"1", body.as_bytes()))
    });
    topics.handle_all(&publisher, &mut messages);
    assert_eq!(asked, 4);
}
