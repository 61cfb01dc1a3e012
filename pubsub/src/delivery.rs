use std::sync::{Arc, Mutex, PoisonError, Weak};

use callboard_common::{
    Connection, EncodeError, Head, MessageType, SendError, Shared, SlowPolicy, Subscribed, TopicOp, TopicRequest,
};

use crate::service::{Notices, State};
use crate::topic::{Subscriber, Topic};

/// Messages on their way to one subscriber after the other, each as its policy has it.
pub(crate) struct Delivery<'a, C: Connection> {
    pub(crate) publisher: &'a C,
    pub(crate) topic: &'a Arc<str>,
    pub(crate) epoch: u64,
    /// The number of the first.
    pub(crate) first: u64,
    /// Where one who is behind comes back to.
    pub(crate) state: &'a Arc<Mutex<State<C>>>,
}

impl<C: Connection> Delivery<'_, C> {
    /// Queues the frames for a subscriber, or leaves them out.
    pub(crate) fn deliver(&self, subscriber: &C, how: &mut Subscriber, frames: &Shared) {
        if how.behind.is_some() {
            return; // whatever its policy is by now: it gets it, if at all, once it has caught up with those before
        }
        if how.policy == SlowPolicy::Hold {
            return push(subscriber, frames, Some(self.publisher), self.topic);
        }
        let has_room = subscriber.queued_bytes() <= how.max_bytes;
        match (how.may_miss(), has_room) {
            (false, true) => return push(subscriber, frames, None, self.topic),
            (false, false) => return close(subscriber, self.topic, CUT_OFF),
            (true, _) => {}
        }
        if has_room && try_push(subscriber, frames) {
            return;
        }
        if self.waits_for(subscriber, how) {
            how.behind = Some(self.first - 1);
        } else {
            push(subscriber, frames, None, self.topic); // it has caught up meanwhile, or too much waits on it
        }
    }

    fn waits_for(&self, subscriber: &C, how: &Subscriber) -> bool {
        let topic = Arc::clone(self.topic);
        wait(subscriber, how.max_bytes / 2, Arc::downgrade(self.state), topic, self.epoch)
    }
}

/// Lets a subscriber go on once no more than so many bytes of what waits for it are left; `false` if it is so already, or
/// as many wait as may, or it is gone.
fn wait<C: Connection>(
    subscriber: &C,
    bytes: usize,
    state: Weak<Mutex<State<C>>>,
    topic: Arc<str>,
    epoch: u64,
) -> bool {
    let conn = subscriber.clone();
    let then = move || {
        let Some(shared) = state.upgrade() else { return };
        let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
        state.caught_up(&conn, &topic, epoch, &shared);
    };
    subscriber.once_written_down_to(bytes, Box::new(then))
}

impl<C: Connection> State<C> {
    /// A subscriber that was behind has taken what waited for it: it goes on as its policy has it.
    fn caught_up(&mut self, subscriber: &C, name: &Arc<str>, epoch: u64, shared: &Arc<Mutex<Self>>) {
        let Self { topics, notices, .. } = self;
        let Ok(topic) = topics.topic_mut(name) else { return };
        if topic.position().epoch != epoch {
            return;
        }
        let Some(how) = topic.subscriber_mut(subscriber) else { return };
        let (Some(mut reached), how) = (how.behind.take(), *how) else { return };
        let mut was_stuck = false;
        loop {
            let before = reached;
            reached = go_on(topic, subscriber, &how, before, notices);
            if reached == topic.position().seq {
                return;
            }
            let is_stuck = reached == before;
            // Who has had its turn waits for longer: else it would fill the outbox again and again, and others of the
            // same connection, which wait for the same bytes, would never find room.
            let down_to = if is_stuck { how.max_bytes / 2 } else { how.max_bytes / 4 };
            if wait(subscriber, down_to, Arc::downgrade(shared), Arc::clone(name), epoch) {
                if let Some(how) = topic.subscriber_mut(subscriber) {
                    how.behind = Some(reached);
                }
                return;
            }
            // Once it may have caught up between two looks.
            if is_stuck && was_stuck {
                return close(subscriber, name, CANT_WAIT);
            }
            was_stuck = is_stuck;
        }
    }

    /// What is kept for one who has subscribed follows the answer, as far as there is room; with the rest it is behind.
    pub(crate) fn replay(&mut self, subscriber: &C, name: &str, said: Subscribed, shared: &Arc<Mutex<Self>>) {
        let Ok(topic) = self.topics.topic_mut(name) else { return };
        let name = Arc::clone(topic.name());
        let Some(how) = topic.subscriber_mut(subscriber).copied().filter(|_| said.replayed > 0) else { return };
        let reached = replay(topic, subscriber, &how, said.at.seq - said.replayed);
        if reached < said.at.seq
            && let Some(how) = topic.subscriber_mut(subscriber)
        {
            how.behind = Some(reached);
            self.caught_up(subscriber, &name, said.at.epoch, shared);
        }
    }

    /// The topic is about to be removed: what was left out for those who are behind does not come any more.
    pub(crate) fn tell_those_behind(&mut self, name: &str) {
        let Self { topics, notices, .. } = self;
        let Ok(topic) = topics.topic_mut(name) else { return };
        let seq = topic.position().seq;
        for (subscriber, _) in topic.subscribers_mut().filter(|(_, how)| how.behind.is_some()) {
            if let Ok(notice) = reached_notice(subscriber, name, seq, notices) {
                push(subscriber, &notice, None, name);
            }
        }
    }
}

/// Queues what comes next for one who is behind, as far as there is room. Gives up to which number all was queued then, or
/// is left out and told to be.
fn go_on<C: Connection>(topic: &Topic<C>, subscriber: &C, how: &Subscriber, after: u64, notices: &mut Notices) -> u64 {
    let seq = topic.position().seq;
    let first = match how.policy {
        SlowPolicy::DropNewest => seq,
        SlowPolicy::Latest => seq.saturating_sub(1).max(after),
        _ => after,
    };
    if topic.ring().count_after(first) > 0 {
        let reached = replay(topic, subscriber, how, first);
        return if reached == first { after } else { reached };
    }
    if subscriber.queued_bytes() > how.max_bytes {
        return after;
    }
    // What can't be said the next message's number says.
    let told = reached_notice(subscriber, topic.name(), seq, notices).map_or(true, |it| try_push(subscriber, &it));
    if told { seq } else { after }
}

/// Queues what is kept after this number, as far as there is room; how far that is.
fn replay<C: Connection>(topic: &Topic<C>, subscriber: &C, how: &Subscriber, after: u64) -> u64 {
    let kept = topic.ring().count_after(after);
    let mut left = kept;
    let mut pieces = topic.ring().after(after, subscriber.max_shared_bytes());
    while subscriber.queued_bytes() <= how.max_bytes
        && let Some(piece) = pieces.next()
        && try_push(subscriber, &subscriber.share(piece.frames))
    {
        left -= piece.messages;
    }
    if left == kept { after } else { topic.position().seq - left }
}

/// All up to this number was sent or is left out: else the subscriber would not know until the next message.
fn reached_notice<C: Connection>(
    subscriber: &C,
    topic: &str,
    seq: u64,
    notices: &mut Notices,
) -> Result<Shared, EncodeError> {
    let id = notices.next();
    let notice = <TopicRequest<'_>>::new(topic, TopicOp::Subscribe).with_seq(seq);
    let frame = subscriber.encode(Head::new(MessageType::TopicRequest, id.as_bytes()), &notice)?;
    Ok(subscriber.share(frame))
}

/// Whether there was room; of one that is gone nothing is to be said.
fn try_push<C: Connection>(subscriber: &C, frame: &Shared) -> bool {
    !matches!(subscriber.push(frame, None), Err(SendError::Full))
}

pub(crate) fn push<C: Connection>(subscriber: &C, frame: &Shared, publisher: Option<&C>, topic: &str) {
    if let Err(SendError::Full) = subscriber.push(frame, publisher) {
        close(subscriber, topic, "slow subscriber: its outbox is full");
    }
}

/// What can't be queued can't be skipped: the subscriber would take a history with a gap for a whole one.
fn close<C: Connection>(subscriber: &C, topic: &str, why: &str) {
    let topic = short(topic);
    subscriber.close(format!("a message of topic {topic:?} can't be queued for it: {why}").into());
}

/// A topic's name for a line of the log.
pub(crate) fn short(topic: &str) -> String {
    topic.chars().take(64).collect()
}

const CANT_WAIT: &str = "slow subscriber: it has no room, and can't be waited for";
const CUT_OFF: &str = "slow subscriber: more waits for it than its subscribe permits";
