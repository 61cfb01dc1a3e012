//! Topics by hand.

use callboard_center::Center;
use callboard_pubsub::TopicLimits;
use callboard_tests::RawPeer;
use serde_json::{Value, json};

use crate::house::{address, center};

async fn topic(peer: &mut RawPeer, optype: u8) -> i64 {
    peer.ask(2, &json!({"topic_key": "t", "optype": optype}).to_string()).await.rcode()
}

fn publish(message: &Value) -> String {
    json!({"topic_key": "t", "optype": 4, "topic_msg": message}).to_string()
}

#[tokio::test]
async fn the_five_operations_and_their_codes() {
    let center = center().await;
    let mut peer = RawPeer::connect(address(&center)).await;
    assert_eq!(topic(&mut peer, 2).await, 7, "subscribe before create");
    assert_eq!(peer.ask(2, &publish(&json!("x"))).await.rcode(), 7, "publish before create");
    assert_eq!(topic(&mut peer, 3).await, 0, "cancel what is not subscribed");
    assert_eq!(topic(&mut peer, 1).await, 0, "remove what is not there");
    assert_eq!(peer.ask(2, r#"{"topic_key":"t","optype":0}"#).await.json(), json!({"rcode": 0}));
    assert_eq!(topic(&mut peer, 0).await, 0, "create again");
    assert_eq!(peer.ask(2, &publish(&json!("x"))).await.rcode(), 0, "publish to nobody");
    assert_eq!(topic(&mut peer, 2).await, 0);
    assert_eq!(topic(&mut peer, 2).await, 0, "subscribe again");
    peer.send(2, b"mine", &publish(&json!("x"))).await;
    let (push, answer) = (peer.receive().await, peer.receive().await);
    assert_eq!((push.mtype, push.id.as_slice(), push.json()["topic_msg"].as_str()), (2, &b"mine"[..], Some("x")));
    assert_eq!((answer.mtype, answer.rcode()), (3, 0), "the answer comes after the message was queued");
    assert_eq!(topic(&mut peer, 3).await, 0);
    assert_eq!(peer.ask(2, &publish(&json!("x"))).await.rcode(), 0);
    assert_eq!(topic(&mut peer, 2).await, 0);
    assert_eq!(topic(&mut peer, 1).await, 0);
    assert_eq!(topic(&mut peer, 0).await, 0);
    assert_eq!(peer.ask(2, &publish(&json!("x"))).await.rcode(), 0, "creating again restores no subscription");
    peer.expect_quiet().await;
}

#[tokio::test]
async fn other_spellings_reach_the_subscriber_in_ours() {
    let center = center().await;
    let mut subscriber = RawPeer::connect(address(&center)).await;
    let mut publisher = RawPeer::connect(address(&center)).await;
    assert_eq!(subscriber.ask(2, r#"{"key":"t","optype":"TOPIC_CREATE"}"#).await.rcode(), 0);
    assert_eq!(subscriber.ask(2, r#"{"key":"t","optype":"TOPIC_SUBSCRIBE"}"#).await.rcode(), 0);
    let rows = [
        r#"{"key":"t","optype":4,"message":"hello"}"#,
        r#"{"topic_key":"t","optype":"TOPIC_PUBLISH","topic_msg":"hello"}"#,
        r#"{"topic_key":"t","key":"other","optype":4,"topic_msg":"hello","message":"other"}"#,
    ];
    for body in rows {
        assert_eq!(publisher.ask(2, body).await.rcode(), 0, "{body}");
        let push = subscriber.receive().await.json();
        let ours = (&push["topic_key"], &push["optype"], &push["topic_msg"]);
        assert_eq!(ours, (&json!("t"), &json!(4), &json!("hello")), "{body}");
    }
}

#[tokio::test]
async fn any_value_reaches_a_session_peer_and_its_text_a_v1_peer() {
    let center = center().await;
    let mut v1 = RawPeer::connect(address(&center)).await;
    let mut session = RawPeer::with_session(address(&center), &["topic_removed"]).await;
    let mut publisher = RawPeer::connect(address(&center)).await;
    assert_eq!(topic(&mut publisher, 0).await, 0);
    assert_eq!(topic(&mut v1, 2).await, 0);
    assert_eq!(topic(&mut session, 2).await, 0);
    let rows = [
        (r#""text""#, json!("text"), "text"),
        ("null", Value::Null, "null"),
        (" [ 1 , 2.50 ] ", json!([1, 2.5]), "[1,2.50]"),
        (r#"{ "b" : "x y" , "a" : 1e400 }"#, Value::Null, r#"{"b":"x y","a":1e400}"#),
    ];
    for (sent, value, text) in rows {
        publisher.send(2, b"id", &format!(r#"{{"topic_key":"t","optype":4,"topic_msg":{sent}}}"#)).await;
        assert_eq!(publisher.receive().await.rcode(), 0);
        let push = v1.receive().await;
        assert_eq!((push.mtype, push.json()["topic_msg"].as_str()), (2, Some(text)));
        let push = session.receive().await;
        if text.contains("1e400") {
            assert!(String::from_utf8_lossy(&push.body).contains("1e400"));
        } else {
            assert_eq!(push.json()["topic_msg"], value);
        }
    }
    // Only the session peer is told that the topic is gone.
    assert_eq!(topic(&mut publisher, 1).await, 0);
    assert_eq!(session.receive().await.json(), json!({"topic_key": "t", "optype": 1}));
    v1.expect_quiet().await;
}

#[tokio::test]
async fn messages_of_one_publisher_stay_in_order_and_none_comes_after_a_cancel() {
    let center = center().await;
    let mut subscriber = RawPeer::connect(address(&center)).await;
    let mut publisher = RawPeer::connect(address(&center)).await;
    assert_eq!(topic(&mut publisher, 0).await, 0);
    assert_eq!(topic(&mut subscriber, 2).await, 0);
    for number in 0..500 {
        publisher.send(2, format!("{number}").as_bytes(), &publish(&json!(number.to_string()))).await;
    }
    subscriber.send(2, b"cancel", r#"{"topic_key":"t","optype":3}"#).await;
    let mut expected = 0;
    loop {
        let frame = subscriber.receive().await;
        if frame.mtype == 3 {
            break;
        }
        assert_eq!(frame.json()["topic_msg"], json!(expected.to_string()));
        expected += 1;
    }
    for number in 0..500 {
        assert_eq!(publisher.receive().await.id, number.to_string().into_bytes());
    }
    subscriber.expect_quiet().await;
}

#[tokio::test]
async fn an_unacknowledged_publish_is_pushed_as_a_plain_frame() {
    let center = center().await;
    let mut subscriber = RawPeer::connect(address(&center)).await;
    let mut publisher = RawPeer::with_session(address(&center), &["one_way"]).await;
    assert_eq!(topic(&mut publisher, 0).await, 0);
    assert_eq!(topic(&mut subscriber, 2).await, 0);
    publisher.send(2 | 1 << 24, b"quiet", &publish(&json!("x"))).await;
    let push = subscriber.receive().await;
    assert_eq!((push.mtype, push.id.as_slice()), (2, &b"quiet"[..]));
    publisher.expect_quiet().await;
}

async fn subscribe(peer: &mut RawPeer, more: &Value) -> Value {
    let mut body = json!({"topic_key": "t", "optype": 2});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    peer.ask(2, &body.to_string()).await.json()
}

/// The number and the message of what is pushed next.
async fn pushed(peer: &mut RawPeer) -> (u64, String) {
    let push = peer.receive().await.json();
    (push["seq"].as_u64().unwrap(), push["topic_msg"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn messages_are_numbered_for_those_who_count_and_for_nobody_else() {
    let center = center().await;
    let mut v1 = RawPeer::connect(address(&center)).await;
    let mut plain = RawPeer::with_session(address(&center), &["topic_removed"]).await;
    let mut counting = RawPeer::with_session(address(&center), &["seq"]).await;
    assert_eq!(v1.ask(2, r#"{"topic_key":"t","optype":0}"#).await.json(), json!({"rcode": 0}));
    for peer in [&mut v1, &mut plain] {
        assert_eq!(subscribe(peer, &json!({})).await, json!({"rcode": 0}));
    }
    let answer = subscribe(&mut counting, &json!({})).await;
    assert_eq!((&answer["seq"], answer["epoch"].is_u64()), (&json!(0), true), "{answer}");
    let body = publish(&json!("x"));
    for seq in 1..=12_u64 {
        plain.send(2, b"id", &body).await;
        assert_eq!(plain.receive().await.body, body.as_bytes(), "byte for byte");
        assert_eq!(plain.receive().await.rcode(), 0);
        assert_eq!(v1.receive().await.body, body.as_bytes());
        assert_eq!(counting.receive().await.body, body.replacen('{', &format!("{{\"seq\":{seq},"), 1).into_bytes());
    }
}

#[tokio::test]
async fn a_subscriber_that_comes_back_gets_what_it_has_missed_and_is_told_the_rest() {
    let limits = TopicLimits { ring_messages: 3, ..TopicLimits::default() };
    let center = Center::builder().listen("tcp://127.0.0.1:0").topic_limits(limits).start().await.unwrap();
    let mut publisher = RawPeer::connect(address(&center)).await;
    assert_eq!(topic(&mut publisher, 0).await, 0);
    let mut lost = RawPeer::with_session(address(&center), &["seq"]).await;
    let epoch = subscribe(&mut lost, &json!({})).await["epoch"].clone();
    assert_eq!(publisher.ask(2, &publish(&json!("1"))).await.rcode(), 0);
    assert_eq!(pushed(&mut lost).await, (1, "1".to_owned()));
    drop(lost);
    for number in 2..=4 {
        assert_eq!(publisher.ask(2, &publish(&json!(number.to_string()))).await.rcode(), 0);
    }
    let mut back = RawPeer::with_session(address(&center), &["seq"]).await;
    let answer = subscribe(&mut back, &json!({"epoch": epoch, "after": 1})).await;
    assert_eq!(answer, json!({"rcode": 0, "epoch": epoch, "seq": 4, "replayed": 3, "missed": 0}));
    for number in 2..=4 {
        assert_eq!(pushed(&mut back).await, (number, number.to_string()));
    }
    for number in 5..=9 {
        assert_eq!(publisher.ask(2, &publish(&json!(number.to_string()))).await.rcode(), 0);
    }
    let mut late = RawPeer::with_session(address(&center), &["seq"]).await;
    let answer = subscribe(&mut late, &json!({"epoch": epoch, "after": 4})).await;
    assert_eq!(answer, json!({"rcode": 0, "epoch": epoch, "seq": 9, "replayed": 3, "missed": 2}));
    assert_eq!(topic(&mut publisher, 1).await, 0);
    assert_eq!(topic(&mut publisher, 0).await, 0);
    let mut stranger = RawPeer::with_session(address(&center), &["seq"]).await;
    let answer = subscribe(&mut stranger, &json!({"epoch": epoch, "after": 9})).await;
    assert_eq!((&answer["seq"], &answer["missed"]), (&json!(0), &json!(-1)), "another topic of that name");
}

#[tokio::test]
async fn a_retained_message_is_given_to_each_new_subscriber_that_counts() {
    let center = center().await;
    let mut creator = RawPeer::with_session(address(&center), &["seq"]).await;
    assert_eq!(creator.ask(2, r#"{"topic_key":"t","optype":0,"retain":true}"#).await.json(), json!({"rcode": 0}));
    let long = "x".repeat(2 << 20);
    for message in ["first", "second", &long] {
        assert_eq!(creator.ask(2, &publish(&json!(message))).await.rcode(), 0);
    }
    let mut new = RawPeer::with_session(address(&center), &["seq"]).await;
    let answer = subscribe(&mut new, &json!({})).await;
    assert_eq!((&answer["replayed"], &answer["retain"]), (&json!(1), &json!(true)), "{answer}");
    assert_eq!(pushed(&mut new).await, (3, long), "larger than what else is kept");
    let mut old = RawPeer::connect(address(&center)).await;
    assert_eq!(subscribe(&mut old, &json!({"retain": true})).await, json!({"rcode": 0}));
    old.expect_quiet().await;
}

#[tokio::test]
async fn a_subscriber_that_may_miss_messages_holds_nobody_up_and_gets_the_last() {
    let center = center().await;
    let mut publisher = RawPeer::connect(address(&center)).await;
    assert_eq!(topic(&mut publisher, 0).await, 0);
    let mut slow = RawPeer::with_session(address(&center), &["seq"]).await;
    subscribe(&mut slow, &json!({"policy": "latest", "max_bytes": 1 << 20})).await;
    let body = publish(&json!("x".repeat(64 << 10)));
    let messages = 600;
    for _ in 0..messages {
        assert_eq!(publisher.ask(2, &body).await.rcode(), 0, "answered at once");
    }
    let mut seen = Vec::new();
    while seen.last() != Some(&messages) {
        seen.push(pushed(&mut slow).await.0);
    }
    assert!(seen.is_sorted_by(|one, next| one < next) && seen.len() < 600, "{seen:?}");
    assert_eq!((center.metrics().holds, center.metrics().slow_readers), (0, 0));
}
