use callboard_common::{Connection, Dispatcher, Executed, Handler, Message, MessageType, ResultCode};
use callboard_net::{Conn, Serving, Settings, serve};
use callboard_server::{Router, Server};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::StreamExt;

use super::*;
use crate::testing::{Center, LONG, dead_host, host_of, serve_who};
use crate::{CacheLimits, Notice, Notices, Provider};

pub(super) const ANY: &str = "127.0.0.1:0";

async fn caller(center: &Center) -> Caller {
    Caller::builder().timeout(LONG).connect_timeout(LONG).connect(center.address()).await.unwrap()
}

async fn who(caller: &Caller) -> Result<String, CallError> {
    caller.call("who", &()).await
}

/// The next change of who provides `who`.
async fn next_change(notices: &mut Notices) -> (Host, bool) {
    let Notice { method, host, online, .. } = timeout(LONG, notices.next()).await.unwrap().unwrap();
    assert_eq!(&*method, "who");
    (host, online)
}

#[tokio::test]
async fn calls_go_to_each_provider_in_turn_over_one_connection_each() {
    let center = Center::start().await;
    let (a, b) = (serve_who("a", ANY).await, serve_who("b", ANY).await);
    let _a = center.announce("who", a.addresses()).await;
    let _b = center.announce("who", b.addresses()).await;
    let caller = caller(&center).await;
    assert_eq!(caller.hosts("who").await.unwrap(), [host_of(&a), host_of(&b)]);
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(who(&caller).await.unwrap());
    }
    assert_eq!(answers, ["a", "b", "a", "b"]);
    assert_eq!((center.discoveries(), a.connections(), b.connections()), (1, 1, 1));
}

#[tokio::test]
async fn many_that_call_at_once_ask_once_and_connect_once() {
    let center = Center::start().await;
    let server = serve_who("a", ANY).await;
    let _provider = center.announce("who", server.addresses()).await;
    let caller = caller(&center).await;
    let mut calls = JoinSet::new();
    for _ in 0..100 {
        let caller = caller.clone();
        calls.spawn(async move { who(&caller).await });
    }
    for answer in calls.join_all().await {
        assert_eq!(answer.unwrap(), "a");
    }
    assert_eq!((center.discoveries(), server.connections()), (1, 1));
}

#[tokio::test]
async fn one_look_up_that_fails_is_told_to_all_who_wait_and_the_next_asks_again() {
    let center = Center::start().await;
    let settings = Caller::builder().cache(CacheLimits { methods: 1, ..CacheLimits::default() });
    let caller = settings.connect(center.address()).await.unwrap();
    let too_long = "x".repeat(4097);
    let (first, second) = tokio::join!(caller.hosts(&too_long), caller.hosts(&too_long));
    for error in [first.unwrap_err(), second.unwrap_err()] {
        assert_eq!(error.code(), Some(ResultCode::TooLarge), "{error}");
    }
    assert_eq!(center.discoveries(), 1);
    caller.hosts(&too_long).await.unwrap_err();
    assert_eq!(center.discoveries(), 2);
    assert!(caller.hosts("who").await.unwrap().is_empty());
    let full = caller.hosts("other").await.unwrap_err();
    assert!(matches!(full.kind(), CallErrorKind::Overloaded), "{full}");
}

#[tokio::test]
async fn a_provider_that_can_not_be_reached_is_passed_over() {
    let center = Center::start().await;
    let server = serve_who("a", ANY).await;
    let _dead = center.announce("who", vec![dead_host(1), dead_host(2)]).await;
    let _live = center.announce("who", server.addresses()).await;
    let caller = caller(&center).await;
    for _ in 0..6 {
        assert_eq!(who(&caller).await.unwrap(), "a");
    }
}

/// A host that never finishes a connection: its backlog is full, and it accepts nobody.
pub(super) async fn blackhole() -> (Host, tokio::net::TcpListener, Vec<tokio::net::TcpStream>) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(ANY.parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(500), tokio::net::TcpStream::connect(address)).await {
        waiting.push(stream.unwrap());
        assert!(waiting.len() < 100, "the backlog takes any number");
    }
    (address.try_into().unwrap(), listener, waiting)
}

#[tokio::test]
async fn a_host_that_never_connects_takes_its_share_of_one_call_and_nothing_of_the_next_ones() {
    let center = Center::start().await;
    let server = serve_who("a", ANY).await;
    let (hole, _listener, _waiting) = blackhole().await;
    let _both = center.announce("who", vec![hole, host_of(&server)]).await;
    let share = Duration::from_secs(2);
    let caller = caller(&center).await.with_timeout(2 * share);
    assert_eq!(who(&caller).await.unwrap(), "a");
    assert!(caller.inner.pool.is_doubtful(hole), "the attempt goes on");
    let began = std::time::Instant::now();
    for _ in 0..10 {
        assert_eq!(who(&caller).await.unwrap(), "a");
    }
    assert!(began.elapsed() < share, "no other call waits for it");
}

#[tokio::test]
async fn the_only_host_is_tried_whatever_is_known_of_it() {
    let center = Center::start().await;
    let server = serve_who("a", ANY).await;
    let host = host_of(&server);
    let _provider = center.announce("who", host).await;
    server.shutdown().await;
    let caller = Caller::builder().reconnect_pause(LONG).timeout(LONG).connect(center.address()).await.unwrap();
    who(&caller).await.unwrap_err();
    assert!(caller.inner.pool.is_doubtful(host));
    let _back = serve_who("back", &host.to_string()).await;
    assert_eq!(who(&caller).await.unwrap(), "back");
    assert!(!caller.inner.pool.is_doubtful(host));
}

#[tokio::test]
async fn a_host_that_refused_is_left_alone_for_a_time_and_found_again_after_it() {
    let center = Center::start().await;
    let (a, b) = (serve_who("a", ANY).await, serve_who("b", ANY).await);
    let host = host_of(&a);
    let _both = center.announce("who", vec![host, host_of(&b)]).await;
    a.shutdown().await;
    let callers = [Duration::ZERO, LONG].map(|pause| Caller::builder().timeout(LONG).reconnect_pause(pause));
    let [eager, patient] = callers;
    let (eager, patient) =
        tokio::try_join!(eager.connect(center.address()), patient.connect(center.address())).unwrap();
    for caller in [&eager, &patient] {
        assert_eq!(who(caller).await.unwrap(), "b");
    }
    let _back = serve_who("a again", &host.to_string()).await;
    let found = async { while who(&eager).await.unwrap() == "b" {} };
    timeout(LONG, found).await.unwrap();
    for _ in 0..10 {
        assert_eq!(who(&patient).await.unwrap(), "b");
    }
}

#[tokio::test]
async fn calls_are_spread_evenly_over_those_that_live() {
    let center = Center::start().await;
    let (a, b) = (serve_who("a", ANY).await, serve_who("b", ANY).await);
    let _all = center.announce("who", vec![host_of(&a), dead_host(1), host_of(&b)]).await;
    let caller = caller(&center).await;
    let mut to_a = 0;
    for _ in 0..1200 {
        to_a += usize::from(who(&caller).await.unwrap() == "a");
    }
    assert!((540..=660).contains(&to_a), "{to_a} of 1200");
}

/// A provider that answers each call in the same way.
pub(super) async fn refusing(error: &'static str) -> Serving {
    let answer = move |conn: &Conn, message: &Message| {
        let body = serde_json::value::RawValue::from_string(error.to_owned()).unwrap();
        let _ = conn.answer(message.id(), &RawAnswer(body));
    };
    let handler = Dispatcher::new().on_rpc(Answering(answer));
    let settings = Settings { loops: 1, ..Settings::default() };
    serve(&[ANY.parse().unwrap()], settings, Arc::new(handler)).await.unwrap()
}

pub(super) struct Answering<F>(pub(super) F);

impl<F: Fn(&Conn, &Message) + Send + Sync + 'static> Handler<Conn> for Answering<F> {
    fn handle(&self, conn: &Conn, message: Message) {
        (self.0)(conn, &message);
    }
}

pub(super) struct RawAnswer(pub(super) Box<serde_json::value::RawValue>);

impl callboard_common::Encode for RawAnswer {
    fn kind(&self) -> MessageType {
        MessageType::RpcResponse
    }

    fn encode<C: callboard_common::Codec>(
        &self,
        out: &mut bytes::BytesMut,
    ) -> Result<(), callboard_common::EncodeError> {
        C::write(&self.0, out)
    }
}

#[tokio::test]
async fn a_provider_that_takes_no_calls_is_passed_over_unless_it_may_have_run_the_call() {
    let rows = [
        (r#"{"rcode":22,"error":{"message":"draining","executed":"no"}}"#, None),
        (r#"{"rcode":22,"error":{"message":"draining","executed":"unknown"}}"#, Some(ResultCode::Unavailable)),
        (r#"{"rcode":22,"error":{"message":"draining","executed":"yes"}}"#, Some(ResultCode::Unavailable)),
        (r#"{"rcode":22}"#, Some(ResultCode::Unavailable)),
        (r#"{"rcode":17,"error":{"message":"full","executed":"yes"}}"#, Some(ResultCode::Overloaded)),
    ];
    let server = serve_who("a", ANY).await;
    for (answer, refused) in rows {
        let center = Center::start().await;
        let refusing = refusing(answer).await;
        let host: Host = refusing.addresses()[0].to_socket_addr().unwrap().try_into().unwrap();
        let _both = center.announce("who", vec![host, host_of(&server)]).await;
        let outcome = who(&caller(&center).await).await;
        assert_eq!(outcome.as_ref().err().map(CallError::code), refused.map(Some), "{answer}: {outcome:?}");
        if refused.is_none() {
            assert_eq!(outcome.unwrap(), "a");
        }
    }
}

#[tokio::test]
async fn an_error_says_that_all_providers_take_no_calls() {
    let center = Center::start().await;
    let refusing = refusing(r#"{"rcode":22,"error":{"message":"draining","executed":"no"}}"#).await;
    let host: Host = refusing.addresses()[0].to_socket_addr().unwrap().try_into().unwrap();
    let _provider = center.announce("who", host).await;
    let error = who(&caller(&center).await).await.unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Unavailable) && error.executed() == Executed::No, "{error}");
    assert!(error.to_string().contains(&format!("{host} (it takes no calls at the moment)")), "{error}");
}

#[tokio::test]
async fn an_error_says_that_nobody_is_there_or_who_can_not_be_reached() {
    let center = Center::start().await;
    let caller = caller(&center).await;
    let error = who(&caller).await.unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::NotFound), "{error}");
    assert_eq!((error.method(), error.executed()), (Some("who"), Executed::No));
    let _dead = center.announce("who", vec![dead_host(1), dead_host(2)]).await;
    caller.wait_for_provider("who", LONG).await.unwrap();
    let mut notices = caller.notices();
    while caller.hosts("who").await.unwrap().len() < 2 {
        timeout(LONG, notices.next()).await.unwrap();
    }
    let error = who(&caller).await.unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Unavailable), "{error}");
    assert_eq!(error.executed(), Executed::No);
    for part in ["127.0.0.1:1 (", "127.0.0.1:2 (", "refused", "check that these providers run"] {
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[tokio::test]
async fn notices_keep_the_list_true_and_let_go_of_who_left() {
    let center = Center::start().await;
    let server = serve_who("a", ANY).await;
    let host = host_of(&server);
    let provider = center.announce("who", server.addresses()).await;
    let caller = caller(&center).await;
    let mut notices = caller.notices();
    assert_eq!(who(&caller).await.unwrap(), "a");
    provider.withdraw().await.unwrap();
    assert_eq!(next_change(&mut notices).await, (host, false));
    assert!(matches!(who(&caller).await.unwrap_err().kind(), CallErrorKind::NotFound));
    assert!(caller.inner.pool.is_empty());
    let _back = center.announce("who", server.addresses()).await;
    assert_eq!(next_change(&mut notices).await, (host, true));
    assert_eq!(who(&caller).await.unwrap(), "a");
    assert_eq!((center.discoveries(), notices.missed()), (1, 0));
}

#[tokio::test]
async fn calls_go_on_while_the_center_is_dead() {
    let center = Center::start().await;
    let (a, b) = (serve_who("a", ANY).await, serve_who("b", ANY).await);
    let _a = center.announce("who", vec![host_of(&a), host_of(&b)]).await;
    let once = Caller::builder().timeout(LONG).connect_timeout(LONG).reconnect(Reconnect::never());
    let caller = once.connect(center.address()).await.unwrap();
    let mut notices = caller.notices();
    assert_eq!(who(&caller).await.unwrap(), "a");
    caller.hosts("nobody").await.unwrap();
    center.stop().await;
    timeout(LONG, caller.center().closed()).await.unwrap();
    assert_eq!(who(&caller).await.unwrap(), "b", "a new connection is made without the center too");
    assert_eq!(who(&caller).await.unwrap(), "a");
    for method in ["unknown", "nobody"] {
        let error = caller.call::<()>(method, &()).await.unwrap_err();
        assert!(matches!(error.kind(), CallErrorKind::Disconnected), "{error}");
        let error = caller.wait_for_provider(method, LONG).await.unwrap_err();
        assert!(matches!(error.kind(), CallErrorKind::Disconnected), "{error}");
    }
    assert_eq!(timeout(LONG, notices.next()).await.unwrap(), None);
}

#[tokio::test]
async fn waiting_for_a_provider_ends_with_the_first_one() {
    let center = Center::start().await;
    let server = serve_who("a", ANY).await;
    let caller = caller(&center).await;
    assert!(caller.hosts("who").await.unwrap().is_empty());
    let (found, _provider) =
        tokio::join!(caller.wait_for_provider("who", LONG), center.announce("who", server.addresses()));
    assert_eq!(found.unwrap(), [host_of(&server)]);
    let error = caller.wait_for_provider("never", Duration::from_millis(20)).await.unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Timeout), "{error}");
    assert_eq!(error.executed(), Executed::No);
}

#[tokio::test]
async fn a_connection_that_died_is_replaced() {
    let center = Center::start().await;
    let server = serve_who("a", ANY).await;
    let host = host_of(&server);
    let _provider = center.announce("who", host).await;
    let caller = caller(&center).await;
    assert_eq!(who(&caller).await.unwrap(), "a");
    let pooled = caller.inner.pool.client(host).await.unwrap();
    server.shutdown().await;
    timeout(LONG, pooled.closed()).await.unwrap();
    let _again = serve_who("a again", &host.to_string()).await;
    assert_eq!(who(&caller).await.unwrap(), "a again");
}

#[tokio::test]
async fn one_deadline_covers_the_whole_call_which_is_not_repeated() {
    let center = Center::start().await;
    let (seen, mut calls) = mpsc::unbounded_channel();
    let router = Router::new().method_async("wait", move |(): ()| {
        let _ = seen.send(());
        std::future::pending::<Result<(), callboard_server::MethodError>>()
    });
    let server = Server::builder().router(router).loops(1).start().await.unwrap();
    let _provider = center.announce("wait", vec![host_of(&server), dead_host(1)]).await;
    let caller = caller(&center).await;
    let error = caller.with_timeout(Duration::from_millis(50)).call::<()>("wait", &()).await.unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Timeout), "{error}");
    // It was sent, or there was no time to; what it says must fit.
    let sent = error.executed() == Executed::Unknown;
    assert!(!sent || timeout(LONG, calls.recv()).await.unwrap().is_some());
    assert!(calls.try_recv().is_err());
}

#[tokio::test]
async fn the_other_styles_of_calling() {
    let center = Center::start().await;
    let (heard, mut told) = mpsc::unbounded_channel();
    let router = Router::new().method("double", |n: i64| Ok(n * 2)).method("tell", move |n: i64| {
        let _ = heard.send(n);
        Ok(())
    });
    let names = router.names();
    let server = Server::builder().router(router).loops(1).start().await.unwrap();
    let provider = Provider::new(center.client().await);
    let _provider = provider.announce(names, server.addresses()).await.unwrap();
    let caller = caller(&center).await;

    let later = [caller.start::<i64>("double", &1).await.unwrap(), caller.start("double", &2).await.unwrap()];
    for (call, doubled) in later.into_iter().zip([2, 4]) {
        assert_eq!(call.await.unwrap(), doubled);
    }

    let (done, mut results) = mpsc::unbounded_channel();
    let sender = done.clone();
    caller.call_then("double", &3, move |result: Result<i64, _>| drop(sender.send(result))).unwrap();
    assert_eq!(timeout(LONG, results.recv()).await.unwrap().unwrap().unwrap(), 6);
    caller.call_then("nobody", &3, move |result: Result<i64, _>| drop(done.send(result))).unwrap();
    let error = timeout(LONG, results.recv()).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::NotFound), "{error}");

    caller.notify("tell", &7).await.unwrap();
    assert_eq!(timeout(LONG, told.recv()).await.unwrap(), Some(7));
}

#[tokio::test]
async fn a_panic_in_a_callback_is_caught() {
    let center = Center::start().await;
    let caller = caller(&center).await;
    let (done, mut results) = mpsc::unbounded_channel();
    caller.call_then("nobody", &(), |_: Result<(), _>| panic!("as the test wants it")).unwrap();
    caller.call_then("nobody", &(), move |error: Result<(), _>| drop(done.send(error))).unwrap();
    timeout(LONG, results.recv()).await.unwrap().unwrap().unwrap_err();
}

#[test]
fn connecting_without_a_runtime_is_an_error() {
    let mut connect = std::pin::pin!(Caller::connect("127.0.0.1:1"));
    let polled = connect.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    let std::task::Poll::Ready(Err(error)) = polled else { panic!("{polled:?}") };
    assert!(matches!(error.kind(), CallErrorKind::Connect) && error.to_string().contains("runtime"), "{error}");
}

/// So that calls may be made from tasks of any runtime.
#[tokio::test]
async fn every_future_can_be_sent_to_another_thread() {
    fn is_send<T: Send>(_: &T) {}
    let center = Center::start().await;
    let caller = caller(&center).await;
    is_send(&caller.call::<i64>("double", &1));
    is_send(&caller.start::<i64>("double", &1));
    is_send(&caller.notify("double", &1));
    is_send(&caller.hosts("double"));
    is_send(&caller.wait_for_provider("double", LONG));
    is_send(&caller.notices());
    is_send(&Provider::new(center.client().await).announce(["double"], dead_host(1)));
    is_send(&Caller::connect("127.0.0.1:1"));
}

#[tokio::test]
async fn callbacks_are_bounded() {
    let center = Center::start().await;
    let caller = Caller::builder().callbacks(1).connect(center.address()).await.unwrap();
    caller.call_then("nobody", &(), |_: Result<(), _>| ()).unwrap();
    let error = caller.call_then("nobody", &(), |_: Result<(), _>| ()).unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Overloaded), "{error}");
}

#[tokio::test]
async fn connections_to_providers_are_bounded() {
    let center = Center::start().await;
    let (a, b) = (serve_who("a", ANY).await, serve_who("b", ANY).await);
    let _both = center.announce("who", vec![host_of(&a), host_of(&b)]).await;
    let caller = Caller::builder().max_connections(1).connect(center.address()).await.unwrap();
    for _ in 0..4 {
        assert_eq!(who(&caller).await.unwrap(), "a", "the one that is connected serves for both");
    }
    assert_eq!(b.connections(), 0);
}

#[tokio::test]
async fn a_center_without_sessions_will_do() {
    let center = Center::start_v1().await;
    let server = serve_who("a", ANY).await;
    let provider = center.announce("who", server.addresses()).await;
    let caller = caller(&center).await;
    let mut notices = caller.notices();
    assert_eq!(who(&caller).await.unwrap(), "a");
    provider.withdraw().await.unwrap();
    assert_eq!(next_change(&mut notices).await, (host_of(&server), false));
}
