use bytes::BytesMut;
use callboard_client::{CallError, Client};
use callboard_common::{
    Codec, Decode, Encode, EncodeError, Feature, Json, Message, MessageType, ResultCode, Shape, Subscribed,
    TopicAnswer, TopicOp, TopicOperation, TopicOptions, TopicRequest,
};
use serde::Serialize;

use crate::Publisher;
use crate::hub::subject;
use crate::publication::compact_text;

/// Creates, removes and publishes to topics, over a client's connection to a center.
///
/// Messages that are published through one client reach each subscriber in the order of the calls.
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
    client: Client,
}

impl Topics {
    /// Topics at the center that this client is connected to.
    pub fn new(client: &Client) -> Self {
        Self { client: client.clone() }
    }

    /// Makes a topic; one that exists keeps its subscribers.
    ///
    /// # Errors
    /// What any call may fail with; `Remote` with `Overloaded` or `TooLarge` at a bound of the center.
    ///
    /// # Cancel safety
    /// Dropping the future gives up waiting; the topic may be made all the same.
    pub async fn create(&self, topic: &str) -> Result<(), CallError> {
        self.ask(topic, &<TopicRequest<'_>>::new(topic, TopicOp::Create)).await
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
        // A center that does not count is told nothing beyond v1, and keeps nothing.
        let retain = self.client.knows(Feature::Seq).then_some(true);
        let options = TopicOptions { retain, ..TopicOptions::default() };
        self.ask(topic, &TopicOperation { topic: topic.into(), op: TopicOp::Create, options }).await
    }

    /// Ends a topic and all its subscriptions; one that does not exist stays so.
    ///
    /// # Errors
    /// What any call may fail with.
    ///
    /// # Cancel safety
    /// Dropping the future gives up waiting; the topic may be removed all the same.
    pub async fn remove(&self, topic: &str) -> Result<(), CallError> {
        self.ask(topic, &<TopicRequest<'_>>::new(topic, TopicOp::Remove)).await
    }

    /// Publishes any value that serde can write as JSON. When this returns, the message is queued for every subscriber.
    ///
    /// # Errors
    /// What any call may fail with; `Remote` with [`ResultCode::NotFoundTopic`] if there is no such topic.
    ///
    /// # Cancel safety
    /// Dropping the future gives up waiting; the message may be published all the same.
    pub async fn publish<T: Serialize + Sync + ?Sized>(&self, topic: &str, message: &T) -> Result<(), CallError> {
        self.ask(topic, &self.publication(topic, message)).await
    }

    /// The same without waiting for the center: what it would refuse is lost unheard. It waits while much is queued to
    /// be sent already. Many times faster than one [`publish`](Self::publish) after the other; a
    /// [`publisher`](Self::publisher) is faster still.
    ///
    /// # Errors
    /// `Encode`, and `Disconnected` if the connection is known to have ended.
    ///
    /// # Cancel safety
    /// The message is queued whole or not at all.
    pub async fn publish_unacknowledged<T: Serialize + Sync + ?Sized>(
        &self,
        topic: &str,
        message: &T,
    ) -> Result<(), CallError> {
        self.client.send_one_way(&subject(topic), &self.publication(topic, message)).await
    }

    /// For many messages to one topic, without waiting for answers.
    pub fn publisher(&self, topic: &str) -> Publisher {
        Publisher::new(&self.client, topic)
    }

    fn publication<'a, T: ?Sized>(&self, topic: &'a str, message: &'a T) -> Publish<'a, T> {
        Publish { topic, message, only_strings: !self.client.has_session() }
    }

    async fn ask<B: Encode + Sync>(&self, topic: &str, body: &B) -> Result<(), CallError> {
        let subject = subject(topic);
        let answer = self.client.exchange(&subject, body).await?;
        check(&self.client, &subject, &answer).map(drop)
    }
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
