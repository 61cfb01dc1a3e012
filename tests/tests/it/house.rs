//! The center and the methods that the tests use.

use std::time::Duration;

use callboard_center::Center;
use callboard_client::{Client, ClientBuilder, SessionMode};
use callboard_net::{Address, Limits};
use callboard_server::{Method, MethodError, Router, Type};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Pair {
    num1: i64,
    num2: i64,
}

/// Every sort of method.
pub(crate) fn router() -> Router {
    Router::new()
        .method(
            Method::new("add").param("num1", Type::Integer).param("num2", Type::Integer).returns(Type::Integer),
            |p: Pair| Ok(p.num1 + p.num2),
        )
        .method("plain_add", |p: Pair| Ok(p.num1 + p.num2))
        .method("echo", |value: Value| Ok(value))
        .method("nothing", |_: Value| Ok(()))
        .method("fail", |_: Value| Err::<(), _>(MethodError::new(42, "the lights are out").with_data(&["stage"])))
        .method("panic", |_: Value| -> Result<(), MethodError> { panic!("a handler fell into the pit") })
        .method_async("async_echo", |value: Value| async move { Ok(value) })
        .method_async("async_panic", |_: Value| async move { fall().await })
        .method_async("never", |_: Value| async move {
            std::future::pending::<()>().await;
            Ok(())
        })
        .method_blocking("blocking_echo", |value: Value| Ok(value))
}

/// What a broken async handler does.
async fn fall() -> Result<(), MethodError> {
    tokio::task::yield_now().await;
    panic!("an async handler fell into the pit")
}

/// A center with those methods on a port of its own.
pub(crate) async fn center_with(limits: Limits) -> Center {
    Center::builder().listen("tcp://127.0.0.1:0").limits(limits).router(router()).start().await.unwrap()
}

pub(crate) async fn center() -> Center {
    center_with(Limits::default()).await
}

pub(crate) fn address(center: &Center) -> Address {
    center.addresses()[0].clone()
}

/// A busy machine may be slow to grant a session; without one there are no keys, and those that listen nowhere are not found.
pub(crate) fn sessions() -> ClientBuilder {
    Client::builder().session(SessionMode::Require).session_timeout(Duration::from_secs(20))
}

/// Waits for something that nobody tells: looks again until it is so.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not come about within 20 s: {what}");
}
