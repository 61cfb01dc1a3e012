use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use callboard_client::Client;
use callboard_common::Missed;
use callboard_pubsub::{Event, Subscription, Topics};

use crate::Sim;
use crate::house::Report;

const TOPIC: &str = "news";
/// Between two messages at most.
const PAUSE: Duration = Duration::from_millis(300);

/// What was published to one topic, and what each subscriber says of it.
#[derive(Debug)]
pub(crate) struct News {
    sim: Sim,
    acknowledged: Mutex<BTreeSet<u64>>,
    is_over: AtomicBool,
    heard: Vec<Mutex<Vec<Heard>>>,
}

/// What a subscriber was given, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Message(u64),
    Missed(Missed),
}

impl News {
    pub(crate) fn new(sim: &Sim, subscribers: usize) -> Arc<Self> {
        let heard = (0..subscribers).map(|_| Mutex::default()).collect();
        Arc::new(Self { sim: sim.clone(), acknowledged: Mutex::default(), is_over: AtomicBool::new(false), heard })
    }

    /// Publishes one message after the other; only those that the center takes count.
    pub(crate) async fn publish_on(self: Arc<Self>, client: Client) {
        let topics = Topics::new(&client);
        for n in 0.. {
            if self.is_over.load(Relaxed) {
                break;
            }
            match topics.publish(TOPIC, &n).await {
                Ok(()) => {
                    lock(&self.acknowledged).insert(n);
                }
                Err(error) => self.sim.note(|| format!("message {n}: {error}")),
            }
            self.sim.sleep(self.sim.draw_time(PAUSE)).await;
        }
        std::future::pending::<()>().await;
        drop(client);
    }

    /// Makes the topic and subscribes to it.
    pub(crate) async fn subscribe(client: &Client) -> Subscription {
        Topics::new(client).create(TOPIC).await.unwrap_or_else(|error| panic!("{error}"));
        Subscription::open(client, TOPIC).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Writes down what a subscriber hears.
    pub(crate) async fn hear_on(self: Arc<Self>, subscriber: usize, mut subscription: Subscription) {
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
            self.heard.get(subscriber).into_iter().for_each(|all| lock(all).push(heard));
        }
    }

    /// How many messages were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> usize {
        lock(&self.acknowledged).len()
    }

    /// Nothing more is published.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Relaxed);
    }

    /// What was received and what was told to be missing is what was published.
    ///
    /// # Panics
    /// If not.
    pub(crate) fn check(&self) {
        for (subscriber, heard) in self.heard.iter().enumerate() {
            if let Err(why) = accounts_for(&lock(&self.acknowledged), &lock(heard)) {
                panic!("subscriber {subscriber}: {why}");
            }
        }
    }

    pub(crate) fn count(&self, report: &mut Report) {
        report.published += self.acknowledged() as u64;
        for heard in self.heard.iter().flat_map(|heard| lock(heard).clone()) {
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

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

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
