//! A rolling restart: everything is restarted in turn, under load, and no call is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use callboard::{Center, Provider, Server, leave};
use callboard_tests::{Load, methods, within};

use crate::house::until;

const PROVIDERS: usize = 4;
const CALLERS: usize = 8;

/// A provider and its server.
type Part = (Provider, Server);

async fn provider(center: &str, listen: &str, noted: &Arc<AtomicU64>) -> Part {
    let router = methods(noted);
    let server = Server::builder().router(router.clone()).loops(1).listen(listen).start().await.unwrap();
    let provider = Provider::connect(center).await.unwrap();
    (provider.announce(router.names(), server.addresses()).await.unwrap(), server)
}

async fn center(listen: &str) -> Center {
    Center::builder().listen(listen).loops(1).start().await.unwrap()
}

/// So many calls are made while all is quiet: more than once round all providers for each caller.
async fn go_on(load: &Load) {
    within(load.go_on(4 * (PROVIDERS * CALLERS) as u64)).await;
}

#[tokio::test]
async fn a_rolling_restart_of_everything_loses_no_call() {
    let mut house = center("127.0.0.1:0").await;
    let at = house.address();
    let noted = Arc::default();
    let mut providers = Vec::new();
    for _ in 0..PROVIDERS {
        providers.push(provider(&at, "127.0.0.1:0", &noted).await);
    }
    let load = Load::start_with_notes(&at, CALLERS).await;
    go_on(&load).await;
    for number in 0..PROVIDERS {
        let (leaving, server) = providers.remove(0);
        let listen = server.addresses()[0].to_string();
        let stopped = within(leave(leaving, server)).await;
        assert_eq!(stopped.cut, 0, "provider {number}");
        go_on(&load).await;
        let back = provider(&at, &listen, &noted).await;
        until("callers have found it again", || back.1.connections() == CALLERS).await;
        providers.push(back);
        go_on(&load).await;
    }
    within(house.shutdown()).await;
    go_on(&load).await;
    house = center(&at).await;
    // Most likely nobody is registered yet.
    let newcomers = within(Load::start(&at, CALLERS)).await;
    // Each provider has three methods at one host.
    until("all are registered again", || house.registry_size().connections == PROVIDERS + 2 * CALLERS).await;
    go_on(&load).await;
    go_on(&newcomers).await;
    let report = within(newcomers.stop()).await;
    assert_eq!((report.failed, &report.errors[..]), (0, &[][..]), "{} calls of newcomers", report.calls);
    let report = within(load.stop()).await;
    assert_eq!((report.failed, &report.errors[..]), (0, &[][..]), "{} calls", report.calls);
    until("all one-way calls are executed", || noted.load(Relaxed) >= report.notes).await;
    assert_eq!(noted.load(Relaxed), report.notes);
}
