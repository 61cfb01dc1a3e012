use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use callboard_client::CallError;
use callboard_common::{
    Codec, Encode, EncodeError, HEADER_BYTES, Json, MessageType, PublishId, Raw, Shape, TopicRequest,
};
use serde::Serialize;
use tokio::sync::oneshot;

use crate::publication::compact_text;

/// A message on its way to a center, to be sent as often as it takes.
pub(crate) struct Outgoing {
    topic: Arc<str>,
    /// One JSON document.
    value: Bytes,
    /// Who waits for the center's answer.
    answer: Mutex<Option<oneshot::Sender<Result<(), CallError>>>>,
    is_awaited: bool,
    /// Who is told later if it can't be sent.
    losses: Option<Arc<Losses>>,
}

/// What can't be sent of what a publisher has published and heard no error of.
#[derive(Debug, Default)]
pub(crate) struct Losses(Mutex<Lost>);

#[derive(Debug, Default)]
struct Lost {
    first: Option<CallError>,
    count: u64,
}

impl Losses {
    fn add(&self, why: CallError) {
        let mut lost = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lost.count += 1;
        lost.first.get_or_insert(why);
    }

    /// Why the first was lost, and that of how many, since the last time.
    pub(crate) fn take(&self) -> Result<(), CallError> {
        let Lost { first, count } = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let advice = match count {
            1 => "one message is lost; publish it in parts, or raise the center's max_frame_bytes".to_owned(),
            _ => format!("{count} messages are lost; publish them in parts, or raise the center's max_frame_bytes"),
        };
        first.map_or(Ok(()), |why| Err(why.with_advice(advice)))
    }
}

impl Outgoing {
    pub(crate) fn new(topic: &Arc<str>, value: Bytes, answer: Option<oneshot::Sender<Result<(), CallError>>>) -> Self {
        let is_awaited = answer.is_some();
        Self { topic: Arc::clone(topic), value, answer: Mutex::new(answer), is_awaited, losses: None }
    }

    /// One whose loss is told to a publisher.
    pub(crate) fn of(topic: &Arc<str>, value: Bytes, losses: &Arc<Losses>) -> Self {
        Self { losses: Some(Arc::clone(losses)), ..Self::new(topic, value, None) }
    }

    pub(crate) const fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// Whether somebody wants the center's answer.
    pub(crate) const fn is_awaited(&self) -> bool {
        self.is_awaited
    }

    /// What it takes on the wire, at most if its topic's name has no escapes.
    pub(crate) fn frame_bytes(&self) -> usize {
        self.value.len() + self.topic.len() + AROUND_BYTES
    }

    /// Tells the one who waits; the first answer counts.
    pub(crate) fn answer(&self, outcome: Result<(), CallError>) {
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(answer) = answer {
            let _ = answer.send(outcome); // it may have given up
        }
    }

    /// It can't be sent: tells the one who waits, or will ask.
    pub(crate) fn lost(&self, why: CallError) {
        match &self.losses {
            Some(losses) => losses.add(why),
            None => self.answer(Err(why)),
        }
    }

    /// As a center takes it that takes only strings, or any value.
    pub(crate) const fn body(&self, only_strings: bool) -> Body<'_> {
        Body { outgoing: self, only_strings }
    }
}

pub(crate) struct Body<'a> {
    outgoing: &'a Outgoing,
    only_strings: bool,
}

impl Encode for Body<'_> {
    fn kind(&self) -> MessageType {
        MessageType::TopicRequest
    }

    fn encode<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        let (topic, value) = (&*self.outgoing.topic, Raw::new(&self.outgoing.value));
        if self.only_strings && Json::shape(value) != Shape::String {
            TopicRequest::publish(topic, compact_text(value)).encode::<C>(out)
        } else {
            TopicRequest::publish(topic, value).encode::<C>(out)
        }
    }
}

/// A message's JSON.
pub(crate) fn written<T: Serialize + ?Sized>(message: &T) -> Result<Bytes, EncodeError> {
    let mut value = BytesMut::new();
    Json::write(message, &mut value)?;
    Ok(value.freeze())
}

/// Header, id and the body's own keys.
const AROUND_BYTES: usize =
    HEADER_BYTES + PublishId::WIRE_BYTES + 16 + r#"{"topic_key":"","optype":4,"topic_msg":}"#.len();
