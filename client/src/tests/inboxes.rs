use std::sync::Mutex;

use callboard_common::MessageType;
use tokio::sync::mpsc;

use super::*;
use crate::{Conn, Inbox, Ping};

/// Tells what it hears, in order.
struct Teller(mpsc::UnboundedSender<String>);

impl Inbox for Teller {
    fn message(&self, _conn: &Conn, message: Message) {
        let body = String::from_utf8_lossy(message.body()).into_owned();
        let _ = self.0.send(body.clone()); // the test may be over
        assert!(!body.contains("panic"), "an inbox's own fault");
    }

    fn closed(&self) {
        let _ = self.0.send("closed".to_owned());
    }
}

struct Other;

impl Inbox for Other {
    fn message(&self, _conn: &Conn, _message: Message) {}

    fn closed(&self) {}
}

const PUSH: &str = r#"{"topic_key":"t","optype":4,"topic_msg":"x"}"#;

#[tokio::test]
async fn answers_in_order_stand_between_what_came_before_and_after() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.v1().await;
    let (told, mut heard) = mpsc::unbounded_channel();
    client.topic_inbox(|| Teller(told.clone()));
    let notices = client.service_inbox(|| Teller(told.clone()));
    assert!(std::sync::Arc::ptr_eq(&notices, &client.service_inbox(|| unreachable!("there is one"))));
    let request = {
        client
            .exchange_in_order("topic \"t\"", &discovery("n"), move |answer| {
                told.send(format!("answer {}", answer.is_ok())).unwrap();
                panic!("a continuation's own fault");
            })
            .unwrap();
        line.next().await.unwrap()
    };
    let mut frames = frame(MessageType::TopicRequest, b"1", PUSH);
    frames.extend_from_slice(&frame(MessageType::ServiceRequest, b"2", r#"{"panic":1}"#));
    frames.extend_from_slice(&frame(MessageType::ServiceResponse, request.id(), r#"{"rcode":0,"optype":1}"#));
    frames.extend_from_slice(&frame(MessageType::TopicRequest, b"3", r#"{"topic_key":"t","optype":1}"#));
    line.write(&frames).await;
    drop(line);
    let mut history = Vec::new();
    while let Some(event) = timeout(GENEROUS, heard.recv()).await.unwrap() {
        history.push(event);
        if history.len() == 6 {
            drop(client);
            break;
        }
    }
    let expected = [PUSH, r#"{"panic":1}"#, "answer true", r#"{"topic_key":"t","optype":1}"#, "closed", "closed"];
    assert_eq!(history, expected);
}

#[tokio::test]
async fn notices_are_told_from_calls_and_only_calls_are_answered() {
    let notice = r#"{"method":"add","optype":2,"host":{"ip":"127.0.0.1","port":1}}"#;
    let named = r#"{"method":"add","optype":"SERVICE_OFFLINE","host":{"ip":"127.0.0.1","port":1},"parameters":{}}"#;
    let unreadable = r#"{"method":"add","optype":3,"host":{"ip":"localhost","port":1}}"#;
    let calls = [
        (r#"{"method":"add","parameters":{"num1":1}}"#, 5),
        (r#"{"method":"add","optype":2}"#, 5),
        (r#"{"method":"add","optype":1,"host":{"ip":"127.0.0.1","port":1}}"#, 5),
        (r#"{"method":7}"#, 2),
        ("{", 1),
    ];
    let peer = Peer::new().await;
    let (client, mut line) = peer.v1().await;
    // Without an inbox they are ignored, and not answered either.
    line.send(MessageType::RpcRequest, b"0", notice).await;
    line.send(MessageType::ServiceRequest, b"0", notice).await;
    line.send(MessageType::TopicRequest, b"0", PUSH).await;
    line.send(MessageType::SessionRequest, b"s", r#"{"version":2}"#).await;
    let refused = line.next().await.unwrap();
    assert_eq!((refused.kind(), refused.id(), rcode(&refused)), (MessageType::SessionResponse, &b"s"[..], 2));

    let (told, mut heard) = mpsc::unbounded_channel();
    client.service_inbox(|| Teller(told));
    for body in [notice, named, unreadable] {
        line.send(MessageType::RpcRequest, b"1", body).await;
        assert_eq!(timeout(GENEROUS, heard.recv()).await.unwrap().unwrap(), body);
    }
    line.send(MessageType::ServiceRequest, b"2", notice).await;
    assert_eq!(timeout(GENEROUS, heard.recv()).await.unwrap().unwrap(), notice);
    for (body, code) in calls {
        line.send(MessageType::RpcRequest, b"3", body).await;
        let answer = line.next().await.unwrap();
        assert_eq!((answer.kind(), answer.id()), (MessageType::RpcResponse, &b"3"[..]), "{body}");
        assert_eq!(rcode(&answer), code, "{body}");
    }
}

fn rcode(answer: &Message) -> i64 {
    let [rcode] = Json::members(answer.body(), ["rcode"]).unwrap();
    Json::read(rcode.unwrap()).unwrap()
}

#[tokio::test]
async fn an_inbox_that_comes_too_late_hears_of_the_end_at_once() {
    let peer = Peer::new().await;
    let (client, line) = peer.v1().await;
    let (told, mut heard) = mpsc::unbounded_channel();
    client.topic_inbox(|| Teller(told.clone()));
    drop(line);
    assert_eq!(timeout(GENEROUS, heard.recv()).await.unwrap().unwrap(), "closed");
    timeout(GENEROUS, client.closed()).await.unwrap();
    client.service_inbox(|| Teller(told));
    assert_eq!(timeout(GENEROUS, heard.recv()).await.unwrap().unwrap(), "closed");
    drop(client);
    assert!(heard.recv().await.is_none(), "each inbox hears it once");
}

#[tokio::test]
#[should_panic(expected = "a topic inbox of another type")]
async fn one_connection_has_one_type_of_topic_inbox() {
    let peer = Peer::new().await;
    let (client, _line) = peer.v1().await;
    client.topic_inbox(|| Other);
    client.topic_inbox(|| Teller(mpsc::unbounded_channel().0));
}

#[tokio::test]
async fn making_an_inbox_may_use_the_client() {
    let peer = Peer::new().await;
    let (client, _line) = peer.v1().await;
    let seen = Mutex::new(None);
    client.topic_inbox(|| {
        *seen.lock().unwrap() = Some(client.topic_inbox(|| Other));
        Other
    });
    assert!(seen.lock().unwrap().is_some());
}

/// Hears a read as a whole, as topics do.
struct Whole(Mutex<Vec<String>>);

impl Inbox for Whole {
    fn message(&self, conn: &Conn, message: Message) {
        self.messages(conn, &mut std::iter::once(message));
    }

    fn messages(&self, _conn: &Conn, messages: &mut dyn Iterator<Item = Message>) {
        let came = messages.map(|message| format!("{} {}", message.kind(), String::from_utf8_lossy(message.id())));
        let came: Vec<_> = came.collect();
        self.0.lock().unwrap().extend(came);
    }

    fn closed(&self) {}
}

#[tokio::test]
async fn a_pong_stands_between_the_messages_before_and_after_it() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.session(json!({})).await;
    let inbox = client.topic_inbox(|| Whole(Mutex::default()));
    let (told, mut heard) = mpsc::unbounded_channel();
    let at_pong = std::sync::Arc::clone(&inbox);
    let ask = client.exchange_in_order("ping", &Ping, move |answer| {
        told.send((answer.is_ok(), at_pong.0.lock().unwrap().clone())).unwrap();
    });
    ask.unwrap();
    client.ping(b"ours").unwrap();
    let (asked, ours) = (line.next().await.unwrap(), line.next().await.unwrap());
    assert_eq!((ours.kind(), ours.id()), (MessageType::Ping, &b"ours"[..]));
    let mut frames = Vec::new();
    for (kind, id) in [
        (MessageType::TopicRequest, &b"1"[..]),
        (MessageType::TopicRequest, b"2"),
        (MessageType::Pong, b"ours"),
        (MessageType::Pong, asked.id()),
        (MessageType::TopicRequest, b"3"),
    ] {
        frames.extend_from_slice(&frame(kind, id, if kind == MessageType::Pong { "" } else { PUSH }));
    }
    line.write(&frames).await;
    let before = ["REQ_TOPIC 1", "REQ_TOPIC 2", "PONG ours"].map(str::to_owned).to_vec();
    assert_eq!(timeout(GENEROUS, heard.recv()).await.unwrap(), Some((true, before)));
}
