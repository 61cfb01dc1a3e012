use std::sync::{Arc, Mutex, PoisonError, Weak};

use callboard_common::{
    Connection, EncodeError, Head, MessageType, SendError, Shared, SlowPolicy, TopicOp, TopicRequest,
};

use crate::service::State;
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
        if how.policy == SlowPolicy::Hold {
            return push(subscriber, frames, Some(self.publisher), self.topic);
        }
        if how.behind.is_some() {
            return; // it gets it, if at all, once it has caught up
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
        wait(subscriber, how, Arc::downgrade(self.state), topic, self.epoch)
    }
}

/// Lets a subscriber go on once it has caught up; `false` if it has already, or is gone.
fn wait<C: Connection>(
    subscriber: &C,
    how: &Subscriber,
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
    subscriber.once_written_down_to(how.max_bytes / 2, Box::new(then))
}

impl<C: Connection> State<C> {
    /// A subscriber that was behind has taken what waited for it: it goes on as its policy has it.
    fn caught_up(&mut self, subscriber: &C, name: &Arc<str>, epoch: u64, shared: &Arc<Mutex<Self>>) {
        let id = self.next_notice();
        let Ok(topic) = self.topics.topic_mut(name) else { return };
        if topic.position().epoch != epoch {
            return;
        }
        let Some(how) = topic.subscriber_mut(subscriber) else { return };
        let (Some(after), how) = (how.behind.take(), *how) else { return };
        let seq = topic.position().seq;
        let mut reached = match how.policy {
            SlowPolicy::DropNewest => after,
            SlowPolicy::Latest => replay(topic, subscriber, &how, seq.saturating_sub(1).max(after)),
            _ => replay(topic, subscriber, &how, after),
        };
        while how.policy == SlowPolicy::DropOldest && topic.ring().count_after(reached) > 0 {
            if wait(subscriber, &how, Arc::downgrade(shared), Arc::clone(name), epoch) {
                if let Some(how) = topic.subscriber_mut(subscriber) {
                    how.behind = Some(reached);
                }
                return;
            }
            let further = replay(topic, subscriber, &how, reached);
            if further == reached {
                return; // it is gone
            }
            reached = further;
        }
        if reached < seq {
            tell_reached(subscriber, name, seq, &id);
        }
    }

    /// The topic is about to be removed: what was left out for those who are behind does not come any more.
    pub(crate) fn tell_those_behind(&mut self, name: &str) {
        let Ok(topic) = self.topics.topic_mut(name) else { return };
        let seq = topic.position().seq;
        let behind = topic.subscribers_mut().filter(|(_, how)| how.behind.is_some());
        let behind: Vec<C> = behind.map(|(subscriber, _)| subscriber.clone()).collect();
        for subscriber in behind {
            let id = self.next_notice();
            tell_reached(&subscriber, name, seq, &id);
        }
    }
}

/// Queues what is kept after this number, as far as there is room; how far that is.
fn replay<C: Connection>(topic: &Topic<C>, subscriber: &C, how: &Subscriber, after: u64) -> u64 {
    let kept = topic.ring().count_after(after);
    let mut left = kept;
    for piece in topic.ring().after(after, subscriber.max_shared_bytes(), how.max_bytes) {
        if subscriber.queued_bytes() > how.max_bytes || !try_push(subscriber, &subscriber.share(piece.frames)) {
            break;
        }
        left -= piece.messages;
    }
    if left == kept { after } else { topic.position().seq - left }
}

/// All up to this number was sent or is left out: else the subscriber would not know until the next message.
fn tell_reached<C: Connection>(subscriber: &C, topic: &str, seq: u64, id: &str) {
    let notice: Result<_, EncodeError> = subscriber.encode(
        Head::new(MessageType::TopicRequest, id.as_bytes()),
        &<TopicRequest<'_>>::new(topic, TopicOp::Subscribe).with_seq(seq),
    );
    if let Ok(notice) = notice {
        push(subscriber, &subscriber.share(notice), None, topic);
    }
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

const CUT_OFF: &str = "slow subscriber: more waits for it than its subscribe permits";
