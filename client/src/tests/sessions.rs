use callboard_common::MessageType;
use serde_json::{Value, json};

use super::*;
use crate::CallErrorKind;

/// How a peer without sessions takes the opening of one.
#[derive(Clone, Copy, Debug)]
enum Manner {
    Ignores,
    Closes,
    Answers(&'static str),
    /// With an answer of another kind.
    Mistakes,
}

const V1_MANNERS: [Manner; 8] = [
    Manner::Ignores,
    Manner::Closes,
    Manner::Answers(r#"{"rcode":2}"#),
    Manner::Answers(r#"{"rcode":0}"#),
    Manner::Answers(r#"{"rcode":0,"version":1}"#),
    Manner::Answers(""),
    Manner::Answers("[]"),
    Manner::Mistakes,
];

async fn take_opening(peer: &Peer, manner: Manner) -> Option<Line> {
    if matches!(manner, Manner::Closes) {
        // Asked twice: one that closes may have died.
        assert_eq!(peer.accept().await.next().await.unwrap().kind(), MessageType::SessionRequest);
    }
    let mut line = peer.accept().await;
    let opening = line.next().await.unwrap();
    assert_eq!(opening.kind(), MessageType::SessionRequest);
    match manner {
        Manner::Ignores => {}
        Manner::Closes => return None,
        Manner::Answers(body) => line.answer(&opening, body).await,
        Manner::Mistakes => {
            let body = r#"{"rcode":0,"version":2,"instance":"i","features":[]}"#;
            line.send(MessageType::RpcResponse, opening.id(), body).await;
        }
    }
    assert!(line.next().await.is_none(), "nothing follows the opening but the end");
    None
}

#[tokio::test]
async fn a_peer_without_sessions_is_called_in_v1_and_remembered() {
    for manner in V1_MANNERS {
        let peer = Peer::new().await;
        let waits = if matches!(manner, Manner::Ignores) { Duration::from_millis(100) } else { GENEROUS };
        let builder = Client::builder().timeout(GENEROUS).session_timeout(waits);
        let (client, line) = tokio::join!(builder.clone().connect(peer.address()), async {
            take_opening(&peer, manner).await;
            peer.accept().await
        });
        let client = client.unwrap();
        assert!(client.session().is_none(), "{manner:?}");
        let may_stand_still = matches!(manner, Manner::Ignores | Manner::Closes);
        assert_eq!(client.line().may_know_sessions(), may_stand_still, "{manner:?}");
        tokio::spawn(line.echo());
        assert_eq!(client.call::<i64>("echo", &1).await.unwrap(), 1);

        let (again, mut line) = peer.client(builder.session_timeout(GENEROUS)).await;
        assert!(again.line().may_know_sessions(), "another program may listen there by now");
        let call = again.start::<Value>("n", &json!({})).await.unwrap();
        let first = line.call().await;
        assert!(!String::from_utf8_lossy(first.body()).contains("meta"), "{first:?}");
        drop(call);
    }
}

#[tokio::test]
async fn where_a_session_is_required_its_lack_is_an_error() {
    for manner in V1_MANNERS {
        let peer = Peer::new().await;
        let waits = if matches!(manner, Manner::Ignores) { Duration::from_millis(100) } else { GENEROUS };
        let builder = Client::builder().timeout(GENEROUS).session(SessionMode::Require).session_timeout(waits);
        let (client, _) = tokio::join!(builder.connect(peer.address()), take_opening(&peer, manner));
        let error = client.unwrap_err();
        assert!(matches!(error.kind(), CallErrorKind::Connect), "{manner:?}: {error}");
    }
}

#[tokio::test]
async fn a_peer_that_opens_no_session_now_is_not_taken_for_one_without() {
    for code in [17, 22] {
        let peer = Peer::new().await;
        let builder = Client::builder().timeout(GENEROUS).session_timeout(GENEROUS);
        let answer = format!(r#"{{"rcode":{code},"error":{{"message":"not now","executed":"no"}}}}"#);
        let (client, ()) = tokio::join!(builder.clone().connect(peer.address()), async {
            let mut line = peer.accept().await;
            let opening = line.next().await.unwrap();
            line.answer(&opening, &answer).await;
            assert!(line.next().await.is_none(), "nothing follows the opening but the end");
        });
        let error = client.unwrap_err();
        assert!(matches!(error.kind(), CallErrorKind::Connect), "{error}");
        assert!(error.to_string().contains("no session at the moment"), "{error}");

        let (client, _line) = tokio::join!(builder.connect(peer.address()), async {
            let mut line = peer.accept().await;
            line.open_session(json!({})).await;
            line
        });
        assert!(client.unwrap().has_session(), "it is asked again");
    }
}

#[tokio::test]
async fn a_session_says_what_the_peer_can_do_and_how_long_a_call_may_take() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.session(json!({"in_flight": 7})).await;
    let session = client.session().unwrap();
    assert_eq!((&*session.instance, session.limits.in_flight), ("i", 7));
    assert_eq!(session.features.names().collect::<Vec<_>>(), ["one_way", "ping"]);
    let _call = client.with_timeout(Duration::from_secs(9)).start::<Value>("n", &()).await.unwrap();
    let request = line.call().await;
    let body: Value = serde_json::from_slice(request.body()).unwrap();
    let left_ms = body["meta"]["timeout_ms"].as_u64().unwrap();
    assert!((1..=9000).contains(&left_ms), "{left_ms}");

    line.send(MessageType::Ping, b"p", "").await;
    let pong = line.next().await.unwrap();
    assert_eq!((pong.kind(), pong.id()), (MessageType::Pong, &b"p"[..]));
}

#[tokio::test]
async fn what_follows_the_opening_at_once_belongs_to_the_session() {
    let peer = Peer::new().await;
    let builder = Client::builder().timeout(GENEROUS).session_timeout(GENEROUS);
    let (client, mut line) = tokio::join!(builder.connect(peer.address()), async {
        let mut line = peer.accept().await;
        let opening = line.next().await.unwrap();
        let body = r#"{"rcode":0,"version":3,"instance":"i","features":["ping","telepathy"],"limits":{"in_flight":0}}"#;
        let mut frames = frame(MessageType::SessionResponse, opening.id(), body);
        frames.extend_from_slice(&frame(MessageType::Ping, b"p", ""));
        line.write(&frames).await;
        line
    });
    assert_eq!(line.next().await.unwrap().kind(), MessageType::Pong);
    tokio::spawn(line.echo());
    assert_eq!(client.unwrap().call::<i64>("echo", &1).await.unwrap(), 1, "one call at least is permitted");
}

#[tokio::test]
async fn without_a_session_nothing_but_v1_is_sent() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.v1().await;
    client.notify("tell", &json!({"a": 1})).await.unwrap();
    let request = line.call().await;
    assert_eq!((request.flags(), request.codec()), (0, 0));
    assert_eq!(request.body(), br#"{"method":"tell","parameters":{"a":1}}"#);
    line.send(MessageType::Ping, b"p", "").await; // not without a session
    line.send(MessageType::Unknown(6), b"u", "{}").await;
    assert_eq!(line.next().await.unwrap().id(), b"u");
}

#[tokio::test]
async fn a_sign_of_life_is_a_pong_or_any_answer() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.session(json!({"max_frame_bytes": 1 << 20, "in_flight": 1})).await;
    let call = client.start::<i64>("n", &1).await.unwrap();
    let request = line.call().await;
    // It needs no place: there is none left.
    let (sign, ()) = tokio::join!(client.gives_sign(GENEROUS), async {
        let ping = line.next().await.unwrap();
        assert_eq!((ping.kind(), ping.body()), (MessageType::Ping, &b""[..]));
        line.send(MessageType::Pong, ping.id(), "").await;
    });
    assert!(sign, "by a pong");
    let short = Duration::from_millis(20);
    assert!(!client.gives_sign(short).await, "nothing comes");
    let (sign, ()) = tokio::join!(client.gives_sign(GENEROUS), async {
        line.next().await.unwrap(); // the second question
        line.answer(&request, r#"{"rcode":0,"result":1}"#).await;
        assert_eq!(call.await.unwrap(), 1);
        client.close();
    });
    assert!(sign, "it has answered a call");
    assert!(!client.gives_sign(short).await, "it is closed");
}

#[tokio::test]
async fn a_hook_hears_of_calls_that_are_not_answered_in_time() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.v1().await;
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    client.on_overdue(move || told.send(()).unwrap());
    let call = client.start::<i64>("n", &1).await.unwrap();
    let request = line.call().await;
    line.answer(&request, r#"{"rcode":0,"result":1}"#).await;
    call.await.unwrap();
    assert_eq!((client.answers(), heard.try_recv().ok()), (1, None));
    client.with_timeout(Duration::from_millis(20)).call::<i64>("n", &1).await.unwrap_err();
    timeout(GENEROUS, heard.recv()).await.unwrap().unwrap();
    assert_eq!(client.answers(), 1);
}

#[tokio::test]
async fn a_peer_that_stood_still_while_it_was_asked_gets_its_session_once_it_answers() {
    let peer = Peer::new().await;
    let reconnect = Reconnect { longest: Duration::from_millis(1), ..Reconnect::default() };
    let settings = Client::builder().timeout(GENEROUS).reconnect(reconnect).session_timeout(Duration::from_millis(20));
    let (client, (mut asked, mut plain)) =
        tokio::join!(settings.connect(peer.address()), async { (peer.accept().await, peer.accept().await) });
    let client = client.unwrap();
    assert!(!client.has_session(), "it is taken for a v1 peer");
    let call = client.start::<i64>("n", &1).await.unwrap();
    let request = plain.call().await;
    asked.open_session(json!({"max_frame_bytes": 1 << 20, "in_flight": 1})).await;
    assert!(asked.next().await.is_none(), "nothing follows the opening but the end");
    plain.answer(&request, r#"{"rcode":0,"result":1}"#).await;
    assert_eq!(call.await.unwrap(), 1, "what waits there gets its answer");
    assert!(timeout(GENEROUS, plain.next()).await.unwrap().is_none(), "the connection without a session ends");
    let mut again = timeout(GENEROUS, peer.accept()).await.unwrap();
    // It always takes longer than peers are given that have never granted one late.
    tokio::time::sleep(Duration::from_millis(100)).await;
    again.open_session(json!({"max_frame_bytes": 1 << 20, "in_flight": 1})).await;
    let has_session = async {
        while !client.has_session() {
            tokio::task::yield_now().await;
        }
    };
    timeout(GENEROUS, has_session).await.unwrap();
    let called = client.start::<i64>("n", &2).await.unwrap();
    again.call().await;
    drop(called);
}

#[tokio::test]
async fn a_connection_that_is_not_made_again_is_not_left_for_a_session() {
    let peer = Peer::new().await;
    let settings = once().timeout(GENEROUS).session_timeout(Duration::from_millis(20));
    let (client, (mut asked, plain)) =
        tokio::join!(settings.connect(peer.address()), async { (peer.accept().await, peer.accept().await) });
    assert_eq!(asked.next().await.unwrap().kind(), MessageType::SessionRequest);
    assert!(asked.next().await.is_none());
    tokio::spawn(plain.echo());
    assert_eq!(client.unwrap().call::<i64>("echo", &1).await.unwrap(), 1);
}

#[tokio::test]
async fn a_session_may_be_waited_for_without_end() {
    let peer = Peer::new().await;
    let builder = Client::builder().timeout(GENEROUS).session_timeout(Duration::MAX);
    let (client, _line) = tokio::join!(builder.connect(peer.address()), async {
        let mut line = peer.accept().await;
        line.open_session(json!({})).await;
        line
    });
    assert!(client.unwrap().has_session());
}

#[tokio::test]
async fn a_peer_that_dies_while_it_is_asked_is_asked_again() {
    let peer = Peer::new().await;
    let builder = Client::builder().timeout(GENEROUS).session_timeout(GENEROUS);
    let (client, _line) = tokio::join!(builder.connect(peer.address()), async {
        let mut dies = peer.accept().await;
        assert_eq!(dies.next().await.unwrap().kind(), MessageType::SessionRequest);
        drop(dies);
        let mut line = peer.accept().await;
        line.open_session(json!({})).await;
        line
    });
    assert!(client.unwrap().has_session());
}
