//! What is a sign of life, and how long one is waited for.

use super::*;

#[tokio::test]
async fn whatever_comes_is_a_sign_of_life_though_the_question_is_never_answered() {
    for has_session in [true, false] {
        let peer = Peer::new().await;
        let (client, mut line) = if has_session { peer.session(json!({})).await } else { peer.v1().await };
        let (sign, ()) = tokio::join!(client.gives_sign(GENEROUS), async {
            if has_session {
                assert_eq!(line.next().await.unwrap().kind(), MessageType::Ping);
            }
            // As of a center that holds this side back, or passes on a message.
            line.send(MessageType::Ping, b"", "").await;
            drop(line);
        });
        assert!(sign, "{has_session}");
    }
}

#[tokio::test]
async fn a_peer_that_is_asked_has_the_time_in_which_one_says_that_it_lives_which_holds_this_side_back() {
    let peer = Peer::new().await;
    let settings = once().timeout(GENEROUS).session_timeout(GENEROUS).deadlines_by_runtime(true);
    let (client, _line) = tokio::join!(settings.connect(peer.address()), async {
        let mut line = peer.accept().await;
        line.open_session(json!({})).await;
        line
    });
    tokio::time::pause();
    let (client, began) = (client.unwrap(), tokio::time::Instant::now());
    assert!(!client.gives_sign(Duration::from_millis(1)).await);
    assert!(began.elapsed() >= Duration::from_millis(250), "{:?}", began.elapsed());
}
