use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};

use callboard_common::Executed;
use tokio::sync::mpsc;

use super::*;
use crate::{CallErrorKind, ClientState, Conn, Inbox, Line as Resumed, Resume, Resuming};

/// A v1 client that connects again, after pauses too short to wait for.
fn kept_up() -> ClientBuilder {
    let longest = Duration::from_millis(1);
    v1().reconnect(Reconnect { longest, ..Reconnect::default() }).seed(1)
}

async fn until_state(client: &Client, wanted: impl Fn(&ClientState) -> bool) {
    let mut states = client.states();
    while !wanted(&timeout(GENEROUS, states.next()).await.unwrap().expect("it ends before")) {}
}

#[tokio::test]
async fn a_call_that_did_not_leave_goes_over_the_next_connection() {
    let peer = Peer::new().await;
    let (client, line) = peer.client(kept_up()).await;
    drop(line);
    until_state(&client, |state| matches!(state, ClientState::Lost { .. })).await;
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.call::<i64>("n", &7).await }
    });
    tokio::spawn(peer.accept().await.echo());
    assert_eq!(call.await.unwrap().unwrap(), 7);
    assert!(client.is_online() && !client.is_closed() && client.generation() == 2);
}

#[tokio::test]
async fn every_way_to_send_waits_for_the_next_connection() {
    let peer = Peer::new().await;
    let (client, line) = peer.client(kept_up()).await;
    drop(line);
    until_state(&client, |state| matches!(state, ClientState::Lost { .. })).await;
    let sending = tokio::spawn({
        let client = client.clone();
        async move {
            client.notify("n", &1).await.unwrap();
            client.send_one_way("discovery", &discovery("n")).await.unwrap();
            let call = client.start::<i64>("n", &2).await.unwrap();
            client.exchange("discovery", &discovery("n")).await.unwrap();
            call.await.unwrap()
        }
    });
    let mut line = peer.accept().await;
    assert_eq!(params(&line.call().await), 1);
    assert_eq!(line.next().await.unwrap().kind(), MessageType::ServiceRequest);
    let call = line.call().await;
    let exchange = line.next().await.unwrap();
    line.answer(&exchange, r#"{"rcode":0,"optype":1}"#).await;
    line.answer(&call, r#"{"rcode":0,"result":2}"#).await;
    assert_eq!(sending.await.unwrap(), 2);
}

#[tokio::test]
async fn a_call_that_left_fails_at_once_and_is_not_repeated() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.client(kept_up()).await;
    let call = client.start::<i64>("n", &1).await.unwrap();
    line.call().await;
    drop(line);
    let error = timeout(GENEROUS, call).await.unwrap().unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Disconnected) && error.executed() == Executed::Unknown, "{error}");
    let mut line = peer.accept().await;
    tokio::spawn(async move { client.call::<i64>("n", &2).await });
    assert_eq!(params(&line.call().await), 2, "the first is not repeated");
}

#[tokio::test]
async fn states_are_told_in_order_and_end_with_the_client() {
    let peer = Peer::new().await;
    let (client, line) = peer.client(kept_up()).await;
    let mut states = client.states();
    drop(line);
    let _line = peer.accept().await;
    let mut heard = Vec::new();
    while let Some(state) = timeout(GENEROUS, states.next()).await.unwrap() {
        if state == ClientState::Resumed {
            client.close();
        }
        heard.push(state);
    }
    let reason = || "the peer has closed it".to_owned();
    let closed = ClientState::Closed { reason: "this program has closed it".to_owned() };
    let expected =
        [ClientState::Online, ClientState::Lost { reason: reason() }, ClientState::Connecting, ClientState::Resumed];
    assert_eq!(heard, [&expected[..], std::slice::from_ref(&closed)].concat());
    assert_eq!(client.state(), closed);
    assert_eq!(client.states().next().await, Some(closed), "who comes late hears of the end");
    assert!(client.is_closed() && !client.is_online());
    timeout(GENEROUS, client.closed()).await.unwrap();
}

#[tokio::test]
async fn a_deadline_holds_while_nobody_can_be_reached() {
    let peer = Peer::new().await;
    let (client, line) = peer.client(kept_up()).await;
    drop((line, peer));
    until_state(&client, |state| matches!(state, ClientState::Lost { .. })).await;
    let error = client.with_timeout(Duration::from_millis(50)).call::<Value>("n", &()).await.unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Disconnected) && error.executed() == Executed::No, "{error}");
    assert!(error.to_string().contains("could not be made again within 50ms"), "{error}");
}

#[tokio::test]
async fn after_so_many_attempts_it_is_closed_and_says_why() {
    let peer = Peer::new().await;
    let stubborn = Reconnect { attempts: Some(2), longest: Duration::from_millis(1), ..Reconnect::default() };
    let (client, line) = peer.client(kept_up().reconnect(stubborn)).await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move {
            until_state(&client, |state| matches!(state, ClientState::Lost { .. })).await;
            client.call::<Value>("n", &()).await
        }
    });
    drop((line, peer));
    timeout(GENEROUS, client.closed()).await.unwrap();
    let reason = client.close_reason().unwrap();
    assert!(reason.starts_with("it could not be made again in 2 attempts: "), "{reason}");
    let error = timeout(GENEROUS, waiting).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Disconnected) && error.executed() == Executed::No, "{error}");
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_is_lost() {
    let (first, second) = (Peer::new().await, Peer::new().await);
    let addresses = format!("{},{}", first.address(), second.address());
    let (client, line) = tokio::join!(kept_up().connect(&addresses), first.accept());
    let client = client.unwrap();
    assert_eq!(client.address().to_string(), format!("tcp://{}", first.address()));
    drop((line, first));
    let line = second.accept().await;
    until_state(&client, |state| *state == ClientState::Resumed).await;
    assert_eq!(client.address().to_string(), format!("tcp://{}", second.address()));
    drop(line);
}

#[tokio::test]
async fn of_several_addresses_the_first_that_answers_is_taken() {
    let gone = Peer::new().await.address();
    let peer = Peer::new().await;
    let (client, _line) = tokio::join!(kept_up().connect(format!("{gone}, {}", peer.address())), peer.accept());
    assert_eq!(client.unwrap().address().to_string(), format!("tcp://{}", peer.address()));
    let error = kept_up().connect(format!("{gone},nowhere:x")).await.unwrap_err();
    assert!(error.to_string().contains("nowhere:x"), "{error}");
}

/// What an inbox hears, and what is done again.
struct Layer(mpsc::UnboundedSender<&'static str>);

impl Inbox for Layer {
    fn message(&self, _conn: &Conn, _message: Message) {
        let _ = self.0.send("message"); // the test may be over
    }

    fn lost(&self) {
        let _ = self.0.send("lost");
    }

    fn resume(self: Arc<Self>, line: &Resumed) -> Resuming<'_> {
        Box::pin(async move {
            line.exchange("discovery", &discovery("again")).await?;
            let _ = self.0.send("resumed");
            Ok(())
        })
    }

    fn closed(&self) {
        let _ = self.0.send("closed");
    }
}

/// Something that is no inbox.
struct Other(mpsc::UnboundedSender<&'static str>);

impl Resume for Other {
    fn resume<'a>(&'a self, _line: &'a Resumed) -> Resuming<'a> {
        let _ = self.0.send("another resumed");
        Box::pin(async { Ok(()) })
    }
}

#[tokio::test]
async fn a_layer_above_asks_again_before_other_requests_go_on() {
    let peer = Peer::new().await;
    let (client, line) = peer.client(kept_up()).await;
    let (told, mut heard) = mpsc::unbounded_channel();
    client.topic_inbox(|| Layer(told.clone()));
    let other: Arc<dyn Resume> = Arc::new(Other(told));
    client.on_resume(Arc::downgrade(&other));
    drop(line);
    until_state(&client, |state| matches!(state, ClientState::Lost { .. })).await;
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.call::<i64>("n", &1).await }
    });
    // A connection that ends before all is asked for again is no use.
    let mut useless = peer.accept().await;
    assert_eq!(useless.next().await.unwrap().kind(), MessageType::ServiceRequest);
    drop(useless);
    let mut line = peer.accept().await;
    let again = line.next().await.unwrap();
    assert_eq!(again.kind(), MessageType::ServiceRequest, "before the call that waits");
    line.answer(&again, r#"{"rcode":0,"optype":1}"#).await;
    tokio::spawn(line.echo());
    assert_eq!(call.await.unwrap().unwrap(), 1);
    client.close();
    let mut history = Vec::new();
    while history.last() != Some(&"closed") {
        history.push(timeout(GENEROUS, heard.recv()).await.unwrap().unwrap());
    }
    assert_eq!(history, ["lost", "lost", "resumed", "another resumed", "closed"]);
}

#[tokio::test]
async fn the_end_is_told_once_whenever_it_comes() {
    let peer = Peer::new().await;
    // While it is connected; after a loss, while it waits to connect again.
    for lost_before in [false, true] {
        let patient = Reconnect { first: GENEROUS, longest: GENEROUS, attempts: None };
        let (client, line) = peer.client(kept_up().reconnect(patient)).await;
        let (told, mut heard) = mpsc::unbounded_channel();
        client.topic_inbox(|| Layer(told));
        if lost_before {
            drop(line);
            assert_eq!(timeout(GENEROUS, heard.recv()).await.unwrap(), Some("lost"));
        }
        client.close();
        assert_eq!(timeout(GENEROUS, heard.recv()).await.unwrap(), Some("closed"));
        drop(client);
        assert_eq!(timeout(GENEROUS, heard.recv()).await.unwrap(), None, "and nothing after it");
    }
}

#[test]
fn where_its_runtime_stops_it_is_closed() {
    let outlives: Arc<Mutex<Option<Client>>> = Arc::default();
    let kept = Arc::clone(&outlives);
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async move {
        let peer = Peer::new().await;
        let (client, _line) = peer.client(kept_up()).await;
        *kept.lock().unwrap() = Some(client);
    });
    let client = outlives.lock().unwrap().take().unwrap();
    assert!(client.is_closed());
    assert!(client.close_reason().unwrap().contains("runtime"), "{:?}", client.close_reason());
}

#[tokio::test]
async fn a_peer_that_leaves_answers_what_it_has_and_the_rest_goes_elsewhere() {
    let (leaving, next) = (Peer::new().await, Peer::new().await);
    let addresses = format!("{},{}", leaving.address(), next.address());
    let settings = kept_up().session(SessionMode::Require).session_timeout(GENEROUS);
    let (client, line) = tokio::join!(settings.connect(addresses), async {
        let mut line = leaving.accept().await;
        line.open_session(json!({})).await;
        line
    });
    let (client, mut line) = (client.unwrap(), line);
    let (told, mut heard) = mpsc::unbounded_channel();
    client.topic_inbox(|| Layer(told));
    let under_way = client.start::<i64>("n", &1).await.unwrap();
    let request = line.call().await;
    line.send(MessageType::GoAway, b"", r#"{"reason":"restart","grace_ms":1000}"#).await;
    until_state(&client, |state| matches!(state, ClientState::Lost { reason } if reason.ends_with(": restart"))).await;
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.call::<i64>("n", &2).await }
    });
    let mut second = next.accept().await;
    second.open_session(json!({})).await;
    let again = second.next().await.unwrap();
    second.answer(&again, r#"{"rcode":0,"optype":1}"#).await;
    tokio::spawn(second.echo());
    assert_eq!(call.await.unwrap().unwrap(), 2);
    // What the first still pushes is nobody's business: all was asked for again elsewhere.
    line.send(MessageType::TopicRequest, b"1", r#"{"topic_key":"t","optype":4,"topic_msg":"x"}"#).await;
    line.answer(&request, r#"{"rcode":0,"result":1}"#).await;
    assert_eq!(under_way.await.unwrap(), 1);
    assert!(line.next().await.is_none(), "with its last call the first connection ends");
    client.close();
    let mut history = Vec::new();
    while history.last() != Some(&"closed") {
        history.push(timeout(GENEROUS, heard.recv()).await.unwrap().unwrap());
    }
    assert_eq!(history, ["lost", "resumed", "closed"]);
}

#[tokio::test]
async fn a_connection_whose_peer_leaves_ends_with_its_last_answer_and_takes_no_more() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.session(json!({})).await;
    let under_way = client.start::<i64>("n", &1).await.unwrap();
    let request = line.call().await;
    line.send(MessageType::GoAway, b"", r#"{"reason":"restart","grace_ms":1000}"#).await;
    timeout(GENEROUS, async {
        while client.is_online() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let refused = client.call::<i64>("n", &2).await.unwrap_err();
    let told = (refused.executed(), refused.to_string().contains("the peer is about to leave: restart"));
    assert_eq!(told, (Executed::No, true), "{refused}");
    assert_eq!(client.notify("n", &3).await.unwrap_err().executed(), Executed::No);
    assert!(!client.is_closed(), "an answer is due");
    line.answer(&request, r#"{"rcode":0,"result":1}"#).await;
    assert_eq!(under_way.await.unwrap(), 1);
    assert!(line.next().await.is_none(), "nothing else came, and the client has ended it");
}

#[tokio::test]
async fn an_idle_connection_whose_peer_leaves_is_ended_by_the_client() {
    let peer = Peer::new().await;
    let (client, mut line) = peer.session(json!({})).await;
    line.send(MessageType::GoAway, b"", r#"{"reason":"restart","grace_ms":1000}"#).await;
    assert!(line.next().await.is_none());
    drop(line);
    timeout(GENEROUS, client.closed()).await.unwrap();
}

#[tokio::test]
async fn the_states_of_a_client_that_is_not_made_again_end_too() {
    let peer = Peer::new().await;
    let (client, line) = peer.client(kept_up().reconnect(Reconnect::never())).await;
    let mut states = client.states();
    assert_eq!(states.next().await, Some(ClientState::Online));
    drop(line);
    timeout(GENEROUS, client.closed()).await.unwrap();
    let next = timeout(GENEROUS, states.next()).await;
    assert!(matches!(next, Ok(Some(ClientState::Closed { .. }))));
}

#[tokio::test]
async fn who_waits_for_a_connection_that_never_comes_is_told() {
    let peer = Peer::new().await;
    let settings = kept_up().session(SessionMode::Require).session_timeout(GENEROUS).reconnect(Reconnect::never());
    let (client, mut line) = tokio::join!(settings.connect(peer.address()), async {
        let mut line = peer.accept().await;
        line.open_session(json!({})).await;
        line
    });
    let client = client.unwrap();
    line.send(MessageType::GoAway, b"", r#"{"reason":"restart","grace_ms":1000}"#).await;
    timeout(GENEROUS, client.line().lost()).await.unwrap();
    let mut waits = Box::pin(client.online());
    assert!(waits.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(line);
    timeout(GENEROUS, client.closed()).await.unwrap();
    assert!(timeout(GENEROUS, waits).await.unwrap().is_err());
}

#[tokio::test]
async fn a_peer_that_accepts_and_closes_is_not_stormed() {
    let peer = Peer::new().await;
    let (client, line) = peer.client(kept_up().reconnect(Reconnect::default())).await;
    drop(line);
    let mut n = 0;
    let _ = timeout(Duration::from_secs(3), async {
        loop {
            drop(peer.accept().await);
            n += 1;
        }
    })
    .await;
    drop(client);
    assert!(n < 20, "{n}");
}

#[tokio::test]
async fn of_several_addresses_one_that_closes_is_no_peer_as_long_as_another_opens_a_session() {
    let (closes, peer) = (Peer::new().await, Peer::new().await);
    let addresses = format!("{},{}", closes.address(), peer.address());
    let closing = tokio::spawn(async move {
        loop {
            drop(closes.accept().await);
        }
    });
    let settings = kept_up().timeout(GENEROUS).session(SessionMode::Try).session_timeout(GENEROUS);
    let (client, _line) = tokio::join!(settings.connect(&addresses), async {
        let mut line = peer.accept().await;
        line.open_session(json!({})).await;
        line
    });
    let client = client.unwrap();
    assert!(client.has_session());
    assert_eq!(client.address().to_string(), format!("tcp://{}", peer.address()));
    closing.abort();
}

#[tokio::test]
async fn one_that_had_a_session_is_not_taken_for_a_v1_peer() {
    let peer = Peer::new().await;
    let settings = kept_up().session(SessionMode::Try).session_timeout(GENEROUS).remember_v1(true);
    let (client, line) = tokio::join!(settings.connect(peer.address()), async {
        let mut line = peer.accept().await;
        line.open_session(json!({})).await;
        line
    });
    let client = client.unwrap();
    assert!(client.has_session());
    drop(line);
    drop(peer.accept().await); // turned away, or it died while it was asked
    let mut line = peer.accept().await;
    let first = timeout(GENEROUS, line.next()).await.map(|m| m.map(|m| m.kind()));
    assert!(matches!(first, Ok(Some(MessageType::SessionRequest))));
}

#[tokio::test]
async fn a_peer_that_has_become_slow_to_grant_sessions_is_given_more_time_each_time() {
    let patience = Duration::from_millis(250);
    let settings = kept_up().session(SessionMode::Require).session_timeout(patience);
    let peer = Peer::new().await;
    comes_back(&peer, settings.clone(), peer.address(), 3 * patience).await;
    // Each of two addresses has half of the time, and nobody is at the other one.
    let (peer, nobody) = (Peer::new().await, Peer::new().await.address());
    let addresses = format!("{},{nobody}", peer.address());
    comes_back(&peer, settings.timeout(8 * patience), addresses, 3 * patience).await;
}

/// To a peer that takes so long to grant a session, but for the first one.
async fn comes_back(peer: &Peer, settings: ClientBuilder, addresses: String, takes: Duration) {
    let (client, line) = tokio::join!(settings.connect(addresses), async {
        let mut line = peer.accept().await;
        line.open_session(json!({})).await;
        line
    });
    let client = client.unwrap();
    drop(line);
    let mut tries = 0;
    let _line = loop {
        tries += 1;
        assert!(tries < 10, "each is given up too soon");
        let mut line = peer.accept().await;
        let opening = line.next().await.expect("it asks");
        if let Ok(said) = timeout(takes, line.next()).await {
            assert!(said.is_none(), "it was given up");
            continue;
        }
        line.answer(&opening, r#"{"rcode":0,"version":2,"instance":"i","features":[],"limits":{}}"#).await;
        break line;
    };
    assert!(tries > 1);
    until_state(&client, |state| *state == ClientState::Resumed).await;
}
