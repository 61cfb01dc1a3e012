use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use callboard_client::{Centers, ClientBuilder, Reconnect, RetryBudget};
use callboard_common::{Heartbeat, Heartbeats};
use callboard_net::{Address, Limits};
use callboard_registry::{AvailabilityPolicy, Place, Provider};
use tokio::time::{Instant, sleep, timeout};

use super::House;
use super::calls::Desk;
use crate::Host;
use crate::sim::lock;

/// What a machine of the house runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    Center,
    Provider,
    /// A provider that listens nowhere.
    Relayed,
    Caller,
    Watcher,
    Publisher,
    Subscriber,
}

impl Role {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Center => "center",
            Self::Provider => "provider",
            Self::Relayed => "relayed provider",
            Self::Caller => "caller",
            Self::Watcher => "watcher",
            Self::Publisher => "publisher",
            Self::Subscriber => "subscriber",
        }
    }
}

/// Runs until the machine is killed or asked to end, or its user has enough.
pub(super) async fn run(house: Arc<House>, role: Role, place: usize, host: Host) {
    match role {
        Role::Center => center(&house, place, &host).await,
        Role::Provider => provide(&house, place, &host).await,
        Role::Relayed => provide_relayed(&house, place, &host).await,
        Role::Caller => call(&house, place, &host).await,
        Role::Watcher => watch(&house, place, &host).await,
        Role::Publisher => house.news.publish(centers(&house, &host).await).await,
        Role::Subscriber => house.news.hear(place, centers(&house, &host).await).await,
    }
}

async fn center(house: &House, place: usize, host: &Host) {
    let mut asked = pin!(host.asked_to_end());
    // Who comes and goes all the time is told of at once: faults here come faster than in any minute of a real house.
    let policy = AvailabilityPolicy { flap_changes: usize::MAX, ..AvailabilityPolicy::default() };
    let builder = || host.center().availability(policy).limits(limits()).topic_limits(house.news.limits());
    let start = || builder().start_over(host.transport());
    let center = tokio::select! {
        biased;
        () = &mut asked => return,
        center = until_done(start) => Arc::new(center),
    };
    house.news.center_began();
    lock(&house.centers).insert(place, Arc::downgrade(&center));
    asked.await;
    // Others only look at it.
    if let Some(center) = Arc::into_inner(center) {
        center.shutdown().await;
    }
}

async fn provide(house: &House, place: usize, host: &Host) {
    let (port, mut asked) = (house.next_port(), pin!(host.asked_to_end()));
    let address = host.address(port);
    let router = house.calls.router();
    let names = router.names();
    // One in four is in a hurry, and signs in before it listens.
    let late = (house.sim.draw(4) == 0).then(|| house.sim.draw_time(Duration::from_secs(1)));
    let serve = async {
        if let Some(late) = late {
            sleep(late).await;
        }
        let server = || host.server(port).limits(limits()).grace(CALL).router(router.clone());
        until_done(|| server().start_over(host.transport())).await
    };
    let sign_in = async {
        let centers = centers(house, host).await;
        let place: Address = address.parse().unwrap_or_else(|why| panic!("{why}"));
        until_done(|| Provider::new(&centers).announce(names.clone(), place.clone())).await
    };
    let (server, provider) = tokio::select! {
        biased;
        () = &mut asked => return,
        both = async { tokio::join!(biased; serve, sign_in) } => both,
    };
    lock(&house.providing).insert(place, address.trim_start_matches("tcp://").to_owned());
    asked.await;
    // What the end of its connection says, unless it can say so itself in time.
    let _ = timeout(WITHDRAW, provider.withdraw()).await;
    server.shutdown().await;
}

/// Callers reach it through the centers, over its own connections.
async fn provide_relayed(house: &House, place: usize, host: &Host) {
    let mut asked = pin!(host.asked_to_end());
    let router = house.calls.relayed_router();
    let (names, centers) = (router.names(), house.center_list());
    let sign_in = async {
        let connect = || settings(host).serves(router.clone()).connect_centers(&centers);
        let centers = until_done(connect).await;
        until_done(|| Provider::new(&centers).announce(names.clone(), Place::Relay)).await
    };
    let provider = tokio::select! {
        biased;
        () = &mut asked => return,
        provider = sign_in => provider,
    };
    lock(&house.relayed).insert(place, callboard_common::Host::relayed(&host.instance()).to_string());
    asked.await;
    let _ = timeout(WITHDRAW, provider.withdraw()).await;
}

async fn call(house: &House, place: usize, host: &Host) {
    let desk = desk(house, host).await;
    lock(&house.callers).insert((Role::Caller, place), desk.clone());
    house.calls.work(&desk).await;
}

async fn watch(house: &House, place: usize, host: &Host) {
    let desk = desk(house, host).await;
    lock(&house.callers).insert((Role::Watcher, place), desk.clone());
    house.watch.follow(&desk.caller).await;
}

async fn desk(house: &House, host: &Host) -> Desk {
    let (centers, since) = (house.center_list(), Instant::now());
    let builder = || {
        let builder = host.caller().client(settings(host)).timeout(CALL);
        builder.keep_unconfirmed(KEEP_UNCONFIRMED).retry_budget(BUDGET)
    };
    house.calls.desk(until_done(|| builder().connect(&centers)).await, BUDGET, since)
}

async fn centers(house: &House, host: &Host) -> Centers {
    let centers = house.center_list();
    until_done(|| settings(host).connect_centers(&centers)).await
}

pub(super) fn settings(host: &Host) -> ClientBuilder {
    host.client().reconnect(soon())
}

/// Tries until it works: programs may start before those that they need.
pub(super) async fn until_done<T, E, F: Future<Output = Result<T, E>>>(mut attempt: impl FnMut() -> F) -> T {
    loop {
        if let Ok(done) = attempt().await {
            return done;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Callers are taken for dead as soon as providers, so that a connection that is lost is noticed within 5 s.
fn limits() -> Limits {
    let heartbeats = Heartbeats { caller: Heartbeat::from_ms(1000, 3000), ..Heartbeats::default() };
    Limits { heartbeats, ..Limits::default() }
}

/// Pauses of up to 5 s, as they are unless set otherwise, would be as long as all may take.
fn soon() -> Reconnect {
    Reconnect { longest: Duration::from_secs(1), ..Reconnect::default() }
}

/// Longer than the longest pause of a provider that comes back to a center that began anew.
const KEEP_UNCONFIRMED: Duration = Duration::from_millis(1500);
/// For a call: shorter than it takes to notice a dead peer, so that both are met.
const CALL: Duration = Duration::from_secs(2);
/// How long a provider that ends waits for centers that do not answer.
const WITHDRAW: Duration = Duration::from_secs(1);
/// Little, so that it is met.
const BUDGET: RetryBudget = RetryBudget { percent: 20, reserve: 2, most: 10 };
