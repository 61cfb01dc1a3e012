use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use callboard_client::Client;
use callboard_common::Missed;
use callboard_pubsub::{Event, Subscription, Topics};

use super::Report;
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
    is_over: AtomicBool,
    runs: Mutex<Vec<Run>>,
}

/// A subscriber from its start to its end.
#[derive(Debug)]
struct Run {
    subscriber: usize,
    /// The first message that was published after it had subscribed.
    first: u64,
    heard: Vec<Heard>,
    has_ended: bool,
}

/// What a subscriber was given, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Message(u64),
    Missed(Missed),
}

impl News {
    pub(super) fn new(sim: &Sim) -> Self {
        Self {
            sim: sim.clone(),
            next: AtomicU64::new(0),
            acknowledged: Mutex::default(),
            is_over: AtomicBool::new(false),
            runs: Mutex::default(),
        }
    }

    /// Publishes one message after the other; only those that the center takes count.
    pub(super) async fn publish(&self, client: Client) {
        let topics = Topics::new(&client);
        while !self.is_over.load(Relaxed) {
            let n = self.next.fetch_add(1, Relaxed);
            match topics.publish(TOPIC, &n).await {
                Ok(()) => drop(lock(&self.acknowledged).insert(n)),
                Err(error) => self.sim.note(|| format!("message {n}: {error}")),
            }
            self.sim.sleep(self.sim.draw_time(PAUSE)).await;
        }
        std::future::pending::<()>().await;
        drop(client);
    }

    /// Makes the topic, subscribes to it, and writes down what comes.
    pub(super) async fn hear(&self, subscriber: usize, client: Client) {
        until_done(|| async { Topics::new(&client).create(TOPIC).await }).await;
        let mut subscription = until_done(|| Subscription::open(&client, TOPIC)).await;
        let run = {
            let mut runs = lock(&self.runs);
            runs.push(Run { subscriber, first: self.next.load(Relaxed), heard: Vec::new(), has_ended: false });
            runs.len() - 1
        };
        while let Some(event) = subscription.next_event().await {
            let event = event.unwrap_or_else(|error| panic!("subscriber {subscriber}: {error}"));
            if !matches!(event, Event::Message(_)) {
                self.sim.note(|| format!("subscriber {subscriber}: {event:?}"));
            }
            let heard = match event {
                Event::Message(message) => Heard::Message(message.json().unwrap_or_else(|error| panic!("{error}"))),
                Event::Lagged { from, to } => Heard::Missed(Missed::Exactly(to - from + 1)),
                Event::Resumed { missed } => Heard::Missed(missed),
                _ => continue,
            };
            lock(&self.runs).get_mut(run).into_iter().for_each(|run| run.heard.push(heard));
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

    /// Nothing more is published.
    pub(super) fn end(&self) {
        self.is_over.store(true, Relaxed);
    }

    /// What was received and what was told to be missing is what was published.
    ///
    /// # Panics
    /// If not.
    pub(super) fn check(&self) {
        for Run { subscriber, first, heard, has_ended } in lock(&self.runs).iter() {
            let last =
                heard.iter().filter_map(|heard| if let Heard::Message(n) = heard { Some(*n) } else { None }).max();
            let due = if *has_ended { *first..last.map_or(*first, |last| last + 1) } else { *first..u64::MAX };
            let due = lock(&self.acknowledged).iter().copied().filter(|n| due.contains(n)).collect();
            if let Err(why) = accounts_for(&due, heard) {
                panic!("subscriber {subscriber}: {why}");
            }
        }
    }

    pub(super) fn count(&self, report: &mut Report) {
        report.published += lock(&self.acknowledged).len() as u64;
        for heard in lock(&self.runs).iter().flat_map(|run| &run.heard) {
            match heard {
                Heard::Message(_) => report.received += 1,
                Heard::Missed(Missed::Exactly(0)) => {}
                Heard::Missed(_) => report.gaps += 1,
            }
        }
    }
}

/// Each acknowledged message was heard, in order, or a gap that is large enough was told in its place. One that was not
/// acknowledged may have come all the same, once, at any time: the connection that it was sent over may outlive the
/// publisher's patience.
fn accounts_for(acknowledged: &BTreeSet<u64>, heard: &[Heard]) -> Result<(), String> {
    let (mut due, mut told, mut seen) = (acknowledged.iter(), Missed::Exactly(0), BTreeSet::new());
    for heard in heard {
        let n = match heard {
            Heard::Message(n) => n,
            Heard::Missed(missed) => {
                told = sum(told, *missed);
                continue;
            }
        };
        if !seen.insert(n) {
            return Err(format!("message {n} came twice"));
        }
        if !acknowledged.contains(n) {
            continue;
        }
        if due.clone().next().is_none_or(|next| next > n) {
            return Err(format!("message {n} comes after later ones"));
        }
        let lost = due.by_ref().take_while(|next| *next != n).count() as u64;
        if !covers(told, lost) {
            return Err(format!("before message {n} {lost} are missing, of which was told: {told:?}"));
        }
        told = Missed::Exactly(0);
    }
    match due.count() {
        0 => Ok(()),
        lost => Err(format!("the last {lost} messages never came")),
    }
}

fn sum(one: Missed, other: Missed) -> Missed {
    match (one, other) {
        (Missed::Exactly(one), Missed::Exactly(other)) => Missed::Exactly(one + other),
        _ => Missed::Unknown,
    }
}

fn covers(told: Missed, lost: u64) -> bool {
    match told {
        Missed::Exactly(told) => lost <= told,
        Missed::Unknown => true,
    }
}

const TOPIC: &str = "news";
/// Between two messages at most.
const PAUSE: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use super::Heard::{Message, Missed as Gap};
    use super::*;

    #[test]
    fn what_is_lost_is_found_unless_it_was_told() {
        let (one, unknown) = (Gap(Missed::Exactly(1)), Gap(Missed::Unknown));
        let rows: [(&[Heard], bool); 13] = [
            (&[Message(1), Message(2), Message(4), Message(5)], true),
            (&[Message(1), Message(3), Message(2), Message(4), Message(5)], true),
            (&[Message(1), Message(4), Message(5)], false),
            (&[Message(1), one, Message(4), Message(5)], true),
            (&[one, Message(1), Message(4), Message(5)], false),
            (&[Message(1), one, Message(5)], false),
            (&[Message(1), one, Message(3), one, Message(5)], true),
            (&[Message(1), unknown, Message(5)], true),
            (&[unknown, Message(5)], true),
            (&[Message(1), Message(2), Message(4)], false),
            (&[Message(1), Message(2), Message(2), Message(4), Message(5)], false),
            (&[Message(1), unknown, Message(4), Message(2), Message(5)], false),
            (&[Message(1), unknown, Message(5), unknown, Message(4)], false),
        ];
        for (heard, is_right) in rows {
            let outcome = accounts_for(&[1, 2, 4, 5].into(), heard);
            assert_eq!(outcome.is_ok(), is_right, "{heard:?}: {outcome:?}");
        }
    }
}
