//! Programs that speak v1 and nothing else, at the other end of our clients: a center and a provider by hand.

use std::time::Duration;

use callboard_client::{CallErrorKind, Client, SessionMode};
use callboard_common::{Executed, Host, ResultCode};
use callboard_pubsub::{Subscription, Topics};
use callboard_registry::{Caller, Provider};
use callboard_tests::{Frame, RawPeer, within};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_stream::StreamExt;

use crate::house::{address, center};

/// Accepts; what opens with a session is closed, as a program does that does not know the kind.
struct ForeignPeer(TcpListener);

impl ForeignPeer {
    async fn listen() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (Self(listener), address)
    }

    async fn accept(&self) -> RawPeer {
        RawPeer::from(within(self.0.accept()).await.unwrap().0)
    }

    /// The connection that comes after the one that asked for a session, with its first request.
    async fn accept_v1(&self) -> (RawPeer, Frame) {
        loop {
            let mut peer = self.accept().await;
            match within(peer.try_receive()).await {
                Some(first) if first.mtype == 16 => {}
                Some(first) => return (peer, first),
                None => {}
            }
        }
    }
}

async fn reply(peer: &mut RawPeer, request: &Frame, body: &Value) {
    peer.send(request.mtype + 1, &request.id, &body.to_string()).await;
}

fn host(address: &str) -> Value {
    let host: Host = address.parse().unwrap();
    json!({"ip": host.ip(), "port": host.port()})
}

#[tokio::test]
async fn a_v1_provider_signs_in_at_our_center_and_our_caller_calls_it() {
    let center = center().await;
    let (provider, at) = ForeignPeer::listen().await;
    let mut signed_in = RawPeer::connect(address(&center)).await;
    let register = json!({"method": "twice", "optype": 0, "host": host(&at)});
    assert_eq!(signed_in.ask(4, &register.to_string()).await.rcode(), 0);

    let serving = tokio::spawn(async move {
        let mut peer = provider.accept().await;
        let request = peer.receive().await;
        // It opened no session, so nothing but v1 may come: no flags, no meta, an object as parameters.
        assert_eq!((request.mtype, request.json()), (0, json!({"method": "twice", "parameters": {"n": 21}})));
        reply(&mut peer, &request, &json!({"rcode": 0, "result": 42})).await;
        let request = peer.receive().await;
        reply(&mut peer, &request, &json!({"rcode": 5})).await;
        let request = peer.receive().await;
        reply(&mut peer, &request, &json!({"rcode": 0, "result": {}})).await;
        peer.receive().await;
        // It dies with a call in flight.
    });
    let caller = Caller::connect(address(&center).to_string()).await.unwrap();
    let twice = async || within(caller.call::<i64>("twice", &json!({"n": 21}))).await;
    assert_eq!(twice().await.unwrap(), 42);
    let refused = twice().await.unwrap_err();
    assert!(matches!(refused.kind(), CallErrorKind::Remote { code: ResultCode::NotFoundService, .. }), "{refused}");
    assert_eq!(refused.executed(), Executed::Unknown, "a v1 error says nothing of what ran, so it is never repeated");
    within(caller.call::<()>("twice", &json!({}))).await.unwrap();
    let died = twice().await.unwrap_err();
    assert!(matches!(died.kind(), CallErrorKind::Disconnected), "{died}");
    assert_eq!(died.executed(), Executed::Unknown);
    serving.await.unwrap();
}

#[tokio::test]
async fn our_caller_and_provider_work_with_a_v1_center() {
    let (foreign, at) = ForeignPeer::listen().await;
    let server = callboard_server::Server::builder().router(crate::house::router()).start().await.unwrap();
    let provider_host = server.addresses()[0].to_socket_addr().unwrap().to_string();
    let announcing = tokio::spawn({
        let (at, addresses) = (at.clone(), server.addresses().to_vec());
        async move { Provider::connect(&at).await.unwrap().announce(["add"], &addresses[..]).await.unwrap() }
    });
    let (mut peer, request) = foreign.accept_v1().await;
    // One that closes may also be a proxy whose center is away, so one key more is there for a center that knows it.
    let expected = json!({"method": "add", "optype": 0, "host": host(&provider_host), "probe": true});
    assert_eq!((request.mtype, request.json()), (4, expected));
    reply(&mut peer, &request, &json!({"rcode": 0, "optype": 0})).await;
    let provider = within(announcing).await.unwrap();

    let calling = tokio::spawn({
        let at = at.clone();
        async move {
            let caller = Caller::connect(&at).await.unwrap();
            let sum: i64 = caller.call("add", &json!({"num1": 1, "num2": 2})).await.unwrap();
            assert_eq!(sum, 3);
            caller
        }
    });
    let (mut asked, request) = foreign.accept_v1().await;
    assert_eq!((request.mtype, request.json()), (4, json!({"method": "add", "optype": 1})));
    // The captured program leaves the code out of a clean discovery's answer, and sends its notices as kind 0.
    reply(&mut asked, &request, &json!({"optype": 1, "method": "add", "host": [host(&provider_host)]})).await;
    let caller = within(calling).await.unwrap();
    let mut notices = caller.notices();
    let other = json!({"method": "add", "optype": 2, "host": {"ip": "127.0.0.1", "port": 9}});
    asked.send(0, b"notice", &other.to_string()).await;
    let told = within(notices.next()).await.unwrap();
    assert!(told.online && &*told.method == "add" && told.host.port() == 9, "{told:?}");
    assert_eq!(within(caller.hosts("add")).await.unwrap().len(), 2);
    let none = tokio::time::timeout(Duration::from_millis(50), asked.try_receive()).await;
    assert!(none.is_err(), "a notice is never answered: {none:?}");
    provider.withdraw().await.unwrap();
}

#[tokio::test]
async fn our_topics_work_with_a_v1_center() {
    let (foreign, at) = ForeignPeer::listen().await;
    let subscribing = tokio::spawn(async move {
        let client = Client::connect(&at).await.unwrap();
        Topics::new(&client).create("t").await.unwrap();
        Subscription::open_typed::<Vec<i64>>(&client, "t").await.unwrap()
    });
    let (mut peer, request) = foreign.accept_v1().await;
    assert_eq!((request.mtype, request.json()), (2, json!({"topic_key": "t", "optype": 0})));
    reply(&mut peer, &request, &json!({"rcode": 0})).await;
    let request = peer.receive().await;
    assert_eq!(request.json(), json!({"topic_key": "t", "optype": 2}));
    reply(&mut peer, &request, &json!({"rcode": 0})).await;
    let mut news = within(subscribing).await.unwrap();
    // To a v1 peer a value that is no string comes as its text.
    for message in [json!("[1,2]"), json!([1, 2])] {
        let push = json!({"topic_key": "t", "optype": 4, "topic_msg": message});
        peer.send(2, b"push", &push.to_string()).await;
        assert_eq!(within(news.next()).await.unwrap().unwrap(), [1, 2]);
    }
    drop(news);
    assert_eq!(peer.receive().await.json(), json!({"topic_key": "t", "optype": 3}));
}

#[tokio::test]
async fn a_center_that_ignores_what_it_does_not_know_is_spoken_to_in_v1() {
    let (foreign, at) = ForeignPeer::listen().await;
    let connecting = tokio::spawn(async move {
        let client = Client::builder().session_timeout(Duration::from_millis(50)).connect(&at).await.unwrap();
        assert!(client.session().is_none());
        client.call::<Value>("add", &json!({})).await.unwrap();
        let again = Client::builder().session(SessionMode::Try).connect(&at).await.unwrap();
        again.call::<i64>("add", &json!({})).await.unwrap()
    });
    let mut silent = foreign.accept().await;
    assert_eq!(silent.receive().await.mtype, 16);
    let mut v1 = foreign.accept().await;
    let request = v1.receive().await;
    assert_eq!(request.mtype, 0);
    reply(&mut v1, &request, &json!({"rcode": 0, "result": 7})).await;
    // It has answered without a session, so that is remembered: the next connection does not ask.
    let mut again = foreign.accept().await;
    let request = again.receive().await;
    assert_eq!(request.mtype, 0);
    reply(&mut again, &request, &json!({"rcode": 0, "result": 7})).await;
    assert_eq!(within(connecting).await.unwrap(), 7);
}
