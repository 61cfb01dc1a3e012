use std::hash::Hash;
use std::sync::Arc;

use bytes::Bytes;
use callboard_common::{Missed, SlowPolicy, Subscribed, TopicOptions, TopicPosition};
use indexmap::IndexMap;
use indexmap::map::Entry;

use crate::holdings::Holder;
use crate::kept::{Filed, Kept};
use crate::publication::{Form, Needs};
use crate::ring::{Ring, RingBounds};
use crate::slack::room_to_keep;

/// One topic: who is subscribed, how far its messages are counted, and the last of them. Pure state.
#[derive(Clone, Debug)]
pub(crate) struct Topic<K> {
    name: Arc<str>,
    pub(crate) holder: Holder<K>,
    /// Where it stands: its life, and the number of the last message.
    at: TopicPosition,
    subscribers: IndexMap<K, Subscriber>,
    /// How many of them take each form.
    forms: [usize; 3],
    ring: Ring,
    filed: Filed,
    /// Somebody could come back and count: from the first who counts on, the last messages are kept.
    keeps: bool,
    /// The last message is kept for those who subscribe later.
    retain: bool,
}

/// One who is subscribed: what it takes, and what is left out if it can't keep up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subscriber {
    pub(crate) form: Form,
    pub(crate) policy: SlowPolicy,
    /// Above so many bytes that wait for it the policy decides; with `Hold`, only how it catches up. At most half of what
    /// may wait for its connection: up to that no push is refused, so what is left out is what the policy says.
    pub(crate) max_bytes: usize,
    /// The last message that was queued for it, or left out for good, while it gets nothing until it has caught up.
    pub(crate) behind: Option<u64>,
}

impl Subscriber {
    /// What a peer asks for whose connection has so much room; one that does not count can't be left without messages.
    pub(crate) fn new(form: Form, options: &TopicOptions, max_queued_bytes: usize) -> Self {
        let policy = options.policy.unwrap_or_default();
        let asked = options.max_bytes.map_or(MAX_BYTES, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        let asked = if policy == SlowPolicy::Hold { usize::MAX } else { asked };
        Self { form, policy, max_bytes: asked.min(max_queued_bytes / 2), behind: None }
    }

    /// Whether messages are left out rather than that anybody waits, or it is cut off.
    pub(crate) const fn may_miss(&self) -> bool {
        matches!(self.policy, SlowPolicy::DropOldest | SlowPolicy::DropNewest | SlowPolicy::Latest)
    }

    /// Whether it is behind and goes on with the last message at the latest.
    fn is_owed_the_last(&self) -> bool {
        self.behind.is_some() && self.policy != SlowPolicy::DropNewest
    }
}

impl Default for Subscriber {
    fn default() -> Self {
        Self::new(Form::default(), &TopicOptions::default(), usize::MAX)
    }
}

/// What may wait for one that does not say otherwise.
const MAX_BYTES: usize = 1 << 20;

impl<K: Eq + Hash> Topic<K> {
    pub(crate) fn new(name: Arc<str>, holder: Holder<K>, epoch: u64) -> Self {
        Self {
            name,
            holder,
            at: TopicPosition { epoch, seq: 0 },
            subscribers: IndexMap::new(),
            forms: [0; 3],
            ring: Ring::default(),
            filed: Filed::default(),
            keeps: false,
            retain: false,
        }
    }

    /// In an order that follows from the operations alone.
    pub(crate) fn subscribers(&self) -> impl ExactSizeIterator<Item = &K> + Clone {
        self.subscribers.keys()
    }

    /// The same, and how each is subscribed.
    pub(crate) fn subscribers_mut(&mut self) -> impl Iterator<Item = (&K, &mut Subscriber)> {
        self.subscribers.iter_mut()
    }

    pub(crate) fn subscriber_mut(&mut self, connection: &K) -> Option<&mut Subscriber> {
        self.subscribers.get_mut(connection)
    }

    /// One who is subscribed already has another policy from now on, if it says so; whether it is behind stays.
    pub(crate) fn add(&mut self, connection: K, subscriber: Subscriber) {
        self.keeps |= subscriber.form == Form::Numbered;
        match self.subscribers.entry(connection) {
            Entry::Occupied(mut entry) => {
                let behind = entry.get().behind;
                entry.insert(Subscriber { behind, ..subscriber });
            }
            Entry::Vacant(entry) => {
                entry.insert(subscriber);
                self.count(subscriber.form, usize::wrapping_add);
            }
        }
    }

    /// Whether it was subscribed.
    pub(crate) fn take_out(&mut self, connection: &K) -> bool {
        let Some(subscriber) = self.subscribers.swap_remove(connection) else { return false };
        self.count(subscriber.form, usize::wrapping_sub);
        if let Some(room) = room_to_keep(self.subscribers.len(), self.subscribers.capacity()) {
            self.subscribers.shrink_to(room);
        }
        true
    }

    pub(crate) fn into_subscribers(self) -> impl ExactSizeIterator<Item = K> {
        self.subscribers.into_keys()
    }

    /// From now on its last message is kept for those who subscribe later.
    pub(crate) const fn set_retain(&mut self) {
        self.keeps = true;
        self.retain = true;
    }

    pub(crate) const fn needs(&self) -> Needs {
        let [text, value, numbered] = self.forms;
        Needs { text: text > 0, value: value > 0, numbered: numbered > 0 || self.keeps, next: self.at.seq + 1 }
    }

    /// So many messages are published. `frames` are theirs with their numbers; without, they can't be kept.
    pub(crate) fn published(&mut self, messages: u64, frames: Option<&Bytes>, bounds: RingBounds, kept: &mut Kept) {
        let first = self.at.seq + 1;
        self.at.seq += messages;
        self.holder.publish();
        if !self.keeps {
            return;
        }
        let before = self.ring.bytes();
        match frames {
            Some(frames) => {
                let is_owed = || self.subscribers.values().any(Subscriber::is_owed_the_last);
                let keep_last = self.retain || (!bounds.take(frames) && is_owed());
                let bounds = RingBounds { keep_last, ..bounds };
                self.ring.push(first, messages, frames.clone(), bounds);
            }
            None => self.ring.clear(),
        }
        kept.changed(&self.name, &mut self.filed, before, self.ring.bytes());
    }

    /// Over the bound on what all topics keep, this one is said to be the oldest: it gives up its messages, if so.
    pub(crate) fn give_up(&mut self, kept: &mut Kept) {
        if kept.is_oldest(&self.name, &mut self.filed) {
            self.forget(kept);
        }
    }

    /// Drops what is kept.
    pub(crate) fn forget(&mut self, kept: &mut Kept) {
        kept.changed(&self.name, &mut self.filed, self.ring.bytes(), 0);
        self.ring.clear();
    }

    /// What one who counts gets when it subscribes: what was published since it left off, as far as that is kept. All
    /// that is kept, where it left off in another life of the topic.
    pub(crate) fn subscribed(&self, options: &TopicOptions) -> Subscribed {
        let left_off = options.after.filter(|at| at.epoch == self.at.epoch && at.seq <= self.at.seq);
        let after = match (options.after, left_off) {
            (Some(_), Some(at)) => at.seq,
            (Some(_), None) => 0,
            (None, _) if options.retain.unwrap_or(self.retain) => self.at.seq.saturating_sub(1),
            (None, _) => self.at.seq,
        };
        let replayed = self.ring.count_after(after);
        let missed = || left_off.map_or(Missed::Unknown, |_| Missed::Exactly(self.at.seq - after - replayed));
        let missed = options.after.map(|_| missed());
        Subscribed { at: self.at, replayed, missed, retain: self.retain }
    }

    /// Where it stands: its life, and the number of the last message.
    pub(crate) const fn position(&self) -> TopicPosition {
        self.at
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) const fn ring(&self) -> &Ring {
        &self.ring
    }

    fn count(&mut self, form: Form, change: fn(usize, usize) -> usize) {
        if let Some(count) = self.forms.get_mut(form as usize) {
            *count = change(*count, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_that_has_left_leaves_no_room_behind_and_the_others_keep_their_order() {
        let mut topic = Topic::new("t".into(), Holder::Connection(0), 1);
        for connection in 0..900 {
            topic.add(connection, Subscriber::default());
        }
        for connection in (3..900).rev() {
            topic.take_out(&connection);
        }
        assert_eq!(topic.subscribers().collect::<Vec<_>>(), [&0, &1, &2]);
        assert!(topic.subscribers.capacity() <= 12, "{}", topic.subscribers.capacity());
    }
}
