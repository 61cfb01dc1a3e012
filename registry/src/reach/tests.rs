use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use callboard_common::{Features, Handler, Limits, Recorder, Session};
use tokio::time::sleep;

use super::*;
use crate::{AvailabilityPolicy, RegistryLimits, TableSize};

/// Does with each port as it is told: 1 is reached, 2 refused, 3 silent (and all from 20,000 on), 4 a mistake of ours.
#[derive(Default)]
struct Scripted {
    tried: Mutex<Vec<u16>>,
    under_way: AtomicUsize,
    most: AtomicUsize,
}

impl Reach for Arc<Scripted> {
    async fn reach(&self, host: Host) -> io::Result<()> {
        self.tried.lock().unwrap().push(host.port());
        self.most.fetch_max(self.under_way.fetch_add(1, SeqCst) + 1, SeqCst);
        sleep(Duration::from_millis(10)).await;
        self.under_way.fetch_sub(1, SeqCst);
        match host.port() {
            2 => Err(io::ErrorKind::ConnectionRefused.into()),
            3 | 20_000.. => pending().await,
            4 => panic!("a mistake"),
            _ => Ok(()),
        }
    }
}

struct House {
    service: Arc<RegistryService<Recorder>>,
    reach: Arc<Scripted>,
    _keeper: JoinSet<()>,
}

impl House {
    fn new(policy: AvailabilityPolicy) -> Self {
        let service = Arc::new(RegistryService::with_policy(RegistryLimits::default(), policy));
        let reach = Arc::new(Scripted::default());
        let mut keeper = JoinSet::new();
        let (kept, scripted) = (Arc::clone(&service), Arc::clone(&reach));
        keeper.spawn(async move { kept.keep(scripted).await });
        Self { service, reach, _keeper: keeper }
    }

    fn send(&self, conn: &Recorder, body: &str) {
        self.service.handle(conn, conn.message(4, b"id", body.as_bytes()));
    }

    fn register(&self, conn: &Recorder, port: u16) {
        self.send(conn, &format!(r#"{{"method":"add","optype":0,"host":{{"ip":"127.0.0.1","port":{port}}}}}"#));
    }

    fn watcher(&self) -> Recorder {
        let watcher = Recorder::new(99);
        self.send(&watcher, r#"{"method":"add","optype":1}"#);
        watcher.take();
        watcher
    }
}

fn run_of(id: u64, instance: &str) -> Recorder {
    let (name, instance) = (String::new(), instance.to_owned());
    Recorder::with_session(
        id,
        Session {
            name,
            instance,
            store: None,
            features: Features::ALL,
            limits: Limits::default(),
            heartbeats: None,
            serving: None,
        },
    )
}

fn texts(conn: &Recorder) -> Vec<String> {
    conn.take().iter().map(|sent| sent.text().into_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn registrations_wait_for_their_host_and_are_answered_once() {
    let house = House::new(AvailabilityPolicy::default());
    let watcher = house.watcher();
    let refusal = |port: u16, why: &str| {
        format!(
            r#"{{"rcode":22,"optype":0,"error":{{"message":"\"add\" was not registered: the center can't reach 127.0.0.1:{port} ({why}); listen there first, or name a host that the center can reach","executed":"no"}}}}"#
        )
    };
    let rows = [
        (1, r#"{"rcode":0,"optype":0}"#.to_owned(), 10),
        (2, refusal(2, "connection refused"), 10),
        (3, refusal(3, "no answer in time"), 1000),
        (4, refusal(4, "the attempt failed"), 10),
    ];
    for (port, answer, millis) in rows {
        let provider = run_of(u64::from(port), "a");
        house.register(&provider, port);
        sleep(Duration::from_millis(millis - 1)).await;
        assert_eq!((texts(&provider), provider.in_flight()), (vec![], 1), "port {port}");
        sleep(Duration::from_millis(2)).await;
        assert_eq!((texts(&provider), provider.in_flight()), (vec![answer], 0), "port {port}");
        house.register(&provider, 1);
        sleep(Duration::from_millis(11)).await;
        assert_eq!(texts(&provider), [r#"{"rcode":0,"optype":0}"#]);
    }
    assert_eq!(texts(&watcher).len(), 1, "one host came");
    assert_eq!(
        *house.reach.tried.lock().unwrap(),
        [1, 2, 1, 3, 3, 1, 4, 1],
        "once for each connection and host, twice if it is silent"
    );
}

#[tokio::test(start_paused = true)]
async fn who_is_gone_goes_offline_when_its_time_is_over() {
    let house = House::new(AvailabilityPolicy::default());
    let (watcher, provider) = (house.watcher(), run_of(1, "a"));
    house.register(&provider, 1);
    sleep(Duration::from_millis(11)).await;
    assert_eq!(texts(&watcher).len(), 1);
    house.service.closed(&provider);
    sleep(Duration::from_millis(1998)).await;
    assert_eq!(texts(&watcher), [""; 0]);
    sleep(Duration::from_millis(3)).await;
    assert_eq!(texts(&watcher), [r#"{"method":"add","optype":3,"host":{"ip":"127.0.0.1","port":1}}"#]);
    assert_eq!(*house.reach.tried.lock().unwrap(), [1, 1], "it was tried again at once");
    house.service.closed(&watcher);
    assert_eq!(house.service.size(), TableSize::default());
}

#[tokio::test(start_paused = true)]
async fn one_that_was_silent_before_its_end_has_only_what_is_left_of_its_time() {
    let house = House::new(AvailabilityPolicy::default());
    let watcher = house.watcher();
    for (id, left) in [(1, 0), (2, 40), (3, 700)] {
        let provider = run_of(id, "a");
        house.register(&provider, 1);
        sleep(Duration::from_millis(11)).await;
        assert_eq!(texts(&watcher).len(), 1);
        provider.fall_silent(Duration::from_millis(left));
        house.service.closed(&provider);
        if left > 0 {
            sleep(Duration::from_millis(left - 2)).await;
            assert_eq!(texts(&watcher), [""; 0], "{left}");
            sleep(Duration::from_millis(3)).await;
        }
        assert_eq!(texts(&watcher), [r#"{"method":"add","optype":3,"host":{"ip":"127.0.0.1","port":1}}"#], "{left}");
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_under_way_are_bounded() {
    let house = House::new(AvailabilityPolicy { max_probes: 3, ..AvailabilityPolicy::default() });
    let providers: Vec<_> = (1..=10).map(|id| run_of(id, "a")).collect();
    for (provider, port) in providers.iter().zip(11..) {
        house.register(provider, port);
    }
    sleep(Duration::from_millis(35)).await;
    assert_eq!(providers.iter().map(|provider| provider.take().len()).sum::<usize>(), 9);
    sleep(Duration::from_millis(10)).await;
    assert_eq!((providers[9].take().len(), house.reach.most.load(SeqCst)), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn hosts_that_do_not_answer_hold_up_nobody_else() {
    let house = House::new(AvailabilityPolicy::default());
    let (watcher, online, healthy) = (house.watcher(), run_of(1, "a"), run_of(2, "b"));
    house.register(&online, 1);
    sleep(Duration::from_millis(11)).await;
    assert_eq!(texts(&watcher).len(), 1);
    let silent: Vec<_> = (1000..1900).map(|id| run_of(id, "x")).collect();
    for provider in &silent {
        house.register(provider, 3);
    }
    sleep(Duration::from_millis(1)).await;
    house.register(&healthy, 11);
    house.service.closed(&online);
    sleep(Duration::from_millis(12)).await;
    assert_eq!(texts(&healthy), [r#"{"rcode":0,"optype":0}"#]);
    assert_eq!(*house.reach.tried.lock().unwrap(), [1, 3, 1, 11], "all at once, and the silent one once");
    sleep(Duration::from_millis(2001)).await;
    assert!(silent.iter().all(|provider| provider.take().len() == 1), "refused");
}

#[tokio::test(start_paused = true)]
async fn nine_hundred_silent_hosts_hold_up_a_newcomer_for_less_than_a_second_and_a_half() {
    let house = House::new(AvailabilityPolicy::default());
    let silent: Vec<_> = (20_000..20_900).map(|port| (run_of(port, "x"), u16::try_from(port).unwrap())).collect();
    for (provider, port) in &silent {
        house.register(provider, *port);
    }
    sleep(Duration::from_millis(1)).await;
    let (first, later) = (run_of(1, "a"), run_of(2, "b"));
    house.register(&first, 11);
    sleep(Duration::from_millis(1_450)).await;
    assert_eq!(texts(&first), [r#"{"rcode":0,"optype":0}"#]);
    sleep(Duration::from_millis(500)).await;
    house.register(&later, 12);
    sleep(Duration::from_millis(12)).await;
    assert_eq!(texts(&later), [r#"{"rcode":0,"optype":0}"#], "at once: all had their first attempt");
    sleep(Duration::from_secs(13)).await;
    assert!(silent.iter().all(|(provider, _)| provider.take().len() == 1), "refused");
    assert_eq!(house.reach.most.load(SeqCst), 2 * 64, "at once");
}

#[tokio::test(start_paused = true)]
async fn a_center_that_ends_refuses_what_waits_and_tells_nobody_who_is_gone() {
    let house = House::new(AvailabilityPolicy::default());
    let (watcher, provider, waiting) = (house.watcher(), run_of(1, "a"), run_of(2, "b"));
    house.register(&provider, 1);
    sleep(Duration::from_millis(11)).await;
    house.service.closed(&provider);
    house.register(&waiting, 3);
    assert_eq!(texts(&watcher).len(), 1);
    house.service.drain();
    let refusals = texts(&waiting);
    assert!(refusals.len() == 1 && refusals[0].starts_with(r#"{"rcode":22,"optype":0,"#), "{refusals:?}");
    house.register(&waiting, 3);
    assert_eq!((texts(&waiting).len(), waiting.in_flight()), (1, 0), "also what comes later");
    house.service.closed(&waiting);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(texts(&watcher), [""; 0]);
    house.service.closed(&watcher);
    assert_eq!(house.service.size(), TableSize::default());
}
