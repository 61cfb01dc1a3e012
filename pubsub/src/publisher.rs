use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use callboard_client::{CallError, CallErrorKind, Centers, Client, Line, Ping};
use callboard_common::{Codec, Encode, EncodeError, Executed, Feature, Json, MessageType, TopicOp, TopicRequest};
use serde::Serialize;
use tokio::task::coop::consume_budget;

use crate::hub::{Hub, subject};
use crate::outgoing::{Losses, Outgoing};
use crate::relay::Relay;
use crate::topics::{Publish, unwritten};

/// Publishes to one topic at full speed: it waits for no answers, but while much waits to be sent.
///
/// What is published leaves in the order of the calls, and at once, or, where much is published, as soon as the center
/// has handled what came before. A center that is held up by slow subscribers reads no more from this connection, and
/// then [`publish`](Self::publish) waits; subscribers that make progress lose nothing. What the center refuses, for
/// example since there is no such topic, is lost unheard:
/// [`Topics::publish`](crate::Topics::publish) tells.
///
/// Of several centers it publishes to one, as [`Topics`](crate::Topics) says; up to 8,192 messages or 1 MiB go ahead of what
/// the center has confirmed. Once it and its `Topics` are dropped, what is not confirmed has 5 s left; a warning is logged
/// of what is dropped then.
///
/// ```no_run
/// # async fn run() -> Result<(), callboard_client::CallError> {
/// use callboard_client::Client;
/// use callboard_pubsub::Topics;
/// let topics = Topics::new(&Client::connect("127.0.0.1:7070").await?);
/// topics.create("prices").await?;
/// let mut prices = topics.publisher("prices");
/// for price in 0..1_000_000 {
///     prices.publish(&price).await?;
/// }
/// prices.settle().await?; // the center has taken all of them
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Publisher {
    client: Client,
    topic: String,
    subject: String,
    /// A publish up to its message.
    before: Option<BytesMut>,
    /// What was queued since all had left.
    queued_bytes: usize,
    /// The connection over which it publishes.
    line: Line,
    /// Something was published over it of which nobody knows what became.
    unsettled: bool,
    /// Something of that may have been lost with a connection.
    lost: bool,
    hub: Arc<Hub>,
    pace: Pace,
    /// Of several centers.
    relayed: Option<Relayed>,
}

/// What goes by way of a relay, to one of several centers.
#[derive(Debug)]
struct Relayed {
    relay: Arc<OnceLock<Relay>>,
    centers: Centers,
    topic: Arc<str>,
    /// The number of the last message.
    last: u64,
    losses: Arc<Losses>,
}

/// How fast messages follow each other.
#[derive(Debug)]
struct Pace {
    since: Instant,
    messages: u32,
}

/// So many messages within so short a time are much.
const MANY_MESSAGES: u32 = 64;
const SHORT_TIME: Duration = Duration::from_millis(1);
/// Above so much that waits for company it leaves.
const GATHER_BYTES: usize = 64 << 10;

/// So much is queued before it waits until all has left. The socket holds as much, so the center does not wait.
const QUEUE_BYTES: usize = 1 << 20;

impl Publisher {
    pub(crate) fn new(centers: &Centers, topic: &str, relay: Option<Arc<OnceLock<Relay>>>) -> Self {
        let client = centers.first();
        let relayed = relay.map(|relay| Relayed::new(relay, centers, topic));
        let before = before_message(topic);
        let pace = Pace { since: Instant::now(), messages: 0 };
        let (client, hub, line) = (client.clone(), Hub::of(client), client.line());
        Self {
            client,
            topic: topic.to_owned(),
            subject: subject(topic),
            before,
            queued_bytes: 0,
            line,
            unsettled: false,
            lost: false,
            hub,
            pace,
            relayed,
        }
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Publishes any value that serde can write as JSON.
    ///
    /// # Errors
    /// `Encode`; `Disconnected` if the connection is known to have ended; `Timeout` if there is no room and the center
    /// takes nothing for as long as the client allows a call. None of these messages was sent.
    ///
    /// # Cancel safety
    /// The message is queued whole or not at all.
    pub async fn publish<T: Serialize + Sync + ?Sized>(&mut self, message: &T) -> Result<(), CallError> {
        self.send(Value(message)).await
    }

    /// The same for a text, a little faster.
    ///
    /// # Errors
    /// Those of [`publish`](Self::publish).
    ///
    /// # Cancel safety
    /// That of [`publish`](Self::publish).
    pub async fn publish_text(&mut self, text: &str) -> Result<(), CallError> {
        self.send(Text(text)).await
    }

    /// Waits until the center has handled all that was published: each message is queued for every subscriber, or was
    /// refused. A center that knows no PING is asked to create the topic, which one that exists ignores.
    ///
    /// # Errors
    /// What any call may fail with; `Disconnected` if the connection was lost and made again since the last time: some of
    /// what was published may not have arrived. With several centers that is published again; `Timeout` says that none has
    /// confirmed anything, or taken any of what waits, for as long as a call may take, and `Encode` that something was too
    /// large for the center that was there when it could be sent, and is lost.
    ///
    /// # Cancel safety
    /// It only watches.
    pub async fn settle(&mut self) -> Result<(), CallError> {
        if let Some(relayed) = &self.relayed {
            return relayed.settled().await;
        }
        // The center handles the requests of one connection in order.
        if self.knows_ping() {
            self.client.exchange(&self.subject, &Ping).await?;
        } else {
            self.client.exchange(&self.subject, &<TopicRequest<'_>>::new(&*self.topic, TopicOp::Create)).await?;
        }
        self.queued_bytes = 0;
        self.follow();
        self.unsettled = false;
        if std::mem::take(&mut self.lost) { Err(self.lost()) } else { Ok(()) }
    }

    /// Goes over to the client's connection of the moment where its own is of no more use.
    fn follow(&mut self) {
        if !self.line.is_online() {
            self.lost |= std::mem::take(&mut self.unsettled);
            self.line = self.client.line();
        }
    }

    fn knows_ping(&self) -> bool {
        self.line.session().is_some_and(|session| session.features.has(Feature::Ping))
    }

    fn lost(&self) -> CallError {
        let what = "the connection was lost since the last settle; what was published around then may not have arrived";
        CallError::new(CallErrorKind::Disconnected, self.client.address().to_string(), &*self.subject, what)
            .with_executed(Executed::Unknown)
            .with_advice("publish again what must arrive, or use Topics::publish, which tells of each message")
    }

    async fn send<M: Written>(&mut self, message: M) -> Result<(), CallError> {
        if let Some(relayed) = &mut self.relayed {
            return relayed.send(message, &self.subject).await;
        }
        if self.queued_bytes > QUEUE_BYTES {
            self.client.flush_in_time(&self.subject).await?;
            self.queued_bytes = 0;
        }
        self.follow();
        // Lets others run now and then: where nothing is waited for, nothing else does.
        consume_budget().await;
        let before = self.before.as_deref().filter(|_| self.line.session().is_some());
        let body = Body { topic: &self.topic, before, message, bytes: AtomicUsize::new(0) };
        let gathers = self.hub.gathering().is_on();
        if !self.line.queue_one_way(&body, if gathers { GATHER_BYTES } else { 0 }) {
            self.client.send_one_way(&self.subject, &body).await?;
        }
        let bytes = body.bytes.into_inner();
        self.follow();
        self.unsettled = true;
        if gathers {
            self.hub.gathering().queued(&self.client);
        } else if self.pace.is_fast() && self.knows_ping() {
            self.hub.gathering().begin(&self.client);
        }
        self.queued_bytes += bytes;
        Ok(())
    }
}

impl Relayed {
    fn new(relay: Arc<OnceLock<Relay>>, centers: &Centers, topic: &str) -> Self {
        Self { relay, centers: centers.clone(), topic: topic.into(), last: 0, losses: Arc::default() }
    }

    async fn send<M: Written>(&mut self, message: M, subject: &str) -> Result<(), CallError> {
        let mut value = BytesMut::new();
        message.write::<Json>(&mut value).map_err(|why| unwritten(self.centers.first(), subject, &why))?;
        let outgoing = Outgoing::of(&self.topic, value.freeze(), &self.losses);
        self.last = self.relay().publish(outgoing, self.centers.timeout()).await?;
        Ok(())
    }

    async fn settled(&self) -> Result<(), CallError> {
        if self.last > 0 {
            self.relay().settled(&self.topic, self.last, self.centers.timeout()).await?;
        }
        self.losses.take()
    }

    fn relay(&self) -> &Relay {
        self.relay.get_or_init(|| Relay::start(&self.centers))
    }
}

impl Pace {
    /// One more message; whether many came in a short time.
    fn is_fast(&mut self) -> bool {
        self.messages += 1;
        if self.messages < MANY_MESSAGES {
            return false;
        }
        let now = Instant::now();
        let fast = now.duration_since(self.since) < SHORT_TIME;
        *self = Self { since: now, messages: 0 };
        fast
    }
}

/// What stands in the body of each publish before its message.
fn before_message(topic: &str) -> Option<BytesMut> {
    let mut body = BytesMut::new();
    TopicRequest::publish(topic, 0).encode::<Json>(&mut body).ok()?;
    body.truncate(body.len().checked_sub("0}".len())?);
    Some(body)
}

/// A message that writes itself.
trait Written: Sync {
    fn write<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError>;
    /// As a string, for those who take nothing else.
    fn publish<C: Codec>(&self, topic: &str, out: &mut BytesMut) -> Result<(), EncodeError>;
}

struct Value<'a, T: ?Sized>(&'a T);

impl<T: Serialize + Sync + ?Sized> Written for Value<'_, T> {
    fn write<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        C::write(self.0, out)
    }

    fn publish<C: Codec>(&self, topic: &str, out: &mut BytesMut) -> Result<(), EncodeError> {
        Publish { topic, message: self.0, only_strings: true }.encode::<C>(out)
    }
}

struct Text<'a>(&'a str);

impl Written for Text<'_> {
    fn write<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        C::write_text(self.0, out)
    }

    fn publish<C: Codec>(&self, topic: &str, out: &mut BytesMut) -> Result<(), EncodeError> {
        TopicRequest::publish(topic, self.0).encode::<C>(out)
    }
}

struct Body<'a, M> {
    topic: &'a str,
    before: Option<&'a [u8]>,
    message: M,
    /// What was written.
    bytes: AtomicUsize,
}

impl<M: Written> Encode for Body<'_, M> {
    fn kind(&self) -> MessageType {
        MessageType::TopicRequest
    }

    fn encode<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        let start = out.len();
        match self.before.filter(|_| C::ID == Json::ID) {
            Some(before) => {
                out.put_slice(before);
                self.message.write::<C>(out)?;
                out.put_u8(b'}');
            }
            None => self.message.publish::<C>(self.topic, out)?,
        }
        self.bytes.store(out.len() - start, Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded<M: Written>(before: Option<&[u8]>, message: M) -> String {
        let mut out = BytesMut::from("head");
        let body = Body { topic: "a \"b\"", before, message, bytes: AtomicUsize::new(0) };
        body.encode::<Json>(&mut out).unwrap();
        assert_eq!(body.bytes.into_inner(), out.len() - 4);
        String::from_utf8_lossy(&out[4..]).into_owned()
    }

    #[test]
    fn a_publish_is_spelled_as_any_other_whatever_the_center_takes() {
        let before = before_message("a \"b\"").unwrap();
        let body = |message: &str| format!(r#"{{"topic_key":"a \"b\"","optype":4,"topic_msg":{message}}}"#);
        assert_eq!(encoded(Some(&before), Value(&[1, 2])), body("[1,2]"));
        assert_eq!(encoded(None, Value(&[1, 2])), body(r#""[1,2]""#));
        for before in [Some(&before[..]), None] {
            for (text, message) in [("x", r#""x""#), ("x\n\"\u{e9}", r#""x\n\"é""#), ("", r#""""#)] {
                assert_eq!(encoded(before, Text(text)), body(message));
                assert_eq!(encoded(before, Value(text)), body(message));
            }
        }
    }
}
