//! A provider leaves in the order in which no call is lost.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::sync::Arc;
use std::time::Duration;

use callboard::common::{Connection, Decode, Json};
use callboard::common::{Dispatcher, Handler, ServiceAnswer, ServiceOp, ServiceRequest};
use callboard::net::{Serving, Settings, serve};
use callboard::server::Sessions;
use callboard::{
    CallErrorKind, Center, Client, Conn, Executed, Limits, Message, Provider, Reconnect, ResultCode, Router, Server,
    SessionMode, Stopped, leave,
};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

/// So long a test waits for what must happen, however loaded the machine is.
const GENEROUS: Duration = Duration::from_secs(30);

/// Answers registrations, and hands withdrawals to the test.
struct Scripted(mpsc::UnboundedSender<(Conn, Message)>);

impl Handler<Conn> for Scripted {
    fn handle(&self, conn: &Conn, message: Message) {
        let Ok(request) = ServiceRequest::decode::<Json>(message.body()) else { return };
        if request.op == ServiceOp::Register {
            conn.answer(message.id(), &ServiceAnswer::ok(ServiceOp::Register)).unwrap();
        } else {
            let _ = self.0.send((conn.clone(), message.detach()));
        }
    }
}

async fn scripted_center() -> (Serving, mpsc::UnboundedReceiver<(Conn, Message)>) {
    let (asked, withdrawals) = mpsc::unbounded_channel();
    let sessions = Sessions::for_server("scripted", &Limits::default());
    let handler = Dispatcher::new().on_service(Scripted(asked)).on_session(sessions);
    let settings = Settings { loops: 1, ..Settings::default() };
    (serve(&["127.0.0.1:0".parse().unwrap()], settings, Arc::new(handler)).await.unwrap(), withdrawals)
}

/// `wait` ends when it is let go; it tells when it is begun.
fn router(go: &Arc<Notify>, begun: mpsc::UnboundedSender<()>) -> Router {
    let go = Arc::clone(go);
    Router::new().method("add", |(a, b): (i64, i64)| Ok(a + b)).method_async("wait", move |(): ()| {
        let (go, begun) = (Arc::clone(&go), begun.clone());
        async move {
            let _ = begun.send(());
            go.notified().await;
            Ok("done")
        }
    })
}

async fn provider(center: &str, router: Router, grace: Duration) -> (Provider, Server) {
    let builder = Server::builder().router(router.clone()).loops(1).grace(grace);
    let server = builder.listen("127.0.0.1:0").start().await.unwrap();
    let provider = Provider::connect(center).await.unwrap();
    (provider.announce(router.names(), server.addresses()).await.unwrap(), server)
}

/// A caller that has one connection only.
async fn caller(server: &Server, mode: SessionMode) -> Client {
    let settings = Client::builder().session(mode).session_timeout(GENEROUS).timeout(GENEROUS);
    settings.reconnect(Reconnect::never()).connect(server.addresses()[0].to_string()).await.unwrap()
}

#[tokio::test]
async fn calls_are_executed_until_the_center_has_told_and_then_refused_and_those_in_flight_are_answered() {
    let (center, mut withdrawals) = scripted_center().await;
    let (go, (begun, mut begins)) = (Arc::new(Notify::new()), mpsc::unbounded_channel());
    let address = center.addresses()[0].to_string();
    let (provider, server) = provider(&address, router(&go, begun), GENEROUS).await;
    let (session, v1) = (caller(&server, SessionMode::Require).await, caller(&server, SessionMode::Off).await);
    let mut under_way = Vec::new();
    for client in [&session, &v1] {
        under_way.push(client.start::<String>("wait", &()).await.unwrap());
        begins.recv().await.unwrap();
    }
    let leaving = tokio::spawn(leave(provider, server));
    let withdrawal = timeout(GENEROUS, withdrawals.recv()).await.unwrap().unwrap();
    for client in [&session, &v1] {
        assert_eq!(client.call::<i64>("add", &(1, 2)).await.unwrap(), 3, "nobody was told yet");
    }
    let mut next = Some(withdrawal);
    for _ in 0..2 {
        let (conn, message) = match next.take() {
            Some(first) => first,
            None => timeout(GENEROUS, withdrawals.recv()).await.unwrap().unwrap(),
        };
        conn.answer(message.id(), &ServiceAnswer::ok(ServiceOp::Withdraw)).unwrap();
    }
    // One that knows sessions hears of it, and the other one is refused each call.
    let gone = async {
        while session.is_online() {
            tokio::task::yield_now().await;
        }
        while v1.call::<i64>("add", &(1, 2)).await.is_ok() {}
        v1.call::<i64>("add", &(1, 2)).await.unwrap_err()
    };
    let refused = timeout(GENEROUS, gone).await.unwrap();
    assert_eq!((refused.code(), refused.executed()), (Some(ResultCode::Unavailable), Executed::No), "{refused}");
    let refused = session.call::<i64>("add", &(1, 2)).await.unwrap_err();
    assert!(matches!(refused.kind(), CallErrorKind::Disconnected), "{refused}");
    assert_eq!(refused.executed(), Executed::No);
    assert!(!leaving.is_finished(), "two answers are due");
    go.notify_waiters();
    for call in under_way {
        assert_eq!(timeout(GENEROUS, call).await.unwrap().unwrap(), "done");
    }
    let stopped = timeout(GENEROUS, leaving).await.unwrap().unwrap();
    assert_eq!(stopped, Stopped { finished: 2, given_up: 0, cut: 0 });
}

#[tokio::test]
async fn a_center_that_does_not_answer_holds_nothing_up() {
    let (center, _withdrawals) = scripted_center().await;
    let address = center.addresses()[0].to_string();
    let (begun, _) = mpsc::unbounded_channel();
    let (provider, server) = provider(&address, router(&Arc::default(), begun), GENEROUS).await;
    let stopped = timeout(GENEROUS, leave(provider, server)).await.unwrap();
    assert_eq!(stopped, Stopped::default());
}

#[tokio::test]
async fn nor_does_one_that_is_gone() {
    let center = Center::builder().listen("127.0.0.1:0").loops(1).start().await.unwrap();
    let (begun, mut begins) = mpsc::unbounded_channel();
    let grace = Duration::from_millis(50);
    let (provider, server) = provider(&center.address(), router(&Arc::default(), begun), grace).await;
    center.shutdown().await;
    let client = caller(&server, SessionMode::Require).await;
    let under_way = client.start::<String>("wait", &()).await.unwrap();
    begins.recv().await.unwrap();
    let stopped = timeout(GENEROUS, leave(provider, server)).await.unwrap();
    assert_eq!(stopped, Stopped { finished: 0, given_up: 0, cut: 1 });
    let cut = under_way.await.unwrap_err();
    assert_eq!(cut.executed(), Executed::Unknown, "it has begun, and nobody knows how far it came");
}
