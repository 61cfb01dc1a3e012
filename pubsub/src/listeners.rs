use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Who on one client's connection listens to what, and which cancels are under way. Pure state, generic over what takes
/// the messages.
///
/// The center handles the requests of one connection in order. So between a cancel and its answer only messages of the
/// subscription that was cancelled can come, and who joined meanwhile must not hear them: they would be followed by a
/// gap.
#[derive(Debug)]
pub(crate) struct Listeners<Q> {
    topics: HashMap<Arc<str>, Topic<Q>>,
    last_id: u64,
}

/// One who listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenerId {
    pub(crate) topic: Arc<str>,
    id: u64,
}

/// An entry without listeners is there only while a cancel is under way or owed.
#[derive(Debug)]
struct Topic<Q> {
    listeners: BTreeMap<u64, Listener<Q>>,
    cancels_under_way: usize,
    /// The last one left, and the cancel could not be sent.
    owes_cancel: bool,
}

#[derive(Debug)]
struct Listener<Q> {
    queue: Q,
    subscribe: Subscribe,
}

/// Where a listener's subscribe stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subscribe {
    UnderWay,
    /// The topic was removed meanwhile, before the center had handled it or after.
    InDoubt,
    Accepted,
}

impl<Q: Clone> Listeners<Q> {
    pub(crate) fn new() -> Self {
        Self { topics: HashMap::new(), last_id: 0 }
    }

    /// Adds one whose subscribe is about to be sent: a message may come before its answer does. From now on nobody
    /// cancels the topic, so the subscribe may take its time.
    pub(crate) fn join(&mut self, topic: &str, queue: Q) -> ListenerId {
        let topic = self.topics.get_key_value(topic).map_or_else(|| Arc::from(topic), |(name, _)| Arc::clone(name));
        self.last_id += 1;
        let entry = self.topics.entry(Arc::clone(&topic)).or_default();
        entry.listeners.insert(self.last_id, Listener { queue, subscribe: Subscribe::UnderWay });
        entry.owes_cancel = false;
        ListenerId { topic, id: self.last_id }
    }

    /// Its subscribe was accepted; `false` if nobody can tell whether that still counts: then it is to be sent again.
    pub(crate) fn confirm(&mut self, who: &ListenerId) -> bool {
        let listener = self.topics.get_mut(&who.topic).and_then(|entry| entry.listeners.get_mut(&who.id));
        let Some(listener) = listener else { return true };
        let in_doubt = listener.subscribe == Subscribe::InDoubt;
        listener.subscribe = if in_doubt { Subscribe::UnderWay } else { Subscribe::Accepted };
        !in_doubt
    }

    /// Takes one out; `true` if it was the last of its topic and a cancel is to be sent, which then is under way.
    pub(crate) fn leave(&mut self, who: &ListenerId) -> bool {
        let Some(entry) = self.topics.get_mut(&who.topic) else { return false };
        let last = entry.listeners.remove(&who.id).is_some() && entry.listeners.is_empty();
        entry.cancels_under_way += usize::from(last);
        last
    }

    /// A cancel was answered.
    pub(crate) fn cancelled(&mut self, topic: &str) {
        if let Some(entry) = self.topics.get_mut(topic) {
            entry.cancels_under_way = entry.cancels_under_way.saturating_sub(1);
            self.tidy(topic);
        }
    }

    /// A cancel, the newest, could not be sent: it is owed as long as nobody joins.
    pub(crate) fn not_cancelled(&mut self, topic: &str) {
        if let Some(entry) = self.topics.get_mut(topic) {
            entry.owes_cancel = entry.listeners.is_empty();
            self.cancelled(topic);
        }
    }

    /// Whether a message of this topic comes only because a cancel was not sent.
    pub(crate) fn owes_cancel(&self, topic: &str) -> bool {
        self.topics.get(topic).is_some_and(|entry| entry.owes_cancel)
    }

    /// What was owed was sent.
    pub(crate) fn settled(&mut self, topic: &str) {
        if let Some(entry) = self.topics.get_mut(topic) {
            entry.owes_cancel = false;
            self.tidy(topic);
        }
    }

    /// Who is to get a message of this topic, and the topic's name.
    pub(crate) fn hearing(&self, topic: &str) -> Option<(&Arc<str>, impl Iterator<Item = &Q>)> {
        let (name, entry) = self.topics.get_key_value(topic)?;
        let queues = entry.listeners.values().map(|listener| &listener.queue);
        (entry.cancels_under_way == 0).then_some((name, queues))
    }

    /// The topic was removed. Takes out those whose subscriptions this ended, and gives them.
    ///
    /// Gives also those whose subscribes are under way, and are now in doubt: what they heard until now came from a
    /// subscription that ended.
    pub(crate) fn end_topic(&mut self, topic: &str) -> (Vec<Q>, Vec<Q>) {
        let Some(entry) = self.topics.get_mut(topic) else { return (Vec::new(), Vec::new()) };
        let accepted = entry.listeners.extract_if(.., |_, listener| listener.subscribe == Subscribe::Accepted);
        let ended = accepted.map(|(_, listener)| listener.queue).collect();
        entry.listeners.values_mut().for_each(|listener| listener.subscribe = Subscribe::InDoubt);
        let in_doubt = entry.listeners.values().map(|listener| listener.queue.clone()).collect();
        entry.owes_cancel = false;
        self.tidy(topic);
        (ended, in_doubt)
    }

    /// The connection ended: gives all.
    pub(crate) fn end_all(&mut self) -> Vec<Q> {
        let mut listeners: Vec<_> = self.topics.drain().flat_map(|(_, entry)| entry.listeners).collect();
        listeners.sort_unstable_by_key(|(id, _)| *id);
        listeners.into_iter().map(|(_, listener)| listener.queue).collect()
    }

    fn tidy(&mut self, topic: &str) {
        let is_idle =
            |entry: &Topic<Q>| entry.listeners.is_empty() && entry.cancels_under_way == 0 && !entry.owes_cancel;
        if self.topics.get(topic).is_some_and(is_idle) {
            self.topics.remove(topic);
        }
    }
}

impl<Q> Default for Topic<Q> {
    fn default() -> Self {
        Self { listeners: BTreeMap::new(), cancels_under_way: 0, owes_cancel: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hearing(listeners: &Listeners<char>, topic: &str) -> Vec<char> {
        listeners.hearing(topic).map(|(_, queues)| queues.copied().collect()).unwrap_or_default()
    }

    fn joined(listeners: &mut Listeners<char>, queue: char) -> ListenerId {
        let who = listeners.join("t", queue);
        assert!(listeners.confirm(&who));
        who
    }

    #[test]
    fn all_of_one_topic_hear_it_and_only_the_last_to_leave_cancels() {
        let mut listeners = Listeners::new();
        let (a, b) = (joined(&mut listeners, 'a'), joined(&mut listeners, 'b'));
        assert_eq!(hearing(&listeners, "t"), ['a', 'b']);
        assert_eq!(hearing(&listeners, "u"), []);
        assert!(!listeners.leave(&a));
        assert!(!listeners.leave(&a), "twice is once");
        assert!(listeners.leave(&b));
        listeners.cancelled("t");
        assert!(listeners.topics.is_empty());
    }

    #[test]
    fn one_who_joins_hears_what_comes_before_the_answer() {
        let mut listeners = Listeners::new();
        listeners.join("t", 'a');
        assert_eq!(hearing(&listeners, "t"), ['a']);
    }

    #[test]
    fn what_an_earlier_subscription_still_gets_is_not_for_one_who_joins_after_its_cancel() {
        let mut listeners = Listeners::new();
        let a = joined(&mut listeners, 'a');
        assert!(listeners.leave(&a));
        let b = listeners.join("t", 'b');
        assert_eq!(hearing(&listeners, "t"), []);
        assert!(listeners.leave(&b), "a second cancel, with the first still under way");
        let c = joined(&mut listeners, 'c');
        listeners.cancelled("t");
        assert_eq!(hearing(&listeners, "t"), []);
        listeners.cancelled("t");
        assert_eq!(hearing(&listeners, "t"), ['c']);
        assert!(listeners.leave(&c));
        listeners.cancelled("t");
        assert!(listeners.topics.is_empty());
    }

    #[test]
    fn a_cancel_that_could_not_be_sent_is_owed_until_somebody_joins() {
        let mut listeners = Listeners::new();
        let a = joined(&mut listeners, 'a');
        assert!(listeners.leave(&a));
        listeners.not_cancelled("t");
        assert!(listeners.owes_cancel("t"));
        let b = joined(&mut listeners, 'b');
        assert!(!listeners.owes_cancel("t"));
        assert_eq!(hearing(&listeners, "t"), ['b']);
        assert!(listeners.leave(&b));
        listeners.not_cancelled("t");
        listeners.settled("t");
        assert!(listeners.topics.is_empty());
    }

    #[test]
    fn a_removed_topic_ends_those_who_are_subscribed_and_leaves_the_others_in_doubt() {
        let mut listeners = Listeners::new();
        let a = joined(&mut listeners, 'a');
        let b = listeners.join("t", 'b');
        assert_eq!(listeners.end_topic("t"), (vec!['a'], vec!['b']));
        assert!(!listeners.leave(&a), "nothing to cancel");
        assert!(!listeners.confirm(&b), "the answer may be from before the removal");
        assert!(listeners.confirm(&b));
        assert_eq!(hearing(&listeners, "t"), ['b']);
        assert_eq!(listeners.end_topic("t"), (vec!['b'], vec![]));
        assert!(listeners.topics.is_empty());
    }

    #[test]
    fn the_end_of_the_connection_ends_all_in_the_order_in_which_they_joined() {
        let mut listeners = Listeners::new();
        for (topic, queue) in [("t", 'a'), ("u", 'b'), ("t", 'c'), ("v", 'd')] {
            listeners.join(topic, queue);
        }
        assert_eq!(listeners.end_all(), ['a', 'b', 'c', 'd']);
        assert!(listeners.topics.is_empty());
    }
}
