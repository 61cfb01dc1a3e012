use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use callboard_common::{SlowPolicy, Subscribed, TopicOptions};

use crate::progress::{Progress, Resumed};

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
    /// How many connections were lost: what was under way over an earlier one counts no more.
    losses: u64,
}

/// One who listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenerId {
    pub(crate) topic: Arc<str>,
    id: u64,
}

/// A cancel that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cancel {
    topic: Arc<str>,
    losses: u64,
}

/// An entry without listeners is there only while a cancel is under way or owed.
#[derive(Debug)]
struct Topic<Q> {
    listeners: BTreeMap<u64, Listener<Q>>,
    cancels_under_way: usize,
    /// The last one left, and the cancel could not be sent.
    owes_cancel: bool,
    /// Between the loss of a connection and the answer over the next one. What comes now was on its way before the
    /// loss, and does not count: whoever was subscribed asks for what follows the last that was handed on.
    is_away: bool,
    progress: Progress,
}

#[derive(Debug)]
struct Listener<Q> {
    queue: Q,
    subscribe: Subscribe,
    /// The number that came next when it joined, where the center gives none.
    next: u64,
    wants: Wants,
}

/// What one who listens asks of the center.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wants {
    pub(crate) policy: SlowPolicy,
    pub(crate) max_bytes: usize,
}

impl Wants {
    /// As an addition to a subscribe; none where it is what any center does.
    fn options(self) -> TopicOptions {
        if self.policy == SlowPolicy::Hold {
            return TopicOptions::default();
        }
        let max_bytes = Some(self.max_bytes as u64);
        TopicOptions { policy: Some(self.policy), max_bytes, ..TopicOptions::default() }
    }
}

/// Where a listener's subscribe stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subscribe {
    UnderWay,
    /// The topic was removed meanwhile, before the center had handled it or after.
    InDoubt,
    Accepted,
    /// It was, on a connection that is lost.
    Away,
}

/// A topic to subscribe to again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Again {
    pub(crate) topic: Arc<str>,
    pub(crate) subscribe: TopicOptions,
    /// Where the center was started anew and has lost the topic.
    pub(crate) create: TopicOptions,
}

impl<Q: Clone> Listeners<Q> {
    pub(crate) fn new() -> Self {
        Self { topics: HashMap::new(), last_id: 0, losses: 0 }
    }

    /// Adds one whose subscribe is about to be sent: a message may come before its answer does. From now on nobody
    /// cancels the topic, so the subscribe may take its time.
    pub(crate) fn join(&mut self, topic: &str, queue: Q, wants: Wants) -> ListenerId {
        let topic = self.topics.get_key_value(topic).map_or_else(|| Arc::from(topic), |(name, _)| Arc::clone(name));
        self.last_id += 1;
        let entry = self.topics.entry(Arc::clone(&topic)).or_default();
        if entry.listeners.is_empty() {
            (entry.progress, entry.is_away) = (Progress::default(), false);
        }
        let next = entry.progress.next_unnumbered();
        entry.listeners.insert(self.last_id, Listener { queue, subscribe: Subscribe::UnderWay, next, wants });
        entry.owes_cancel = false;
        ListenerId { topic, id: self.last_id }
    }

    /// What all who listen to a topic ask of the center together: a connection has one subscription, and nobody is to
    /// miss what only another one could do without.
    pub(crate) fn wants(&self, topic: &str) -> TopicOptions {
        self.topics.get(topic).map(Topic::wants).unwrap_or_default()
    }

    /// Its subscribe was accepted. Gives the number of its first message; `None` if nobody can tell whether the answer
    /// still counts: then it is to be sent again.
    pub(crate) fn confirm(&mut self, who: &ListenerId, answer: Option<Subscribed>) -> Option<u64> {
        let entry = self.topics.get_mut(&who.topic);
        let listener = entry.and_then(|entry| Some((entry.listeners.get_mut(&who.id)?, &mut entry.progress)));
        let Some((listener, progress)) = listener else { return Some(1) };
        if listener.subscribe == Subscribe::InDoubt {
            listener.subscribe = Subscribe::UnderWay;
            return None;
        }
        listener.subscribe = Subscribe::Accepted;
        progress.subscribed(answer);
        Some(answer.map_or(listener.next, Subscribed::next))
    }

    /// Takes one out; a cancel if it was the last of its topic: it is to be sent, and counts as under way.
    pub(crate) fn leave(&mut self, who: &ListenerId) -> Option<Cancel> {
        let entry = self.topics.get_mut(&who.topic)?;
        if entry.listeners.remove(&who.id).is_none() || !entry.listeners.is_empty() {
            return None;
        }
        entry.cancels_under_way += 1;
        Some(Cancel { topic: Arc::clone(&who.topic), losses: self.losses })
    }

    /// A cancel was answered.
    pub(crate) fn cancelled(&mut self, cancel: &Cancel) {
        let entry = self.topics.get_mut(&cancel.topic).filter(|_| cancel.losses == self.losses);
        if let Some(entry) = entry {
            entry.cancels_under_way = entry.cancels_under_way.saturating_sub(1);
            self.tidy(&cancel.topic);
        }
    }

    /// A cancel, the newest, could not be sent: it is owed as long as nobody joins.
    pub(crate) fn not_cancelled(&mut self, cancel: &Cancel) {
        if let Some(entry) = self.topics.get_mut(&cancel.topic) {
            entry.owes_cancel = entry.listeners.is_empty();
            self.cancelled(cancel);
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

    /// So many messages of a topic came, perhaps with numbers. Gives the number of the first, who is to get them, and
    /// the topic's name.
    pub(crate) fn arrived(
        &mut self,
        topic: &str,
        first_seq: Option<u64>,
        messages: u64,
    ) -> Option<(Arc<str>, u64, impl Iterator<Item = &Q>)> {
        let name = Arc::clone(self.topics.get_key_value(topic)?.0);
        let entry = self.topics.get_mut(topic).filter(|entry| entry.hears())?;
        let first = entry.progress.arrived(first_seq, messages);
        Some((name, first, entry.listeners.values().map(|listener| &listener.queue)))
    }

    /// All messages up to this number have come, or do not come. Gives who is to know.
    pub(crate) fn reached(&mut self, topic: &str, seq: u64) -> Vec<Q> {
        let Some(entry) = self.topics.get_mut(topic).filter(|entry| entry.hears()) else { return Vec::new() };
        entry.progress.heard(seq);
        entry.listeners.values().map(|listener| listener.queue.clone()).collect()
    }

    /// The connection was lost, and another one takes its place. Gives those who were subscribed, in the order in which
    /// they joined.
    ///
    /// Gives also those whose subscribes are under way, and are now in doubt: what they heard until now came from a
    /// subscription that is lost.
    pub(crate) fn lost(&mut self) -> (Vec<Q>, Vec<Q>) {
        self.losses += 1;
        let (mut away, mut in_doubt) = (Vec::new(), Vec::new());
        for entry in self.topics.values_mut() {
            (entry.cancels_under_way, entry.owes_cancel) = (0, false);
            for (id, listener) in &mut entry.listeners {
                match listener.subscribe {
                    Subscribe::Accepted => {
                        listener.subscribe = Subscribe::Away;
                        away.push((*id, listener.queue.clone()));
                    }
                    // Its answer may have come over the connection that is lost, and not be looked at yet.
                    Subscribe::UnderWay | Subscribe::InDoubt => {
                        listener.subscribe = Subscribe::InDoubt;
                        in_doubt.push(listener.queue.clone());
                    }
                    Subscribe::Away => {}
                }
            }
            entry.is_away = entry.listeners.values().any(|listener| listener.subscribe == Subscribe::Away);
            if !entry.is_away {
                entry.progress = Progress::default();
            }
        }
        self.topics.retain(|_, entry| !entry.listeners.is_empty());
        away.sort_unstable_by_key(|(id, _)| *id);
        (away.into_iter().map(|(_, queue)| queue).collect(), in_doubt)
    }

    /// What to ask for on the new connection, in the order of the names.
    pub(crate) fn again(&self) -> Vec<Again> {
        let away = self.topics.iter().filter(|(_, entry)| entry.is_away && !entry.listeners.is_empty());
        let mut again: Vec<_> = away.map(|(topic, entry)| entry.again(topic)).collect();
        again.sort_unstable_by(|one, other| one.topic.cmp(&other.topic));
        again
    }

    /// That was accepted. Gives how it goes on, and for whom.
    pub(crate) fn resumed(&mut self, topic: &str, answer: Option<Subscribed>) -> Option<(Resumed, Vec<Q>)> {
        let entry = self.topics.get_mut(topic)?;
        let resumed = entry.progress.resumed(answer);
        entry.is_away = false;
        let mut back = Vec::new();
        for listener in entry.listeners.values_mut().filter(|listener| listener.subscribe == Subscribe::Away) {
            listener.subscribe = Subscribe::Accepted;
            back.push(listener.queue.clone());
        }
        Some((resumed, back))
    }

    /// That was refused. Takes out those whose subscriptions this ends, and gives them.
    pub(crate) fn not_resumed(&mut self, topic: &str) -> Vec<Q> {
        let Some(entry) = self.topics.get_mut(topic) else { return Vec::new() };
        entry.is_away = false;
        let away = entry.listeners.extract_if(.., |_, listener| listener.subscribe == Subscribe::Away);
        let ended = away.map(|(_, listener)| listener.queue).collect();
        self.tidy(topic);
        ended
    }

    /// The topic was removed. Takes out those whose subscriptions this ended, and gives them.
    ///
    /// Gives also those whose subscribes are under way, and are now in doubt: what they heard until now came from a
    /// subscription that ended.
    pub(crate) fn end_topic(&mut self, topic: &str) -> (Vec<Q>, Vec<Q>) {
        let entry = self.topics.get_mut(topic).filter(|entry| !entry.is_away);
        let Some(entry) = entry else { return (Vec::new(), Vec::new()) };
        let accepted = entry.listeners.extract_if(.., |_, listener| listener.subscribe == Subscribe::Accepted);
        let ended = accepted.map(|(_, listener)| listener.queue).collect();
        entry.listeners.values_mut().for_each(|listener| listener.subscribe = Subscribe::InDoubt);
        let in_doubt = entry.listeners.values().map(|listener| listener.queue.clone()).collect();
        entry.owes_cancel = false;
        entry.progress = Progress::default();
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

impl<Q> Topic<Q> {
    /// Whether what comes is for those who listen.
    const fn hears(&self) -> bool {
        self.cancels_under_way == 0 && !self.is_away
    }

    fn again(&self, topic: &Arc<str>) -> Again {
        let subscribe = TopicOptions { after: self.progress.ask().after, ..self.wants() };
        Again { topic: Arc::clone(topic), subscribe, create: self.progress.create() }
    }

    fn wants(&self) -> TopicOptions {
        let all = || self.listeners.values().map(|listener| listener.wants);
        let policy = all().map(|wants| wants.policy).max().unwrap_or_default();
        let max_bytes = all().map(|wants| wants.max_bytes).max().unwrap_or_default();
        Wants { policy, max_bytes }.options()
    }
}

impl<Q> Default for Topic<Q> {
    fn default() -> Self {
        let (listeners, progress) = (BTreeMap::new(), Progress::default());
        Self { listeners, cancels_under_way: 0, owes_cancel: false, is_away: false, progress }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hearing(listeners: &mut Listeners<char>, topic: &str) -> Vec<char> {
        listeners.arrived(topic, None, 1).map(|(_, _, queues)| queues.copied().collect()).unwrap_or_default()
    }

    fn joined(listeners: &mut Listeners<char>, queue: char) -> ListenerId {
        let who = listeners.join("t", queue, Wants::default());
        assert!(listeners.confirm(&who, None).is_some());
        who
    }

    #[test]
    fn all_of_one_topic_hear_it_and_only_the_last_to_leave_cancels() {
        let mut listeners = Listeners::new();
        let (a, b) = (joined(&mut listeners, 'a'), joined(&mut listeners, 'b'));
        assert_eq!(hearing(&mut listeners, "t"), ['a', 'b']);
        assert_eq!(hearing(&mut listeners, "u"), []);
        assert!(listeners.leave(&a).is_none());
        assert!(listeners.leave(&a).is_none(), "twice is once");
        let cancel = listeners.leave(&b).unwrap();
        listeners.cancelled(&cancel);
        assert!(listeners.topics.is_empty());
    }

    #[test]
    fn one_who_joins_hears_what_comes_before_the_answer() {
        let mut listeners = Listeners::new();
        listeners.join("t", 'a', Wants::default());
        assert_eq!(hearing(&mut listeners, "t"), ['a']);
    }

    #[test]
    fn what_an_earlier_subscription_still_gets_is_not_for_one_who_joins_after_its_cancel() {
        let mut listeners = Listeners::new();
        let a = joined(&mut listeners, 'a');
        let first = listeners.leave(&a).unwrap();
        let b = listeners.join("t", 'b', Wants::default());
        assert_eq!(hearing(&mut listeners, "t"), []);
        let second = listeners.leave(&b).expect("a second cancel, with the first still under way");
        let c = joined(&mut listeners, 'c');
        listeners.cancelled(&first);
        assert_eq!(hearing(&mut listeners, "t"), []);
        listeners.cancelled(&second);
        assert_eq!(hearing(&mut listeners, "t"), ['c']);
        let third = listeners.leave(&c).unwrap();
        listeners.cancelled(&third);
        assert!(listeners.topics.is_empty());
    }

    #[test]
    fn a_cancel_that_could_not_be_sent_is_owed_until_somebody_joins() {
        let mut listeners = Listeners::new();
        let a = joined(&mut listeners, 'a');
        let cancel = listeners.leave(&a).unwrap();
        listeners.not_cancelled(&cancel);
        assert!(listeners.owes_cancel("t"));
        let b = joined(&mut listeners, 'b');
        assert!(!listeners.owes_cancel("t"));
        assert_eq!(hearing(&mut listeners, "t"), ['b']);
        let cancel = listeners.leave(&b).unwrap();
        listeners.not_cancelled(&cancel);
        listeners.settled("t");
        assert!(listeners.topics.is_empty());
    }

    #[test]
    fn a_removed_topic_ends_those_who_are_subscribed_and_leaves_the_others_in_doubt() {
        let mut listeners = Listeners::new();
        let a = joined(&mut listeners, 'a');
        let b = listeners.join("t", 'b', Wants::default());
        assert_eq!(listeners.end_topic("t"), (vec!['a'], vec!['b']));
        assert!(listeners.leave(&a).is_none(), "nothing to cancel");
        assert!(listeners.confirm(&b, None).is_none(), "the answer may be from before the removal");
        assert!(listeners.confirm(&b, None).is_some());
        assert_eq!(hearing(&mut listeners, "t"), ['b']);
        assert_eq!(listeners.end_topic("t"), (vec!['b'], vec![]));
        assert!(listeners.topics.is_empty());
    }

    #[test]
    fn the_end_of_the_connection_ends_all_in_the_order_in_which_they_joined() {
        let mut listeners = Listeners::new();
        for (topic, queue) in [("t", 'a'), ("u", 'b'), ("t", 'c'), ("v", 'd')] {
            listeners.join(topic, queue, Wants::default());
        }
        assert_eq!(listeners.end_all(), ['a', 'b', 'c', 'd']);
        assert!(listeners.topics.is_empty());
    }

    fn at(epoch: u64, seq: u64) -> Subscribed {
        callboard_common::TopicPosition { epoch, seq }.into()
    }

    #[test]
    fn the_first_number_is_that_after_the_answer_and_without_numbers_that_at_the_joining() {
        let mut listeners = Listeners::new();
        let a = listeners.join("t", 'a', Wants::default());
        assert_eq!(listeners.confirm(&a, Some(at(1, 41))), Some(42));
        let b = listeners.join("u", 'b', Wants::default());
        assert_eq!(listeners.arrived("u", None, 3).map(|(_, first, _)| first), Some(1));
        assert_eq!(listeners.confirm(&b, None), Some(1));
        let c = listeners.join("u", 'c', Wants::default());
        assert_eq!(listeners.arrived("u", None, 2).map(|(_, first, _)| first), Some(4));
        assert_eq!(listeners.confirm(&c, None), Some(4), "what came before the answer may be for it");
    }

    #[test]
    fn after_a_loss_those_who_were_subscribed_ask_for_what_follows_and_hear_once_they_are_answered() {
        let mut listeners = Listeners::new();
        for (topic, queue) in [("u", 'a'), ("t", 'b'), ("u", 'c')] {
            let who = listeners.join(topic, queue, Wants::default());
            listeners.confirm(&who, Some(at(7, 10)));
        }
        let left = joined(&mut listeners, 'd');
        let waits = listeners.join("w", 'e', Wants::default());
        listeners.arrived("u", Some(11), 3);
        assert!(listeners.leave(&left).is_none());
        assert_eq!(listeners.lost(), (vec!['a', 'b', 'c'], vec!['e']));
        let again: Vec<_> = listeners.again().into_iter().map(|again| (again.topic, again.subscribe.after)).collect();
        let after = |seq| Some(callboard_common::TopicPosition { epoch: 7, seq });
        assert_eq!(again, [("t".into(), after(10)), ("u".into(), after(13))]);
        assert_eq!(hearing(&mut listeners, "u"), []);
        assert_eq!(listeners.lost().0, [], "told once");
        let answer = Subscribed { replayed: 2, missed: Some(callboard_common::Missed::Exactly(0)), ..at(7, 15) };
        let (resumed, back) = listeners.resumed("u", Some(answer)).unwrap();
        assert_eq!((resumed.before, resumed.next, back), (13, 14, vec!['a', 'c']));
        assert_eq!(listeners.arrived("u", Some(14), 2).unwrap().2.count(), 2);
        assert_eq!(listeners.not_resumed("t"), ['b']);
        assert_eq!(listeners.again(), []);
        assert!(listeners.leave(&waits).is_some());
    }

    #[test]
    fn the_center_is_asked_for_what_all_together_can_do_with() {
        let mut listeners = Listeners::new();
        let mut wants = |policy, max_bytes| {
            listeners.join("t", 'a', Wants { policy, max_bytes });
            let TopicOptions { policy, max_bytes, .. } = listeners.wants("t");
            (policy, max_bytes)
        };
        assert_eq!(wants(SlowPolicy::Latest, 10), (Some(SlowPolicy::Latest), Some(10)));
        assert_eq!(wants(SlowPolicy::DropOldest, 5), (Some(SlowPolicy::DropOldest), Some(10)));
        assert_eq!(wants(SlowPolicy::Disconnect, 5), (Some(SlowPolicy::DropOldest), Some(10)));
        assert_eq!(wants(SlowPolicy::Hold, 5), (None, None), "as any center does");
    }

    #[test]
    fn a_loss_takes_all_cancels_along() {
        let mut listeners = Listeners::new();
        let a = joined(&mut listeners, 'a');
        let before = listeners.leave(&a).unwrap();
        assert_eq!(listeners.lost(), (vec![], vec![]));
        assert!(listeners.topics.is_empty());
        let b = joined(&mut listeners, 'b');
        let after = listeners.leave(&b).unwrap();
        let _c = joined(&mut listeners, 'c');
        listeners.cancelled(&before);
        assert_eq!(
            hearing(&mut listeners, "t"),
            [],
            "an answer over the lost connection is not that of a later cancel"
        );
        listeners.cancelled(&after);
        assert_eq!(hearing(&mut listeners, "t"), ['c']);
    }
}
