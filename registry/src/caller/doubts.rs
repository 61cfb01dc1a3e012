//! Providers that open sessions, that fall silent, and that leave.

use std::sync::atomic::{AtomicBool, Ordering};

use callboard_common::{Dispatcher, Handler, Message};
use callboard_net::{Conn, Serving, Settings, serve};
use callboard_server::{MethodError, Router, Server, Sessions};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::*;
use crate::Provider;
use crate::testing::{Center, LONG, host_of, serve_who};

/// So long calls wait for one that says nothing.
const SHORT: Duration = Duration::from_millis(30);

/// A provider of `who` that can fall silent: then it takes what comes, and answers nothing.
struct Moody {
    serving: Serving,
    is_silent: Arc<AtomicBool>,
}

struct Unless<H>(Arc<AtomicBool>, H);

impl<H: Handler<Conn>> Handler<Conn> for Unless<H> {
    fn handle(&self, conn: &Conn, message: Message) {
        if !self.0.load(Ordering::SeqCst) {
            self.1.handle(conn, message);
        }
    }
}

impl Moody {
    async fn start(knows_sessions: bool) -> Self {
        let is_silent = Arc::new(AtomicBool::new(false));
        let settings = Settings { loops: 1, ..Settings::default() };
        let router = Router::new().method("who", |(): ()| Ok("moody"));
        let sessions = Sessions::for_server("moody", &settings.limits);
        let addresses = ["127.0.0.1:0".parse().unwrap()];
        let (rpc, silent) = (Dispatcher::new().on_rpc(router), Arc::clone(&is_silent));
        let serving = if knows_sessions {
            serve(&addresses, settings, Arc::new(Unless(silent, rpc.on_session(sessions)))).await
        } else {
            serve(&addresses, settings, Arc::new(Unless(silent, rpc))).await
        };
        Self { serving: serving.unwrap(), is_silent }
    }

    fn host(&self) -> Host {
        self.serving.addresses()[0].to_socket_addr().unwrap().try_into().unwrap()
    }

    fn be_silent(&self, is_silent: bool) {
        self.is_silent.store(is_silent, Ordering::SeqCst);
    }
}

async fn caller(center: &Center, sign_within: Duration) -> Caller {
    let builder = Caller::builder().timeout(LONG).connect_timeout(sign_within).reconnect_pause(Duration::ZERO);
    builder.connect(center.address()).await.unwrap()
}

async fn who(caller: &Caller) -> Result<String, CallError> {
    caller.call("who", &()).await
}

/// Calls the silent one until it was its turn.
async fn run_out_of_time(caller: &Caller) {
    let hurried = caller.with_timeout(SHORT);
    let tried = async { while who(&hurried).await.is_ok() {} };
    timeout(LONG, tried).await.unwrap();
}

/// Waits for what nobody tells.
async fn until(condition: impl Fn() -> bool) {
    let looks = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, looks).await.unwrap();
}

#[tokio::test]
async fn who_is_known_by_its_run_gets_a_session_and_others_do_not() {
    let server = serve_who("a", "127.0.0.1:0").await;
    let v1 = Moody::start(false).await;
    for (center, at_server, at_v1) in [(Center::start().await, true, false), (Center::start_v1().await, false, false)] {
        let _both = center.announce("who", vec![host_of(&server), v1.host()]).await;
        let caller = caller(&center, LONG).await;
        let mut answers = [who(&caller).await.unwrap(), who(&caller).await.unwrap()];
        answers.sort();
        assert_eq!(answers, ["a", "moody"]);
        for (host, expected) in [(host_of(&server), at_server), (v1.host(), at_v1)] {
            assert_eq!(caller.inner.pool.client(host).await.unwrap().has_session(), expected, "{host}");
        }
    }
}

#[tokio::test]
async fn calls_turn_to_others_while_one_that_fell_silent_is_asked_for_a_sign() {
    for knows_sessions in [true, false] {
        let center = Center::start().await;
        let (moody, server) = (Moody::start(knows_sessions).await, serve_who("a", "127.0.0.1:0").await);
        let _both = center.announce("who", vec![moody.host(), host_of(&server)]).await;
        let caller = caller(&center, LONG).await;
        for _ in 0..2 {
            who(&caller).await.unwrap();
        }
        moody.be_silent(true);
        run_out_of_time(&caller).await;
        until(|| caller.inner.pool.is_doubtful(moody.host())).await;
        for _ in 0..20 {
            assert_eq!(who(&caller).await.unwrap(), "a");
        }
    }
}

#[tokio::test]
async fn one_that_gives_no_sign_is_left_until_it_is_reached_again() {
    for knows_sessions in [true, false] {
        let center = Center::start().await;
        let (moody, server) = (Moody::start(knows_sessions).await, serve_who("a", "127.0.0.1:0").await);
        let _both = center.announce("who", vec![moody.host(), host_of(&server)]).await;
        let caller = caller(&center, Duration::from_millis(400)).await;
        for _ in 0..2 {
            who(&caller).await.unwrap();
        }
        let before = caller.inner.pool.client(moody.host()).await.unwrap();
        assert_eq!(before.has_session(), knows_sessions);
        let accepted = moody.serving.metrics().accepted;
        moody.be_silent(true);
        run_out_of_time(&caller).await;
        if knows_sessions {
            // Its kernel accepts; but who has opened a session must open one again.
            until(|| caller.inner.pool.is_doubtful(moody.host()) && moody.serving.metrics().accepted > accepted).await;
            assert_eq!(who(&caller).await.unwrap(), "a");
        }
        moody.be_silent(false);
        let found = async { while who(&caller).await.unwrap() != "moody" {} };
        timeout(LONG, found).await.unwrap();
        let after = caller.inner.pool.client(moody.host()).await.unwrap();
        assert_eq!(after.has_session(), knows_sessions);
        drop(before);
        until(|| moody.serving.connections() == 1).await;
    }
}

#[tokio::test]
async fn a_slow_method_does_not_cost_its_provider_the_connection() {
    let center = Center::start().await;
    let router = Router::new()
        .method("who", |(): ()| Ok("slow"))
        .method_async("never", |(): ()| async { std::future::pending::<Result<(), MethodError>>().await });
    let names = router.names();
    let server = Server::builder().router(router).loops(1).listen("127.0.0.1:0").start().await.unwrap();
    let _provider = Provider::new(center.client().await).announce(names, server.addresses()).await.unwrap();
    let caller = caller(&center, LONG).await;
    who(&caller).await.unwrap();
    for _ in 0..3 {
        let error = caller.with_timeout(SHORT).call::<()>("never", &()).await.unwrap_err();
        assert!(matches!(error.kind(), CallErrorKind::Timeout), "{error}");
        until(|| !caller.inner.pool.is_doubtful(host_of(&server))).await;
        assert_eq!(who(&caller).await.unwrap(), "slow");
    }
    assert_eq!(server.metrics().accepted, 1);
}

#[tokio::test]
async fn one_that_leaves_answers_what_it_has_and_the_rest_goes_to_others() {
    let center = Center::start().await;
    let (seen, mut calls) = mpsc::unbounded_channel();
    let (finish, finished) = watch::channel(false);
    let router = Router::new().method("who", |(): ()| Ok("leaving")).method_async("wait", move |(): ()| {
        let (seen, mut finished) = (seen.clone(), finished.clone());
        async move {
            let _ = seen.send(());
            let _ = finished.wait_for(|finished| *finished).await;
            Ok("done")
        }
    });
    let leaving = Server::builder().router(router).loops(1).grace(LONG).listen("127.0.0.1:0").start().await.unwrap();
    let server = serve_who("a", "127.0.0.1:0").await;
    let host = host_of(&leaving);
    let _wait = center.announce("wait", host).await;
    let _who = center.announce("who", vec![host, host_of(&server)]).await;
    let caller = caller(&center, LONG).await;
    let under_way = caller.start::<String>("wait", &()).await.unwrap();
    timeout(LONG, calls.recv()).await.unwrap().unwrap();
    let shutdown = tokio::spawn(leaving.shutdown());
    until(|| caller.inner.pool.is_doubtful(host)).await;
    for _ in 0..20 {
        assert_eq!(who(&caller).await.unwrap(), "a");
    }
    finish.send_replace(true);
    assert_eq!(timeout(LONG, under_way).await.unwrap().unwrap(), "done");
    timeout(LONG, shutdown).await.unwrap().unwrap();
}
