use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use callboard_client::{CallError, Client};
use callboard_common::{Feature, Missed, SlowPolicy, TopicOp, TopicOperation, TopicOptions};
use serde::de::DeserializeOwned;
use tokio::task::coop::poll_proceed;
use tokio_stream::{Stream, StreamExt};

use crate::backlog::{Bounds, End, Mark, Next};
use crate::bundle::Bundle;
use crate::hub::{Hub, subject};
use crate::listeners::{ListenerId, Wants};
use crate::progress::Resumed;
use crate::queue::Queue;
use crate::sequence::{Gap, Heard, Sequence};
use crate::topics::check;
use crate::{Event, News, SubscriptionError};

/// What is published to one topic, as a [`Stream`] of [`News`] in the order in which it was published.
///
/// A client may hold any number of them, several to one topic too. Each keeps the client's connection alive. Dropping
/// the last one to a topic tells the center, without waiting for it.
///
/// A subscription that is not read fast enough loses nothing: what waits is bounded, and above a soft bound the client's
/// connection is not read, so that TCP holds back the center, and the center the publishers. That would let calls on the
/// same connection wait too; so while one waits, reading goes on, up to a hard bound at which the subscription ends with
/// [`SubscriptionError::TooSlow`]. The bounds are set with [`Subscription::builder`]. A center waits only for subscribers
/// that make progress: one that takes nothing for long (500 ms, unless it is set otherwise) while much is published is
/// disconnected in the end.
///
/// After an error it ends.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use callboard_client::Client;
/// use callboard_pubsub::Subscription;
/// let client = Client::connect("127.0.0.1:7070").await?;
/// let mut news = Subscription::open(&client, "news").await?;
/// while let Some(message) = news.next().await {
///     println!("{}", message?.text());
/// }
/// # Ok(()) }
/// ```
pub struct Subscription {
    seat: Seat,
    /// Taken from the queue and not yet asked for.
    at_hand: Option<Bundle>,
    sequence: Sequence,
    /// What comes next, after a gap that was told before it.
    after_gap: Option<Event>,
    /// Messages that it gives before it looks whether others are to have their turn.
    free_turns: usize,
    ended: bool,
}

/// Settings of a [`Subscription`].
#[derive(Debug)]
#[must_use]
pub struct SubscriptionBuilder<'a> {
    client: &'a Client,
    topic: &'a str,
    bounds: Bounds,
    retain: Option<bool>,
}

/// A [`Subscription`] whose messages are read as a type: a [`Stream`] of `Result<T, SubscriptionError>`. A message that
/// does not have the type is an error after which it goes on.
pub struct TypedSubscription<T> {
    news: Subscription,
    messages: PhantomData<fn() -> T>,
}

/// A place among the listeners of a topic; given up when it is dropped.
struct Seat {
    client: Client,
    hub: Arc<Hub>,
    queue: Arc<Queue>,
    listener: ListenerId,
}

/// Of what may wait for a subscription that may miss messages at most so much waits at the center, where it is not counted
/// in messages.
const AT_CENTER_BYTES: usize = 1 << 20;
/// Messages that count as one step of a task: tokio lets a task take 128 steps at a time.
const TURN_MESSAGES: usize = 16;

impl Subscription {
    /// Subscribes to a topic. It hears all that is published after this returns, and what is published before may be
    /// heard.
    ///
    /// # Errors
    /// What any call may fail with; [`ResultCode::NotFoundTopic`](callboard_common::ResultCode) if there is no such
    /// topic, `Overloaded` if this connection has as many subscriptions as the center permits.
    ///
    /// # Cancel safety
    /// Dropping the future before it is ready takes the subscription back.
    pub async fn open(client: &Client, topic: &str) -> Result<Self, CallError> {
        Self::builder(client, topic).open().await
    }

    /// The same with each message read as a `T`.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    ///
    /// # Cancel safety
    /// That of [`open`](Self::open).
    pub async fn open_typed<T: DeserializeOwned>(
        client: &Client,
        topic: &str,
    ) -> Result<TypedSubscription<T>, CallError> {
        Ok(Self::open(client, topic).await?.typed())
    }

    /// Settings first.
    pub fn builder<'a>(client: &'a Client, topic: &'a str) -> SubscriptionBuilder<'a> {
        SubscriptionBuilder { client, topic, bounds: Bounds::default(), retain: None }
    }

    /// From now on, each message read as a `T`.
    pub fn typed<T: DeserializeOwned>(self) -> TypedSubscription<T> {
        TypedSubscription { news: self, messages: PhantomData }
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.seat.listener.topic
    }

    /// The next message, or what ended the subscription; `None` after that.
    ///
    /// Where messages are missing, that is an error too ([`SubscriptionError::Missed`]), after which it goes on; that the
    /// connection was lost and nothing is missing is not told. [`next_event`](Self::next_event) tells all.
    ///
    /// # Errors
    /// See [`SubscriptionError`].
    ///
    /// # Cancel safety
    /// No message is lost.
    pub async fn next(&mut self) -> Option<Result<News, SubscriptionError>> {
        StreamExt::next(self).await
    }

    /// The next message, or what is to be told between messages, or what ended the subscription; `None` after that.
    ///
    /// ```no_run
    /// # async fn run(mut news: callboard_pubsub::Subscription) -> Result<(), callboard_pubsub::SubscriptionError> {
    /// use callboard_pubsub::Event;
    /// while let Some(event) = news.next_event().await {
    ///     match event? {
    ///         Event::Message(message) => println!("{}", message.text()),
    ///         Event::Lagged { from, to } => println!("messages {from} to {to} are missing"),
    ///         other => println!("{other:?}"),
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// All but [`SubscriptionError::Missed`] and `Decode`.
    ///
    /// # Cancel safety
    /// No event is lost.
    pub async fn next_event(&mut self) -> Option<Result<Event, SubscriptionError>> {
        poll_fn(|cx| self.poll_event(cx)).await
    }
}

impl SubscriptionBuilder<'_> {
    /// Above so many bytes that wait to be taken, bookkeeping included, the connection is not read until fewer wait.
    /// Default 64 KiB. More lets the reader pause for longer before publishers feel it, takes memory, and is slower where
    /// messages fall out of the processor's cache before they are taken.
    pub const fn hold_bytes(mut self, bytes: usize) -> Self {
        self.bounds.hold_bytes = bytes;
        self
    }

    /// The same in messages. Default 8,192.
    pub const fn hold_messages(mut self, messages: usize) -> Self {
        self.bounds.hold_messages = messages;
        self
    }

    /// Past so many bytes the [policy](Self::policy) decides. Default 64 MiB. With `Hold` it comes to this only if calls
    /// wait for answers on the same connection, which then must be read.
    pub const fn max_bytes(mut self, bytes: usize) -> Self {
        self.bounds.max_bytes = bytes;
        self
    }

    /// The same in messages. Default: no bound.
    pub const fn max_messages(mut self, messages: usize) -> Self {
        self.bounds.max_messages = messages;
        self
    }

    /// What becomes of messages that come faster than they are taken. Default [`SlowPolicy::Hold`]: nothing is left out,
    /// and publishers wait. With any other nobody waits: past [`max_bytes`](Self::max_bytes) or
    /// [`max_messages`](Self::max_messages) messages are left out, which is told ([`Event::Lagged`]), or, with
    /// `Disconnect`, the subscription ends with [`SubscriptionError::TooSlow`].
    pub const fn policy(mut self, policy: SlowPolicy) -> Self {
        self.bounds.policy = policy;
        self
    }

    /// Whether to get the topic's last message at once, if the center has it. Default: if the topic
    /// [retains](crate::Topics::create_retaining) it.
    pub const fn retain(mut self, retain: bool) -> Self {
        self.retain = Some(retain);
        self
    }

    /// Subscribes; see [`Subscription::open`].
    ///
    /// # Errors
    /// Those of [`Subscription::open`].
    ///
    /// # Cancel safety
    /// That of [`Subscription::open`].
    pub async fn open(self) -> Result<Subscription, CallError> {
        let subject = subject(self.topic);
        let seat = Seat::take(self.client, self.topic, self.bounds);
        loop {
            let counts = self.client.knows(Feature::Seq);
            let wanted = TopicOptions { retain: self.retain, ..seat.hub.wants(self.topic) };
            // A center that does not count is told nothing beyond v1.
            let options = if counts { wanted } else { TopicOptions::default() };
            let subscribe = TopicOperation { topic: self.topic.into(), op: TopicOp::Subscribe, options };
            let answer = self.client.exchange(&subject, &subscribe).await?;
            let answer = check(self.client, &subject, &answer)?;
            if let Some(next) = seat.hub.confirm(&seat.listener, answer) {
                return Ok(Subscription::new(seat, Sequence::from(next)));
            }
        }
    }
}

impl Seat {
    fn take(client: &Client, topic: &str, bounds: Bounds) -> Self {
        let (hub, queue) = (Hub::of(client), Arc::new(Queue::new(bounds)));
        let wants = Wants { policy: bounds.policy, max_bytes: bounds.max_bytes.min(AT_CENTER_BYTES) };
        let listener = hub.join(topic, Arc::clone(&queue), wants);
        Self { client: client.clone(), hub, queue, listener }
    }

    fn error(&self, end: End) -> SubscriptionError {
        let (topic, peer) = (self.listener.topic.to_string(), self.client.address().to_string());
        match end {
            End::Disconnected => SubscriptionError::Disconnected { topic, peer },
            End::TopicRemoved => SubscriptionError::TopicRemoved { topic, peer },
            End::Refused { why } => SubscriptionError::Refused { topic, peer, why: why.to_string() },
            End::TooSlow { max_bytes } => SubscriptionError::TooSlow { topic, max_bytes },
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hub.leave(&self.client, &self.listener);
    }
}

impl Stream for Subscription {
    type Item = Result<News, SubscriptionError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let missed = match ready!(self.poll_event(cx)) {
                Some(Ok(Event::Message(news))) => return Poll::Ready(Some(Ok(news))),
                Some(Ok(Event::Disconnected | Event::Resumed { missed: Missed::Exactly(0) })) => continue,
                Some(Ok(Event::Resumed { missed })) => missed,
                Some(Ok(Event::Lagged { from, to })) => Missed::Exactly(to - from + 1),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            };
            return Poll::Ready(Some(Err(SubscriptionError::Missed { topic: self.topic().to_owned(), missed })));
        }
    }
}

impl Subscription {
    const fn new(seat: Seat, sequence: Sequence) -> Self {
        Self { seat, at_hand: None, sequence, after_gap: None, free_turns: 0, ended: false }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, SubscriptionError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let event = ready!(self.poll_heard(cx));
        Poll::Ready(Some(event.map_err(|end| {
            self.ended = true;
            self.seat.hub.leave(&self.seat.client, &self.seat.listener);
            self.seat.error(end)
        })))
    }

    fn poll_heard(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, End>> {
        if self.free_turns == 0 {
            // One who is behind must let others of its thread have their turn, the connection's task among them.
            ready!(poll_proceed(cx)).made_progress();
            self.free_turns = TURN_MESSAGES;
        }
        if let Some(event) = self.after_gap.take() {
            return Poll::Ready(Ok(event));
        }
        loop {
            if let Some(news) = self.at_hand.as_mut().and_then(Bundle::next) {
                match self.sequence.hear(news.number()) {
                    Heard::Again => continue,
                    Heard::New => {}
                    Heard::After(gap) => return Poll::Ready(Ok(self.tell(gap, Some(Event::Message(news))))),
                }
                self.free_turns -= 1;
                return Poll::Ready(Ok(Event::Message(news)));
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

    /// What lies between messages, as an event if it is one.
    fn pass(&mut self, mark: Mark) -> Option<Event> {
        match mark {
            Mark::Reached(seq) => self.sequence.reach(seq).map(|gap| self.tell(gap, None)),
            Mark::Lost => Some(Event::Disconnected),
            Mark::Resumed(Resumed { before, missed, next }) => {
                let gap = self.sequence.reach(before);
                self.sequence = Sequence::from(next);
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

impl<T: DeserializeOwned> TypedSubscription<T> {
    /// The topic.
    pub fn topic(&self) -> &str {
        self.news.topic()
    }

    /// The next message, or what ended the subscription; `None` after that.
    ///
    /// # Errors
    /// See [`SubscriptionError`].
    ///
    /// # Cancel safety
    /// No message is lost.
    pub async fn next(&mut self) -> Option<Result<T, SubscriptionError>> {
        StreamExt::next(self).await
    }
}

impl<T: DeserializeOwned> Stream for TypedSubscription<T> {
    type Item = Result<T, SubscriptionError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let news = ready!(Pin::new(&mut self.news).poll_next(cx));
        Poll::Ready(news.map(|news| news.and_then(|news| news.json())))
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("topic", &self.topic()).field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for TypedSubscription<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypedSubscription").field(&self.news).finish()
    }
}
