use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use callboard_common::{ErrorInfo, ResultCode};
use indexmap::{IndexMap, IndexSet};

use crate::holdings::{self, Holdings, SUBSCRIPTION_BYTES};
use crate::kept::Kept;
use crate::ring::RingBounds;
use crate::slack::room_to_keep;
use crate::topic::{Subscriber, Topic};

/// Who hears what: topics with their subscribers, and connections with their subscriptions. Pure state, generic over
/// what names a connection.
///
/// Subscribers are handed out in an order that follows from the operations alone, so that whatever is done with them
/// replays. Joining, leaving and the end of a connection take constant time for each subscription.
///
/// ```
/// use callboard_pubsub::TopicManager;
/// let mut topics = TopicManager::new();
/// topics.create(&7, "news")?;
/// topics.subscribe(&7, "news")?;
/// assert_eq!(topics.subscribers("news")?.collect::<Vec<_>>(), [&7]);
/// topics.close(&7);
/// assert_eq!(topics.subscribers("news")?.len(), 0);
/// # Ok::<(), callboard_pubsub::TopicError>(())
/// ```
#[derive(Clone, Debug)]
pub struct TopicManager<K> {
    limits: TopicLimits,
    /// Peers choose how many there are and how long their names: so it keeps the hashes and moves a topic's address
    /// alone, and to grow keeps nobody waiting.
    topics: IndexMap<Arc<str>, Box<Topic<K>>>,
    kept: Kept,
    holdings: Holdings<K>,
    /// Each topic has the next one: a name that is removed and created again is another topic.
    last_epoch: u64,
    /// Connections without a subscription have no entry.
    subscriptions: HashMap<K, IndexSet<Arc<str>>>,
}

/// The bounds of a [`TopicManager`].
///
/// Higher bounds let peers take more of the center's memory: about 860 bytes for each topic and its name, 200 for each
/// subscription, and the messages that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicLimits {
    /// Topics in total. Default 100,000. Past it the topic is removed that nobody has held for longest: its creator's
    /// connection has ended, and nobody is subscribed. Where there is none, who holds most topics is closed to let another
    /// connection create one, and refused with OVERLOADED itself. If others are subscribed to all that it held, the newest of
    /// these is removed.
    pub topics: usize,
    /// Topics that one connection may hold: it created them, or was subscribed when the one that did ended, or subscribed
    /// to one that nobody held. Default 10,000. Past it a create is refused with OVERLOADED; those to which it is subscribed
    /// may be more.
    pub created_per_connection: usize,
    /// Topics that one connection is subscribed to. Default 10,000. Past it a subscribe is refused with OVERLOADED.
    pub subscribed_per_connection: usize,
    /// What all topics and subscriptions take, in bytes: 860 and its name for a topic, 200 for a subscription. Default
    /// 256 MiB. Past it as with [`topics`](Self::topics).
    pub total_bytes: usize,
    /// The longest name of a topic, in bytes of UTF-8. Default 4,096. A create with a longer one is refused with
    /// TOO_LARGE.
    pub max_name_bytes: usize,
    /// How many of its last messages a topic keeps for subscribers that come back. Default 1,024; messages that came
    /// together go together, so it may be a few more. 0 keeps none but the last one, for whom that is kept below.
    pub ring_messages: usize,
    /// The same in bytes, bookkeeping included. Default 1 MiB. Past it the oldest go. The last message stays where the
    /// topic retains it, or a subscriber is behind that is to go on with it.
    pub ring_bytes: usize,
    /// What all topics together keep, in bytes. Default 128 MiB. Past it the topic to which nothing was published for
    /// longest gives up all that it keeps, a retained message too, and so on: who comes back to it is told what it has
    /// missed.
    pub total_ring_bytes: usize,
}

impl Default for TopicLimits {
    fn default() -> Self {
        Self {
            topics: 100_000,
            created_per_connection: 10_000,
            total_bytes: 256 << 20,
            subscribed_per_connection: 10_000,
            max_name_bytes: 4096,
            ring_messages: 1024,
            ring_bytes: 1 << 20,
            total_ring_bytes: 128 << 20,
        }
    }
}

/// Why a topic operation was refused; then it changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopicError {
    /// Nobody created it, or it was removed.
    #[error("topic {topic:?} does not exist")]
    NotFound {
        /// Its name, cut to its first 64 characters.
        topic: String,
    },
    /// There are as many topics as there may be, and no connection holds more of them than this one would.
    #[error("there are {bound} topics, and more are not taken: remove some, or raise the bound")]
    Topics {
        /// [`TopicLimits::topics`].
        bound: usize,
    },
    /// The connection has as many subscriptions as it may.
    #[error(
        "this connection is subscribed to {bound} topics, and more are not taken: cancel some, or use another connection"
    )]
    Subscribed {
        /// [`TopicLimits::subscribed_per_connection`].
        bound: usize,
    },
    /// The connection holds as many topics as it may.
    #[error("this connection holds {bound} topics, and more are not taken: remove some, or use another connection")]
    Created {
        /// [`TopicLimits::created_per_connection`].
        bound: usize,
    },
    /// All topics and subscriptions take as much as they may, and no connection has more of it than this one would.
    #[error(
        "all topics and subscriptions take {bound} bytes, and no connection has more of it than this one would: \
         remove some, or raise the bound"
    )]
    Total {
        /// [`TopicLimits::total_bytes`].
        bound: usize,
    },
    /// The name is too long.
    #[error("the topic's name has {name_bytes} bytes, over the bound of {bound}")]
    Name {
        /// The name's length in bytes.
        name_bytes: usize,
        /// [`TopicLimits::max_name_bytes`].
        bound: usize,
    },
}

impl TopicError {
    /// The code to answer with.
    pub const fn code(&self) -> ResultCode {
        match self {
            Self::NotFound { .. } => ResultCode::NotFoundTopic,
            Self::Topics { .. } | Self::Subscribed { .. } | Self::Created { .. } | Self::Total { .. } => {
                ResultCode::Overloaded
            }
            Self::Name { .. } => ResultCode::TooLarge,
        }
    }

    /// The answer's `error`; where a limit is reached, its `data` names it: `{"limit": string, "bound": int}`.
    pub fn to_error(&self) -> ErrorInfo {
        let (limit, bound) = match *self {
            Self::NotFound { .. } => return ErrorInfo::not_executed(self.to_string()),
            Self::Topics { bound } => ("topics", bound),
            Self::Subscribed { bound } => ("subscribed_per_connection", bound),
            Self::Created { bound } => ("topics_per_connection", bound),
            Self::Total { bound } => ("total_topic_bytes", bound),
            Self::Name { bound, .. } => ("max_name_bytes", bound),
        };
        ErrorInfo::not_executed(self.to_string()).with_limit(limit, bound)
    }

    fn not_found(topic: &str) -> Self {
        Self::NotFound { topic: topic.chars().take(64).collect() }
    }
}

impl<K: Clone + Eq + Hash + Ord> TopicManager<K> {
    /// No topics yet; the default bounds.
    pub fn new() -> Self {
        Self::with_limits(TopicLimits::default())
    }

    /// No topics yet; these bounds.
    pub fn with_limits(limits: TopicLimits) -> Self {
        let (kept, holdings) = (Kept::new(limits.total_ring_bytes), Holdings::new(limits));
        Self { limits, topics: IndexMap::new(), kept, holdings, last_epoch: 0, subscriptions: HashMap::new() }
    }

    /// Topics that are created from now on have epochs above this one. So that no two runs of a center give the same
    /// epoch, each begins elsewhere.
    pub const fn set_last_epoch(&mut self, epoch: u64) {
        self.last_epoch = epoch;
    }

    /// Makes a topic; one that exists keeps its subscribers.
    ///
    /// # Errors
    /// `Name`, `Created`, `Topics`, `Total`.
    pub fn create(&mut self, connection: &K, topic: &str) -> Result<(), TopicError> {
        if let Some(known) = self.topics.get_mut(topic) {
            let name = Arc::clone(known.name());
            if self.holdings.may_hold(connection) {
                self.holdings.adopt(connection, &name, &mut known.holder);
            }
            return Ok(());
        }
        let bound = self.limits.max_name_bytes;
        if topic.len() > bound {
            return Err(TopicError::Name { name_bytes: topic.len(), bound });
        }
        self.within_bounds(|holdings| holdings.check_topic(connection, topic))?;
        self.last_epoch += 1;
        let name: Arc<str> = topic.into();
        let holder = self.holdings.hold(connection, &name);
        self.topics.insert(Arc::clone(&name), Box::new(Topic::new(name, holder, self.last_epoch)));
        Ok(())
    }

    /// Asks again as long as a topic that nobody holds can make room.
    fn within_bounds(&mut self, check: impl Fn(&Holdings<K>) -> Result<(), TopicError>) -> Result<(), TopicError> {
        loop {
            match check(&self.holdings) {
                Err(TopicError::Topics { .. } | TopicError::Total { .. }) if self.drop_idle() => {}
                outcome => return outcome,
            }
        }
    }

    /// Removes the topic that nobody has held for longest; whether there was one.
    fn drop_idle(&mut self) -> bool {
        while let Some(name) = self.holdings.oldest_idle() {
            let Some(topic) = self.topics.get_mut(&name) else { return false };
            if self.holdings.may_go(&name, &mut topic.holder) {
                self.remove(&name).for_each(drop);
                return true;
            }
        }
        false
    }

    /// Who is to go, so that a connection may do with this topic what it was refused.
    pub(crate) fn gives_way(&self, connection: &K, refused: &TopicError, topic: &str) -> Option<K> {
        let subscribes = self.topics.contains_key(topic);
        let bytes = if subscribes { SUBSCRIPTION_BYTES } else { holdings::cost(topic) };
        self.holdings.gives_way(connection, refused, bytes)
    }

    /// Ends a topic and all its subscriptions; gives those who were subscribed. One that does not exist has none.
    pub fn remove(&mut self, topic: &str) -> impl ExactSizeIterator<Item = K> + use<K> {
        let mut removed = self.topics.swap_remove(topic);
        if let Some(topic) = &mut removed {
            topic.forget(&mut self.kept);
            self.holdings.release(topic.name(), &topic.holder);
        }
        let subscribers: Vec<_> = removed.map(|topic| topic.into_subscribers()).into_iter().flatten().collect();
        for subscriber in &subscribers {
            self.forget(subscriber, topic);
        }
        subscribers.into_iter()
    }

    /// Subscribes a connection; twice is once.
    ///
    /// # Errors
    /// `NotFound`, `Subscribed`, `Total`.
    pub fn subscribe(&mut self, connection: &K, topic: &str) -> Result<(), TopicError> {
        self.subscribe_as(connection, topic, Subscriber::default())
    }

    /// The same for one that says how.
    pub(crate) fn subscribe_as(
        &mut self,
        connection: &K,
        topic: &str,
        subscriber: Subscriber,
    ) -> Result<(), TopicError> {
        let Some((name, _)) = self.topics.get_key_value(topic) else { return Err(TopicError::not_found(topic)) };
        let name = Arc::clone(name);
        let bound = self.limits.subscribed_per_connection;
        let held = self.subscriptions.get(connection);
        if held.is_some_and(|topics| topics.contains(topic)) {
            if let Some(topic) = self.topics.get_mut(topic) {
                topic.add(connection.clone(), subscriber);
            }
            return Ok(());
        }
        if held.map_or(0, IndexSet::len) >= bound {
            return Err(TopicError::Subscribed { bound });
        }
        let Some(topic) = self.topics.get_mut(&name) else { return Err(TopicError::not_found(&name)) };
        // First, so that it is not the one that makes room.
        let is_adopted = self.holdings.adopt(connection, &name, &mut topic.holder);
        let refused = self.within_bounds(|holdings| holdings.check_subscription(connection)).err();
        let Some(topic) = self.topics.get_mut(&name) else { return Err(TopicError::not_found(&name)) };
        if let Some(refused) = refused {
            if is_adopted {
                let_go(&mut self.holdings, topic);
            }
            return Err(refused);
        }
        topic.add(connection.clone(), subscriber);
        self.holdings.subscribed(connection);
        self.subscriptions.entry(connection.clone()).or_default().insert(name);
        Ok(())
    }

    /// Ends one subscription; one that is not there stays so.
    pub fn cancel(&mut self, connection: &K, topic: &str) {
        if let Some(entry) = self.topics.get_mut(topic) {
            let was_subscribed = entry.take_out(connection);
            if was_subscribed && entry.holder.is(connection) && self.holdings.holds_too_many(connection) {
                let_go(&mut self.holdings, entry);
            }
            self.forget(connection, topic);
        }
    }

    /// Ends all subscriptions of a connection. The topics stay, those too that it created.
    pub fn close(&mut self, connection: &K) {
        self.take_all(connection);
    }

    /// The same; gives the topics that it held, the one that came to it last at the end.
    pub(crate) fn take_all(&mut self, connection: &K) -> IndexSet<Arc<str>> {
        let held = self.holdings.forget(connection);
        for topic in self.subscriptions.remove(connection).unwrap_or_default() {
            if let Some(topic) = self.topics.get_mut(&topic) {
                topic.take_out(connection);
            }
        }
        for name in &held {
            if let Some(topic) = self.topics.get_mut(name) {
                let next = topic.subscribers().next().cloned();
                topic.holder = self.holdings.pass_on(name, next.as_ref());
            }
        }
        held
    }

    /// Who is to get what is published to a topic.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn subscribers(&self, topic: &str) -> Result<impl ExactSizeIterator<Item = &K> + Clone, TopicError> {
        let topic = self.topics.get(topic).ok_or_else(|| TopicError::not_found(topic))?;
        Ok(topic.subscribers())
    }

    pub(crate) fn topic_mut(&mut self, topic: &str) -> Result<&mut Topic<K>, TopicError> {
        self.topics.get_mut(topic).map(Box::as_mut).ok_or_else(|| TopicError::not_found(topic))
    }

    /// A topic that is published to, with what it needs to [keep](Topic::published) messages; after that
    /// [`give_up`](Self::give_up) is to be called.
    pub(crate) fn publishing(&mut self, topic: &str) -> Result<(&mut Topic<K>, RingBounds, &mut Kept), TopicError> {
        let TopicLimits { ring_messages, ring_bytes, .. } = self.limits;
        let bounds = RingBounds { messages: ring_messages as u64, bytes: ring_bytes, keep_last: false };
        let topic = self.topics.get_mut(topic).ok_or_else(|| TopicError::not_found(topic))?;
        Ok((topic, bounds, &mut self.kept))
    }

    /// Keeps the bound on what all topics keep.
    pub(crate) fn give_up(&mut self) {
        while let Some(oldest) = self.kept.oldest() {
            let Some(topic) = self.topics.get_mut(&oldest) else { break };
            topic.give_up(&mut self.kept);
        }
    }

    /// What all topics keep for those who come back, in bytes.
    pub const fn kept_bytes(&self) -> usize {
        self.kept.bytes()
    }

    /// How often a topic has given up what it kept, since all of them kept too much.
    pub const fn given_up(&self) -> u64 {
        self.kept.given_up()
    }

    /// What topics and subscriptions take, as it counts against [`TopicLimits::total_bytes`].
    pub const fn bytes(&self) -> usize {
        self.holdings.bytes()
    }

    /// How many topics were removed that nobody held, since there was no room for others.
    pub const fn dropped(&self) -> u64 {
        self.holdings.dropped()
    }

    /// How many topics there are.
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// How many connections are subscribed to something.
    pub fn subscriber_count(&self) -> usize {
        self.subscriptions.len()
    }

    fn forget(&mut self, connection: &K, topic: &str) {
        if let Some(topics) = self.subscriptions.get_mut(connection) {
            if topics.swap_remove(topic) {
                self.holdings.cancelled(connection);
            }
            if topics.is_empty() {
                self.subscriptions.remove(connection);
            } else if let Some(room) = room_to_keep(topics.len(), topics.capacity()) {
                topics.shrink_to(room);
            }
        }
    }
}

/// The connection that holds a topic does so no longer: the first that is subscribed does, or nobody.
fn let_go<K: Clone + Eq + Hash + Ord>(holdings: &mut Holdings<K>, topic: &mut Topic<K>) {
    holdings.release(topic.name(), &topic.holder);
    let next = topic.subscribers().next().cloned();
    topic.holder = holdings.pass_on(topic.name(), next.as_ref());
}

impl<K: Clone + Eq + Hash + Ord> Default for TopicManager<K> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn heard(topics: &TopicManager<u8>, topic: &str) -> Option<Vec<u8>> {
        topics.subscribers(topic).ok().map(|subscribers| subscribers.copied().collect())
    }

    #[test]
    fn subscribers_come_in_the_order_in_which_they_joined_and_twice_is_once() {
        let mut topics = TopicManager::new();
        topics.create(&9, "news").unwrap();
        for connection in [3, 1, 2, 1, 3] {
            topics.subscribe(&connection, "news").unwrap();
        }
        assert_eq!(heard(&topics, "news"), Some(vec![3, 1, 2]));
        topics.create(&9, "news").unwrap();
        assert_eq!(heard(&topics, "news"), Some(vec![3, 1, 2]), "creating it again changes nothing");
    }

    #[test]
    fn a_missing_topic_refuses_subscribers_and_messages_only() {
        let mut topics = TopicManager::new();
        let missing = TopicError::NotFound { topic: "news".to_owned() };
        assert_eq!(topics.subscribe(&1, "news").unwrap_err(), missing);
        assert_eq!(topics.subscribers("news").map(drop).unwrap_err(), missing);
        topics.cancel(&1, "news");
        assert_eq!(topics.remove("news").len(), 0);
        assert_eq!((topics.topic_count(), topics.subscriber_count()), (0, 0));
    }

    #[test]
    fn removing_ends_all_subscriptions_and_creating_again_restores_none() {
        let mut topics = TopicManager::new();
        for topic in ["news", "music"] {
            topics.create(&9, topic).unwrap();
            topics.subscribe(&1, topic).unwrap();
        }
        topics.subscribe(&2, "news").unwrap();
        assert_eq!(topics.remove("news").collect::<Vec<_>>(), [1, 2]);
        topics.create(&9, "news").unwrap();
        assert_eq!(heard(&topics, "news"), Some(vec![]));
        assert_eq!(heard(&topics, "music"), Some(vec![1]));
        assert_eq!(topics.subscriber_count(), 1);
    }

    #[test]
    fn each_bound_refuses_what_is_new_and_leaves_what_is_there() {
        let mut topics = TopicManager::with_limits(TopicLimits {
            topics: 2,
            subscribed_per_connection: 1,
            max_name_bytes: 4,
            ..TopicLimits::default()
        });
        topics.create(&9, "news").unwrap();
        assert_eq!(topics.create(&9, "music").unwrap_err(), TopicError::Name { name_bytes: 5, bound: 4 });
        topics.create(&9, "pop").unwrap();
        assert_eq!(topics.create(&9, "rock").unwrap_err(), TopicError::Topics { bound: 2 });
        topics.create(&9, "news").unwrap();
        topics.subscribe(&1, "news").unwrap();
        assert_eq!(topics.subscribe(&1, "pop").unwrap_err(), TopicError::Subscribed { bound: 1 });
        topics.subscribe(&1, "news").unwrap();
        topics.cancel(&1, "news");
        topics.subscribe(&1, "pop").unwrap();
        topics.remove("news").for_each(drop);
        topics.create(&9, "rock").unwrap();
    }

    /// Room for so many topics whose names have one letter.
    fn with_room_for(topics: usize) -> TopicManager<u8> {
        TopicManager::with_limits(TopicLimits { topics, ..TopicLimits::default() })
    }

    fn names(topics: &TopicManager<u8>) -> Vec<&str> {
        let mut names: Vec<_> = topics.topics.keys().map(|name| &**name).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_connection_holds_so_many_topics_and_one_that_it_no_longer_holds_makes_room() {
        let limits = TopicLimits { created_per_connection: 2, ..TopicLimits::default() };
        let mut topics = TopicManager::with_limits(limits);
        for topic in ["a", "b", "a"] {
            topics.create(&1, topic).unwrap();
        }
        let refused = topics.create(&1, "c").unwrap_err();
        assert_eq!((refused.code(), &refused), (ResultCode::Overloaded, &TopicError::Created { bound: 2 }));
        assert_eq!(topics.gives_way(&1, &refused, "c"), None, "nobody goes for that");
        topics.create(&2, "c").unwrap();
        topics.remove("a").for_each(drop);
        topics.create(&1, "d").unwrap();
    }

    #[test]
    fn the_topic_that_nobody_has_held_for_longest_makes_room() {
        let mut topics = with_room_for(4);
        for topic in ["a", "b", "c", "d"] {
            topics.create(&1, topic).unwrap();
        }
        topics.subscribe(&2, "a").unwrap();
        topics.close(&1);
        topics.create(&3, "b").unwrap();
        // It is published to.
        let (c, bounds, kept) = topics.publishing("c").unwrap();
        c.published(1, None, bounds, kept);
        topics.create(&3, "e").unwrap();
        assert_eq!((names(&topics), topics.dropped()), (vec!["a", "b", "c", "e"], 1), "d, which nobody has used");
        topics.create(&3, "f").unwrap();
        assert_eq!((names(&topics), topics.dropped()), (vec!["a", "b", "e", "f"], 2), "c was spared once");
        let refused = topics.create(&2, "g").unwrap_err();
        assert_eq!(refused, TopicError::Topics { bound: 4 });
        assert_eq!(topics.gives_way(&2, &refused, "g"), Some(3), "it holds three topics, where 2 has one");
        topics.close(&3);
        topics.create(&2, "g").unwrap();
        assert_eq!(names(&topics), ["a", "e", "f", "g"]);
    }

    #[test]
    fn what_topics_and_subscriptions_take_is_bounded_and_given_back() {
        let bytes = 3 * holdings::cost("a") + 2 * SUBSCRIPTION_BYTES;
        let mut topics = TopicManager::with_limits(TopicLimits { total_bytes: bytes, ..TopicLimits::default() });
        for topic in ["a", "b", "c"] {
            topics.create(&1, topic).unwrap();
        }
        topics.subscribe(&2, "a").unwrap();
        topics.subscribe(&2, "b").unwrap();
        topics.subscribe(&2, "b").unwrap();
        assert_eq!(topics.bytes(), bytes);
        let refused = topics.subscribe(&2, "c").unwrap_err();
        assert_eq!((refused.code(), &refused), (ResultCode::Overloaded, &TopicError::Total { bound: bytes }));
        assert_eq!(topics.gives_way(&2, &refused, "c"), Some(1), "it holds most");
        assert_eq!(topics.create(&1, "d").unwrap_err(), refused);
        assert_eq!(topics.gives_way(&1, &refused, "d"), None);
        topics.cancel(&2, "a");
        assert_eq!(topics.bytes(), bytes - SUBSCRIPTION_BYTES);
        // What nobody holds makes room, but for what is subscribed to; that is the subscriber's now.
        topics.close(&1);
        topics.subscribe(&2, "c").unwrap();
        topics.create(&3, "d").unwrap();
        assert_eq!((names(&topics), topics.bytes()), (vec!["b", "c", "d"], bytes));
        topics.close(&2);
        topics.close(&3);
        for topic in ["b", "c", "d"] {
            topics.remove(topic).for_each(drop);
        }
        assert_eq!(topics.bytes(), 0);
    }

    #[test]
    fn a_topic_with_a_subscriber_never_makes_room_however_many_that_one_holds() {
        let limits = TopicLimits { topics: 3, created_per_connection: 1, ..TopicLimits::default() };
        let mut topics = TopicManager::with_limits(limits);
        topics.create(&1, "a").unwrap();
        topics.create(&2, "t").unwrap();
        topics.close(&2);
        topics.create(&1, "t").unwrap();
        topics.subscribe(&1, "t").unwrap();
        topics.create(&3, "b").unwrap();
        assert_eq!(topics.create(&4, "c").unwrap_err(), TopicError::Topics { bound: 3 });
        assert_eq!((heard(&topics, "t"), topics.dropped()), (Some(vec![1]), 0));
        // With more than it may hold it keeps none to which it is not subscribed.
        topics.cancel(&1, "t");
        topics.create(&4, "c").unwrap();
        assert_eq!((names(&topics), topics.dropped()), (vec!["a", "b", "c"], 1));
        // What others are subscribed to passes to them.
        topics.subscribe(&2, "b").unwrap();
        topics.subscribe(&1, "b").unwrap();
        topics.subscribe(&1, "c").unwrap();
        topics.close(&3);
        topics.close(&4);
        topics.subscribe(&2, "c").unwrap();
        topics.cancel(&1, "c");
        topics.close(&1);
        topics.create(&5, "d").unwrap();
        assert_eq!((names(&topics), topics.dropped()), (vec!["b", "c", "d"], 2), "a, which nobody holds");
    }

    #[test]
    fn a_topic_that_nobody_holds_stays_so_where_a_subscribe_is_refused() {
        let bytes = holdings::cost("a") + holdings::cost("t") + SUBSCRIPTION_BYTES - 1;
        let mut topics = TopicManager::with_limits(TopicLimits { total_bytes: bytes, ..TopicLimits::default() });
        topics.create(&1, "a").unwrap();
        topics.create(&2, "t").unwrap();
        topics.close(&2);
        assert_eq!(topics.subscribe(&1, "t").unwrap_err(), TopicError::Total { bound: bytes });
        topics.create(&1, "b").unwrap();
        assert_eq!((names(&topics), topics.dropped()), (vec!["a", "b"], 1));
    }

    #[test]
    fn who_had_much_and_gave_it_back_keeps_no_room_for_it() {
        let mut topics = TopicManager::new();
        for topic in 0..1000 {
            topics.create(&1, &topic.to_string()).unwrap();
            topics.subscribe(&2, &topic.to_string()).unwrap();
        }
        for topic in 3..1000 {
            topics.cancel(&2, &topic.to_string());
            topics.remove(&topic.to_string()).for_each(drop);
        }
        let room = (topics.subscriptions[&2].capacity(), topics.holdings.room_of(&1));
        assert!(room.0 <= 12 && room.1 <= 12, "{room:?}");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Create(u8),
        Remove(u8),
        Subscribe(u8, u8),
        Cancel(u8, u8),
        Close(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let (topic, connection) = (0..5_u8, 0..5_u8);
        prop_oneof![
            2 => topic.clone().prop_map(Step::Create),
            1 => topic.clone().prop_map(Step::Remove),
            6 => (connection.clone(), topic.clone()).prop_map(|(c, t)| Step::Subscribe(c, t)),
            3 => (connection.clone(), topic).prop_map(|(c, t)| Step::Cancel(c, t)),
            1 => connection.prop_map(Step::Close),
        ]
    }

    /// What a reader would write first: a set of pairs, and bounds by counting.
    #[derive(Default)]
    struct Model {
        topics: BTreeMap<u8, BTreeSet<u8>>,
    }

    const LIMITS: TopicLimits = TopicLimits {
        topics: 4,
        subscribed_per_connection: 3,
        max_name_bytes: 8,
        ring_messages: 4,
        ring_bytes: 1 << 10,
        total_ring_bytes: 1 << 12,
        created_per_connection: 10,
        total_bytes: 1 << 20,
    };

    impl Model {
        fn apply(&mut self, step: &Step) -> bool {
            match *step {
                Step::Create(topic) => {
                    let fits = self.topics.contains_key(&topic) || self.topics.len() < LIMITS.topics;
                    if fits {
                        self.topics.entry(topic).or_default();
                    }
                    fits
                }
                Step::Remove(topic) => {
                    self.topics.remove(&topic);
                    true
                }
                Step::Subscribe(connection, topic) => {
                    let held = self.topics.values().filter(|subscribers| subscribers.contains(&connection)).count();
                    let Some(subscribers) = self.topics.get_mut(&topic) else { return false };
                    let fits = subscribers.contains(&connection) || held < LIMITS.subscribed_per_connection;
                    fits.then(|| subscribers.insert(connection)).is_some()
                }
                Step::Cancel(connection, topic) => {
                    self.topics.get_mut(&topic).map(|subscribers| subscribers.remove(&connection));
                    true
                }
                Step::Close(connection) => {
                    self.topics.values_mut().for_each(|subscribers| {
                        subscribers.remove(&connection);
                    });
                    true
                }
            }
        }
    }

    fn apply(topics: &mut TopicManager<u8>, step: &Step) -> bool {
        match *step {
            Step::Create(topic) => topics.create(&99, &topic.to_string()).is_ok(),
            Step::Remove(topic) => {
                topics.remove(&topic.to_string()).for_each(drop);
                true
            }
            Step::Subscribe(connection, topic) => topics.subscribe(&connection, &topic.to_string()).is_ok(),
            Step::Cancel(connection, topic) => {
                topics.cancel(&connection, &topic.to_string());
                true
            }
            Step::Close(connection) => {
                topics.close(&connection);
                true
            }
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_naive_model_and_is_empty_after_all_left(steps in prop::collection::vec(step(), 0..60)) {
            let (mut topics, mut model) = (TopicManager::with_limits(LIMITS), Model::default());
            for step in &steps {
                prop_assert_eq!(apply(&mut topics, step), model.apply(step), "{:?}", step);
                for topic in 0..5 {
                    let heard = heard(&topics, &topic.to_string()).map(|heard| heard.into_iter().collect());
                    prop_assert_eq!(heard, model.topics.get(&topic).cloned());
                }
            }
            for connection in 0..5 {
                topics.close(&connection);
            }
            prop_assert_eq!(topics.subscriber_count(), 0);
            topics.close(&99);
            prop_assert_eq!(topics.bytes(), topics.topic_count() * holdings::cost("0"));
            prop_assert!(topics.topics.values().all(|topic| topic.subscribers().len() == 0));
        }

        #[test]
        fn what_nobody_holds_has_no_subscribers_and_who_holds_too_many_is_subscribed(
            steps in prop::collection::vec(step(), 0..60),
        ) {
            let mut topics = TopicManager::with_limits(TopicLimits { created_per_connection: 1, ..LIMITS });
            for step in &steps {
                if let Step::Create(topic) = step {
                    let _ = topics.create(&(topic % 3), &topic.to_string());
                } else {
                    apply(&mut topics, step);
                }
                let all = || topics.topics.values();
                for topic in all() {
                    let is_idle = matches!(topic.holder, holdings::Holder::Nobody { .. });
                    prop_assert!(!is_idle || topic.subscribers().len() == 0, "{:?}", topic);
                }
                for connection in 0..5 {
                    let held = all().filter(|topic| topic.holder.is(&connection));
                    let others = held.filter(|topic| topic.subscribers().all(|it| *it != connection));
                    prop_assert!(others.count() <= 1, "{}", connection);
                }
            }
        }

        #[test]
        fn the_order_of_subscribers_follows_from_the_operations(steps in prop::collection::vec(step(), 0..60)) {
            let (mut one, mut other) = (TopicManager::new(), TopicManager::new());
            for step in &steps {
                apply(&mut one, step);
                apply(&mut other, step);
            }
            for topic in 0..5 {
                prop_assert_eq!(heard(&one, &topic.to_string()), heard(&other, &topic.to_string()));
            }
        }
    }
}
