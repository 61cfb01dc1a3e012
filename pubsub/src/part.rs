use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use callboard_client::{CallError, Client, OwnTask, Ping};
use callboard_common::{Feature, Message, SlowPolicy, TopicOp, TopicOperation, TopicOptions, TopicRequest};
use tokio::sync::oneshot;
use tokio::task::coop::poll_proceed;
use tokio::time::{sleep, timeout};

use crate::backlog::{Bounds, End, Mark, Next};
use crate::bundle::Bundle;
use crate::hub::{Hub, subject};
use crate::listeners::{ListenerId, Wants};
use crate::progress::Resumed;
use crate::queue::Queue;
use crate::repeats::{Known, Repeats};
use crate::sequence::{Gap, Heard, Sequence};
use crate::topics::check;
use crate::{Event, News};

/// A subscription at one center: what comes there, in order, with its gaps.
pub(crate) struct Part {
    seat: Seat,
    /// Taken from the queue and not yet asked for.
    at_hand: Option<Bundle>,
    sequence: Sequence,
    /// What comes next, after a gap that was told before it.
    after_gap: Option<Event>,
    /// Up to this number messages had been published before it began: those that come of them, the center retained.
    retained: u64,
    /// Of each publisher's messages none is wanted once a later one was heard.
    latest: bool,
    /// The connection was lost, and it was told.
    lost: bool,
    /// Messages that it gives before it looks whether others are to have their turn.
    free_turns: usize,
    /// Ends it once all has come that is on its way.
    ending: Option<OwnTask<()>>,
}

/// What to subscribe to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) topic: &'a str,
    pub(crate) bounds: Bounds,
    pub(crate) retain: Option<bool>,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug)]
enum Verdict {
    Heard,
    /// It was heard before.
    Dropped,
    /// It is not given, and told to be missing.
    Missing,
}

/// A place among the listeners of a topic; given up when it is dropped.
struct Seat {
    client: Client,
    hub: Arc<Hub>,
    queue: Arc<Queue>,
    listener: ListenerId,
}

/// Of what may wait for a subscription that may miss messages at most so much waits at the center, where it is not
/// counted in messages.
const AT_CENTER_BYTES: usize = 1 << 20;
/// Messages that count as one step of a task: tokio lets a task take 128 steps at a time.
const TURN_MESSAGES: usize = 16;
/// Where a sign that all has come could not be asked for, or did not come.
const BEFORE_ASKING_AGAIN: Duration = Duration::from_millis(50);

impl Part {
    pub(crate) async fn open(client: &Client, wish: Wish<'_>) -> Result<Self, CallError> {
        let Wish { topic, bounds, retain } = wish;
        let subject = subject(topic);
        let seat = Seat::take(client, topic, bounds);
        loop {
            let counts = client.knows(Feature::Seq);
            let wanted = TopicOptions { retain, ..seat.hub.wants(topic) };
            // A center that does not count is told nothing beyond v1.
            let options = if counts { wanted } else { TopicOptions::default() };
            let subscribe = TopicOperation { topic: topic.into(), op: TopicOp::Subscribe, options };
            let answer = client.exchange(&subject, &subscribe).await?;
            let answer = check(client, &subject, &answer)?;
            if let Some(next) = seat.hub.confirm(&seat.listener, answer) {
                let retained = answer.map_or(0, |answer| answer.at.seq);
                let sequence = Sequence::from(next);
                let latest = bounds.policy == SlowPolicy::Latest;
                let (at_hand, after_gap, ending) = (None, None, None);
                let (lost, free_turns) = (false, 0);
                return Ok(Self { seat, at_hand, sequence, after_gap, retained, latest, lost, free_turns, ending });
            }
        }
    }

    pub(crate) fn topic(&self) -> &Arc<str> {
        &self.seat.listener.topic
    }

    pub(crate) const fn client(&self) -> &Client {
        &self.seat.client
    }

    /// What comes next. Repeats of what came before are dropped, here or at another center.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, repeats: &mut Repeats) -> Poll<Result<Event, End>> {
        loop {
            if self.free_turns == 0 {
                // One who is behind must let others of its thread have their turn, the connection's task among them.
                ready!(poll_proceed(cx)).made_progress();
                self.free_turns = TURN_MESSAGES;
            }
            if let Some(event) = self.after_gap.take() {
                return Poll::Ready(Ok(event));
            }
            if let Some(news) = self.at_hand.as_mut().and_then(Bundle::next) {
                let (number, heard) = (news.number(), self.sequence.hear(news.number()));
                if heard == Heard::Again {
                    continue;
                }
                // What is dropped is work too.
                self.free_turns -= 1;
                let gap = if let Heard::After(gap) = heard { Some(gap) } else { None };
                let (gap, news) = match self.judge(&news, repeats) {
                    Verdict::Heard => (gap, Some(Event::Message(news))),
                    Verdict::Dropped => (gap, None),
                    Verdict::Missing => (Some(Gap { from: gap.map_or(number, |gap| gap.from), to: number }), None),
                };
                match (gap, news) {
                    (Some(gap), news) => return Poll::Ready(Ok(self.tell(gap, news))),
                    (None, Some(news)) => return Poll::Ready(Ok(news)),
                    (None, None) => continue,
                }
            }
            self.at_hand = None; // its memory is free while this one waits
            match ready!(self.seat.queue.poll(cx)) {
                Ok(Next::Messages(bundle)) => self.at_hand = Some(bundle),
                Ok(Next::Mark(mark)) => {
                    if let Some(event) = self.pass(mark) {
                        return Poll::Ready(Ok(event));
                    }
                }
                Err(end) => return Poll::Ready(Err(end)),
            }
        }
    }

    /// The next message where that is all there is to say: it is at hand, and follows the last one. Else
    /// [`poll`](Self::poll) tells. Most messages come this way, which is short.
    #[inline]
    pub(crate) fn next_at_hand(&mut self) -> Option<News> {
        if self.free_turns == 0 || self.after_gap.is_some() {
            return None;
        }
        let bundle = self.at_hand.as_mut()?;
        if bundle.may_repeat() || !self.sequence.goes_on_with(bundle.next_number()?) {
            return None;
        }
        self.free_turns -= 1;
        bundle.next()
    }

    /// Whether it was told that the connection is lost.
    pub(crate) const fn is_lost(&self) -> bool {
        self.lost
    }

    /// The topic was removed elsewhere: it ends as removed here, too, once what the center has queued for it has come.
    pub(crate) fn end_behind_what_comes(&mut self) {
        let (client, queue, topic) = (self.client().clone(), Arc::clone(&self.seat.queue), Arc::clone(self.topic()));
        self.ending = Some(OwnTask::spawn(async move {
            if timeout(client.timeout(), end_in_order(&client, &topic, &queue)).await.is_err() {
                // What was on its way is in doubt; if the connection is gone, that was told.
                if client.is_online() {
                    queue.mark(Mark::Lost).let_go();
                }
                queue.end(End::TopicRemoved).let_go();
            }
        }));
    }

    /// Takes it out of the listeners.
    pub(crate) fn leave(&self) {
        self.seat.hub.leave(&self.seat.client, &self.seat.listener);
    }

    /// What becomes of a message by what came before, here and elsewhere.
    #[inline]
    fn judge(&self, news: &News, repeats: &mut Repeats) -> Verdict {
        let Some(id) = news.id() else { return Verdict::Heard };
        let is_retained = news.number() <= self.retained;
        match repeats.hear(id) {
            Known::New => Verdict::Heard,
            Known::Repeat => Verdict::Dropped,
            // A later one was heard elsewhere: this one is the topic's last no more.
            Known::Late | Known::Forgotten if is_retained => Verdict::Dropped,
            Known::Late if !self.latest => Verdict::Heard,
            Known::Late | Known::Forgotten => Verdict::Missing,
        }
    }

    /// What lies between messages, as an event if it is one.
    fn pass(&mut self, mark: Mark) -> Option<Event> {
        match mark {
            Mark::Reached(seq) => self.sequence.reach(seq).map(|gap| self.tell(gap, None)),
            Mark::Lost => {
                self.lost = true;
                Some(Event::Disconnected)
            }
            Mark::Resumed(Resumed { before, missed, next }) => {
                let gap = self.sequence.reach(before);
                self.sequence = Sequence::from(next);
                (self.retained, self.lost) = (0, false);
                let resumed = Event::Resumed { missed };
                Some(match gap {
                    Some(gap) => self.tell(gap, Some(resumed)),
                    None => resumed,
                })
            }
        }
    }

    fn tell(&mut self, gap: Gap, next: Option<Event>) -> Event {
        self.after_gap = next;
        Event::Lagged { from: gap.from, to: gap.to }
    }
}

/// Ends the queue in order with all else that comes over the connection, or over a later one if that is lost.
async fn end_in_order(client: &Client, topic: &str, queue: &Arc<Queue>) {
    loop {
        let (told, answered) = oneshot::channel();
        let ends = Arc::clone(queue);
        let done = move |answer: Result<Message, CallError>| {
            if answer.is_ok() {
                ends.end(End::TopicRemoved).let_go();
            }
            let _ = told.send(answer.is_ok());
        };
        if ask(client, topic, done).is_ok() && answered.await == Ok(true) {
            return;
        }
        sleep(BEFORE_ASKING_AGAIN).await;
        if client.online().await.is_err() {
            return; // its end comes by itself
        }
    }
}

/// Asks for an answer that comes behind what the center has sent.
fn ask(
    client: &Client,
    topic: &str,
    done: impl FnOnce(Result<Message, CallError>) + Send + 'static,
) -> Result<(), CallError> {
    let subject = subject(topic);
    if client.knows(Feature::Ping) {
        return client.exchange_in_order(&subject, &Ping, done);
    }
    // To one who is subscribed this changes nothing.
    client.exchange_in_order(&subject, &<TopicRequest<'_>>::new(topic, TopicOp::Subscribe), done)
}

impl Seat {
    fn take(client: &Client, topic: &str, bounds: Bounds) -> Self {
        let (hub, queue) = (Hub::of(client), Arc::new(Queue::new(bounds)));
        let wants = Wants { policy: bounds.policy, max_bytes: bounds.max_bytes.min(AT_CENTER_BYTES) };
        let listener = hub.join(topic, Arc::clone(&queue), wants);
        Self { client: client.clone(), hub, queue, listener }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hub.leave(&self.client, &self.listener);
    }
}
