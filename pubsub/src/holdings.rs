use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use callboard_common::{Room, Shares};
use indexmap::IndexSet;

use crate::slack::room_to_keep;
use crate::{TopicError, TopicLimits};

/// Who holds which topics, and what each connection takes of what all may take together. Pure state.
///
/// A topic is held by the connection that created it; when that has ended, by the first that is subscribed to it. One that
/// nobody holds has no subscribers: it stays until there is no room for another one. So who subscribes to such a one holds
/// it, however many it holds; with too many it passes on those that it cancels.
#[derive(Clone, Debug)]
pub(crate) struct Holdings<K> {
    limits: TopicLimits,
    /// In bytes.
    bytes: Shares<K>,
    /// In topics.
    topics: Shares<K>,
    /// Those of each connection, in the order in which it came to them.
    of: HashMap<K, IndexSet<Arc<str>>>,
    /// Topics that nobody holds, as they were filed.
    idle: BTreeMap<u64, Arc<str>>,
    last_filed: u64,
    dropped: u64,
}

/// Who holds one topic.
#[derive(Clone, Debug)]
pub(crate) enum Holder<K> {
    Connection(K),
    Nobody {
        /// Where it is filed.
        filed: u64,
        /// Whether it was published to since.
        used: bool,
    },
}

/// What a topic takes beside its name, and what a subscription takes: so much was measured.
const TOPIC_BYTES: usize = 860;
pub(crate) const SUBSCRIPTION_BYTES: usize = 200;

impl<K: Clone + Eq + Hash + Ord> Holdings<K> {
    pub(crate) fn new(limits: TopicLimits) -> Self {
        let (bytes, topics) = (Shares::new(limits.total_bytes), Shares::new(limits.topics));
        Self { limits, bytes, topics, of: HashMap::new(), idle: BTreeMap::new(), last_filed: 0, dropped: 0 }
    }

    /// What all topics and subscriptions take.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes.total()
    }

    /// Topics that were removed since there was no room for others.
    pub(crate) const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Why a connection can't create a topic, were it not for those that nobody holds.
    pub(crate) fn check_topic(&self, connection: &K, name: &str) -> Result<(), TopicError> {
        let TopicLimits { topics, created_per_connection: bound, total_bytes, .. } = self.limits;
        if !self.may_hold(connection) {
            return Err(TopicError::Created { bound });
        }
        if self.topics.room(connection, 1) != Room::Free {
            return Err(TopicError::Topics { bound: topics });
        }
        self.check_bytes(connection, cost(name), total_bytes)
    }

    /// Why a connection can't subscribe to one topic more.
    pub(crate) fn check_subscription(&self, connection: &K) -> Result<(), TopicError> {
        self.check_bytes(connection, SUBSCRIPTION_BYTES, self.limits.total_bytes)
    }

    /// Who is to go, so that a connection may have what it was refused.
    pub(crate) fn gives_way(&self, connection: &K, refused: &TopicError, bytes: usize) -> Option<K> {
        let room = match refused {
            TopicError::Topics { .. } => self.topics.room(connection, 1),
            TopicError::Total { .. } => self.bytes.room(connection, bytes),
            _ => Room::None,
        };
        match room {
            Room::After(other) => Some(other),
            Room::Free | Room::None => None,
        }
    }

    /// A connection has a topic from now on, for which there is room.
    pub(crate) fn hold(&mut self, connection: &K, name: &Arc<str>) -> Holder<K> {
        self.topics.take(connection, 1);
        self.bytes.take(connection, cost(name));
        self.of.entry(connection.clone()).or_default().insert(Arc::clone(name));
        Holder::Connection(connection.clone())
    }

    /// One that nobody held has a holder again; whether it was so.
    pub(crate) fn adopt(&mut self, connection: &K, name: &Arc<str>, holder: &mut Holder<K>) -> bool {
        let Holder::Nobody { filed, .. } = *holder else { return false };
        self.idle.remove(&filed);
        self.nobodys(name, Shares::clear);
        *holder = self.hold(connection, name);
        true
    }

    /// Whether a connection may hold one topic more by creating it.
    pub(crate) fn may_hold(&self, connection: &K) -> bool {
        self.topics.of(connection) < self.limits.created_per_connection
    }

    /// Whether it holds more than it may create, some of them since it was or is subscribed.
    pub(crate) fn holds_too_many(&self, connection: &K) -> bool {
        self.topics.of(connection) > self.limits.created_per_connection
    }

    /// The connection that held a topic has ended, or lets go of it; this one does from now on, or nobody.
    pub(crate) fn pass_on(&mut self, name: &Arc<str>, next: Option<&K>) -> Holder<K> {
        if let Some(next) = next {
            return self.hold(next, name);
        }
        self.nobodys(name, Shares::set_aside);
        self.last_filed += 1;
        self.idle.insert(self.last_filed, Arc::clone(name));
        Holder::Nobody { filed: self.last_filed, used: false }
    }

    /// A topic is removed, or its holder lets go of it.
    pub(crate) fn release(&mut self, name: &Arc<str>, holder: &Holder<K>) {
        match holder {
            Holder::Nobody { filed, .. } => {
                self.idle.remove(filed);
                self.nobodys(name, Shares::clear);
            }
            Holder::Connection(connection) => {
                self.topics.give_back(connection, 1);
                self.bytes.give_back(connection, cost(name));
                if let Some(topics) = self.of.get_mut(connection) {
                    topics.swap_remove(name);
                    if topics.is_empty() {
                        self.of.remove(connection);
                    } else if let Some(room) = room_to_keep(topics.len(), topics.capacity()) {
                        topics.shrink_to(room);
                    }
                }
            }
        }
    }

    pub(crate) fn subscribed(&mut self, connection: &K) {
        self.bytes.take(connection, SUBSCRIPTION_BYTES);
    }

    pub(crate) fn cancelled(&mut self, connection: &K) {
        self.bytes.give_back(connection, SUBSCRIPTION_BYTES);
    }

    /// A connection has ended, and nothing counts as its own any more. Gives the topics that it held, each of which is to be
    /// [passed on](Self::pass_on).
    pub(crate) fn forget(&mut self, connection: &K) -> IndexSet<Arc<str>> {
        self.topics.forget(connection);
        self.bytes.forget(connection);
        self.of.remove(connection).unwrap_or_default()
    }

    /// The topic that nobody has held for longest.
    pub(crate) fn oldest_idle(&self) -> Option<Arc<str>> {
        self.idle.first_key_value().map(|(_, name)| Arc::clone(name))
    }

    /// Whether that one may go: if somebody has published to it, it is spared this time.
    pub(crate) fn may_go(&mut self, name: &Arc<str>, holder: &mut Holder<K>) -> bool {
        let Holder::Nobody { filed, used } = holder else { return false };
        if !std::mem::take(used) {
            self.dropped += 1;
            return true;
        }
        self.idle.remove(filed);
        self.last_filed += 1;
        *filed = self.last_filed;
        self.idle.insert(*filed, Arc::clone(name));
        false
    }

    /// For how many topics there is room in what is kept of a connection.
    #[cfg(test)]
    pub(crate) fn room_of(&self, connection: &K) -> usize {
        self.of.get(connection).map_or(0, IndexSet::capacity)
    }

    fn check_bytes(&self, connection: &K, bytes: usize, bound: usize) -> Result<(), TopicError> {
        if self.bytes.room(connection, bytes) == Room::Free { Ok(()) } else { Err(TopicError::Total { bound }) }
    }

    fn nobodys(&mut self, name: &str, change: fn(&mut Shares<K>, usize)) {
        change(&mut self.topics, 1);
        change(&mut self.bytes, cost(name));
    }
}

impl<K: Eq> Holder<K> {
    pub(crate) fn is(&self, connection: &K) -> bool {
        matches!(self, Self::Connection(holder) if holder == connection)
    }
}

impl<K> Holder<K> {
    /// It was published to.
    pub(crate) const fn publish(&mut self) {
        if let Self::Nobody { used, .. } = self {
            *used = true;
        }
    }
}

/// What a topic takes, in bytes.
pub(crate) const fn cost(name: &str) -> usize {
    TOPIC_BYTES + name.len()
}
