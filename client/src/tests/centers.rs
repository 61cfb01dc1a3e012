//! Clients that start before their peers, and several centers.

use super::*;
use crate::{CallErrorKind, Centers, ClientState};

/// Makes connections again after pauses too short to wait for, and takes only peers that open a session.
fn kept_up() -> ClientBuilder {
    let longest = Duration::from_millis(1);
    let settings = Client::builder().timeout(GENEROUS).session(SessionMode::Require).session_timeout(GENEROUS);
    settings.reconnect(Reconnect { longest, ..Reconnect::default() })
}

/// The next connection, with a session.
async fn accepted(peer: &Peer) -> Line {
    let mut line = peer.accept().await;
    line.open_session(json!({})).await;
    line
}

async fn two() -> (Peer, Peer, String) {
    let (one, other) = (Peer::new().await, Peer::new().await);
    let list = format!("{}, {}", one.address(), other.address());
    (one, other, list)
}

/// Where nobody listens any more.
async fn nowhere() -> String {
    Peer::new().await.address()
}

#[tokio::test]
async fn one_that_starts_before_its_peer_tries_until_it_is_there_and_what_is_sent_waits() {
    let peer = Peer::new().await;
    let client = kept_up().connect_in_background(peer.address()).unwrap();
    assert!(!client.is_online() && !client.is_closed() && client.generation() == 0);
    assert_eq!(client.address().to_string(), format!("tcp://{}", peer.address()));
    let mut states = client.states();
    assert_eq!(states.next().await, Some(ClientState::Connecting));
    let error = client.with_timeout(Duration::from_millis(10)).call::<i64>("n", &1).await.unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Disconnected), "{error}");
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.call::<i64>("n", &7).await }
    });
    drop(peer.accept().await); // not there yet
    drop(peer.accept().await);
    tokio::spawn(accepted(&peer).await.echo());
    assert_eq!(call.await.unwrap().unwrap(), 7);
    let mut state = ClientState::Connecting;
    while state == ClientState::Connecting {
        state = timeout(GENEROUS, states.next()).await.unwrap().unwrap();
    }
    assert_eq!(state, ClientState::Online, "the first connection takes nobody's place");
    assert!(client.is_online() && client.generation() == 1);
}

#[tokio::test]
async fn one_that_was_never_connected_can_be_closed_or_give_up() {
    let mut settings = kept_up();
    let client = settings.clone().connect_in_background(nowhere().await).unwrap();
    client.close();
    timeout(GENEROUS, client.closed()).await.unwrap();
    settings.reconnect.attempts = Some(1);
    let client = settings.connect_in_background(nowhere().await).unwrap();
    timeout(GENEROUS, client.closed()).await.unwrap();
    assert!(client.call::<i64>("n", &7).await.unwrap_err().to_string().contains("closed"));
}

#[tokio::test]
async fn centers_that_are_there_are_connected_and_the_others_are_tried_on() {
    let (one, other, list) = two().await;
    let (centers, mut line) = tokio::join!(kept_up().connect_centers(&list), async {
        let asked = other.accept().await; // which answers later than one waits for
        let line = accepted(&one).await;
        (line, asked)
    });
    let centers = centers.unwrap();
    assert_eq!(centers.len(), 2);
    assert_eq!(centers.iter().map(Client::is_online).collect::<Vec<_>>(), [true, false]);
    let is = |center: &Client, peer: &Peer| center.address().to_string() == format!("tcp://{}", peer.address());
    assert!(is(centers.online().unwrap(), &one));
    drop(line.1);
    let _second = accepted(&other).await;
    for center in centers.iter() {
        timeout(GENEROUS, center.online()).await.unwrap().unwrap();
    }
    // The first is preferred, and when it is lost the second is there at once.
    assert!(is(centers.online().unwrap(), &one));
    line.0.send(MessageType::GoAway, b"", r#"{"reason":"restart","grace_ms":1000}"#).await;
    while centers.first().is_online() {
        tokio::task::yield_now().await;
    }
    assert!(is(timeout(GENEROUS, centers.wait_online()).await.unwrap().unwrap(), &other));
}

#[tokio::test]
async fn where_no_center_answers_the_error_names_each_and_why() {
    let (gone, silent) = (nowhere().await, Peer::new().await);
    let settings = kept_up().timeout(Duration::from_millis(500));
    let error = settings.connect_centers(format!("{gone},{}", silent.address())).await.unwrap_err();
    let expected = [format!("tcp://{gone} (Connection refused"), format!("tcp://{} (", silent.address())];
    assert!(expected.iter().all(|part| error.to_string().contains(part)), "{error}");
    let error = Centers::connect("127.0.0.1:1,nowhere").await.unwrap_err();
    assert_eq!(error.peer(), "nowhere");
}

#[tokio::test]
async fn one_address_is_one_connection_and_twice_the_same_is_once() {
    let peer = Peer::new().await;
    let list = format!("{0},tcp://{0}", peer.address());
    let (centers, line) = tokio::join!(kept_up().connect_centers(&list), accepted(&peer));
    let centers = centers.unwrap();
    assert!(centers.is_one() && centers.len() == 1 && centers.online().is_some());
    drop(line);
    let waiting = tokio::spawn({
        let centers = centers.clone();
        async move { centers.wait_online().await.map(Client::generation) }
    });
    let _line = accepted(&peer).await;
    assert!(timeout(GENEROUS, waiting).await.unwrap().unwrap().is_ok());
    centers.close();
    timeout(GENEROUS, centers.closed()).await.unwrap();
    assert!(centers.is_closed() && centers.online().is_none());
    assert!(timeout(GENEROUS, centers.wait_online()).await.unwrap().is_err());
}
