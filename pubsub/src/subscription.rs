use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use callboard_client::{Address, CallError, Centers};
use callboard_common::{Missed, SlowPolicy};
use serde::de::DeserializeOwned;
use tokio_stream::{Stream, StreamExt};

use crate::backlog::{Bounds, End};
use crate::part::{Part, Wish};
use crate::repeats::Repeats;
use crate::several::Several;
use crate::{Event, News, SubscriptionError};

/// What is published to one topic, as a [`Stream`] of [`News`] in the order in which it was published.
///
/// A client may hold any number of them, several to one topic too. Each keeps the client's connection alive. Dropping
/// the last one to a topic tells the center, without waiting for it.
///
/// A subscription that is not read fast enough loses nothing: what waits is bounded, and above a soft bound the
/// client's connection is not read, so that TCP holds back the center, and the center the publishers. That would let
/// calls on the same connection wait too; so while one waits, reading goes on, up to a hard bound at which the
/// subscription ends with [`SubscriptionError::TooSlow`]. The bounds are set with [`Subscription::builder`]. A center
/// waits only for subscribers that make progress: one that takes nothing for long (500 ms, unless it is set otherwise)
/// while much is published is disconnected in the end.
///
/// After an error it ends.
///
/// # Several centers
/// With [`Centers`] it is subscribed at each center that is there, and at the others as soon as they are; what comes is
/// one stream. A message that a publisher repeated at another center, since it did not know whether the first had
/// passed it on, is heard once: of the ids that such a publisher gives, those that were heard are remembered, for the
/// 512 publishers at least that were heard last. The messages of one publisher keep their order as long as it stays
/// with one center. Where it moves on while some of what it had published waits at the old center, that comes later,
/// however many others came first (with [`SlowPolicy::Latest`] it is told to be missing, as what is newer was heard).
/// Of each publisher all of the newest 32,768 numbers are known, and of what lies further back as much as takes 24 KiB
/// (all, as long as what was heard follows on each other); a message from before that is told to be missing, for nobody
/// knows any more whether it was heard.
///
/// Each center numbers by itself, so gaps are those of one center: [`heard_at`](Self::heard_at) tells which. What was
/// heard there, repeats that were dropped included, and what was told to be missing there is what was published there;
/// some of what is missing may have come from another center. A center whose connection is lost is told
/// ([`Event::Disconnected`]) while the others are heard on, and [`Event::Resumed`] when it is subscribed to again, also
/// one that joins later than the others. A topic that one of them has not is created there. It ends when the topic is
/// removed at one of them, behind what was published before at the others; a center that does not hand that out within
/// the client's timeout is told as disconnected.
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
    heard: Heard,
    repeats: Repeats,
    ended: bool,
}

/// Settings of a [`Subscription`].
#[derive(Debug)]
#[must_use]
pub struct SubscriptionBuilder<'a> {
    centers: Centers,
    wish: Wish<'a>,
}

/// Where its messages come from.
enum Heard {
    One(Part),
    Several(Box<Several>),
}

/// A [`Subscription`] whose messages are read as a type: a [`Stream`] of `Result<T, SubscriptionError>`. A message that
/// does not have the type is an error after which it goes on.
pub struct TypedSubscription<T> {
    news: Subscription,
    messages: PhantomData<fn() -> T>,
}

impl Subscription {
    /// Subscribes to a topic. It hears all that is published after this returns, and what is published before may be
    /// heard. With several centers this holds for those that are there.
    ///
    /// # Errors
    /// What any call may fail with, with several centers only if it fails at each of them;
    /// [`ResultCode::NotFoundTopic`](callboard_common::ResultCode) if there is no such topic, `Overloaded` if this
    /// connection has as many subscriptions as the center permits.
    ///
    /// # Cancel safety
    /// Dropping the future before it is ready takes the subscription back.
    pub async fn open(centers: impl Into<Centers>, topic: &str) -> Result<Self, CallError> {
        Self::builder(centers, topic).open().await
    }

    /// The same with each message read as a `T`.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    ///
    /// # Cancel safety
    /// That of [`open`](Self::open).
    pub async fn open_typed<T: DeserializeOwned>(
        centers: impl Into<Centers>,
        topic: &str,
    ) -> Result<TypedSubscription<T>, CallError> {
        Ok(Self::open(centers, topic).await?.typed())
    }

    /// Settings first.
    pub fn builder(centers: impl Into<Centers>, topic: &str) -> SubscriptionBuilder<'_> {
        let wish = Wish { topic, bounds: Bounds::default(), retain: None };
        SubscriptionBuilder { centers: centers.into(), wish }
    }

    /// From now on, each message read as a `T`.
    pub fn typed<T: DeserializeOwned>(self) -> TypedSubscription<T> {
        TypedSubscription { news: self, messages: PhantomData }
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        match &self.heard {
            Heard::One(part) => part.topic(),
            Heard::Several(several) => several.topic(),
        }
    }

    /// The center from which came what was heard last.
    pub fn heard_at(&self) -> Address {
        match &self.heard {
            Heard::One(part) => part.client().address(),
            Heard::Several(several) => several.heard_at(),
        }
    }

    /// How many messages came a second time, from another center, and were dropped.
    pub fn repeats(&self) -> u64 {
        self.repeats.dropped()
    }

    /// The next message, or what ended the subscription; `None` after that.
    ///
    /// Where messages are missing, that is an error too ([`SubscriptionError::Missed`]), after which it goes on; that
    /// the connection was lost and nothing is missing is not told. [`next_event`](Self::next_event) tells all.
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
    /// Default 64 KiB. More lets the reader pause for longer before publishers feel it, takes memory, and is slower
    /// where messages fall out of the processor's cache before they are taken.
    pub const fn hold_bytes(mut self, bytes: usize) -> Self {
        self.wish.bounds.hold_bytes = bytes;
        self
    }

    /// The same in messages. Default 8,192.
    pub const fn hold_messages(mut self, messages: usize) -> Self {
        self.wish.bounds.hold_messages = messages;
        self
    }

    /// Past so many bytes the [policy](Self::policy) decides. Default 64 MiB. With `Hold` it comes to this only if
    /// calls wait for answers on the same connection, which then must be read.
    pub const fn max_bytes(mut self, bytes: usize) -> Self {
        self.wish.bounds.max_bytes = bytes;
        self
    }

    /// The same in messages. Default: no bound.
    pub const fn max_messages(mut self, messages: usize) -> Self {
        self.wish.bounds.max_messages = messages;
        self
    }

    /// What becomes of messages that come faster than they are taken. Default [`SlowPolicy::Hold`]: nothing is left
    /// out, and publishers wait; but not for one that takes less than some 1 MB a second while much waits, to whose socket
    /// nothing goes for half a second at a time (`stall_ms` of the center): it is cut off, comes back, and is told what it
    /// has missed by then ([`Event::Resumed`]). With any other nobody waits: past [`max_bytes`](Self::max_bytes) or
    /// [`max_messages`](Self::max_messages) messages are left out, which is told ([`Event::Lagged`]), or, with
    /// `Disconnect`, the subscription ends with [`SubscriptionError::TooSlow`].
    pub const fn policy(mut self, policy: SlowPolicy) -> Self {
        self.wish.bounds.policy = policy;
        self
    }

    /// Whether to get the topic's last message at once, if the center has it. Default: if the topic
    /// [retains](crate::Topics::create_retaining) it.
    pub const fn retain(mut self, retain: bool) -> Self {
        self.wish.retain = Some(retain);
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
        let Self { centers, wish } = self;
        let heard = if centers.is_one() {
            Heard::One(Part::open(centers.first(), wish).await?)
        } else {
            Heard::Several(Box::new(Several::open(&centers, wish).await?))
        };
        Ok(Subscription { heard, repeats: Repeats::default(), ended: false })
    }
}

impl Stream for Subscription {
    type Item = Result<News, SubscriptionError>;

    // So that a message at hand is handed over in registers: to write it to memory for each layer, and read it from
    // there, takes longer than to find it.
    #[inline]
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Heard::One(part) = &mut self.heard
            && let Some(news) = part.next_at_hand()
        {
            return Poll::Ready(Some(Ok(news)));
        }
        self.poll_news(cx)
    }
}

impl Subscription {
    fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<News, SubscriptionError>>> {
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

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, SubscriptionError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let heard = match &mut self.heard {
            Heard::One(part) => part.poll(cx, &mut self.repeats),
            Heard::Several(several) => several.poll(cx, &mut self.repeats),
        };
        Poll::Ready(Some(ready!(heard).map_err(|end| self.end(end))))
    }

    fn end(&mut self, end: End) -> SubscriptionError {
        self.ended = true;
        let (topic, peer) = (self.topic().to_owned(), self.heard_at().to_string());
        match &mut self.heard {
            Heard::One(part) => part.leave(),
            Heard::Several(several) => several.leave(),
        }
        match end {
            End::Disconnected => SubscriptionError::Disconnected { topic, peer },
            End::TopicRemoved => SubscriptionError::TopicRemoved { topic, peer },
            End::Refused { why } => SubscriptionError::Refused { topic, peer, why: why.to_string() },
            End::TooSlow(bound) => SubscriptionError::TooSlow { topic, waiting: bound.to_string() },
        }
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
