//! Those who come and go are let in at a rate; those who stay are not, however many come at once.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use callboard_common::{Handler, LengthValue, Message};
use callboard_net::{Address, Conn, Limits, Memory, Serving, Settings, Transport, serve_with};
use tokio::io::{AsyncReadExt, DuplexStream};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

/// Time is paused: it passes only where everybody waits.
struct Rig {
    memory: Memory,
    address: Address,
    other_address: Address,
    serving: Serving,
    gone: Arc<Gone>,
}

/// Counts those who were let in and have gone.
#[derive(Default)]
struct Gone(AtomicU64);

impl Handler<Conn> for Gone {
    fn handle(&self, _conn: &Conn, _message: Message) {}

    fn closed(&self, _conn: &Conn) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// Lets all others run until it is so; time does not pass meanwhile.
async fn until(what: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if what() {
            return;
        }
        yield_now().await;
    }
    panic!("it does not come to that");
}

impl Rig {
    async fn new(limits: Limits) -> Self {
        let (memory, addresses) =
            (Memory::new(64), ["stage:1", "stage:2"].map(|each| each.parse::<Address>().unwrap()));
        let settings = Settings { limits, here: true, ..Settings::default() };
        let (protocol, gone) = (LengthValue::default(), Arc::new(Gone::default()));
        let serving = serve_with(memory.clone(), protocol, &addresses, settings, Arc::clone(&gone)).await.unwrap();
        let [address, other_address] = addresses;
        Self { memory, address, other_address, serving, gone }
    }

    async fn connect(&self) -> DuplexStream {
        self.memory.connect(&self.address).await.unwrap().0
    }

    async fn come_and_go(&self, times: usize) {
        for _ in 0..times {
            drop(self.connect().await);
        }
    }

    fn gone(&self) -> u64 {
        self.gone.0.load(SeqCst)
    }
}

const MS: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn who_comes_and_goes_is_let_in_at_a_rate() {
    let rig = Rig::new(Limits { churn_per_second: 100, ..Limits::default() }).await;
    let begin = Instant::now();
    rig.come_and_go(320).await;
    while rig.gone() < 320 {
        sleep(MS).await;
    }
    // A fifth of a hundred at once, or those who had come before the first of them was gone; then a hundred in a second.
    let took = begin.elapsed();
    assert!(took >= 2400 * MS && took <= 3100 * MS, "{took:?}");
    assert!(rig.serving.metrics().accept_pauses > 100);
}

#[tokio::test(start_paused = true)]
async fn who_is_turned_away_counts_as_gone() {
    let rig = Rig::new(Limits { churn_per_second: 100, max_connections: 1, ..Limits::default() }).await;
    let _stays = rig.connect().await;
    let begin = Instant::now();
    for _ in 0..120 {
        assert_eq!(rig.connect().await.read(&mut [0]).await.unwrap(), 0, "it was turned away");
    }
    assert_eq!((rig.serving.metrics().turned_away, rig.gone()), (120, 0));
    let took = begin.elapsed();
    assert!(took >= 900 * MS && took <= 1100 * MS, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn who_stays_is_let_in_at_once_however_many_come_or_have_gone() {
    let rig = Rig::new(Limits { churn_per_second: 50, ..Limits::default() }).await;
    let begin = Instant::now();
    let mut all = Vec::new();
    while all.len() < 1000 {
        all.push(rig.connect().await);
    }
    until(|| rig.serving.connections() == 1000).await;
    assert_eq!((begin.elapsed(), rig.serving.metrics().accept_pauses), (Duration::ZERO, 0));
    drop(all);
    until(|| rig.gone() == 1000).await;
    let _next = rig.connect().await;
    let _after_the_rest = rig.connect().await;
    while rig.serving.connections() < 2 {
        sleep(MS).await;
    }
    assert!(begin.elapsed() <= 25 * MS, "{:?}", begin.elapsed());
    assert!(rig.serving.metrics().accept_pauses > 0);
}

/// All that have come by then are taken, and told.
#[tokio::test(start_paused = true)]
async fn a_server_that_stops_pauses_no_more() {
    let rig = Rig::new(Limits { churn_per_second: 50, ..Limits::default() }).await;
    let begin = Instant::now();
    rig.come_and_go(15).await;
    until(|| rig.gone() == 15).await;
    rig.come_and_go(60).await;
    until(|| rig.serving.metrics().accept_pauses > 0).await;
    assert!(rig.gone() < 20, "nobody is let in");
    rig.serving.shutdown(Duration::from_secs(5)).await;
    assert!(begin.elapsed() < 20 * MS, "{:?}", begin.elapsed());
    assert_eq!(rig.gone.0.load(SeqCst), 75);
}

#[tokio::test(start_paused = true)]
async fn who_comes_to_another_listener_counts_too_and_pays_only_for_what_has_ended_of_late() {
    let rig = Rig::new(Limits { churn_per_second: 50, ..Limits::default() }).await;
    for _ in 0..60 {
        rig.come_and_go(40).await;
        sleep(1000 * MS).await;
    }
    assert_eq!(rig.gone(), 2400);
    let before = rig.serving.metrics().accept_pauses;
    let _other = rig.memory.connect(&rig.other_address).await.unwrap();
    until(|| rig.serving.connections() > 0).await;
    yield_now().await;
    assert_eq!(rig.serving.metrics().accept_pauses, before, "they had all been paid for");
    rig.come_and_go(40).await;
    while rig.gone() < 2440 {
        sleep(MS).await;
    }
    let before = rig.serving.metrics().accept_pauses;
    let _other = rig.memory.connect(&rig.other_address).await.unwrap();
    until(|| rig.serving.metrics().accept_pauses > before).await;
}
