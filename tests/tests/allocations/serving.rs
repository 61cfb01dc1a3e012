//! A server's and a center's side; the peers are by hand.

use callboard_center::Center;
use callboard_common::{Features, Handler, Limits, Recorder, Session};
use callboard_pubsub::TopicService;
use callboard_server::{Router, Server};
use callboard_tests::frame;

use crate::Figure;
use crate::heap::Watch;
use crate::wire::{Asker, MESSAGE, RPC, TOPIC};

const OPERATIONS: u32 = 64 * 200;

pub(crate) fn figures() -> Vec<Figure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let router = Router::new().method("add", |pair: Pair| Ok(pair.num1 + pair.num2));
    let server = runtime.block_on(Server::builder().router(router).listen("127.0.0.1:0").loops(1).start()).unwrap();
    let address = &server.addresses()[0];
    vec![
        calls("server, a call, one at a time", &server, Asker::connect(address), 1, 0.0),
        calls("server, a call, 64 at a time", &server, Asker::connect(address), 64, 0.0),
        calls("server, a call of a session peer", &server, Asker::with_session(address), 64, 0.0),
        // Past one read: what the end of the read cuts is kept in a buffer of its own.
        calls("server, a call, 1600 at a time", &server, Asker::connect(address), 1600, 0.01),
        messages("center, a message to 1 subscriber", 1, 0.15),
        messages("center, a message to 10 subscribers", 10, 0.02),
        topics_without_room("center, a topic that can't go on yet", 2.0),
    ]
}

#[derive(serde::Deserialize)]
struct Pair {
    num1: i64,
    num2: i64,
}

/// A small inline method, asked for so many at a time. Where a turn ends within a batch, since a program that counts its
/// allocations is slow, the rest is put aside, and that is allowed for.
fn calls(what: &'static str, server: &Server, mut peer: Asker, at_a_time: u32, at_most: f64) -> Figure {
    let call = frame(RPC, b"0123456789abcdef", br#"{"method":"add","parameters":{"num1":1,"num2":2}}"#);
    let answer = frame(RPC + 1, b"0123456789abcdef", br#"{"rcode":0,"result":3}"#);
    let (calls, answers) = (call.repeat(at_a_time as usize), answer.repeat(at_a_time as usize));
    let mut ask = || {
        peer.send(&calls);
        assert!(peer.receive(answers.len()) == answers);
    };
    let rounds = OPERATIONS / at_a_time;
    (0..rounds).for_each(|_| ask());
    let cut_before = server.metrics().turns_cut;
    let watch = Watch::start(what);
    (0..rounds).for_each(|_| ask());
    let seen = watch.stop();
    let (operations, cut) = (rounds * at_a_time, u32::try_from(server.metrics().turns_cut - cut_before).unwrap());
    let at_most = at_most + (CUT * f64::from(cut) + GROWN) / f64::from(operations);
    Figure { what, operations, seen, at_most }
}

/// The buffer into which the rest goes.
const CUT: f64 = 2.0;
/// Buffers that grow once more, where a turn ends elsewhere than before: of all operations together.
const GROWN: f64 = 4.0;
/// The same as where calls are cut, and what one more encoding takes that is shared.
const CUT_FAN_OUT: f64 = 7.0;

/// A small message, published 64 at a time; counted for each that is delivered.
fn messages(what: &'static str, subscribers: u32, at_most: f64) -> Figure {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let center = runtime.block_on(Center::builder().listen("127.0.0.1:0").loops(1).start()).unwrap();
    let address = &center.addresses()[0];
    let mut publisher = Asker::connect(address);
    publisher.ask(TOPIC, br#"{"topic_key":"t","optype":0}"#);
    let mut hearing: Vec<_> = (0..subscribers).map(|_| Asker::connect(address)).collect();
    for subscriber in &mut hearing {
        assert_eq!(subscriber.ask(TOPIC, br#"{"topic_key":"t","optype":2}"#), br#"{"rcode":0}"#);
    }
    let batch = frame(TOPIC, b"0123456789abcdef", MESSAGE).repeat(64);
    let answers = frame(TOPIC + 1, b"0123456789abcdef", br#"{"rcode":0}"#).repeat(64);
    let mut publish = || {
        publisher.send(&batch);
        assert!(publisher.receive(answers.len()) == answers);
        for subscriber in &mut hearing {
            assert!(subscriber.receive(batch.len()) == batch);
        }
    };
    let rounds = OPERATIONS / 64;
    (0..rounds).for_each(|_| publish());
    let cut_before = center.metrics().turns_cut;
    let watch = Watch::start(what);
    (0..rounds).for_each(|_| publish());
    let seen = watch.stop();
    let (operations, cut) =
        (rounds * 64 * subscribers, u32::try_from(center.metrics().turns_cut - cut_before).unwrap());
    let at_most = at_most + (CUT_FAN_OUT * f64::from(cut) + GROWN) / f64::from(operations);
    Figure { what, operations, seen, at_most }
}

/// One subscriber is behind with many topics, and what leaves makes room for the first of them only.
fn topics_without_room(what: &'static str, at_most: f64) -> Figure {
    const TOPICS: u32 = 100;
    let session = Session {
        name: "slow".to_owned(),
        instance: "1".to_owned(),
        features: Features::ALL,
        limits: Limits::default(),
        heartbeats: None,
        serving: None,
        store: None,
    };
    let (service, publisher, slow) = (TopicService::new(), Recorder::new(1), Recorder::with_session(2, session));
    slow.set_bounds(1 << 20, 1 << 20);
    let send = |peer: &Recorder, body: String| service.handle(peer, peer.message(TOPIC, b"id", body.as_bytes()));
    let letters = "x".repeat(1000);
    for topic in 0..TOPICS {
        send(&publisher, format!(r#"{{"topic_key":"{topic}","optype":0}}"#));
        let policy = r#""policy":"drop_oldest","max_bytes":20000"#;
        send(&slow, format!(r#"{{"topic_key":"{topic}","optype":2,{policy}}}"#));
    }
    for topic in 0..TOPICS {
        for _ in 0..100 {
            send(&publisher, format!(r#"{{"topic_key":"{topic}","optype":4,"topic_msg":"{letters}"}}"#));
        }
    }
    slow.take();
    let watch = Watch::start(what);
    slow.written(20_000);
    let seen = watch.stop();
    assert!((1..100).contains(&slow.take().len()), "there is room for some messages of the first");
    Figure { what, operations: TOPICS, seen, at_most }
}
