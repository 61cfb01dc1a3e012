//! Providers and callers at two centers that do not know each other.

use std::time::Duration;

use callboard_client::{Centers, Client, Reconnect};
use callboard_common::ResultCode;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::testing::{Center, LONG, dead_host, host_of, serve_who};
use crate::{Caller, Discovery, Provider, ProviderError};

/// Places for two centers that nobody else takes while one of them is away.
struct Stage(TempDir);

impl Stage {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn address(&self, name: &str) -> String {
        format!("unix://{}", self.0.path().join(name).display())
    }

    async fn center(&self, name: &str) -> Center {
        Center::start_at(&self.address(name)).await
    }

    fn list(&self) -> String {
        format!("{}, {}", self.address("a"), self.address("b"))
    }

    async fn provider(&self) -> Provider {
        let soon = Reconnect { longest: Duration::from_millis(20), ..Reconnect::default() };
        Provider::new(Client::builder().timeout(LONG).reconnect(soon).connect_centers(self.list()).await.unwrap())
    }
}

/// Waits until so many hosts provide a method, as the center says.
async fn provided(center: &Center, method: &str, hosts: usize) {
    let discovery = Discovery::new(&center.client().await);
    let known = async {
        while discovery.hosts(method).await.unwrap().len() != hosts {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, known).await.expect("it is provided by so many");
}

/// How many provide it now.
async fn providers(center: &Center, method: &str) -> usize {
    let discovery = Discovery::new(&center.client().await);
    discovery.hosts(method).await.unwrap().len()
}

#[tokio::test]
async fn a_provider_is_registered_at_each_and_again_at_one_that_comes_back() {
    let stage = Stage::new();
    let (a, b) = (stage.center("a").await, stage.center("b").await);
    let server = serve_who("x", "127.0.0.1:0").await;
    let provider = stage.provider().await.announce(["who"], host_of(&server)).await.unwrap();
    for center in [&a, &b] {
        assert_eq!(providers(center, "who").await, 1, "when it has announced");
    }
    let caller = Caller::connect(stage.list()).await.unwrap();
    assert_eq!(caller.call::<String>("who", &()).await.unwrap(), "x");
    a.stop().await;
    assert_eq!(caller.call::<String>("who", &()).await.unwrap(), "x");
    let late = Caller::connect(stage.list()).await.unwrap();
    assert_eq!(late.call::<String>("who", &()).await.unwrap(), "x", "asked of the other center");
    assert!(!provider.is_closed());
    let a = stage.center("a").await;
    provided(&a, "who", 1).await;
    provider.withdraw().await.unwrap();
    for center in [&a, &b] {
        assert_eq!(providers(center, "who").await, 0, "when it has withdrawn");
    }
}

#[tokio::test]
async fn a_center_that_starts_later_is_told_then_and_of_what_is_still_there_only() {
    let stage = Stage::new();
    let a = stage.center("a").await;
    let provider = stage.provider().await.announce(["one", "two"], dead_host(1)).await.unwrap();
    let provider = provider.announce(["three"], dead_host(1)).await.unwrap();
    provider.withdraw_method("two").await.unwrap();
    let b = stage.center("b").await;
    provided(&b, "three", 1).await;
    for center in [&a, &b] {
        assert_eq!([providers(center, "one").await, providers(center, "two").await], [1, 0]);
    }
    drop(provider);
    for center in [&a, &b] {
        provided(center, "one", 0).await;
        provided(center, "three", 0).await;
    }
}

#[tokio::test]
async fn a_center_that_refuses_does_not_keep_others_from_being_told_and_is_asked_again() {
    let stage = Stage::new();
    let (a, b) = (stage.center("a").await, stage.center("b").await);
    a.refuse(2);
    let provider = stage.provider().await.announce(["who"], dead_host(1)).await.unwrap();
    assert_eq!(providers(&b, "who").await, 1);
    provided(&a, "who", 1).await;
    drop(provider);
    provided(&a, "who", 0).await;
    provided(&b, "who", 0).await;
    a.refuse(1);
    b.refuse(1);
    let error = stage.provider().await.announce(["who"], dead_host(1)).await.unwrap_err();
    let ProviderError::Center(why) = &error else { panic!("{error}") };
    assert_eq!((why.code(), why.peer()), (Some(ResultCode::Unavailable), &*a.address()), "the first of the list");
}

#[tokio::test]
async fn a_call_under_way_does_not_notice_that_a_center_goes() {
    let stage = Stage::new();
    let (a, b) = (stage.center("a").await, stage.center("b").await);
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let opened = std::sync::Arc::clone(&gate);
    let (entered, mut is_entered) = tokio::sync::mpsc::unbounded_channel();
    let router = callboard_server::Router::new().method_async("wait", move |(): ()| {
        let (gate, entered) = (std::sync::Arc::clone(&gate), entered.clone());
        async move {
            entered.send(()).unwrap();
            gate.acquire().await.unwrap().forget();
            Ok("through")
        }
    });
    let server = callboard_server::Server::builder().router(router).listen("127.0.0.1:0").start().await.unwrap();
    let _provider = stage.provider().await.announce(["wait"], server.addresses()).await.unwrap();
    let caller = Caller::builder().timeout(LONG).connect(stage.list()).await.unwrap();
    let under_way = caller.start::<String>("wait", &()).await.unwrap();
    is_entered.recv().await.unwrap();
    a.stop().await;
    b.stop().await;
    opened.add_permits(1);
    assert_eq!(under_way.await.unwrap(), "through");
}

#[tokio::test]
async fn where_no_center_is_there_it_is_said_of_each() {
    let stage = Stage::new();
    let error = Provider::connect(stage.list()).await.unwrap_err().to_string();
    assert!(["a", "b"].iter().all(|name| error.contains(&stage.address(name))), "{error}");
    assert!(Centers::connect("").await.is_err());
}
