use std::sync::Arc;
use std::time::Duration;

use callboard_net::{Address, Conn, MetricsSnapshot, Serving, Stopped};
use callboard_pubsub::TopicService;
use callboard_registry::{RegistryMetrics, RegistryService, Relay, RelayMetrics, TableSize};

use crate::{CenterBuilder, CenterError};

/// A center that runs: providers register with it, callers discover through it, and topics pass through it.
///
/// It runs on threads of its own. Dropping it stops it at once; [`shutdown`](Self::shutdown) lets it finish.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// use callboard_center::Center;
///
/// let center = Center::builder().listen("127.0.0.1:0").start().await?;
/// println!("providers and callers connect to {}", center.address());
/// center.shutdown().await;
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Center {
    /// First, since fields are dropped in this order, and the registry must know of the end before connections do.
    pub(crate) registry: Draining,
    pub(crate) serving: Serving,
    pub(crate) topics: Arc<TopicService<Conn>>,
    pub(crate) grace: Duration,
}

impl Center {
    /// Starts a center with the default settings, on `tcp://127.0.0.1:7070`.
    ///
    /// # Errors
    /// See [`CenterBuilder::start`].
    ///
    /// # Cancel safety
    /// Dropping the future starts nothing.
    pub async fn start() -> Result<Self, CenterError> {
        Self::builder().start().await
    }

    /// Settings first.
    pub fn builder() -> CenterBuilder {
        CenterBuilder::default()
    }

    /// Where it listens, with the ports that the system chose.
    pub fn addresses(&self) -> &[Address] {
        self.serving.addresses()
    }

    /// The first of its addresses, as a client takes it, for example `tcp://127.0.0.1:7070`.
    pub fn address(&self) -> String {
        self.addresses().first().map(Address::to_string).unwrap_or_default()
    }

    /// What was counted so far.
    pub fn metrics(&self) -> MetricsSnapshot {
        self.serving.metrics()
    }

    /// How much is registered and watched.
    pub fn registry_size(&self) -> TableSize {
        self.registry.registry.size()
    }

    /// What the registry has counted so far: hosts reached, providers that were gone and back, such that were held
    /// back.
    pub fn registry_metrics(&self) -> RegistryMetrics {
        self.registry.registry.metrics()
    }

    /// How many requests wait for their answers, those that were passed on among them; those that are answered in place never
    /// do.
    pub fn in_flight(&self) -> usize {
        self.serving.in_flight()
    }

    /// All that it has counted so far and of which there was something, by name: what a program that ends may log.
    pub fn counted(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let MetricsSnapshot {
            accepted,
            turned_away,
            accept_failures,
            accept_pauses,
            frames_in,
            bytes_in,
            bytes_out,
            protocol_errors,
            frame_timeouts,
            slow_readers,
            evicted,
            peers_dead,
            holds,
            turns_cut,
            ignored,
            refused,
            overloaded,
            expired,
            cancelled,
            panicked,
            ..
        } = self.metrics();
        let counted = [
            ("accepted", accepted),
            ("turned_away", turned_away),
            ("accept_failures", accept_failures),
            ("accept_pauses", accept_pauses),
            ("frames_in", frames_in),
            ("bytes_in", bytes_in),
            ("bytes_out", bytes_out),
            ("protocol_errors", protocol_errors),
            ("frame_timeouts", frame_timeouts),
            ("slow_readers", slow_readers),
            ("evicted", evicted),
            ("peers_dead", peers_dead),
            ("holds", holds),
            ("turns_cut", turns_cut),
            ("ignored", ignored),
            ("refused", refused),
            ("overloaded", overloaded),
            ("expired", expired),
            ("cancelled", cancelled),
            ("panicked", panicked),
            ("crowded_out", self.topics_crowded_out() + self.registry_metrics().crowded_out),
            ("topics_dropped", self.topics_dropped()),
            ("rings_given_up", self.given_up()),
        ];
        counted.into_iter().filter(|(_, count)| *count > 0)
    }

    /// How many calls that were passed on to providers wait for their answers.
    pub fn relayed_calls(&self) -> usize {
        self.relay_metrics().passed_on
    }

    /// What was counted so far of calls that are passed on to providers that listen nowhere.
    pub fn relay_metrics(&self) -> RelayMetrics {
        self.registry.relay.metrics()
    }

    /// How many topics there are.
    pub fn topic_count(&self) -> usize {
        self.topics.topic_count()
    }

    /// How many connections are subscribed to something.
    pub fn subscriber_count(&self) -> usize {
        self.topics.subscriber_count()
    }

    /// What all topics and subscriptions take, in bytes, as it counts against
    /// [`TopicLimits::total_bytes`](callboard_pubsub::TopicLimits::total_bytes).
    pub fn topic_bytes(&self) -> usize {
        self.topics.bytes()
    }

    /// How many topics were removed since there was no room for others: that nobody held any longer, or whose holder was
    /// [closed](Self::topics_crowded_out) for them.
    pub fn topics_dropped(&self) -> u64 {
        self.topics.dropped()
    }

    /// How many connections were closed since they had most of the topics, or of what topics and subscriptions take
    /// together, and another one had no room.
    pub fn topics_crowded_out(&self) -> u64 {
        self.topics.crowded_out()
    }

    /// What all topics keep of their messages for subscribers that come back, in bytes.
    pub fn kept_bytes(&self) -> usize {
        self.topics.kept_bytes()
    }

    /// How often a topic has given up what it kept, since all of them kept more than
    /// [`TopicLimits::total_ring_bytes`](callboard_pubsub::TopicLimits::total_ring_bytes).
    pub fn given_up(&self) -> u64 {
        self.topics.given_up()
    }

    /// How many messages were left out for some of their subscribers, since what these take of it is over the bound on
    /// frames: with its number, of which they are told, or for a v1 peer as a string.
    pub fn left_out(&self) -> u64 {
        self.topics.left_out()
    }

    /// Waits until each event loop has taken a turn: what a watchdog wants to know. One that is stuck keeps it waiting.
    ///
    /// # Cancel safety
    /// It only watches.
    pub async fn responds(&self) {
        self.serving.responds().await;
    }

    /// Stops little later than its [`grace`](CenterBuilder::grace), by default within two seconds, whatever the peers
    /// do: accepts no more, tells session peers that it goes (GOAWAY), so that they move to another center or wait,
    /// gives requests in flight and queued bytes that time to finish, and closes what is left. Says how many requests
    /// were finished. Callers are not told that providers go offline: those serve on.
    ///
    /// # Cancel safety
    /// Dropping the future stops the center at once.
    pub async fn shutdown(self) -> Stopped {
        let Self { registry, serving, grace, .. } = self;
        drop(registry);
        serving.shutdown(grace).await
    }
}

/// Those who are told when their center ends: from then on nobody hears that a provider goes, or waits for one to come back.
#[derive(Debug)]
pub(crate) struct Draining {
    pub(crate) registry: Arc<RegistryService<Conn>>,
    pub(crate) relay: Arc<Relay<Conn>>,
}

impl Drop for Draining {
    fn drop(&mut self) {
        self.registry.drain();
        self.relay.drain();
    }
}
