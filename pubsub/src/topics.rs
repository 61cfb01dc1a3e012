use std::sync::{Arc, OnceLock};

use bytes::BytesMut;
use callboard_client::{CallError, CallErrorKind, Centers, Client};
use callboard_common::{
    Codec, Decode, Encode, EncodeError, Json, Message, MessageType, ResultCode, Shape, Subscribed, TopicAnswer,
    TopicOp, TopicRequest,
};
use serde::Serialize;

use crate::Publisher;
use crate::everywhere::{create, create_at_all, remove_at_all};
use crate::hub::subject;
use crate::outgoing::{Outgoing, written};
use crate::publication::compact_text;
use crate::relay::Relay;

/// Creates, removes and publishes to topics, over a client's connection to a center.
///
/// Messages that are published through one client reach each subscriber in the order of the calls.
///
/// # Several centers
/// With [`Centers`] topics are created and removed at each center that is there. One that comes later, or back after it
/// was started anew, is told to create what was created through these centers, and one that refuses while another one
/// does not is asked again; of what was removed while it was away a center is not told, and still has it.
///
/// What is published goes to one center, the first in the list that is there, and to the next when that one is lost, or
/// gives no sign of life for half the time that a request may take (of three centers a quarter, and so on; half a second
/// at least). One that is held up by slow subscribers holds up its publishers, as a single one does. At the next center all
/// is published again that the first has not confirmed, and what it has confirmed within the last 5 s, which it may not
/// have passed on (up to 16,384 messages or 1 MiB). Each message keeps its id, so that a
/// [`Subscription`](crate::Subscription) hears it once; other subscribers, and one that subscribes just then, may get some
/// of it twice or late. So nothing is lost with a center but what it still had in its queues after that, of which its
/// subscribers are told. What a center refuses is not published at another one, once [`publish`](Self::publish) has said
/// so.
///
/// ```no_run
/// # async fn run() -> Result<(), callboard_client::CallError> {
/// use callboard_client::Client;
/// use callboard_pubsub::Topics;
/// let topics = Topics::new(&Client::connect("127.0.0.1:7070").await?);
/// topics.create("news").await?;
/// topics.publish("news", "hello").await?;
/// topics.publish("news", &[1, 2, 3]).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Topics {
    centers: Centers,
    /// Of several centers.
    relay: Arc<OnceLock<Relay>>,
}

impl Topics {
    /// Topics at the center that this client is connected to, or at each of several.
    pub fn new(centers: impl Into<Centers>) -> Self {
        Self { centers: centers.into(), relay: Arc::default() }
    }

    /// Makes a topic; one that exists keeps its subscribers.
    ///
    /// # Errors
    /// What any call may fail with; `Remote` with `Overloaded` or `TooLarge` at a bound of the center.
    ///
    /// # Cancel safety
    /// Dropping the future gives up waiting; the topic may be made all the same.
    pub async fn create(&self, topic: &str) -> Result<(), CallError> {
        self.make(topic, false).await
    }

    /// Makes a topic that keeps its last message, for as long as it exists, and gives it to each new subscriber at once
    /// (within the center's bound on what all topics keep). One that exists does so from its next message on. A center
    /// that gives messages no numbers makes an ordinary topic.
    ///
    /// # Errors
    /// Those of [`create`](Self::create).
    ///
    /// # Cancel safety
    /// That of [`create`](Self::create).
    pub async fn create_retaining(&self, topic: &str) -> Result<(), CallError> {
        self.make(topic, true).await
    }

    /// Ends a topic and all its subscriptions; one that does not exist stays so.
    ///
    /// # Errors
    /// What any call may fail with.
    ///
    /// # Cancel safety
    /// Dropping the future gives up waiting; the topic may be removed all the same.
    pub async fn remove(&self, topic: &str) -> Result<(), CallError> {
        if self.centers.is_one() {
            self.ask(topic, &<TopicRequest<'_>>::new(topic, TopicOp::Remove)).await
        } else {
            remove_at_all(&self.centers, topic).await
        }
    }

    /// Publishes any value that serde can write as JSON. When this returns, the message is queued for every subscriber.
    ///
    /// # Errors
    /// What any call may fail with; `Remote` with [`ResultCode::NotFoundTopic`] if there is no such topic.
    ///
    /// # Cancel safety
    /// Dropping the future gives up waiting; the message may be published all the same.
    pub async fn publish<T: Serialize + Sync + ?Sized>(&self, topic: &str, message: &T) -> Result<(), CallError> {
        if let Some(relay) = self.relay() {
            let value = written(message).map_err(|why| self.unwritten(topic, &why))?;
            return relay.publish_and_wait(&topic.into(), value, self.centers.timeout()).await;
        }
        self.ask(topic, &self.publication(topic, message)).await
    }

    /// The same without waiting for the center: what it would refuse is lost unheard. It waits while much is queued to
    /// be sent already. Many times faster than one [`publish`](Self::publish) after the other; a
    /// [`publisher`](Self::publisher) is faster still, and with several centers it tells what was lost since it was too
    /// large for the center that was there when it could be sent: of a message that was published here only the log tells.
    ///
    /// # Errors
    /// `Encode`, and `Disconnected` if the connection is known to have ended; with several centers also `Timeout` if none
    /// has confirmed anything for as long as a call may take, and as much waits as may.
    ///
    /// # Cancel safety
    /// The message is queued whole or not at all.
    pub async fn publish_unacknowledged<T: Serialize + Sync + ?Sized>(
        &self,
        topic: &str,
        message: &T,
    ) -> Result<(), CallError> {
        if let Some(relay) = self.relay() {
            let value = written(message).map_err(|why| self.unwritten(topic, &why))?;
            return relay.publish(Outgoing::new(&topic.into(), value, None), self.centers.timeout()).await.map(drop);
        }
        self.center().send_one_way(&subject(topic), &self.publication(topic, message)).await
    }

    /// For many messages to one topic, without waiting for answers.
    pub fn publisher(&self, topic: &str) -> Publisher {
        let relay = (!self.centers.is_one()).then(|| Arc::clone(&self.relay));
        Publisher::new(&self.centers, topic, relay)
    }

    async fn make(&self, topic: &str, retain: bool) -> Result<(), CallError> {
        if self.centers.is_one() {
            create(self.center(), topic, retain).await
        } else {
            create_at_all(&self.centers, topic, retain).await
        }
    }

    /// The one, or the first.
    const fn center(&self) -> &Client {
        self.centers.first()
    }

    fn relay(&self) -> Option<&Relay> {
        (!self.centers.is_one()).then(|| self.relay.get_or_init(|| Relay::start(&self.centers)))
    }

    fn unwritten(&self, topic: &str, why: &EncodeError) -> CallError {
        unwritten(self.center(), &subject(topic), why)
    }

    fn publication<'a, T: ?Sized>(&self, topic: &'a str, message: &'a T) -> Publish<'a, T> {
        Publish { topic, message, only_strings: !self.center().has_session() }
    }

    async fn ask<B: Encode + Sync>(&self, topic: &str, body: &B) -> Result<(), CallError> {
        let subject = subject(topic);
        let answer = self.center().exchange(&subject, body).await?;
        check(self.center(), &subject, &answer).map(drop)
    }
}

/// A message that can't be written as JSON.
pub(crate) fn unwritten(center: &Client, subject: &str, why: &EncodeError) -> CallError {
    let what = format!("the message can't be written: {why}");
    CallError::new(CallErrorKind::Encode, center.address().to_string(), subject, what)
}

/// Whether an answer says that it was done.
pub(crate) fn is_ok(answer: &Message) -> bool {
    TopicAnswer::decode::<Json>(answer.body()).is_ok_and(|answer| answer.code == ResultCode::Ok)
}

/// What an answer says.
pub(crate) fn check(client: &Client, subject: &str, answer: &Message) -> Result<Option<Subscribed>, CallError> {
    match TopicAnswer::decode::<Json>(answer.body()) {
        Ok(TopicAnswer { code: ResultCode::Ok, subscribed, .. }) => Ok(subscribed),
        Ok(TopicAnswer { code, error, .. }) => Err(client.refused(subject, code, error)),
        Err(why) => Err(client.unreadable(subject, why)),
    }
}

/// A publish as the center takes it: a v1 center takes strings only, so another value goes as its JSON text in one.
pub(crate) struct Publish<'a, T: ?Sized> {
    pub(crate) topic: &'a str,
    pub(crate) message: &'a T,
    pub(crate) only_strings: bool,
}

impl<T: Serialize + ?Sized> Encode for Publish<'_, T> {
    fn kind(&self) -> MessageType {
        MessageType::TopicRequest
    }

    fn encode<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        if !self.only_strings {
            return TopicRequest::publish(self.topic, self.message).encode::<C>(out);
        }
        let mut json = BytesMut::new();
        Json::write(self.message, &mut json)?;
        let value = Json::check(&json).map_err(|e| EncodeError::Value(e.message.into_owned()))?;
        if Json::shape(value) == Shape::String {
            TopicRequest::publish(self.topic, value).encode::<C>(out)
        } else {
            TopicRequest::publish(self.topic, compact_text(value)).encode::<C>(out)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_v1_center_gets_strings_and_another_gets_values() {
        let rows = [
            (json!("x\n\u{ff1a}"), r#""x\n：""#, r#""x\n：""#),
            (json!({"a": [1, "y"]}), r#""{\"a\":[1,\"y\"]}""#, r#"{"a":[1,"y"]}"#),
            (json!(null), r#""null""#, "null"),
        ];
        for (message, to_v1, to_session) in rows {
            for (only_strings, expected) in [(true, to_v1), (false, to_session)] {
                let mut out = BytesMut::new();
                Publish { topic: "t", message: &message, only_strings }.encode::<Json>(&mut out).unwrap();
                let expected = format!(r#"{{"topic_key":"t","optype":4,"topic_msg":{expected}}}"#);
                assert_eq!(String::from_utf8_lossy(&out), expected);
            }
        }
    }
}
