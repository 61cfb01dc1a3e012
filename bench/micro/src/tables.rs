//! A center's tables: topics with their subscribers, and who provides what.

use std::collections::BTreeSet;
use std::hint::black_box;

use callboard::common::{Handler, Host, Recorder};
use callboard::pubsub::TopicService;
use callboard::registry::{Effects, Notice, RegistryLimits, Table};
use callboard::{Center, Client, Subscription, Topics};

use crate::calls::runtime;
use crate::{ID, Operation, Run, TEXT};

pub(crate) const OPERATIONS: &[Operation] = &[
    Operation::new("topics: a message to 1 subscriber", 5000, || fan_out(1)),
    Operation::new("topics: a message to 10 subscribers", 1000, || fan_out(10)),
    Operation::new("topics: a message to 100 subscribers", 100, || fan_out(100)),
    Operation::new("whole: a message over sockets, all three sides", 1000, message),
    Operation::new("registry: register and withdraw, no other method", 5000, || register(1)),
    Operation::new("registry: register and withdraw, 10,000 methods", 30_000, || register(10_000)).loose(),
    Operation::new("registry: discover, 1 method", 5000, || discover(1)),
    Operation::new("registry: discover, 10,000 methods", 100_000, || discover(10_000)),
];

const REQ_TOPIC: u32 = 2;

fn fan_out(subscribers: u64) -> Run {
    let (topics, publisher) = (TopicService::new(), Recorder::new(0));
    let send = move |topics: &TopicService<_>, peer: &Recorder, body: &[u8]| {
        topics.handle(peer, peer.message(REQ_TOPIC, ID, body));
    };
    send(&topics, &publisher, br#"{"topic_key":"news","optype":0}"#);
    let subscribers: Vec<_> = (1..=subscribers).map(Recorder::new).collect();
    for subscriber in &subscribers {
        send(&topics, subscriber, br#"{"topic_key":"news","optype":2}"#);
    }
    let body = format!(r#"{{"topic_key":"news","optype":4,"topic_msg":"{TEXT}"}}"#);
    let message = publisher.message(REQ_TOPIC, ID, body.as_bytes());
    Box::new(move || {
        topics.handle(&publisher, message.clone());
        black_box(publisher.take());
        for subscriber in &subscribers {
            black_box(subscriber.take());
        }
    })
}

/// Published by one client and heard by another, on one thread; the center is on a loop of its own.
fn message() -> Run {
    let runtime = runtime();
    let (center, topics, mut news) = runtime.block_on(async {
        let center = Center::builder().listen("127.0.0.1:0").loops(1).start().await.unwrap();
        let topics = Topics::new(Client::connect(center.address()).await.unwrap());
        topics.create("news").await.unwrap();
        let hearing = Client::connect(center.address()).await.unwrap();
        let news = Subscription::open(&hearing, "news").await.unwrap();
        (center, topics, news)
    });
    Box::new(move || {
        let _ = &center;
        runtime.block_on(async {
            topics.publish("news", TEXT).await.unwrap();
            black_box(news.next().await.unwrap().unwrap());
        });
    })
}

struct Nobody;

impl Effects<u64> for Nobody {
    fn notice(&mut self, _notice: &Notice, _watchers: &BTreeSet<u64>) {}
}

/// So many methods, each at one host; a connection provides up to a hundred of them.
fn table(methods: u64) -> (Table<u64>, Vec<String>) {
    let mut table = Table::new(RegistryLimits { watched_per_connection: usize::MAX, ..RegistryLimits::default() });
    let names: Vec<_> = (0..methods).map(|number| format!("desk.method_{number}")).collect();
    for (number, name) in (0..).zip(&names) {
        table.register(&(number / 100), name, host(), None, &mut Nobody).unwrap();
    }
    (table, names)
}

fn host() -> Host {
    Host::new([127, 0, 0, 1].into(), 7071).unwrap()
}

fn register(methods: u64) -> Run {
    let (mut table, _) = table(methods);
    let provider = methods;
    let mut names = Turn::new((0..256).map(|number| format!("desk.new_{number}")).collect());
    Box::new(move || {
        let name = names.next();
        table.register(&provider, name, host(), None, &mut Nobody).unwrap();
        table.withdraw(&provider, name, None, &mut Nobody);
    })
}

/// By a connection that watches all of them, as after the start of a caller.
fn discover(methods: u64) -> Run {
    let (mut table, names) = table(methods);
    let watcher = methods;
    for name in &names {
        table.discover(&watcher, name).unwrap();
    }
    let mut names = Turn::new(names);
    Box::new(move || drop(black_box(table.discover(&watcher, names.next()).unwrap())))
}

/// Names in turn: where a single one comes to lie in a hash table is another place in each run.
struct Turn {
    names: Vec<String>,
    at: usize,
}

impl Turn {
    fn new(names: Vec<String>) -> Self {
        Self { names, at: 0 }
    }

    fn next(&mut self) -> &str {
        self.at = (self.at + 1) % self.names.len();
        self.names.get(self.at).unwrap()
    }
}
