//! A center that goes and comes back, seen by those who were connected to it.

use std::time::Duration;

use callboard_client::{CallError, CallErrorKind, Client, ClientState, Reconnect};
use callboard_common::{Executed, Host};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;

use crate::testing::{Center, LONG, dead_host, host_of, serve_who};
use crate::{Caller, CallerBuilder, Discovery, Notice, Provider};

/// A place for a center that nobody else takes while the center is away.
struct Stage(TempDir);

impl Stage {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn address(&self) -> String {
        format!("unix://{}", self.0.path().join("center").display())
    }

    async fn center(&self) -> Center {
        Center::start_at(&self.address()).await
    }

    async fn client(&self) -> Client {
        Client::builder().timeout(LONG).session_timeout(LONG).reconnect(soon()).connect(self.address()).await.unwrap()
    }

    async fn provider(&self, hosts: impl Into<crate::Place>) -> Provider {
        Provider::new(self.client().await).announce(["who"], hosts).await.unwrap()
    }

    async fn caller(&self, settings: CallerBuilder) -> Caller {
        settings.timeout(LONG).connect_timeout(LONG).reconnect(soon()).connect(self.address()).await.unwrap()
    }
}

/// After pauses that no test has to wait for.
fn soon() -> Reconnect {
    Reconnect { longest: Duration::from_millis(20), ..Reconnect::default() }
}

async fn until_state(client: &Client, wanted: impl Fn(&ClientState) -> bool) {
    let mut states = client.states();
    while !wanted(&timeout(LONG, states.next()).await.unwrap().expect("it goes on")) {}
}

async fn lost(client: &Client) {
    until_state(client, |state| matches!(state, ClientState::Lost { .. } | ClientState::Connecting)).await;
}

async fn resumed(client: &Client) {
    until_state(client, |state| *state == ClientState::Resumed).await;
}

/// Waits for something that nobody tells.
async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not come about: {what}");
}

/// What it says without which change and which run it was.
fn plain(notice: Notice) -> Notice {
    Notice::new(notice.method, notice.host, notice.online)
}

fn notice(host: Host, online: bool) -> Notice {
    Notice::new("who", host, online)
}

#[tokio::test]
async fn all_is_registered_and_discovered_again_and_nobody_was_missed() {
    let stage = Stage::new();
    let center = stage.center().await;
    let server = serve_who("a", "127.0.0.1:0").await;
    let _provider = stage.provider(host_of(&server)).await;
    let caller = stage.caller(Caller::builder()).await;
    assert_eq!(caller.call::<String>("who", &()).await.unwrap(), "a");
    let mut notices = caller.notices();
    center.stop().await;
    lost(caller.center()).await;
    let center = stage.center().await;
    resumed(caller.center()).await;
    assert_eq!(caller.call::<String>("who", &()).await.unwrap(), "a", "though the center may not know of it yet");
    until("the provider is registered again", || center.registry().size().connections == 2).await;
    let other = stage.provider(dead_host(1)).await;
    assert_eq!(
        timeout(LONG, notices.next()).await.unwrap().map(plain),
        Some(notice(dead_host(1), true)),
        "the first that is told"
    );
    other.withdraw().await.unwrap();
    assert_eq!(timeout(LONG, notices.next()).await.unwrap().map(plain), Some(notice(dead_host(1), false)));
    assert_eq!(caller.hosts("who").await.unwrap(), [host_of(&server)]);
}

#[tokio::test]
async fn who_went_and_who_came_meanwhile_is_told() {
    let stage = Stage::new();
    let center = stage.center().await;
    let gone = stage.provider(dead_host(1)).await;
    let caller = stage.caller(Caller::builder().keep_unconfirmed(Duration::from_millis(300))).await;
    assert_eq!(caller.hosts("who").await.unwrap(), [dead_host(1)]);
    let mut notices = caller.notices();
    center.stop().await;
    lost(caller.center()).await;
    drop(gone);
    let _center = stage.center().await;
    let _came = stage.provider(dead_host(2)).await;
    let mut heard = Vec::new();
    while heard.len() < 2 {
        heard.push(plain(timeout(LONG, notices.next()).await.unwrap().unwrap()));
    }
    assert_eq!(heard, [notice(dead_host(2), true), notice(dead_host(1), false)]);
    assert_eq!(caller.hosts("who").await.unwrap(), [dead_host(2)]);
}

#[tokio::test]
async fn a_look_up_waits_for_the_center() {
    let stage = Stage::new();
    let center = stage.center().await;
    let client = stage.client().await;
    let discovery = Discovery::new(&client);
    center.stop().await;
    lost(&client).await;
    let asking = tokio::spawn({
        let discovery = discovery.clone();
        async move { discovery.hosts("who").await }
    });
    let _center = stage.center().await;
    assert!(timeout(LONG, asking).await.unwrap().unwrap().unwrap().is_empty());
    let patient = discovery.wait_for_provider("who", LONG);
    let (found, _provider) = tokio::join!(patient, stage.provider(dead_host(1)));
    assert_eq!(found.unwrap()[..], [dead_host(1)]);
}

#[tokio::test]
async fn a_center_that_refuses_at_first_is_asked_again() {
    let stage = Stage::new();
    let center = stage.center().await;
    let provider = stage.provider(vec![dead_host(1), dead_host(2)]).await;
    center.stop().await;
    lost(provider.center()).await;
    let center = stage.center().await;
    center.refuse(3);
    let discovery = Discovery::new(&stage.client().await);
    let found = async {
        while discovery.hosts("who").await.unwrap().len() < 2 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, found).await.unwrap();
}

#[tokio::test]
async fn what_was_withdrawn_or_dropped_while_the_center_was_away_is_not_registered_again() {
    let stage = Stage::new();
    let center = stage.center().await;
    let shared = stage.client().await;
    let kept = Provider::new(shared.clone()).announce(["kept", "withdrawn"], dead_host(1)).await.unwrap();
    let dropped = Provider::new(shared.clone()).announce(["dropped"], dead_host(1)).await.unwrap();
    center.stop().await;
    lost(&shared).await;
    drop(dropped);
    // Nothing can be asked of the center, and nothing need be.
    drop(kept.withdraw_method("withdrawn").await);
    let center = stage.center().await;
    until("what is kept is registered again", || center.registry().size().methods > 0).await;
    let discovery = Discovery::new(&shared);
    for (method, hosts) in [("kept", 1), ("withdrawn", 0), ("dropped", 0)] {
        assert_eq!(discovery.hosts(method).await.unwrap().len(), hosts, "{method}");
    }
}

#[tokio::test]
async fn what_is_withdrawn_while_it_is_announced_again_stays_withdrawn() {
    let stage = Stage::new();
    let center = stage.center().await;
    let methods: Vec<_> = (0..3000).map(|n| format!("m{n:04}")).chain(["the last".to_owned()]).collect();
    let provider = Provider::new(stage.client().await).announce(methods, dead_host(1)).await.unwrap();
    center.stop().await;
    lost(provider.center()).await;
    let center = stage.center().await;
    while center.registry().size().methods == 0 {
        tokio::task::yield_now().await;
    }
    provider.withdraw_method("m2999").await.unwrap();
    let discovery = Discovery::new(&stage.client().await);
    // They are announced in the order of their names.
    discovery.wait_for_provider("the last", LONG).await.unwrap();
    assert!(discovery.hosts("m2999").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_second_loss_keeps_who_was_not_heard_of_yet() {
    let stage = Stage::new();
    let center = stage.center().await;
    let slow = stage.provider(dead_host(1)).await;
    let caller = stage.caller(Caller::builder().keep_unconfirmed(Duration::from_secs(15))).await;
    assert_eq!(caller.hosts("who").await.unwrap(), [dead_host(1)]);
    center.stop().await;
    lost(caller.center()).await;
    drop(slow);
    let _center = stage.center().await;
    resumed(caller.center()).await;
    assert_eq!(caller.hosts("who").await.unwrap(), [dead_host(1)]);
    let generation = caller.center().generation();
    caller.center().hang_up("once more");
    until("there is another connection", || caller.center().generation() > generation).await;
    assert_eq!(caller.hosts("who").await.unwrap(), [dead_host(1)]);
}

#[tokio::test]
async fn a_look_up_while_a_center_leaves_goes_to_the_next() {
    let (one, two) = (Center::start().await, Center::start().await);
    let both = format!("{},{}", one.address(), two.address());
    let client = Client::builder().timeout(LONG).reconnect(soon()).connect(both).await.unwrap();
    let discovery = Discovery::new(&client);
    let stopping = tokio::spawn(one.stop_in(LONG));
    let asked = async {
        let first = client.generation();
        for n in 0.. {
            discovery.hosts(&format!("m{n}")).await.unwrap();
            if client.generation() > first {
                break;
            }
        }
    };
    timeout(LONG, asked).await.unwrap();
    timeout(LONG, stopping).await.unwrap().unwrap();
}

const HOUR: Duration = Duration::from_hours(1);

/// Calls, and returns once the center has been asked.
async fn call_of(caller: &Caller, center: &Center) -> tokio::task::JoinHandle<Result<String, CallError>> {
    let (caller, asked) = (caller.clone(), center.discoveries());
    let call = tokio::spawn(async move { caller.call("who", &()).await });
    until("the center is asked", || center.discoveries() > asked).await;
    call
}

#[tokio::test]
async fn the_first_call_at_a_center_that_has_just_begun_waits_for_who_comes_back() {
    let stage = Stage::new();
    let center = Center::start_young(&stage.address(), HOUR).await;
    let caller = stage.caller(Caller::builder()).await;
    let call = call_of(&caller, &center).await;
    assert!(caller.hosts("who").await.unwrap().is_empty(), "a list says what is known now");
    let server = serve_who("a", "127.0.0.1:0").await;
    let _provider = stage.provider(host_of(&server)).await;
    assert_eq!(timeout(LONG, call).await.unwrap().unwrap().unwrap(), "a");
}

#[tokio::test]
async fn what_nobody_provided_before_is_waited_for_at_a_center_that_has_begun_anew() {
    let stage = Stage::new();
    let center = stage.center().await;
    let caller = stage.caller(Caller::builder()).await;
    let error = caller.call::<String>("who", &()).await.unwrap_err();
    assert!(error.to_string().contains("nobody provides it ("), "{error}");
    center.stop().await;
    lost(caller.center()).await;
    let center = Center::start_young(&stage.address(), HOUR).await;
    resumed(caller.center()).await;
    let call = tokio::spawn({
        let caller = caller.clone();
        async move { caller.call::<String>("who", &()).await }
    });
    let server = serve_who("a", "127.0.0.1:0").await;
    let _provider = stage.provider(host_of(&server)).await;
    assert_eq!(timeout(LONG, call).await.unwrap().unwrap().unwrap(), "a");
    drop(center);
}

#[tokio::test]
async fn a_call_waits_for_nobody_once_the_center_has_run_for_long_enough_or_its_own_time_is_over() {
    let stage = Stage::new();
    let warm_up = Duration::from_millis(50);
    let center = Center::start_young(&stage.address(), warm_up).await;
    let error =
        timeout(LONG, stage.caller(Caller::builder()).await.call::<String>("who", &())).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("nobody provides it ("), "{error}");
    center.stop().await;
    let _center = Center::start_young(&stage.address(), HOUR).await;
    let caller = stage.caller(Caller::builder()).await.with_timeout(warm_up);
    let error = caller.call::<String>("who", &()).await.unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::NotFound), "{error}");
    assert!(error.to_string().contains("nobody provides it yet: the center has just begun"), "{error}");
    assert_eq!(error.executed(), Executed::No);
}

/// It waits for a center of which it hears nothing more, and then for the next one.
#[tokio::test]
async fn a_call_that_waits_goes_on_waiting_at_the_next_run_of_the_center() {
    let stage = Stage::new();
    let center = Center::start_young(&stage.address(), HOUR).await;
    let caller = stage.caller(Caller::builder()).await;
    let call = call_of(&caller, &center).await;
    center.stop().await;
    lost(caller.center()).await;
    let _center = Center::start_young(&stage.address(), HOUR).await;
    let server = serve_who("a", "127.0.0.1:0").await;
    let _provider = stage.provider(host_of(&server)).await;
    assert_eq!(timeout(LONG, call).await.unwrap().unwrap().unwrap(), "a");
}
