use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use callboard_client::Centers;
use callboard_common::{Executed, Missed};
use callboard_pubsub::{Event, Subscription, TopicLimits, Topics};

use super::Report;
use super::accounts::{Account, Heard, Published};
use super::programs::until_done;
use crate::Sim;
use crate::sim::lock;

/// What was published to one topic, and what each subscriber says of it.
#[derive(Debug)]
pub(super) struct News {
    sim: Sim,
    /// The number of the next message.
    next: AtomicU64,
    acknowledged: Mutex<BTreeSet<u64>>,
    /// Those of which the publisher was told that they were not published.
    said_unpublished: Mutex<BTreeSet<u64>>,
    /// Published in peace are those from this one on.
    peace: AtomicU64,
    is_over: AtomicBool,
    centers: usize,
    /// How often a center was started.
    starts: AtomicU64,
    /// How many messages centers keep: all, or so few that subscribers miss some.
    kept: Option<usize>,
    runs: Mutex<Vec<Run>>,
}

/// A subscriber from its start to its end.
#[derive(Debug)]
struct Run {
    subscriber: usize,
    /// The first message that was published after it had subscribed.
    first: u64,
    /// How often a center had been started until then.
    starts: u64,
    heard: Vec<Heard>,
    /// So many messages came again, and were not given to it.
    repeats: u64,
    has_ended: bool,
}

impl News {
    pub(super) fn new(sim: &Sim, centers: usize) -> Self {
        Self {
            sim: sim.clone(),
            next: AtomicU64::new(0),
            acknowledged: Mutex::default(),
            said_unpublished: Mutex::default(),
            peace: AtomicU64::new(u64::MAX),
            is_over: AtomicBool::new(false),
            centers,
            starts: AtomicU64::new(0),
            kept: (sim.draw(2) == 0).then_some(FEW),
            runs: Mutex::default(),
        }
    }

    /// A center was started: it knows nothing of what was published before.
    pub(super) fn center_began(&self) {
        self.starts.fetch_add(1, Relaxed);
    }

    /// What centers keep.
    pub(super) fn limits(&self) -> TopicLimits {
        let limits = TopicLimits::default();
        TopicLimits { ring_messages: self.kept.unwrap_or(limits.ring_messages), ..limits }
    }

    /// Publishes one message after the other; only those that a center takes count.
    pub(super) async fn publish(&self, centers: Centers) {
        let topics = Topics::new(&centers);
        while !self.is_over.load(Relaxed) {
            let n = self.next.fetch_add(1, Relaxed);
            match topics.publish(TOPIC, &n).await {
                Ok(()) => drop(lock(&self.acknowledged).insert(n)),
                Err(error) => {
                    self.sim.note(|| format!("message {n}: {error}"));
                    if error.executed() == Executed::No {
                        lock(&self.said_unpublished).insert(n);
                    }
                }
            }
            self.sim.sleep(self.sim.draw_time(PAUSE)).await;
        }
        std::future::pending::<()>().await;
        drop(centers);
    }

    /// Makes the topic, subscribes to it, and writes down what comes.
    pub(super) async fn hear(&self, subscriber: usize, centers: Centers) {
        until_done(|| async { Topics::new(&centers).create(TOPIC).await }).await;
        let mut subscription = until_done(|| Subscription::open(&centers, TOPIC)).await;
        let run = {
            let mut runs = lock(&self.runs);
            let (first, starts) = (self.next.load(Relaxed), self.starts.load(Relaxed));
            runs.push(Run { subscriber, first, starts, heard: Vec::new(), repeats: 0, has_ended: false });
            runs.len() - 1
        };
        while let Some(event) = subscription.next_event().await {
            let event = event.unwrap_or_else(|error| panic!("subscriber {subscriber}: {error}"));
            if !matches!(event, Event::Message(_)) {
                self.sim.note(|| format!("subscriber {subscriber}: {event:?}"));
            }
            let (before, starts) = (self.next.load(Relaxed), self.starts.load(Relaxed));
            let heard = match event {
                Event::Message(message) => Heard::Message(message.json().unwrap_or_else(|error| panic!("{error}"))),
                Event::Lagged { from, to } => Heard::Missed { missed: Missed::Exactly(to - from + 1), before, starts },
                Event::Resumed { missed } => Heard::Missed { missed, before, starts },
                _ => continue,
            };
            if let Some(run) = lock(&self.runs).get_mut(run) {
                run.heard.push(heard);
                run.repeats = subscription.repeats();
            }
        }
        panic!("the subscription of subscriber {subscriber} has ended");
    }

    /// What this subscriber has not heard yet it does not hear any more.
    pub(super) fn ends(&self, subscriber: usize) {
        lock(&self.runs).iter_mut().filter(|run| run.subscriber == subscriber).for_each(|run| run.has_ended = true);
    }

    /// The number of the next message.
    pub(super) fn next(&self) -> u64 {
        self.next.load(Relaxed)
    }

    /// How many subscribers have heard a message of this number or a later one.
    pub(super) fn subscribers_that_heard(&self, n: u64) -> usize {
        let hears = |heard: &Heard| matches!(heard, Heard::Message(m) if *m >= n);
        lock(&self.runs).iter().filter(|run| !run.has_ended && run.heard.iter().rev().any(hears)).count()
    }

    /// What is published from now on meets no fault.
    pub(super) fn is_peace(&self) {
        self.peace.store(self.next(), Relaxed);
    }

    /// Nothing more is published.
    pub(super) fn end(&self) {
        self.is_over.store(true, Relaxed);
    }

    /// What was received and what was told to be missing is what was published.
    ///
    /// # Panics
    /// If not.
    pub(super) fn check(&self) {
        let (acknowledged, unpublished) = (lock(&self.acknowledged), lock(&self.said_unpublished));
        let published = Published {
            acknowledged: &acknowledged,
            unpublished: &unpublished,
            peace: self.peace.load(Relaxed),
            next: self.next(),
            centers: self.centers as u64,
            all_is_kept: self.kept.is_none(),
        };
        for Run { subscriber, first, starts, heard, has_ended, .. } in lock(&self.runs).iter() {
            let account = Account { first: *first, starts: *starts, heard, has_ended: *has_ended };
            if let Err(why) = published.check(&account) {
                panic!("subscriber {subscriber}: {why}");
            }
        }
    }

    pub(super) fn count(&self, report: &mut Report) {
        report.published += lock(&self.acknowledged).len() as u64;
        for run in lock(&self.runs).iter() {
            report.repeats += run.repeats;
            for heard in &run.heard {
                match heard {
                    Heard::Message(_) => report.received += 1,
                    Heard::Missed { missed: Missed::Exactly(0), .. } => {}
                    Heard::Missed { .. } => report.gaps += 1,
                }
            }
        }
    }
}

const TOPIC: &str = "news";
/// What centers keep that keep little.
const FEW: usize = 3;
/// Between two messages at most.
const PAUSE: Duration = Duration::from_millis(300);
